"""A student that feels int8 while it learns: rounded on the way forward, trained as if it were not (Jacob et al. 2018).

Every convolution and linear layer sees its weights on 255 levels for each output channel and its input on 256 levels between
running extremes; gradients pass straight through. A scale for each output channel commutes with batch norm, so the levels are
those of the folded convolution that is exported. The trained weights stay float32 and plain: what comes out is an ordinary
student, which the int8 search of every backend takes up, and no quantised torch graph has to be translated for any of them.

Axes: B batch, O output channels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_MOMENTUM = 0.05
_LAYERS = (nn.Conv2d, nn.Linear)


def begin(student: nn.Module) -> None:
    """Let a student round its weights and inputs from now on; `end` undoes it."""
    for layer in student.modules():
        if isinstance(layer, _LAYERS):
            parametrize.register_parametrization(layer, "weight", _RoundedWeight(), unsafe=True)
            layer.register_forward_pre_hook(_RoundedInput())


def end(student: nn.Module) -> None:
    """Leave the float weights as they were trained, under their own names, and round nothing any more."""
    for layer in student.modules():
        if isinstance(layer, _LAYERS):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            hooks = cast(Any, layer)._forward_pre_hooks
            for number in [number for number, hook in hooks.items() if isinstance(hook, _RoundedInput)]:
                del hooks[number]


def rounded_weight(weight_O: Tensor) -> Tensor:
    """Return weights (output channels first) on 255 symmetric levels for each channel."""
    extent_O = weight_O.detach().flatten(1).abs().amax(dim=1)
    scale_O = (extent_O / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.fake_quantize_per_channel_affine(weight_O, scale_O, torch.zeros_like(scale_O, dtype=torch.int32), 0, -127, 127)


def rounded_input(value_B: Tensor, *, low: float, high: float) -> Tensor:
    """Return numbers on 256 levels between `low` and `high`, zero among them; what lies outside is cut off."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return torch.fake_quantize_per_tensor_affine(value_B, scale, round(-low / scale), 0, 255)


class _RoundedWeight(nn.Module):
    def forward(self, weight_O: Tensor) -> Tensor:
        return rounded_weight(weight_O)


class _RoundedInput:
    """A layer's input on levels between the extremes of the batches so far, the latest counting most."""

    def __init__(self) -> None:
        self.range: tuple[float, float] | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value_B, *others = inputs
        value_B = value_B.float()
        if layer.training or self.range is None:
            low, high = (float(end) for end in value_B.detach().aminmax())
            if self.range is not None:
                low, high = (old + _MOMENTUM * (new - old) for old, new in zip(self.range, (low, high), strict=True))
            self.range = (low, high)
        return rounded_input(value_B, low=self.range[0], high=self.range[1]), *others

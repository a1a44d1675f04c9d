"""What every deployed student is: a model that normalises for itself, with its further heads."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.distilling.taps import FURTHER_HEADS, ZERO_SHOT, TappedModel


def deployable(folded: nn.Module, student: TappedModel) -> nn.Module:
    """Return images in [0, 1] -> logits_BK of a student whose branches are folded; with further heads a tuple of logits."""
    kind = _Headed if student.further_heads else _Deployable
    return kind(folded, student.mean, student.std).eval()


class _Deployable(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean.detach().clone().float().cpu())
        self.register_buffer("std", std.detach().clone().float().cpu())

    def forward(self, image_BCHW: Tensor) -> Tensor:
        logits = self.model((image_BCHW - self.mean) / self.std)
        assert isinstance(logits, torch.Tensor)
        zero_shot = getattr(self.model, ZERO_SHOT, None)
        return logits if zero_shot is None else cast(Tensor, zero_shot(logits))


class _Headed(_Deployable):
    """The same with further heads: the model's logits, then those of each head, in order."""

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        model = cast(Any, self.model)
        pre_BD = model.forward_head(model.forward_features((image_BCHW - self.mean) / self.std), pre_logits=True)
        logits = model.get_classifier()(pre_BD)
        zero_shot = getattr(model, ZERO_SHOT, None)
        first = logits if zero_shot is None else zero_shot(logits)
        return (first, *(head(pre_BD) for head in getattr(model, FURTHER_HEADS).values()))

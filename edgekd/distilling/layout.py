"""Channels last: how a student's maps lie in memory while it learns. Convolutions on CPU are faster so, all but one kind.

oneDNN (as of the torch that edgekd is bounded to) writes beyond its workspace in the weight gradient of a strided 1x1
convolution of fewer input channels than a vector holds, if these come last: the process dies, or the gradient is wrong
(github.com/uxlfoundation/oneDNN, issue 6035). Such a convolution looks at the image itself in MobileOne and FastViT.
"""

from typing import Any

import torch
from torch import nn

_VECTOR = 16  # float32 numbers in 512 bits


def put_channels_last(module: nn.Module) -> None:
    """Lay out a module's weights with channels last, but for those convolutions that cannot be trained so."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and _endangered(layer):
            layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(_channels_first)


def _endangered(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.groups == 1 and layer.in_channels < _VECTOR


def _channels_first(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])

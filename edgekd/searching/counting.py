"""How large a network is and how much it computes."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Student


@dataclass(frozen=True, kw_only=True)
class Size:
    """Weights, and multiply-accumulates of one image in convolutions and linear layers."""

    parameters: int
    macs: int


def size_of(student: Student, classes: int) -> Size:
    """Return a student's size; it is built and shown one blank image."""
    network: Any = student.build(classes, start=False).eval()
    macs = 0

    def count(module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal macs
        weight = cast(Tensor, module.weight)
        positions = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        macs += positions * weight.numel()

    counted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in counted]
    height, width = student.input_contract().size_px
    with torch.no_grad():
        network.features(torch.zeros(1, 3, height, width), ("logits",))
    for hook in hooks:
        hook.remove()
    return Size(parameters=sum(parameter.numel() for parameter in network.parameters()), macs=macs)

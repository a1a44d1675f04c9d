"""How many multiply-accumulates one image costs a student."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def count(module: "nn.Module", size_px: tuple[int, int]) -> int | None:
    """Return the multiply-accumulates of one image of this size (height, width), or None where torch computes none.

    Convolutions, matrix products and attention, as torch's own counter sees them run; one multiply-accumulate is two of its
    operations. A model that another runtime computes is not seen.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.zeros(1, 3, *size_px))
    return counter.get_total_flops() // 2 or None

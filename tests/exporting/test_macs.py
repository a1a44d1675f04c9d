"""Multiply-accumulates against counts by hand."""

import torch
from torch import nn

from edgekd.exporting import macs


class Small(nn.Module):
    """A convolution, a depthwise one at half the size, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_BK."""
        return self.head(self.depthwise(self.dense(image_BCHW)).mean((2, 3)))


def test_every_weight_is_counted_where_it_is_used() -> None:
    """8 x 3 x 9 for each of 6 x 10 pixels, 8 x 9 for each of 3 x 5, and 8 x 10 once."""
    assert macs.count(Small().eval(), (6, 10)) == 8 * 3 * 9 * 60 + 8 * 9 * 15 + 80


def test_a_model_that_torch_does_not_compute_has_no_count() -> None:
    """Nothing is claimed of it."""
    assert macs.count(nn.Flatten(), (4, 4)) is None

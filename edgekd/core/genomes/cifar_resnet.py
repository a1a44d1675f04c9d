"""Residual networks for small images: how many basic blocks each of the three stages has."""

import re
from dataclasses import dataclass
from typing import Self

from edgekd.core.errors import UsageError

WIDTHS = (16, 32, 64)
_MOST_BLOCKS = 99


@dataclass(frozen=True)
class CifarResnetGenome:
    """`5-5-7`: blocks of two 3 x 3 convolutions at widths 16, 32 and 64; 3-3-3 is ResNet20, 9-9-9 ResNet56 (He et al. 2016)."""

    depths: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a genome; raise `UsageError` for any other spelling."""
        match = re.fullmatch(r"([1-9]\d?)-([1-9]\d?)-([1-9]\d?)", text)
        if match is None:
            raise UsageError(
                f"genome {text!r}: is not a CIFAR ResNet",
                mend=f"give the blocks of its three stages, each from 1 to {_MOST_BLOCKS}: 3-3-3 is ResNet20",
            )
        first, second, third = (int(depth) for depth in match.groups())
        return cls((first, second, third))

    def __str__(self) -> str:
        return "-".join(map(str, self.depths))

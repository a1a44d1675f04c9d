"""In which order the arms of a session run: random, and balanced so that a machine that drifts favours none of them."""

import random
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def rounds(arms: Sequence[T], *, kin: Sequence[Hashable], seed: int) -> Iterator[tuple[T, ...]]:
    """Yield the order of each round without end: a random one, then its reverse, then another random one, ...

    Over each two rounds every arm has the same mean position (ABBA), so that a linear drift cancels out of their differences.
    `kin` holds one key an arm: those of equal keys stay side by side, because they will be compared, and what a machine does
    in the same moments is alike.
    """
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    families: dict[Hashable, list[T]] = {}
    for arm, key in zip(arms, kin, strict=True):
        families.setdefault(key, []).append(arm)
    while True:
        order = [draw.sample(family, len(family)) for family in draw.sample(list(families.values()), len(families))]
        flat = [arm for family in order for arm in family]
        yield tuple(flat)
        yield tuple(reversed(flat))

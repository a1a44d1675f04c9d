"""In which order the arms of a session run: random, and balanced so that a machine that drifts favours none of them."""

import random
from collections.abc import Iterator


def rounds(arms: int, *, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield the order of each round without end: a random one, then its reverse, then another random one, ...

    Over each two rounds every arm has the same mean position (ABBA), so that a linear drift cancels out of their differences.
    """
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    while True:
        order = list(range(arms))
        draw.shuffle(order)
        yield tuple(order)
        yield tuple(reversed(order))

"""Which of the images that an artifact answers differently are the worst.

Axes: N images, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.exporting import parity

Logits = np.ndarray[Any, Any]


def worst_first(torch_NK: Logits, runtime_NK: Logits, labels: Sequence[int]) -> list[int]:
    """Return the indices of the images with another first answer: right answers that were lost come first, gained ones last.

    Among these, the larger the fall of the probability of torch's answer, the earlier.
    """
    before_N, after_N = parity.top1(torch_NK), parity.top1(runtime_NK)
    flipped = np.flatnonzero((before_N != after_N) | (after_N == parity.NO_ANSWER)).tolist()
    kept = np.where(before_N == parity.NO_ANSWER, 0, before_N)
    fall_N = _probability(torch_NK, kept) - _probability(runtime_NK, kept)

    def worse(index: int) -> tuple[int, float, int]:
        lost, gained = before_N[index] == labels[index], after_N[index] == labels[index]
        return (0 if lost else 2 if gained else 1, -float(fall_N[index]), index)

    return sorted(flipped, key=worse)


def _probability(logits_NK: Logits, class_N: Logits) -> Logits:
    finite_NK = np.nan_to_num(logits_NK.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    shifted_NK = np.exp(finite_NK - finite_NK.max(axis=1, keepdims=True))
    chosen: Logits = shifted_NK[np.arange(len(class_N)), class_N] / shifted_NK.sum(axis=1)
    return chosen

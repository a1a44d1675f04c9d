"""Numbers drawn by purpose, not by turn: all come from the raw output of Philox counters keyed by what they are for.

NumPy keeps that output stable across releases, unlike the distributions built on it.
"""

import hashlib
from typing import Any

import numpy as np


def raw(purpose: str, *, count: int) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """Return `count` unsigned 64-bit numbers that depend on the purpose alone."""
    key = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], dtype="<u8")
    return np.asarray(np.random.Philox(key=key).random_raw(count))


def uniforms(purpose: str, *, count: int) -> list[float]:
    """Return `count` numbers in [0, 1) that depend on the purpose alone."""
    # The upper 53 bits, as a double in [0, 1).
    drawn: list[float] = ((raw(purpose, count=count) >> np.uint64(11)) * 2.0**-53).tolist()
    return drawn

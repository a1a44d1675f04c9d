"""Do two rankings agree, and does one still say something once a third is known? With intervals."""

import math
from collections.abc import Callable, Sequence

from edgekd.core.records import Interval

DRAWS = 1000
_ENDS = (2.5, 97.5)
_FEWEST = 4


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rho and Kendall's tau-b of paired numbers; NaN where one of the two does not vary.

    Raises `ValueError` unless both have the same length of at least 2.
    """
    return spearman(x, y), kendall(x, y)


def partial_rank_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    """Return Spearman's correlation of x and y once a third ranking is known; NaN if that leaves nothing to vary.

    It is Pearson's partial correlation of the ranks, (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)).
    """
    xy, xz, yz = (spearman(a, b) for a, b in ((x, y), (x, given), (y, given)))
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else math.nan


def with_interval(statistic: Callable[..., float], *columns: Sequence[float], seed: int = 0) -> Interval | None:
    """Return a statistic of paired columns with its bootstrap 95 % interval (percentiles of 1,000 draws of the rows).

    None where it is not defined, or with fewer than 4 rows. Draws for which it is not defined are left out.
    """
    import numpy as np

    if len(columns[0]) < _FEWEST or math.isnan(value := statistic(*columns)):
        return None
    random = np.random.default_rng(seed)
    arrays = [np.asarray(column, dtype=float) for column in columns]
    drawn = (random.integers(0, len(arrays[0]), len(arrays[0])) for _ in range(DRAWS))
    found = [statistic(*(array[rows].tolist() for array in arrays)) for rows in drawn]
    low, high = np.percentile([one for one in found if not math.isnan(one)], _ENDS)
    return Interval(value=value, low=float(low), high=float(high))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rho alone: Pearson's correlation of the ranks, ties sharing theirs."""
    import numpy as np
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    if not _varies(x, y):
        return math.nan
    a, b = (rankdata(column) - (len(column) + 1) / 2 for column in (x, y))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Kendall's tau-b alone."""
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic) if _varies(x, y) else math.nan


def _varies(x: Sequence[float], y: Sequence[float]) -> bool:
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a rank correlation needs pairs, at least two: {len(x)} and {len(y)} numbers")
    return min(x) < max(x) and min(y) < max(y)

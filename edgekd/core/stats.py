"""The statistics that a judgement rests on: intervals for shares, paired comparison, percentiles that samples can carry."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from edgekd.core.records import Interval

CONFIDENCE = 0.95
_MOST_TRIALS = 10**9
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

FLOORS = {50: 11, 90: 64, 95: 130, 99: 662}
"""Samples below which a percentile is withheld: MLPerf's early-stopping rule at 99 % confidence, no sample discarded."""


def wilson(successes: int, trials: int) -> Interval:
    """Return a share with its Wilson 95 % interval; raise `ValueError` unless 0 <= successes <= trials and trials > 0."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    if trials <= 0:
        raise ValueError("a share of no trials does not exist")
    bounds = binomtest(successes, trials).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Interval(value=successes / trials, low=float(bounds.low), high=float(bounds.high))


def trials_to_decide(share: float, limit: float) -> int | None:
    """Return how many trials at an observed share put the whole Wilson interval on one side of a limit; None if none do.

    The Wilson interval is the score test turned round, so its bound reaches the limit where
    |share - limit| = z * sqrt(limit * (1 - limit) / n).
    """
    if share == limit:
        return None
    return math.ceil(_Z**2 * limit * (1 - limit) / (share - limit) ** 2)


def exact_bounds(successes: int, trials: int) -> tuple[float, float]:
    """Return the Clopper-Pearson bounds of a share; each holds for itself (one-sided) with 95 % confidence.

    Raises `ValueError` unless 0 <= successes <= trials and trials > 0.
    """
    from scipy.stats import binomtest

    if trials <= 0:
        raise ValueError("a share of no trials does not exist")
    ends = [
        binomtest(successes, trials, alternative=alternative).proportion_ci(confidence_level=CONFIDENCE, method="exact")
        for alternative in ("greater", "less")
    ]
    return float(ends[0].low), float(ends[1].high)


def trials_to_prove(share: float, limit: float) -> int | None:
    """Return how many trials at an observed share put its exact one-sided bound on one side of a limit; None if none do.

    With a share of 1 these are the smallest n with limit ** n <= 5 %: 299, 598 and 2,995 for 99, 99.5 and 99.9 %.
    """
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    if share == limit or not 0 < limit < 1:
        return None
    miss = 1 - CONFIDENCE

    def decided(trials: int) -> bool:
        right, wrong = share * trials, (1 - share) * trials
        if share > limit:
            return bool((miss ** (1 / trials) if share == 1 else betaincinv(right, wrong + 1, miss)) >= limit)
        return bool((1 - miss ** (1 / trials) if share == 0 else betaincinv(right + 1, wrong, CONFIDENCE)) < limit)

    enough = 1
    while not decided(enough):
        enough *= 2
        if enough > _MOST_TRIALS:
            return None
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if decided(middle) else (middle, enough)
    return enough


def mcnemar(only_a_right: int, only_b_right: int, *, alternative: Literal["two-sided", "greater"] = "two-sided") -> float:
    """Return the exact McNemar p-value of "a and b are equally good" (`greater`: against "a is better")."""
    from scipy.stats import binomtest

    discordant = only_a_right + only_b_right
    if discordant == 0:
        return 1.0
    return float(binomtest(only_a_right, discordant, alternative=alternative).pvalue)


def paired_difference(only_a_right: int, only_b_right: int, trials: int) -> Interval:
    """Return share(a) - share(b) on the same trials with the 95 % interval of Agresti and Min (2005).

    Their interval is Wald's after half a trial was added to each of the four cells; `value` is the plain difference.
    """
    if trials <= 0 or min(only_a_right, only_b_right) < 0 or only_a_right + only_b_right > trials:
        raise ValueError(f"impossible counts: {only_a_right} + {only_b_right} of {trials}")
    a, b, n = only_a_right + 0.5, only_b_right + 0.5, trials + 2
    centre = (a - b) / n
    half = _Z * math.sqrt(((a + b) / n - centre**2) / n)
    return Interval(value=(only_a_right - only_b_right) / trials, low=max(-1.0, centre - half), high=min(1.0, centre + half))


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest-rank percentile of ascending values: the smallest with `percent` % of all at or below it."""
    if not ordered or not 0 <= percent <= 100:
        raise ValueError("a percentile needs values and a percent from 0 to 100")
    rank = max(1, -(-percent * len(ordered) // 100))
    return ordered[rank - 1]

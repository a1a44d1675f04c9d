"""The statistics that a judgement rests on: intervals for shares, paired comparison, percentiles that samples can carry."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from edgekd.core import beta, sequential
from edgekd.core.records import Interval

CONFIDENCE = 0.95
_MOST_TRIALS = 10**9


def _z(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha)


def settled(value: float) -> float:
    """Return a figure to twelve digits: the last bits of logarithms and powers differ between C libraries, records must not."""
    return float(f"{value:.12g}")


def _check_share(successes: int, trials: int) -> None:
    if trials <= 0:
        raise ValueError("a share of no trials does not exist")
    if not 0 <= successes <= trials:
        raise ValueError(f"impossible counts: {successes} of {trials}")


FLOORS = {50: 11, 90: 64, 95: 130, 99: 662}
"""Samples below which a percentile is withheld: MLPerf's early-stopping rule at 99 % confidence, no sample discarded."""


def wilson(successes: int, trials: int) -> Interval:
    """Return a share with its Wilson 95 % interval; raise `ValueError` unless 0 <= successes <= trials and trials > 0."""
    low, high = wilson_bounds(successes, trials, alpha=(1 - CONFIDENCE) / 2)
    return Interval(value=successes / trials, low=settled(low), high=settled(high))


def wilson_bounds(successes: int, trials: int, *, alpha: float) -> tuple[float, float]:
    """Return Wilson's bounds of a share (1927), each one-sided with error `alpha`; raise `ValueError` as `wilson` does."""
    _check_share(successes, trials)
    z = _z(alpha)
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    low = 0.0 if successes == 0 else min(share, max(0.0, centre - half))
    return low, 1.0 if successes == trials else max(share, min(1.0, centre + half))


def trials_to_decide(share: float, limit: float, *, alpha: float = (1 - CONFIDENCE) / 2) -> int | None:
    """Return how many trials at an observed share put its Wilson bound on one side of a limit; None if none do.

    The Wilson interval is the score test turned round, so its bound reaches the limit where
    |share - limit| = z * sqrt(limit * (1 - limit) / n).
    """
    if share == limit:
        return None
    return math.ceil(_z(alpha) ** 2 * limit * (1 - limit) / (share - limit) ** 2)


def exact_bounds(successes: int, trials: int) -> tuple[float, float]:
    """Return the Clopper-Pearson bounds of a share; each holds for itself (one-sided) with 95 % confidence.

    Raises `ValueError` unless 0 <= successes <= trials and trials > 0.
    """
    _check_share(successes, trials)
    wrong, miss = trials - successes, 1 - CONFIDENCE
    low = 0.0 if successes == 0 else beta.betaincinv(successes, wrong + 1, miss)
    return low, 1.0 if wrong == 0 else beta.betaincinv(successes + 1, wrong, CONFIDENCE)


def trials_to_prove(share: float, limit: float) -> int | None:
    """Return how many trials at an observed share put its exact one-sided bound on one side of a limit; None if none do.

    With a share of 1 these are the smallest n with limit ** n <= 5 %: 299, 598 and 2,995 for 99, 99.5 and 99.9 %.
    """
    if share == limit or not 0 < limit < 1:
        return None
    miss = 1 - CONFIDENCE

    def decided(trials: int) -> bool:
        right, wrong = share * trials, (1 - share) * trials
        if share > limit:
            return (miss ** (1 / trials) if share == 1 else beta.betaincinv(right, wrong + 1, miss)) >= limit
        return (1 - miss ** (1 / trials) if share == 0 else beta.betaincinv(right + 1, wrong, CONFIDENCE)) < limit

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
    discordant = only_a_right + only_b_right
    if discordant == 0:
        return 1.0
    greater = beta.binomial_tail(only_a_right, discordant)
    if alternative == "greater":
        return settled(greater)
    return settled(min(1.0, 2 * min(greater, beta.binomial_tail(only_b_right, discordant))))


def paired_difference(only_a_right: int, only_b_right: int, trials: int) -> Interval:
    """Return share(a) - share(b) on the same trials with the 95 % interval of Agresti and Min (2005)."""
    low, high = paired_bounds(only_a_right, only_b_right, trials, alpha=(1 - CONFIDENCE) / 2)
    return Interval(value=(only_a_right - only_b_right) / trials, low=settled(low), high=settled(high))


def paired_bounds(only_a_right: int, only_b_right: int, trials: int, *, alpha: float) -> tuple[float, float]:
    """Return the bounds of share(a) - share(b) on the same trials, each one-sided with error `alpha`.

    Agresti and Min (2005): Wald's after half a trial was added to each of the four cells. Raises `ValueError` for counts that
    cannot be.
    """
    if trials <= 0 or min(only_a_right, only_b_right) < 0 or only_a_right + only_b_right > trials:
        raise ValueError(f"impossible counts: {only_a_right} + {only_b_right} of {trials}")
    a, b, n = only_a_right + 0.5, only_b_right + 0.5, trials + 2
    centre = (a - b) / n
    half = _z(alpha) * math.sqrt(((a + b) / n - centre**2) / n)
    return max(-1.0, centre - half), min(1.0, centre + half)


def images_for_margin(margin: float, discordance: float, *, alpha: float = 0.01, power: float = 0.95) -> int:
    """Return how many paired images show, with this power, that nothing is lost beyond a margin, if nothing is.

    `discordance` is the share of images on which exactly one of the two is right; n = (z_alpha + z_beta)^2 psi / m^2.
    """
    if not 0 < margin <= 1 or not 0 <= discordance <= 1:
        raise ValueError(f"a margin in (0, 1] and a discordance in [0, 1] are needed; got {margin} and {discordance}")
    least = math.ceil(_z(alpha) / margin)  # where the bound of Agresti and Min stands if no image at all is discordant
    return max(least, math.ceil((_z(alpha) + _z(1 - power)) ** 2 * discordance / margin**2))


def losses_to_prove(alpha: float) -> int:
    """Return how many images lost, and none won, the exact one-sided McNemar test needs: 7 at 1 %."""
    return math.ceil(-math.log2(alpha))


def mean_bounds(values: Sequence[float], *, alpha: float) -> tuple[float, float, float]:
    """Return the mean of at least two values and its bounds, each one-sided with error `alpha` (Student's t)."""
    mean, error = sequential.mean_of(values), sequential.sd_of(values) / math.sqrt(len(values))
    half = sequential.t_quantile(len(values) - 1, alpha) * error
    return mean, mean - half, mean + half


def holm(p_values: Sequence[float], *, alpha: float) -> list[bool]:
    """Return which hypotheses Holm (1979) rejects at a family-wise error of `alpha`."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def calibration_error(confidences: Sequence[float], right: Sequence[bool], *, bins: int = 15) -> tuple[float, float, float]:
    """Return the expected calibration error, and what a perfectly calibrated model would show: its mean and 99th percentile.

    Equal-width bins. A bin's accuracy varies with variance sum p (1 - p) / n^2 though nothing is wrong, so the sum of absolute
    gaps is never zero; mean and variance of a folded normal give the floor.
    """
    total, size = 0.0, len(confidences)
    mean = variance = 0.0
    binned: dict[int, list[int]] = {}
    for i, p in enumerate(confidences):
        binned.setdefault(min(bins - 1, max(0, math.ceil(p * bins) - 1)), []).append(i)
    for members in binned.values():
        gap = math.fsum(right[i] - confidences[i] for i in members)
        spread = math.fsum(confidences[i] * (1 - confidences[i]) for i in members)
        total += abs(gap) / size
        mean += math.sqrt(2 / math.pi * spread) / size
        variance += (1 - 2 / math.pi) * spread / size**2
    return total, mean, mean + _z(0.01) * math.sqrt(variance)


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest-rank percentile of ascending values: the smallest with `percent` % of all at or below it."""
    if not ordered or not 0 <= percent <= 100:
        raise ValueError("a percentile needs values and a percent from 0 to 100")
    rank = max(1, -(-percent * len(ordered) // 100))
    return ordered[rank - 1]

"""The statistics of latencies. The replicate is the process: iterations share memory layout, thread placement and clocks.

Everything here is a pure function of samples in ns; what draws at random draws from a seed, through numpy's raw bit stream,
which never changes between versions, so that every figure can be recomputed to the last bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Times = np.ndarray[Any, np.dtype[np.int64]]

PERCENTS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
EARLY_CONFIDENCE = 0.99
RESAMPLES = 10_000
MAX_DRIFT = 0.015
DRIFT_P = 0.01
LEAST_FOR_DRIFT = 25  # samples of a worker whose fifths are worth a median


# ----------------------------------------------------------------------------------------------------------- percentiles
def nearest_rank(ordered: "Times", percent: float) -> int:
    """Return the smallest of ascending values with `percent` % of all at or below it."""
    rank = max(1, math.ceil(round(percent * len(ordered) / 100, 9)))
    return int(ordered[rank - 1])


@cache
def fewest_under(over: int, percent: float, confidence: float = EARLY_CONFIDENCE) -> int:
    """Return how many queries must be under the latency when `over` are above it, to claim the percentile with confidence.

    The smallest h with BinomCDF(over; h + over, 1 - p) <= 1 - confidence: MLPerf LoadGen's early stopping (early_stopping.cc).
    """
    from scipy.special import betainc  # type: ignore[import-untyped]

    share, miss = percent / 100, 1 - confidence

    def odds(under: int) -> float:  # BinomCDF(over; under + over, 1 - share) as a regularised incomplete beta function
        return float(betainc(under, over + 1, share))

    too_few, enough = 0, 1
    while odds(enough) > miss:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if odds(middle) <= miss else (middle, enough)
    return enough


@cache
def floor_of(percent: float) -> int:
    """Return how many samples a percentile needs before it is shown: 11, 64, 130, 662, 6636 for p50, 90, 95, 99, 99.9."""
    return fewest_under(1, percent) + 1


def upper_bound(ordered: "Times", percent: float) -> int | None:
    """Return the order statistic below which the true percentile lies with 99 % confidence, or None below the floor.

    As LoadGen's SingleStream: with n samples the largest t with n >= h(t) + t, and the t-th value from above.
    """
    count = len(ordered)
    if count < floor_of(percent):
        return None
    most, beyond = 1, 2
    while fewest_under(beyond, percent) + beyond <= count:
        most, beyond = beyond, 2 * beyond
    while beyond - most > 1:
        middle = (most + beyond) // 2
        most, beyond = (middle, beyond) if fewest_under(middle, percent) + middle <= count else (most, middle)
    return int(ordered[count - most])


def bootstrap(workers: "Sequence[Times]", percent: float, *, seed: int = 0, confidence: float = 0.95) -> tuple[int, int] | None:
    """Return the interval of a pooled percentile over `RESAMPLES` draws of whole workers; None for fewer than two.

    Each draw's percentile is exact: the smallest value that so many of the drawn workers' samples do not exceed.
    """
    import numpy as np

    if len(workers) < 2 or not all(map(len, workers)):
        return None
    pooled = np.concatenate(workers)
    order = np.argsort(pooled, kind="stable")
    owner = np.repeat(np.arange(len(workers)), [len(worker) for worker in workers])[order]
    below_WN = np.cumsum(owner[None, :] == np.arange(len(workers))[:, None], axis=1, dtype=np.int64)
    raw = np.random.PCG64(seed).random_raw(RESAMPLES * len(workers)).reshape(RESAMPLES, len(workers))
    cell_RW = (raw % np.uint64(len(workers))).astype(np.int64) + len(workers) * np.arange(RESAMPLES)[:, None]
    drawn_RW = np.bincount(cell_RW.ravel(), minlength=RESAMPLES * len(workers)).reshape(RESAMPLES, len(workers))
    sizes_R = drawn_RW @ np.array([len(worker) for worker in workers])
    wanted_R = np.maximum(1, np.ceil(np.round(percent * sizes_R / 100, 9))).astype(np.int64)
    low_R = np.zeros(RESAMPLES, dtype=np.int64)
    high_R = np.full(RESAMPLES, len(pooled) - 1, dtype=np.int64)
    while (low_R < high_R).any():
        middle_R = (low_R + high_R) // 2
        found_R = (drawn_RW * below_WN[:, middle_R].T).sum(axis=1)
        enough_R = found_R >= wanted_R
        high_R = np.where(enough_R, middle_R, high_R)
        low_R = np.where(enough_R, low_R, middle_R + 1)
    values = np.sort(pooled[order][low_R])
    outside = (1 - confidence) / 2
    first = math.floor(outside * (RESAMPLES - 1))
    return int(values[first]), int(values[RESAMPLES - 1 - first])


def half_width(medians: Sequence[float], *, confidence: float = 0.95) -> float:
    """Return the relative half-width of the t interval over workers' percentiles, on their logarithms; infinite for one."""
    from scipy.stats import t  # type: ignore[import-untyped]

    logs = [math.log(value) for value in medians]
    if len(logs) < 2:
        return math.inf
    return float(t.ppf(0.5 + confidence / 2, len(logs) - 1)) * _sd(logs) / math.sqrt(len(logs))


# ---------------------------------------------------------------------------------------------------------------- oddities
@dataclass(frozen=True, kw_only=True)
class Fences:
    """How many samples lie beyond Tukey's fences, and how many of those are the first of their worker."""

    mild_low: int
    mild_high: int
    severe_low: int
    severe_high: int
    first: int


def outliers(workers: "Sequence[Times]") -> Fences:
    """Classify every sample against its own worker's quartiles; nothing is dropped."""
    import numpy as np

    found = np.zeros(5, dtype=np.int64)
    for times in workers:
        if len(times) < 4:
            continue
        ordered = np.sort(times)
        low, high = nearest_rank(ordered, 25), nearest_rank(ordered, 75)
        between = high - low
        far_low, far_high = times < low - 3 * between, times > high + 3 * between
        near_low, near_high = (times < low - 1.5 * between) & ~far_low, (times > high + 1.5 * between) & ~far_high
        found += [near_low.sum(), near_high.sum(), far_low.sum(), far_high.sum(), int(far_high[0])]
    mild_low, mild_high, severe_low, severe_high, first = map(int, found)
    return Fences(mild_low=mild_low, mild_high=mild_high, severe_low=severe_low, severe_high=severe_high, first=first)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How much slower (or faster) the last fifth of a worker is than its first, as a mean share over the workers."""

    share: float
    p: float

    @property
    def flagged(self) -> bool:
        """Return whether it is more than 1.5 % and not chance (p < 0.01)."""
        return abs(self.share) > MAX_DRIFT and self.p < DRIFT_P


def drift(workers: "Sequence[Times]") -> Drift | None:
    """Return the drift within the workers; None where fewer than two are long enough to tell.

    The statistic is the mean over workers of ln(median of the last fifth / median of the first), held against zero by t.
    """
    return _drift_of([log_drift(times) for times in workers if len(times) >= LEAST_FOR_DRIFT])


def drift_apart(turns_a: Sequence[Sequence[float]], turns_b: Sequence[Sequence[float]]) -> Drift | None:
    """Return how b / a drifts over the turns of a pair of workers; None for fewer than two pairs that took as many turns.

    A machine that becomes slower while both take turns leaves their ratio; a worker that does so by itself does not.
    """
    if [*map(len, turns_a)] != [*map(len, turns_b)]:
        return None
    logs = []
    for a, b in zip(turns_a, turns_b, strict=True):
        ratios, fifth = log_ratios(a, b), max(1, len(a) // 5)
        logs.append(_middle(ratios[-fifth:]) - _middle(ratios[:fifth]))
    return _drift_of(logs)


def _drift_of(logs: Sequence[float]) -> Drift | None:
    from scipy.stats import t

    if len(logs) < 2:
        return None
    mean, spread = sum(logs) / len(logs), _sd(logs)
    if spread == 0:
        return Drift(share=math.expm1(mean), p=0.0 if mean else 1.0)
    score = abs(mean) / (spread / math.sqrt(len(logs)))
    return Drift(share=math.expm1(mean), p=float(2 * t.sf(score, len(logs) - 1)))


def log_drift(times: "Times") -> float:
    """Return ln(median of the last fifth / median of the first fifth)."""
    fifth = max(1, len(times) // 5)
    return math.log(max(1.0, median(times[-fifth:])) / max(1.0, median(times[:fifth])))


def slope(medians: Sequence[float]) -> float:
    """Return by what share the workers' medians rise over the whole session: Theil and Sen's slope of their logarithms."""
    logs = [math.log(value) for value in medians]
    steps = [(logs[j] - logs[i]) / (j - i) for i in range(len(logs)) for j in range(i + 1, len(logs))]
    return math.expm1(_middle(steps) * (len(logs) - 1)) if steps else 0.0


# ------------------------------------------------------------------------------------------------------------- comparing
def medians_of_turns(times: "Times", turns: int) -> tuple[float, ...]:
    """Return the median of each turn of a worker, whose queries were shared out evenly over them, in order."""
    ends = [len(times) * number // turns for number in range(turns + 1)]
    return tuple(median(times[start:end]) for start, end in pairwise(ends))


@dataclass(frozen=True, kw_only=True)
class PairedRatio:
    """B against A, round by round: the ratio with its 95 % and 99 % t intervals, and a bootstrap interval over the rounds.

    `pair_sd` is the standard deviation of ln(B / A) over the rounds; `superiority` the share of all pairs of workers (not only
    those of one round) in which B is the faster, ties counting half.
    """

    ratio: float
    low95: float
    high95: float
    low99: float
    high99: float
    boot_low95: float
    boot_high95: float
    pairs: int
    pair_sd: float
    superiority: float


def log_ratios(
    a: Sequence[float], b: Sequence[float], turns_a: Sequence[Sequence[float]] = (), turns_b: Sequence[Sequence[float]] = ()
) -> tuple[float, ...]:
    """Return ln(b / a) of each pair of workers; where they took as many turns, the middle one of the turns' own ratios.

    A neighbour makes the machine slower for a tenth of a second or for ten. Turns that followed one another felt the same; two
    medians over all turns may fall on different moments. `turns_*` holds the median of each turn of each worker.
    """
    if turns_a and [*map(len, turns_a)] == [*map(len, turns_b)]:
        return tuple(_middle(log_ratios(x, y)) for x, y in zip(turns_a, turns_b, strict=True))
    return tuple(math.log(y / x) for x, y in zip(a, b, strict=True))


def paired(
    a: Sequence[float],
    b: Sequence[float],
    turns_a: Sequence[Sequence[float]] = (),
    turns_b: Sequence[Sequence[float]] = (),
    *,
    seed: int = 0,
) -> PairedRatio:
    """Compare the workers of two arms that ran in the same rounds; raise `ValueError` for fewer than two pairs."""
    import numpy as np

    logs = log_ratios(a, b, turns_a, turns_b)
    if len(logs) < 2:
        raise ValueError("a ratio with an interval needs two pairs")
    mean, spread = sum(logs) / len(logs), _sd(logs)
    (low95, high95), (low99, high99) = (t_bounds(mean, spread, len(logs), confidence=c) for c in (0.95, 0.99))
    raw = np.random.PCG64(seed).random_raw(RESAMPLES * len(logs)) % np.uint64(len(logs))
    means = np.sort(np.array(logs)[raw.astype(np.int64)].reshape(RESAMPLES, len(logs)).mean(axis=1))
    first = math.floor(0.025 * (RESAMPLES - 1))
    faster = sum((y < x) + 0.5 * (y == x) for x in a for y in b)
    return PairedRatio(
        ratio=math.exp(mean),
        low95=math.exp(low95),
        high95=math.exp(high95),
        low99=math.exp(low99),
        high99=math.exp(high99),
        boot_low95=math.exp(means[first]),
        boot_high95=math.exp(means[RESAMPLES - 1 - first]),
        pairs=len(logs),
        pair_sd=spread,
        superiority=faster / (len(a) * len(b)),
    )


def t_bounds(mean: float, spread: float, count: int, *, confidence: float) -> tuple[float, float]:
    """Return the two-sided t interval of a mean."""
    from scipy.stats import t

    half = float(t.ppf(0.5 + confidence / 2, count - 1)) * spread / math.sqrt(count)
    return mean - half, mean + half


def ratio_of_ratios(
    a: Sequence[float], reference_a: Sequence[float], b: Sequence[float], reference_b: Sequence[float]
) -> tuple[float, float, float]:
    """Return B / A across two sessions, each against the reference model it ran beside, with Welch's 95 % interval.

    The reference takes out what both of one session share: how fast the machine was that day. Raises `ValueError` for fewer
    than two rounds in either.
    """
    from scipy.stats import t

    sides = [log_ratios(reference_a, a), log_ratios(reference_b, b)]
    if min(map(len, sides)) < 2:
        raise ValueError("a ratio with an interval needs two rounds in each session")
    means = [sum(logs) / len(logs) for logs in sides]
    errors = [_sd(logs) ** 2 / len(logs) for logs in sides]
    difference, variance = means[1] - means[0], sum(errors)
    if variance == 0:
        return (math.exp(difference),) * 3
    freedom = variance**2 / sum(error**2 / (len(logs) - 1) for error, logs in zip(errors, sides, strict=True))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    return math.exp(difference), math.exp(difference - half), math.exp(difference + half)


# ---------------------------------------------------------------------------------------------------------------- little
def median(times: "Times | Sequence[float]") -> float:
    """Return the median; the mean of the two in the middle."""
    import numpy as np

    return float(np.median(times))


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _sd(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))

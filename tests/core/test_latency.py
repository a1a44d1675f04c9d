"""The statistics of latencies against definitions, published algorithms and synthetic workers whose truth is known."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgekd.core import latency

MS = 1_000_000
Times = np.ndarray[Any, np.dtype[np.int64]]


def workers(*times: Sequence[int]) -> list[Times]:
    return [np.array(one, dtype=np.int64) for one in times]


def noisy(rng: np.random.Generator, *, count: int, samples: int, drift: float = 0.0) -> list[Times]:
    """Return workers of 20 ms with 5 % noise that become slower by `drift` from their first to their last sample."""
    slow = 1 + drift * np.arange(samples) / (samples - 1)
    return [(20 * MS * slow * np.exp(rng.normal(0, 0.05, samples))).astype(np.int64) for _ in range(count)]


# ----------------------------------------------------------------------------------------------------------- percentiles
def test_the_floors_are_mlperfs() -> None:
    """The smallest samples that carry a percentile at 99 % confidence, as published."""
    assert [latency.floor_of(p) for p in latency.PERCENTS.values()] == [11, 64, 130, 662, 6636]


def test_loadgens_own_figures() -> None:
    """Known values of LoadGen: 459 and 44 queries without one above, 661 with one, and 77 discarded of 10,000 at p99."""
    assert (latency.fewest_under(0, 99.0), latency.fewest_under(0, 90.0), latency.fewest_under(1, 99.0)) == (459, 44, 661)
    assert latency.upper_bound(np.arange(10_000), 99.0) == 10_000 - 77


def loadgen(most: int, share: float, confidence: float = 0.99) -> list[int]:
    """Return h(t) + t for t = 1, 2, ... up to `most` queries: what LoadGen's loop compares the number of queries with."""
    needed, t, h = list[int](), 1, 1
    while h + t <= most:
        while stats.binom.cdf(t, h + t, 1 - share) > 1 - confidence:
            h += 1
        needed.append(h + t)
        t += 1
    return needed


def test_the_upper_bound_is_loadgens_on_random_cases() -> None:
    """1,000 random samples: the order statistic is the one that the published loop would report, or none below the floor."""
    rng = np.random.default_rng(5)
    for percent in tuple(latency.PERCENTS.values())[:4]:
        needed = loadgen(1500, percent / 100)
        for count in map(int, rng.integers(1, 1500, 250)):
            ordered = np.sort(rng.integers(0, 10**9, count))
            t = sum(queries <= count for queries in needed)
            assert latency.upper_bound(ordered, percent) == (int(ordered[count - t]) if t else None)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.sampled_from([0, 1, 50, 90, 95, 99, 99.9, 100]))
def test_nearest_rank_is_the_inverted_distribution(values: list[int], percent: float) -> None:
    """The smallest value with so many percent at or below it, as numpy's `inverted_cdf` finds it."""
    ordered = np.sort(np.array(values, dtype=np.int64))
    assert latency.nearest_rank(ordered, percent) == np.percentile(ordered, percent, method="inverted_cdf")


def test_the_bootstrap_draws_whole_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interval is that of the medians of samples pooled from workers drawn with replacement, draw by draw."""
    monkeypatch.setattr(latency, "RESAMPLES", 400)
    rng = np.random.default_rng(3)
    found = [rng.integers(0, 1000, size) for size in (30, 41, 52)]
    raw = (np.random.PCG64(11).random_raw(400 * 3) % np.uint64(3)).astype(int).reshape(400, 3)
    medians = sorted(int(np.percentile(np.concatenate([found[i] for i in draw]), 50, method="inverted_cdf")) for draw in raw)
    first = math.floor(0.025 * 399)
    assert latency.bootstrap(found, 50.0, seed=11) == (medians[first], medians[399 - first])


def test_the_bootstrap_is_the_same_for_ever() -> None:
    """A seed gives these two numbers, on every machine and with every numpy: reports can be recomputed bit by bit."""
    found = [np.arange(start, start + 50, dtype=np.int64) for start in (0, 30, 60, 200, 210)]
    assert latency.bootstrap(found, 90.0, seed=7) == latency.bootstrap(found, 90.0, seed=7)
    assert np.random.PCG64(7).random_raw() == 11530976094092348043


def test_one_worker_has_no_interval() -> None:
    """The spread between processes cannot be seen in one."""
    assert latency.bootstrap(workers([1, 2, 3]), 50.0) is None


def test_half_width_is_students() -> None:
    """The 95 % t interval of the mean logarithm."""
    medians = [10.0, 10.2, 9.9, 10.4]
    low, high = stats.t.interval(0.95, 3, np.mean(np.log(medians)), stats.sem(np.log(medians)))
    assert latency.half_width(medians) == pytest.approx((high - low) / 2)
    assert latency.half_width([1.0]) == math.inf


# ---------------------------------------------------------------------------------------------------------------- oddities
def test_outliers_are_classified_against_tukeys_fences() -> None:
    """Quartiles 10 and 20: mild beyond -5 and 35, severe beyond -20 and 50; the first sample is counted as such."""
    middle = [10] * 10 + [15] * 10 + [20] * 10
    fences = latency.outliers(workers([60, *middle, 36, -6, -21], [15, *middle]))
    assert (fences.mild_low, fences.mild_high, fences.severe_low, fences.severe_high, fences.first) == (1, 1, 1, 1, 1)


def test_injected_drift_is_flagged() -> None:
    """5 % within each of 7 workers of 200 samples with 5 % noise: flagged in 99 % of 1,000 runs, falsely in at most 1 %."""
    rng = np.random.default_rng(0)
    flagged = [
        [latency.drift(noisy(rng, count=7, samples=200, drift=size)).flagged for _ in range(1000)]  # type: ignore[union-attr]
        for size in (0.05, 0.0)
    ]
    assert sum(flagged[0]) >= 990
    assert sum(flagged[1]) <= 10


@pytest.mark.parametrize(
    ("times", "flagged"),
    [
        ([[1000] * 40 + [1014] * 10] * 2, False),
        ([[1000] * 40 + [1020] * 10] * 2, True),
        ([[1000] * 10 + [900] * 40] * 2, True),
        ([[1000] * 40 + [2000] * 10, [1000] * 50, [1000] * 50], False),
    ],
    ids=["1.4-percent", "2-percent", "faster-and-faster", "a-hiccup-in-one-worker"],
)
def test_drift_by_hand(times: list[list[int]], flagged: bool) -> None:
    """More than 1.5 % in all workers is drift, in either direction; one worker's hiccup is not."""
    found = latency.drift(workers(*times))
    assert found is not None
    assert found.flagged == flagged


@pytest.mark.parametrize("times", [[[1000] * 50], [[1000] * 24] * 3])
def test_drift_is_unknown_of_too_little(times: list[list[int]]) -> None:
    """One worker, or short ones, say nothing."""
    assert latency.drift(workers(*times)) is None


def test_slope_is_the_rise_over_the_session() -> None:
    """Medians that rise by 1 % a round rise by 6.2 % over seven; one wild one among them changes nothing."""
    medians = [100 * 1.01**i for i in range(7)]
    assert latency.slope(medians) == pytest.approx(1.01**6 - 1)
    assert latency.slope([*medians[:3], 900.0, *medians[4:]]) == pytest.approx(1.01**6 - 1, abs=0.005)


# ------------------------------------------------------------------------------------------------------------- comparing
def test_paired_ratio_is_the_t_interval_of_logarithms() -> None:
    """Ratio, 95 % and 99 % bounds as scipy has them for the differences of logarithms, and their spread."""
    a, b = [10.0, 10.5, 9.8, 10.1, 10.2], [10.4, 11.2, 10.1, 10.6, 10.5]
    logs = np.log(b) - np.log(a)
    found = latency.paired(a, b)
    assert found.ratio == pytest.approx(math.exp(logs.mean()))
    for confidence, low, high in ((0.95, found.low95, found.high95), (0.99, found.low99, found.high99)):
        assert (low, high) == pytest.approx(np.exp(stats.t.interval(confidence, 4, logs.mean(), stats.sem(logs))))
    assert (found.pairs, found.pair_sd) == (5, pytest.approx(logs.std(ddof=1)))
    assert found.low95 < found.boot_low95 < found.ratio < found.boot_high95 < found.high95
    assert found.superiority == pytest.approx(stats.mannwhitneyu(a, b).statistic / 25)


@given(count=st.integers(20, 90), seed=st.integers(0, 99))
def test_medians_of_turns_are_those_of_its_queries_in_order(count: int, seed: int) -> None:
    """Twenty turns, as even as whole queries allow, each with numpy's median."""
    times = np.random.default_rng(seed).integers(1, 1000, count)
    ends = [count * number // 20 for number in range(21)]
    expected = [float(np.median(times[ends[i] : ends[i + 1]])) for i in range(20)]
    assert latency.medians_of_turns(times, 20) == tuple(expected)


def test_turns_of_a_pair_are_compared_one_by_one() -> None:
    """Turns that scatter by half, but in both alike, leave the ratio; those of unequal number are not compared."""
    rng = np.random.default_rng(0)
    machine = np.exp(rng.normal(0, 0.5, (8, 20)))
    a, b = 10 * machine, 10.5 * machine * np.exp(rng.normal(0, 0.01, (8, 20)))
    own = [np.median(arm, axis=1).tolist() for arm in (a, b * rng.permutation(machine, axis=1))]
    found = latency.paired(*own, a.tolist(), b.tolist())
    logs = np.median(np.log(b) - np.log(a), axis=1)
    assert (found.ratio, found.pair_sd) == (pytest.approx(np.exp(logs.mean())), pytest.approx(logs.std(ddof=1)))
    assert found.pair_sd < 0.01
    unequal = [one[:19] for one in b.tolist()]
    assert latency.log_ratios(*own, a.tolist(), unequal) == pytest.approx(np.log(own[1]) - np.log(own[0]))


def test_sessions_are_compared_through_the_reference() -> None:
    """A machine that was twice as slow that day changes nothing; the interval is Welch's."""
    a, ref_a = [10.0, 10.1, 9.9], [5.0, 5.05, 5.0]
    b, ref_b = [22.0, 22.4, 21.9, 22.2], [10.0, 10.1, 10.05, 10.0]
    ratio, low, high = latency.ratio_of_ratios(a, ref_a, b, ref_b)
    sides = np.log(b) - np.log(ref_b), np.log(a) - np.log(ref_a)
    bounds = stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    assert ratio == pytest.approx(math.exp(sides[0].mean() - sides[1].mean()))
    assert (low, high) == pytest.approx((math.exp(bounds.low), math.exp(bounds.high)))
    assert 1.09 < ratio < 1.11


@pytest.mark.parametrize("few", [[], [1.0]])
def test_a_ratio_needs_two_pairs(few: list[float]) -> None:
    """Of one pair, nothing is known of the noise."""
    with pytest.raises(ValueError, match="two pairs"):
        latency.paired(few, few)
    with pytest.raises(ValueError, match="two rounds"):
        latency.ratio_of_ratios(few, few, few, few)

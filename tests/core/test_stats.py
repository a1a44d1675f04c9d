"""Intervals, paired tests and percentiles against numbers found another way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import stats

Z = 1.959963984540054


def test_wilson_is_the_closed_form() -> None:
    """Wilson's interval is what Wilson's formula gives, worked out here in float64."""
    for n in (1, 7, 240, 50_000):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            p = np.float64(k) / n
            centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
            half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
            found = stats.wilson(k, n)
            assert found.value == k / n
            assert found.low == pytest.approx(max(0.0, centre - half), abs=1e-12)
            assert found.high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_wilson_reproduces_a_published_value() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    found = stats.wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    found = stats.wilson(0, 20)
    assert (found.low, round(found.high, 4)) == (0, 0.1611)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    """No share is invented for counts that cannot be."""
    with pytest.raises(ValueError):
        stats.wilson(successes, trials)


@given(st.integers(1, 5000), st.data())
def test_wilson_surrounds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    """The interval holds the share, stays in [0, 1], and that of the failures is its mirror image."""
    successes = data.draw(st.integers(0, trials))
    found, mirror = stats.wilson(successes, trials), stats.wilson(trials - successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirror.high, abs=1e-9)


@given(st.integers(1, 99), st.integers(1, 99))
def test_trials_to_decide_is_where_the_bound_reaches_the_limit(share_percent: int, limit_percent: int) -> None:
    """With that many trials the Wilson bound has reached the limit, with one fewer it has not."""
    share, limit = share_percent / 100, limit_percent / 100
    needed = stats.trials_to_decide(share, limit)
    if share == limit:
        assert needed is None
        return

    def distance(n: int) -> float:
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return (centre - half) - limit if share > limit else limit - (centre + half)

    assert needed is not None
    assert distance(needed) >= -1e-12
    assert needed == 1 or distance(needed - 1) < 1e-12


def test_mcnemar_is_the_binomial_sum() -> None:
    """The exact p-value is a sum over binomial coefficients, done here by hand."""
    for a, b in ((0, 1), (5, 0), (3, 9), (48, 19), (10, 10)):
        n = a + b
        upper = sum(math.comb(n, k) for k in range(a, n + 1)) / 2**n
        smaller = sum(math.comb(n, k) for k in range(min(a, b) + 1)) / 2**n
        assert stats.mcnemar(a, b, alternative="greater") == pytest.approx(upper, rel=1e-12)
        assert stats.mcnemar(a, b) == pytest.approx(min(1.0, 2 * smaller), rel=1e-12)


def test_mcnemar_without_discordance_says_nothing() -> None:
    """If both are right on the same images, nothing speaks against equality."""
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(0, 0, alternative="greater") == 1.0


def test_paired_difference_is_walds_with_half_a_trial_in_each_cell() -> None:
    """Agresti and Min (2005): Wald's interval after 0.5 was added to each of the four cells, worked out here."""
    for a, b, n in ((48, 19, 240), (0, 0, 10), (86, 150, 1600), (7, 0, 7)):
        table = np.array([a, b, 0.0, n - a - b]) + 0.5
        share = table / table.sum()
        centre = share[0] - share[1]
        half = Z * np.sqrt((share[0] + share[1] - centre**2) / table.sum())
        found = stats.paired_difference(a, b, n)
        assert found.value == pytest.approx((a - b) / n)
        assert found.low == pytest.approx(max(-1.0, centre - half), abs=1e-12)
        assert found.high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_paired_difference_agrees_with_a_textbook_example() -> None:
    """Agresti, Categorical Data Analysis: 86 against 150 of 1,600 is -0.04 with the interval -0.06 to -0.02."""
    found = stats.paired_difference(86, 150, 1600)
    assert (round(found.low, 2), found.value, round(found.high, 2)) == (-0.06, -0.04, -0.02)


def test_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Over 2,000 simulated sets of 240 images the interval holds the true difference 95 % of the time, give or take 1.5."""
    draw = np.random.default_rng(7)
    counts = draw.multinomial(240, [0.2, 0.1, 0.7], size=2000)
    covered = [i.low <= 0.1 <= i.high for i in (stats.paired_difference(int(a), int(b), 240) for a, b, _ in counts)]
    assert abs(np.mean(covered) - 0.95) < 0.015


@pytest.mark.parametrize(("a", "b", "n"), [(0, 0, 0), (-1, 0, 3), (2, 2, 3)])
def test_paired_difference_refuses_impossible_counts(a: int, b: int, n: int) -> None:
    """No difference is invented for counts that cannot be."""
    with pytest.raises(ValueError):
        stats.paired_difference(a, b, n)


def test_percentile_by_hand() -> None:
    """Nearest rank: the textbook example 15 20 35 40 50."""
    values = [15, 20, 35, 40, 50]
    assert [stats.percentile(values, p) for p in (0, 5, 20, 30, 40, 50, 100)] == [15, 15, 15, 20, 20, 35, 50]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300), st.integers(0, 100))
def test_percentile_is_the_smallest_value_with_enough_at_or_below(values: list[int], percent: int) -> None:
    """It is one of the samples, enough samples are at or below it, and not enough are strictly below it."""
    found = stats.percentile(sorted(values), percent)
    assert found in values
    assert 100 * sum(v <= found for v in values) >= percent * len(values)
    assert percent == 0 or 100 * sum(v < found for v in values) < percent * len(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], -1), ([1], 101)])
def test_percentile_refuses_what_does_not_exist(values: list[int], percent: int) -> None:
    """There is no percentile of nothing, and none outside 0 to 100."""
    with pytest.raises(ValueError):
        stats.percentile(values, percent)


def test_floors_are_mlperfs_early_stopping_rule() -> None:
    """The floors are the smallest h + 1 with BinomCDF(1; h + 1, 1 - p) <= 1 %, searched here."""
    from scipy.stats import binom

    def smallest(share: float) -> int:
        h = 1
        while binom.cdf(1, h + 1, 1 - share) > 0.01:
            h += 1
        return h + 1

    assert {percent: smallest(percent / 100) for percent in (50, 90, 95, 99)} == stats.FLOORS
    assert stats.FLOORS == {50: 11, 90: 64, 95: 130, 99: 662}


# -------------------------------------------------------------------------------------------------------- exact bounds
@pytest.mark.parametrize(("images", "percent"), [(299, 99.0), (598, 99.5), (2995, 99.9), (149, 98.0)])
def test_no_flip_on_so_many_images_proves_so_much(images: int, percent: float) -> None:
    """The bound of n of n is 0.05 ** (1 / n); one image less does not prove it."""
    assert stats.exact_bounds(images, images)[0] >= percent / 100
    assert stats.exact_bounds(images - 1, images - 1)[0] < percent / 100
    assert stats.trials_to_prove(1.0, percent / 100) == images


@pytest.mark.parametrize(("right", "of"), [(7, 10), (1, 3), (790, 800), (0, 5), (5, 5)])
def test_exact_bounds_are_where_the_binomial_tail_is_five_percent(right: int, of: int) -> None:
    """At the lower bound so many or more are seen with 5 %, at the upper so few or fewer: summed here term by term."""

    def at_least(count: int, share: float) -> float:
        return math.fsum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count, of + 1))

    low, high = stats.exact_bounds(right, of)
    assert (low, right) == (0.0, 0) or at_least(right, low) == pytest.approx(0.05, abs=1e-9)
    assert (high, right) == (1.0, of) or 1 - at_least(right + 1, high) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize(("share", "limit"), [(0.999, 0.995), (0.99, 0.98), (0.97, 0.98), (0.0, 0.5), (0.996, 0.995)])
def test_the_trials_to_prove_are_the_fewest_that_do(share: float, limit: float) -> None:
    """At ten times as many, rounded to whole counts, the bound is past the limit; at half as many it is not."""
    needed = stats.trials_to_prove(share, limit)
    assert needed is not None

    def decided(trials: int) -> bool:
        low, high = stats.exact_bounds(round(share * trials), trials)
        return low >= limit if share > limit else high < limit

    assert decided(10 * needed)
    assert needed < 3 or not decided(needed // 2)


def test_no_number_of_trials_proves_what_is_observed() -> None:
    """A share that is the limit itself is never decided, nor is all or nothing."""
    assert [stats.trials_to_prove(*pair) for pair in ((0.99, 0.99), (0.5, 1.0), (0.5, 0.0))] == [None] * 3


def test_bounds_of_no_trials_are_refused() -> None:
    """There is no share of nothing."""
    with pytest.raises(ValueError, match="no trials"):
        stats.exact_bounds(0, 0)


# ------------------------------------------------------------------------------------------------------- what a gate needs
@pytest.mark.parametrize(
    ("margin", "needed"),
    [
        (0.0025, (12_617, 25_233, 50_466, 100_931, 201_862)),
        (0.005, (3_155, 6_309, 12_617, 25_233, 50_466)),
        (0.01, (789, 1_578, 3_155, 6_309, 12_617)),
        (0.02, (198, 395, 789, 1_578, 3_155)),
    ],
)
def test_images_for_a_margin_are_the_published_ones(margin: float, needed: tuple[int, ...]) -> None:
    """Non-inferiority at 1 %, power 95 %, discordance 0.5 to 8 %; where few are discordant the bound itself asks for more."""
    for psi, images in zip((0.005, 0.01, 0.02, 0.04, 0.08), needed, strict=True):
        assert abs(stats.images_for_margin(margin, psi) - max(images, math.ceil(2.3263 / margin))) <= 1
    with pytest.raises(ValueError, match="margin"):
        stats.images_for_margin(0.0, 0.02)


@pytest.mark.parametrize(("classes", "losses"), [(1, 7), (10, 10), (100, 14), (1000, 17)])
def test_losses_to_prove_are_the_published_ones(classes: int, losses: int) -> None:
    """With every discordant image lost: 7, 10, 14 and 17 at 1 % over so many classes; one fewer does not do."""
    found = stats.losses_to_prove(0.01 / classes)
    assert found == losses
    assert stats.mcnemar(found, 0, alternative="greater") <= 0.01 / classes < stats.mcnemar(found - 1, 0, alternative="greater")


@pytest.mark.parametrize(("images", "mean", "p99"), [(1_000, 0.032, 0.051), (5_000, 0.014, 0.021), (50_000, 0.0046, 0.007)])
def test_the_noise_of_a_calibration_error_is_the_published_one(images: int, mean: float, p99: float) -> None:
    """A perfectly calibrated model with Beta(4, 1.2) confidences over 15 bins, within a tenth."""
    confidences = np.random.default_rng(images).beta(4, 1.2, images)
    right = np.random.default_rng(images + 1).random(images) < confidences
    ece, floor, most = stats.calibration_error(confidences.tolist(), right.tolist())
    assert floor == pytest.approx(mean, rel=0.12)
    assert most == pytest.approx(p99, rel=0.15)
    assert ece < 1.3 * most


def test_calibration_error_of_a_known_table() -> None:
    """Ten answers at 0.95, five of them right: half is missing."""
    ece, _, _ = stats.calibration_error([0.95] * 10, [True] * 5 + [False] * 5)
    assert ece == pytest.approx(0.45)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_definition(p_values: list[float]) -> None:
    """A hypothesis falls exactly if its p-value and all smaller ones reach alpha over those that are left."""
    ordered = sorted(p_values)
    falls = 0
    while falls < len(ordered) and ordered[falls] <= 0.05 / (len(ordered) - falls):
        falls += 1
    found = stats.holm(p_values, alpha=0.05)
    assert sum(found) == falls
    assert all(p <= ordered[falls - 1] for p, rejected in zip(p_values, found, strict=True) if rejected)


def test_bounds_of_a_mean_are_those_of_a_t_test() -> None:
    """Both one-sided, against scipy."""
    from scipy import stats as scipy_stats

    values = np.random.default_rng(1).normal(3, 1, 20)
    mean, low, high = stats.mean_bounds(values.tolist(), alpha=0.02)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(scipy_stats.ttest_1samp(values, 0, alternative="greater").confidence_interval(0.98).low)
    assert high == pytest.approx(scipy_stats.ttest_1samp(values, 0, alternative="less").confidence_interval(0.98).high)


def test_figures_for_records_have_twelve_digits() -> None:
    """So that the last bits of another machine's logarithm do not change a record."""
    assert stats.settled(math.pi) == 3.14159265359
    assert stats.settled(0.1 + 0.2) == 0.3

"""The sequential test of latency: its errors are those that the design promises, by simulation, and its rules hold."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from edgekd.core import sequential
from edgekd.core.sequential import FAIL_ALPHAS, LOOKS, PASS_ALPHAS, Decision, decide, decide_many, next_look

JOBS = 100_000
# (process sd, contaminated) -> unchanged: fail, pass, mean pairs; 5 % slower: fail, pass; 10 % slower: fail.
# The published characteristics of this design, from 8,000 simulated jobs of another program (each sure to about 0.3 points).
PUBLISHED = {
    (0.01, False): (0.0000, 1.000, 7.0, 1.000, 0.0001, 1.0),
    (0.02, False): (0.0010, 0.999, 7.5, 0.991, 0.009, 1.0),
    (0.03, False): (0.0045, 0.996, 10.0, 0.977, 0.023, 1.0),
    (0.05, False): (0.0099, 0.974, 19.3, 0.923, 0.035, 1.0),
    (0.02, True): (0.0004, 0.995, 10.5, 0.975, 0.009, 1.0),
    (0.03, True): (0.0040, 0.985, 13.5, 0.952, 0.021, 1.0),
}
TOLERANCE = 0.005
PAIRS_TOLERANCE = 0.5


def jobs(effect: float, sd: float, *, contaminated: bool, count: int = JOBS) -> np.ndarray:
    """Return log-ratios of simulated jobs (a row each): what differs within a round is each worker's own effect."""
    draw = np.random.default_rng([2, int(1e4 * effect), int(1e4 * sd), contaminated])
    shape = (count, LOOKS[-1])
    ratios = draw.normal(math.log1p(effect), math.sqrt(2) * sd, shape)
    if contaminated:
        hit = draw.random(shape) < 0.1
        ratios += hit * draw.choice([-1, 1], shape) * draw.exponential(0.1, shape)
    return ratios


@cache
def outcomes(effect: float, sd: float, contaminated: bool) -> tuple[float, float, float]:
    """Return how often jobs fail and pass, and their mean number of pairs."""
    found, pairs = decide_many(jobs(effect, sd, contaminated=contaminated), max_pair_sd=math.inf)
    return float((found == 1).mean()), float((found == 2).mean()), float(pairs.mean())


@pytest.mark.parametrize(("effect", "sd"), [(0.0, 0.01), (0.03, 0.02), (0.05, 0.03), (0.0, 0.05)])
@pytest.mark.parametrize("max_pair_sd", [math.inf, sequential.MAX_PAIR_SD])
def test_many_jobs_at_once_are_decided_like_one(effect: float, sd: float, max_pair_sd: float) -> None:
    """What the simulations count is what the gate says, job by job."""
    rows = jobs(effect, sd, contaminated=True, count=150)
    found, pairs = decide_many(rows, max_pair_sd=max_pair_sd)
    alone = [decide(row, max_pair_sd=max_pair_sd) for row in rows.tolist()]
    assert [("inconclusive", "fail", "pass")[k] for k in found] == [one.outcome for one in alone]
    assert pairs.tolist() == [one.look for one in alone]


@pytest.mark.parametrize(("sd", "contaminated"), PUBLISHED)
def test_the_published_characteristics_come_out_of_a_simulation(sd: float, contaminated: bool) -> None:
    """Fails, passes and pairs of simulated jobs agree with the published design within half a point and half a pair."""
    fail_0, pass_0, pairs_0, fail_5, pass_5, fail_10 = PUBLISHED[sd, contaminated]
    unchanged, slower = outcomes(0.0, sd, contaminated), outcomes(0.05, sd, contaminated)
    assert unchanged[:2] == pytest.approx((fail_0, pass_0), abs=TOLERANCE)
    assert unchanged[2] == pytest.approx(pairs_0, abs=PAIRS_TOLERANCE)
    assert slower[:2] == pytest.approx((fail_5, pass_5), abs=TOLERANCE)
    assert outcomes(0.10, sd, contaminated)[0] == pytest.approx(fail_10, abs=TOLERANCE)


def test_unchanged_code_fails_in_at_most_one_job_of_a_hundred() -> None:
    """The promise itself, at every noise up to the one that is refused, within the error of the simulation."""
    for sd in (0.005, 0.01, 0.02, 0.03, 0.05):
        assert outcomes(0.0, sd, False)[0] <= 0.01 + 2 * math.sqrt(0.01 * 0.99 / JOBS)


def test_a_look_agrees_with_a_t_test_of_scipy() -> None:
    """Bounds, p-value and decision of one look are those of scipy's one-sample t-test."""
    draw = np.random.default_rng(5)
    ratios = draw.normal(0.04, 0.01, 7).tolist()
    found = decide(ratios)
    test = scipy_stats.ttest_1samp(ratios, 0.0, alternative="greater")
    assert found.low == pytest.approx(math.exp(test.confidence_interval(1 - FAIL_ALPHAS[0]).low))
    other = scipy_stats.ttest_1samp(ratios, 0.0, alternative="less")
    assert found.high == pytest.approx(math.exp(other.confidence_interval(1 - PASS_ALPHAS[0]).high))
    assert found.p_fail == pytest.approx(min(1.0, test.pvalue * 0.01 / FAIL_ALPHAS[0]))
    assert found.outcome == "fail"


def test_the_errors_are_shared_out_over_the_looks() -> None:
    """All chances of a wrong fail add up to 1 %, of a wrong pass to 5 %."""
    assert math.isclose(sum(FAIL_ALPHAS), 0.01)
    assert math.isclose(sum(PASS_ALPHAS), 0.05)
    assert len(FAIL_ALPHAS) == len(PASS_ALPHAS) == len(LOOKS)


@pytest.mark.parametrize(("pairs", "look"), [(0, 7), (6, 7), (7, 12), (12, 20), (39, 40), (40, None), (99, None)])
def test_the_next_look_is_a_declared_one(pairs: int, look: int | None) -> None:
    """Nobody looks in between, and nobody looks again after the last."""
    assert next_look(pairs) == look


@pytest.mark.parametrize("pairs", [0, 1, 6])
def test_before_the_first_look_nothing_is_decided(pairs: int) -> None:
    """Six pairs decide nothing, however clear they are, and the answer says how many are asked for."""
    found = decide([math.log(2.0)] * pairs)
    assert (found.outcome, found.look, found.next_look) == ("inconclusive", 0, 7)
    assert f"there are {pairs} pairs" in found.because


def test_what_comes_after_a_decision_does_not_change_it() -> None:
    """Seven quiet pairs pass; thirty-three slow ones behind them were not part of the plan any more."""
    quiet = [0.001, -0.001] * 3 + [0.0]
    assert decide(quiet + [0.5] * 33) == decide(quiet)
    assert decide(quiet).outcome == "pass"


def test_pairs_that_differ_too_much_are_refused() -> None:
    """At a pair sd above 7 % neither a pass nor a fail is said, and the reason names the figure."""
    wild = [0.3, -0.3] * 20
    found = decide(wild)
    assert found.outcome == "inconclusive"
    assert found.look == 40
    assert "the 7 % up to" in found.because
    assert decide([x + 0.5 for x in wild]).outcome == "inconclusive"


def test_a_proven_slow_down_below_the_smallest_effect_does_not_fail() -> None:
    """One percent slower in every round is proven and irrelevant; three percent are a fail; no noise at all is no problem."""
    assert decide([math.log(1.01)] * 7).outcome == "pass"
    assert decide([math.log(1.03)] * 7).outcome == "fail"
    assert decide([math.log(1.03)] * 7, min_effect=0.04).outcome == "pass"


def test_a_limit_to_another_model_fails_above_the_limit_only() -> None:
    """With `unchanged` at the limit of 0.8, a ratio of 0.78 passes and one of 0.85 fails."""
    noise = [0.002, -0.002, 0.001, -0.001, 0.0, 0.001, -0.001]
    for ratio, outcome in ((0.78, "pass"), (0.85, "fail")):
        found = decide([math.log(ratio) + e for e in noise], max_ratio=0.8, unchanged=0.8, min_effect=0.0)
        assert found.outcome == outcome


def test_a_later_first_look_skips_the_earlier_ones() -> None:
    """Quantities that few pairs cannot carry are looked at later; what was not looked at does not decide."""
    slow = [math.log(1.5)] * 12
    assert decide(slow, first_look=20).outcome == "inconclusive"
    assert decide(slow, first_look=20).next_look == 20
    assert decide(slow + [math.log(1.5)] * 8, first_look=20).look == 20


@pytest.mark.parametrize(
    "mistake",
    [
        {"max_ratio": 0.9},
        {"max_ratio": math.inf},
        {"min_effect": -0.1},
        {"fail_share": 0.0},
        {"fail_share": 50.0},
        {"unchanged": 0.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(mistake: dict) -> None:
    """A limit below what counts as unchanged, or a chance that is none, is a mistake of the caller."""
    with pytest.raises(ValueError, match="are needed"):
        decide([0.0] * 7, **mistake)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_ratios_that_are_no_numbers_are_refused(broken: float) -> None:
    """A round without a time must not become a pass."""
    with pytest.raises(ValueError, match="finite"):
        decide([0.0] * 6 + [broken])


RATIOS = st.lists(st.floats(-0.3, 0.3), max_size=45)


@settings(max_examples=200)
@given(RATIOS, st.floats(0.01, 1.0))
def test_the_p_value_says_at_which_share_it_fails(ratios: list[float], share: float) -> None:
    """`p_fail` is the smallest total error that fails: a share above it fails, one below does not (Holm rests on this)."""
    p = decide(ratios).p_fail
    scaled = decide(ratios, fail_share=share)
    if abs(p - share * sequential.ALPHA) > 1e-9:
        assert (scaled.outcome == "fail") == (p < share * sequential.ALPHA)


@settings(max_examples=200)
@given(RATIOS)
def test_a_decision_never_stands_on_less_than_its_bounds(ratios: list[float]) -> None:
    """A pass has its upper bound below the limit and a fail its lower one above unchanged; all else is inconclusive."""
    found: Decision = decide(ratios)
    if found.outcome == "pass":
        assert found.high < 1.05
    if found.outcome == "fail":
        assert found.low > 1
        assert found.ratio > 1.02
    if found.outcome != "inconclusive":
        assert found.look in LOOKS
        assert found.pair_sd <= sequential.MAX_PAIR_SD

"""Sessions on a scripted device: the order of the arms, equal counts, when they stop, and what a drifting machine does."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benching.calibration import MOST_ITERATIONS, calibrate
from edgekd.benching.order import rounds
from edgekd.benching.profiles import PROFILES
from edgekd.benching.sessions import UNEVEN, Session, unevenness
from edgekd.benching.stopping import look
from edgekd.core import latency
from edgekd.core.contracts import ArmName, Pairing
from edgekd.core.errors import MachineError
from edgekd.testing import FakeBench

MS = 1_000_000
A, B = ArmName(artifact="ort-fp32", arm="baseline"), ArmName(artifact="ort-fp32", arm="candidate")
NO_RATIOS = {}.get


def asked(arm: ArmName, **changes: Any) -> dict[str, Any]:
    plan = {"whose": arm.arm, "warmup": 5, "iterations": 60, "mode": "single", "period_ns": None, "record": None, "whole": None}
    return plan | changes


def ran(bench: FakeBench, *arms: ArmName, looks: Sequence[int] = (7,), **changes: Any) -> Session:
    """Return a session that has run, without comparisons."""
    options = {"cap_s": 1e9, "comparisons": ()} | changes
    session = Session(bench=bench, plans={arm: asked(arm) for arm in arms}, seed=0, timeout_s=60)
    session.run(looks=looks, tell=lambda *_: None, **options)
    return session


# ----------------------------------------------------------------------------------------------------------------- order
@given(arms=st.integers(1, 9), seed=st.integers(0, 1000))
def test_every_round_has_every_arm_once(arms: int, seed: int) -> None:
    """Each round is a permutation, and over two rounds all arms have the same mean position."""
    found = list(islice(rounds(range(arms), kin=[arm % 3 for arm in range(arms)], seed=seed), 8))
    assert all(sorted(order) == list(range(arms)) for order in found)
    for first, second in zip(found[::2], found[1::2], strict=True):
        places = [first.index(arm) + second.index(arm) for arm in range(arms)]
        assert set(places) == {arms - 1}


@given(families=st.lists(st.integers(0, 3), min_size=1, max_size=9), seed=st.integers(0, 1000))
def test_arms_that_will_be_compared_stay_side_by_side(families: list[int], seed: int) -> None:
    """Between the first and the last arm of a family nobody else has a turn, whatever the order is."""
    for order in islice(rounds(range(len(families)), kin=families, seed=seed), 6):
        runs = [family for family, _ in groupby(families[arm] for arm in order)]
        assert len(runs) == len(set(families))


def test_the_order_is_seeded_and_not_always_the_same() -> None:
    """A seed gives one order; pairs of rounds begin with either arm."""
    first = list(islice(rounds("ab", kin="xx", seed=3), 40))
    assert first == list(islice(rounds("ab", kin="xx", seed=3), 40))
    assert {order[0] for order in first[::2]} == {"a", "b"}


def drifting(share: float, *, over: int) -> FakeBench:
    """Return a machine that becomes slower by `share` while `over` workers run, whoever they are."""
    bench = FakeBench(lambda plan, index: 0)

    def time_ns(_plan: Mapping[str, Any], _index: int) -> int:
        return round(20 * MS * (1 + share * (len(bench.plans) - 1) / (over - 1)))

    bench.time_ns = time_ns
    return bench


@pytest.mark.parametrize("number", [7, 12, 20])
def test_a_drifting_machine_favours_no_arm(number: int) -> None:
    """10 % linear drift over the session biases the ratio of two equal arms by at most 0.5 %."""
    for seed in range(20):
        session = Session(bench=drifting(0.10, over=2 * number), plans={a: asked(a) for a in (A, B)}, seed=seed, timeout_s=60)
        session.run(looks=(number,), cap_s=1e9, comparisons=(), tell=lambda *_: None)
        found = session.percentiles(50.0)
        assert abs(latency.paired(found[A], found[B]).ratio - 1) <= 0.005


def test_one_arm_after_the_other_would_be_biased() -> None:
    """The same machine, all of A first: 5 %, which the order above takes away."""
    times = [20 * (1 + 0.10 * i / 13) for i in range(14)]
    assert latency.paired(times[:7], times[7:]).ratio > 1.04


# ---------------------------------------------------------------------------------------------------------------- counts
@settings(max_examples=10)
@given(
    level_ms=st.floats(2.0, 400.0),
    warm_s=st.floats(0.0, 8.0),
    profile=st.sampled_from(["quick", "gate"]),
    arms=st.integers(2, 3),
)
def test_arms_run_with_equal_counts(level_ms: float, warm_s: float, profile: str, arms: int) -> None:
    """Whatever the calibration finds is asked of every arm in every round, and every arm answers as many."""
    calibrating = FakeBench(lambda plan, index: 0)

    def time_ns(_plan: Mapping[str, Any], _index: int) -> int:
        return round(level_ms * MS * (1.3 if calibrating.clock() < warm_s * 1e9 else 1.0))

    calibrating.time_ns = time_ns
    counts = calibrate(calibrating, asked(A), PROFILES[profile], timeout_s=60)
    found = PROFILES[profile]
    assert found.min_iterations <= counts.iterations <= MOST_ITERATIONS
    assert 1.3 * level_ms * counts.iterations / 1000 >= found.min_s * 0.99
    names = [ArmName(artifact=f"a{i}", arm="candidate") for i in range(arms)]
    bench = FakeBench(lambda _plan, _index: MS)
    few = {"warmup": min(counts.warmup, 30), "iterations": min(counts.iterations, 30)}
    session = Session(bench=bench, plans={arm: asked(arm, **few) for arm in names}, seed=0, timeout_s=60)
    session.run(looks=(2,), cap_s=1e9, comparisons=(), tell=lambda *_: None)
    assert {(plan["warmup"], plan["iterations"]) for plan in bench.plans} == {(few["warmup"], few["iterations"])}
    assert {len(worker.latency_ns) for workers in session.workers.values() for worker in workers} == {few["iterations"]}


def test_a_calibration_finds_how_long_to_warm_up() -> None:
    """+30 % for the first four seconds: 1.25 times as long, as a number of queries, and it is the process that warms up."""
    bench = FakeBench(lambda plan, index: 0)
    bench.time_ns = lambda _plan, _index: 26 * MS if bench.clock() < 4e9 else 20 * MS
    counts = calibrate(bench, asked(A), PROFILES["gate"], timeout_s=60)
    assert counts.warmup_converged
    assert counts.effect == "process"
    assert 4.0 <= counts.settled_s <= 5.1  # type: ignore[operator]
    assert counts.warmup == pytest.approx(4 / 0.026 + (counts.warmup_s - 4) / 0.02, abs=4)  # type: ignore[operator]
    assert counts.iterations == 200
    assert bench.plans[0]["record"] == {"seconds": 30.0, "cap_seconds": 300.0, "tolerance": 0.01}


def test_a_device_that_warms_up_is_soaked_once() -> None:
    """Slow for the first fifteen seconds of the session, whichever process runs: the second one is steady from its start."""
    bench = FakeBench(lambda plan, index: 0)
    bench.time_ns = lambda _plan, _index: 26 * MS if bench.clock() < 15e9 else 20 * MS
    counts = calibrate(bench, asked(A), PROFILES["gate"], timeout_s=60)
    assert (counts.effect, counts.warmup_s, len(bench.plans)) == ("device", 3.0, 2)


def test_a_process_that_warms_up_for_long_is_warmed_up_each_time() -> None:
    """The same slowness in every process: the second one begins as slow as the first."""
    bench = FakeBench(lambda _plan, index: 26 * MS if index < 600 else 20 * MS)
    counts = calibrate(bench, asked(A), PROFILES["gate"], timeout_s=60)
    assert counts.effect == "process"
    assert counts.warmup > 600


def test_what_never_settles_is_said() -> None:
    """A model that becomes slower and slower has no warm-up."""
    bench = FakeBench(lambda _plan, index: round(20 * MS * 1.0005**index))
    assert not calibrate(bench, asked(A), PROFILES["gate"], timeout_s=60).warmup_converged


# -------------------------------------------------------------------------------------------------------------- stopping
def times(spread: float, count: int, *, factor: float = 1.0, seed: int = 0) -> list[float]:
    return list(20 * MS * factor * np.exp(np.random.default_rng(seed).normal(0, spread, count)))


@pytest.mark.parametrize(("number", "looked"), [(6, False), (7, True), (8, False), (11, False), (12, True), (13, False)])
def test_nothing_is_looked_at_between_the_looks(number: int, looked: bool) -> None:
    """A narrow interval stops a session at a declared look and at no other round."""
    found = look(number, (7, 12, 20, 40), lambda _: {B: times(0.001, number)}, NO_RATIOS, ())
    assert found.done == looked


def test_a_wide_interval_goes_on_to_the_last_look() -> None:
    """3 % between processes are not 1 % after seven rounds; the last look ends it all the same, and says how wide it is."""
    assert not look(7, (7, 12), lambda _: {B: times(0.05, 7)}, NO_RATIOS, ()).done
    last = look(12, (7, 12), lambda p: {B: times(0.05, 12)} if p == 50.0 else {}, NO_RATIOS, ())
    assert last.done
    assert last.because.startswith("the p50 of ort-fp32 is known to")


def test_comparisons_stop_when_they_are_decided() -> None:
    """Equal arms pass at the first look, a slow-down of 20 % fails there, and 3 % is looked at again."""
    pair = (Pairing(a=A, b=B),)
    for factor, spread, done in ((1.0, 0.01, True), (1.2, 0.01, True), (1.03, 0.04, False)):
        logs = latency.log_ratios(times(spread, 7), times(spread, 7, factor=factor, seed=1))
        assert look(7, (7, 12, 20, 40), lambda _: {}, {pair[0]: logs}.__getitem__, pair).done == done


def test_an_arm_that_is_not_there_keeps_nobody_waiting() -> None:
    """A comparison with what was not measured can never be decided."""
    pair = (Pairing(a=ArmName(artifact="gone", arm="baseline"), b=B),)
    assert look(7, (7, 12), lambda _: {B: times(0.01, 7)}, lambda _: (), pair).done
    assert ran(FakeBench(lambda _p, _i: 20 * MS), B, comparisons=pair).ratios(pair[0]) == ()


def test_pairs_are_compared_turn_by_turn() -> None:
    """A machine that is half as fast in some turns of both arms leaves their ratio; medians of all queries fall where they may.

    The same arms without turns are compared by their p50.
    """

    def slow_in_places(plan: Mapping[str, Any], index: int) -> int:
        turn, own_ms = max(0, index - 5) // 3, 20 if plan["whose"] == A.arm else 21
        late = 10 if plan["whose"] == A.arm else 9  # the arms reach the slow half of the session at another query
        return round(own_ms * MS * (1.5 if turn >= 10 or index - 5 >= 3 * late + 2 else 1.0))

    pair = Pairing(a=A, b=B)
    session = ran(FakeBench(slow_in_places, answers={"turns": 20}), A, B)
    assert session.ratios(pair) == pytest.approx([np.log(21 / 20)] * 7)
    whole = ran(FakeBench(slow_in_places), A, B)
    assert whole.ratios(pair) == pytest.approx(latency.log_ratios(*(whole.percentiles(50.0)[arm] for arm in (A, B))))
    assert abs(whole.ratios(pair)[0] - np.log(21 / 20)) > 0.1


def test_a_session_ends_when_its_time_is_up() -> None:
    """After the first look, and never in the middle of a round."""
    clock = iter(range(0, 10**14, 10**11))
    session = ran(FakeBench(lambda _p, i: 20 * MS + 10**6 * (i % 7)), A, B, looks=(2, 40), cap_s=50, clock=lambda: next(clock))
    assert {len(workers) for workers in session.workers.values()} == {2}


def test_workers_know_their_place() -> None:
    """Round, position, and when the counted queries ran, one after the other on the device's clock."""
    session = ran(FakeBench(lambda _p, _i: 20 * MS), A, B, looks=(3,))
    facts = [worker.facts for workers in session.workers.values() for worker in workers]
    assert {(one.round, one.position) for one in facts} == {(r, p) for r in range(3) for p in range(2)}
    windows = sorted(one.window_ns for one in facts)
    assert all(end - start == 60 * 20 * MS for start, end in windows)
    assert all(a[1] <= b[0] for a, b in pairwise(windows))


def losing(*lost: int) -> FakeBench:
    """Return a device that loses the workers of these numbers."""
    bench = FakeBench(lambda plan, index: 0)

    def time_ns(_plan: Mapping[str, Any], index: int) -> int:
        if len(bench.plans) in lost and index == 30:
            raise MachineError("the connection is gone")
        return 20 * MS

    bench.time_ns = time_ns
    return bench


def test_a_lost_worker_costs_one_round() -> None:
    """The round is run anew, whole; what was lost is told, and no half round counts."""
    bench = losing(4)
    session = ran(bench, A, B, looks=(3,))
    assert [len(workers) for workers in session.workers.values()] == [3, 3]
    assert len(bench.plans) == 6 + 2
    assert session.lost == ["round 2: the connection is gone"]


@pytest.mark.parametrize("lost", [(1,), (3, 4, 5)])
def test_a_device_that_keeps_losing_workers_is_broken(lost: tuple[int, ...]) -> None:
    """In the first round at once, later after the third time."""
    with pytest.raises(MachineError, match="the connection is gone"):
        ran(losing(*lost), A, B, looks=(7,))


# ------------------------------------------------------------------------------------------------------------ neighbours
def paced(slow: Collection[int], *, by: float = 1.5) -> FakeBench:
    """Return a machine on which everything takes `by` times as long while the workers of these numbers run."""
    bench = FakeBench(lambda plan, index: 0)

    def time_ns(_plan: Mapping[str, Any], _index: int) -> int:
        factor = by if len(bench.plans) in slow else 1.0
        bench.answers["pace_ns"] = [round(factor * MS)] * 2
        return round(factor * 20 * MS)

    bench.time_ns = time_ns
    return bench


@pytest.mark.parametrize(("bench", "uneven"), [(paced({3}), 1), (paced(range(1, 99)), 0), (paced({3}, by=1.1), 0)])
def test_rounds_on_an_uneven_machine_are_known(bench: FakeBench, uneven: int) -> None:
    """One neighbour, a machine that is slow all the time, and one that moves a little; all rounds count."""
    session = ran(bench, A, B, looks=(4,))
    found = [unevenness([worker.facts for worker in both]) > UNEVEN for both in zip(*session.workers.values(), strict=True)]
    assert (sum(found), len(found)) == (uneven, 4)


def test_a_worker_that_answers_too_little_is_refused() -> None:
    """An answer without the samples asked for is no measurement."""
    bench = FakeBench(lambda _p, _i: 20 * MS, answers={"count": 0, "samples": "eJwDAAAAAAE="})
    with pytest.raises(MachineError, match="did not answer the 60 samples"):
        ran(bench, A)

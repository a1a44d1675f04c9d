"""What the after-checks believe, at and beyond each limit, and how often they are wrong on synthetic workers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.benching import protocol
from edgekd.benching.inputs import Fed
from edgekd.benching.protocol import Evidence, Judgement, judge
from edgekd.benching.sessions import Worker
from edgekd.benching.subjects import Expected, Load
from edgekd.core.records import Condition, Counts, WorkerFacts
from edgekd.testing import FakeDevice

MS = 1_000_000
FED = Fed(inputs_npy=Path("i.npy"), photographs_npz=None, images=32, sha256="0" * 64, constant=False, synthetic=False)
STEADY = Counts(warmup=10, iterations=200, warmup_s=3.0, settled_s=0.0, recorded_s=30.0)
EXPECTED = Expected(runtime="lab 1.0", executed_on="CPU", executed_precision="fp32")


def samples(
    *workers_ns: Sequence[int],
    runtime: str = "lab 1.0",
    on: str = "CPU",
    precision: str = "fp32",
    spin: bool | None = True,
    notes: tuple[str, ...] = (),
) -> list[Worker]:
    found = []
    for number, times in enumerate(workers_ns):
        facts = WorkerFacts(
            round=number,
            position=0,
            load_ns=1,
            compile_ns=None,
            first_ns=1,
            cpu_ns=None,
            peak_rss_bytes=None,
            exit=0,
            window_ns=(0, 1),
            notes=notes,
        )
        columns = {name: np.zeros(len(times), np.int64) for name in ("segment", "queue")}
        columns["infer"] = np.array(times, dtype=np.int64)
        answer = {"runtime": runtime, "executed_on": on, "executed_precision": precision, "spin": spin}
        found.append(Worker(facts=facts, answer=answer, columns=columns))
    return found


def judged(found: list[Worker], **changes: Any) -> Judgement:
    """Judge workers of an artifact on a quiet machine of two cores, with 32 images."""
    evidence = Evidence(
        workers=found,
        counts=STEADY,
        expected=EXPECTED,
        fed=FED,
        load=Load(threads=1),
        facts=FakeDevice().facts(),
        profile="gate",
    )
    return judge(replace(evidence, **changes))


def arrays(workers: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
    return [np.array(times, dtype=np.int64) for times in workers]


def codes(texts: Sequence[str]) -> list[str]:
    return [text.partition(":")[0] for text in texts if not text.startswith("few-workers")]


def test_a_steady_measurement_is_trusted() -> None:
    """Three workers that agree, on a quiet machine with real images, raise no flag."""
    assert judged(samples(*[[20 * MS] * 50] * 5)) == Judgement(flags=(), untrusted_because=())


@pytest.mark.parametrize(
    ("workers", "reasons"),
    [
        pytest.param([[10] * 32] * 2, [], id="64-samples"),
        pytest.param([[10] * 32, [10] * 31], ["too-few-samples"], id="63-samples"),
        pytest.param([[10] * 500], ["too-few-workers"], id="one-worker"),
        pytest.param([[10] * 10], ["too-few-samples", "too-few-workers"], id="hardly-anything"),
        pytest.param([[100] * 50, [125] * 50], [], id="a-factor-of-1.25"),
        pytest.param([[100] * 50, [126] * 50], ["unstable"], id="more"),
        pytest.param([[100] * 50, [110] * 50, [140] * 50], ["unstable"], id="the-extremes-count"),
        pytest.param([[0] * 50, [0] * 50], [], id="too-fast-for-the-clock"),
        pytest.param([[0] * 50, [1] * 50], ["unstable"], id="zero-against-something"),
        pytest.param([[1000] * 40 + [1015] * 10] * 2, [], id="drift-of-1.015"),
        pytest.param([[1000] * 40 + [1016] * 10] * 2, ["drift"], id="slower-and-slower"),
        pytest.param([[1000] * 10 + [900] * 40] * 2, ["drift"], id="faster-and-faster"),
        pytest.param([[1000] * 40 + [2000] * 10, [1000] * 50, [1000] * 50], [], id="a-hiccup-is-not-drift"),
        pytest.param([[1000] * 20 + [2000] * 4] * 3, [], id="too-short-to-see-drift"),
    ],
)
def test_samples(workers: list[list[int]], reasons: list[str]) -> None:
    """Each limit is kept at its value and complained about beyond it; a reason is always a flag too."""
    judgement = judged(samples(*workers))
    assert codes(judgement.untrusted_because) == reasons
    assert set(judgement.untrusted_because) <= set(judgement.flags)
    assert judgement.trusted == (reasons == [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"on": "GPU"}, "executed-on: GPU, but the artifact was checked on CPU"),
        ({"precision": "bf16"}, "executed-precision: bf16, but the artifact was checked in fp32"),
    ],
)
def test_what_ran_must_be_what_was_checked(changes: dict[str, str], reason: str) -> None:
    """Another processor or precision than the one whose accuracy is known makes the latency somebody else's."""
    judgement = judged([*samples([10] * 50), *samples([10] * 50, **changes)])
    assert judgement.untrusted_because == (reason,)


def test_the_blur_is_the_larger_of_spread_and_drift() -> None:
    """Steady is 1; medians of 10 and 20 blur by 2; a worker that triples blurs by 3; what is void has none."""
    assert judged(samples([10 * MS] * 50, [10 * MS] * 50)).blur == 1.0
    assert judged(samples([10 * MS] * 50, [20 * MS] * 50)).blur == 2.0
    assert judged(samples(*[[10 * MS] * 10 + [15 * MS] * 30 + [30 * MS] * 10] * 2)).blur == 3.0
    assert judged(samples([10 * MS] * 50)).blur is None


@pytest.mark.parametrize(
    ("changes", "reasons", "flags"),
    [
        ({"synthetic": True}, ["synthetic-input"], ["synthetic-input"]),
        ({"constant": True}, ["constant-input"], ["constant-input"]),
        ({"images": 31}, [], ["few-images"]),
    ],
)
def test_inputs(changes: dict[str, Any], reasons: list[str], flags: list[str]) -> None:
    """Made-up or constant inputs are not believed; few images are a note."""
    judgement = judged(samples([10] * 50, [10] * 50), fed=replace(FED, **changes))
    assert codes(judgement.untrusted_because) == reasons
    assert codes(judgement.flags) == flags


@pytest.mark.parametrize(
    ("device", "threads", "flags"),
    [
        (FakeDevice(load_1min=1.0), 2, []),
        (FakeDevice(load_1min=1.1), 2, ["busy"]),
        (FakeDevice(load_1min=None), 2, ["load-unknown"]),
        (FakeDevice(), 3, ["oversubscribed"]),
        (FakeDevice(cores=4, load_1min=1.1), 3, []),
    ],
)
def test_the_machine_is_noted_not_judged(device: FakeDevice, threads: int, flags: list[str]) -> None:
    """A busy machine or too many threads are told to the reader, who may have wanted them."""
    judgement = judged(samples([10] * 50, [10] * 50), facts=device.facts(), load=Load(threads=threads))
    assert codes(judgement.flags) == flags
    assert judgement.trusted


def test_another_runtime_version_is_a_note() -> None:
    """The runtime may have been upgraded since the export; the reader is told."""
    judgement = judged(samples([10] * 50, [10] * 50, runtime="lab 2.0"))
    assert "runtime: lab 2.0, but the artifact was checked with lab 1.0" in judgement.flags
    assert judgement.trusted


def test_short_workers_say_that_drift_is_unknown() -> None:
    """A check that could not be made is said, not passed over."""
    assert codes(judged(samples(*[[10] * 24] * 3)).flags) == ["drift-unknown"]
    assert codes(judged(samples(*[[10] * 25] * 3)).flags) == []


def test_few_processes_are_noted() -> None:
    """Loading and first inferences want five fresh ones."""
    assert judged(samples(*[[10] * 50] * 4)).flags == ("few-workers: 4 fresh processes, 5 are wanted",)


@pytest.mark.parametrize(("profile", "reasons"), [("gate", ["warm-up"]), ("publish", ["warm-up"]), ("quick", [])])
def test_a_warm_up_that_did_not_converge_leaves_nothing_to_decide(profile: str, reasons: list[str]) -> None:
    """It is a reason, and voids the numbers; a quick calibration is too short to tell."""
    moving = STEADY.model_copy(update={"warmup_converged": False, "settled_s": 280.0, "recorded_s": 300.0})
    judgement = judged(samples(*[[10] * 50] * 5), counts=moving, profile=profile)
    assert codes(judgement.untrusted_because) == reasons
    assert judgement.blur == (None if reasons else 1.0)


def test_what_was_not_done_by_the_protocol_is_noted() -> None:
    """A quick profile, counts from a recipe, threads that could not be told to sleep, what a worker could not do."""
    given = STEADY.model_copy(update={"calibrated": False})
    found = samples(*[[10] * 50] * 5, spin=None, notes=("e2e-unknown: no decoder",))
    judgement = judged(found, profile="quick", counts=given, load=Load(threads=1, spin=False))
    assert codes(judgement.flags) == ["advisory", "given-counts", "spin", "e2e-unknown"]
    assert judgement.trusted


def test_a_session_that_rises_is_noted() -> None:
    """Medians that rise by 1 % a round are told."""
    judgement = judged(samples(*[[round(1000 * 1.01**i)] * 50 for i in range(7)]))
    assert codes(judgement.flags) == ["slope"]


@pytest.mark.parametrize(("effect", "trusted", "blur"), [("void", False, None), ("blur", False, 1.0), ("note", True, 1.0)])
def test_circumstances_have_their_effect(effect: Any, trusted: bool, blur: float | None) -> None:
    """What the machine did meanwhile voids, blurs or is only told."""
    judgement = judged(
        samples(*[[10] * 50] * 5), circumstances=[Condition(code="steal", reason="2 % of the time", effect=effect)]
    )
    assert (judgement.trusted, judgement.blur) == (trusted, blur)
    assert "steal: 2 % of the time" in judgement.flags


def test_no_samples_at_all_are_not_trusted() -> None:
    """Nothing measured is nothing to trust."""
    assert not judged([]).trusted
    assert not judged(samples([], [])).trusted


@given(
    workers=st.lists(st.lists(st.integers(1000, 10**6), min_size=25, max_size=60), min_size=1, max_size=5),
    factor=st.integers(2, 1000),
)
def test_a_slower_machine_is_judged_the_same(workers: list[list[int]], factor: int) -> None:
    """Only ratios count: multiplying every time by the same number changes no verdict on spread and drift."""
    slower = [[time * factor for time in times] for times in workers]
    for check in (protocol.spread, protocol.drift):
        assert bool(list(check(arrays(workers)))) == bool(list(check(arrays(slower))))


@pytest.mark.parametrize(
    ("between", "slope", "least", "most"),
    [
        pytest.param(0.00, 0.0, 0.0, 0.005, id="steady"),
        pytest.param(0.05, 0.0, 0.0, 0.03, id="5-percent-between-processes"),
        pytest.param(0.00, 0.25, 0.99, 1.0, id="25-percent-slower-in-the-end"),
        pytest.param(0.30, 0.0, 0.75, 1.0, id="30-percent-between-processes"),
    ],
)
def test_how_often_synthetic_workers_are_distrusted(between: float, slope: float, least: float, most: float) -> None:
    """Of 500 measurements of 3 workers of 200 inferences with 5 % noise, as many are distrusted as the limits promise."""
    rng = np.random.default_rng(0)
    ramp_T = np.linspace(0.0, slope, 200)
    distrusted = 0
    for _ in range(500):
        scale_K1 = np.exp(rng.normal(0.0, between, (3, 1)))
        times_KT = 20 * MS * scale_K1 * (1 + ramp_T) * (1 + rng.normal(0.0, 0.05, (3, 200)))
        workers = list(times_KT.astype(np.int64))
        distrusted += bool([*protocol.spread(workers), *protocol.drift(workers)])
    assert least <= distrusted / 500 <= most

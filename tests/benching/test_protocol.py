"""What the after-checks believe, at and beyond each limit, and how often they are wrong on synthetic workers."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.benching import protocol
from edgekd.benching.protocol import Inputs, Judgement, judge
from edgekd.core.contracts import Samples
from edgekd.core.records import Artifact, DeviceFacts, WorkerSamples
from edgekd.testing import FakeDevice

MS = 1_000_000
Judge = Callable[..., Judgement]


def samples(*workers_ns: Sequence[int], runtime: str = "lab 1.0", on: str = "CPU", precision: str = "fp32") -> list[Samples]:
    return [
        Samples(
            worker=WorkerSamples(load_ns=1, first_ns=1, warmup_iterations=0, infer_ns=tuple(times)),
            runtime=runtime,
            executed_on=on,
            executed_precision=precision,
        )
        for times in workers_ns
    ]


@pytest.fixture
def judged(make_artifact: Callable[..., Artifact]) -> Judge:
    """Return a judge with an artifact, a quiet machine of two cores and 32 images."""
    artifact = make_artifact()

    def call(
        found: list[Samples],
        *,
        facts: DeviceFacts | None = None,
        threads: int = 1,
        inputs: Inputs = Inputs(images=32),  # noqa: B008 - frozen
    ) -> Judgement:
        return judge(found, artifact=artifact, facts=facts or FakeDevice().facts(), threads=threads, inputs=inputs)

    return call


def codes(texts: Sequence[str]) -> list[str]:
    return [text.partition(":")[0] for text in texts]


def test_a_steady_measurement_is_trusted(judged: Judge) -> None:
    """Three workers that agree, on a quiet machine with real images, raise no flag."""
    assert judged(samples(*[[20 * MS] * 50] * 3)) == Judgement(flags=(), untrusted_because=())


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
        pytest.param([[1000] * 40 + [1100] * 10] * 2, [], id="drift-of-1.10"),
        pytest.param([[1000] * 40 + [1102] * 10] * 2, ["drift"], id="slower-and-slower"),
        pytest.param([[1000] * 10 + [900] * 40] * 2, ["drift"], id="faster-and-faster"),
        pytest.param([[1000] * 40 + [2000] * 10, [1000] * 50, [1000] * 50], [], id="a-hiccup-is-not-drift"),
        pytest.param([[1000] * 20 + [2000] * 4] * 3, [], id="too-short-to-see-drift"),
    ],
)
def test_samples(judged: Judge, workers: list[list[int]], reasons: list[str]) -> None:
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
def test_what_ran_must_be_what_was_checked(judged: Judge, changes: dict[str, str], reason: str) -> None:
    """Another processor or precision than the one whose accuracy is known makes the latency somebody else's."""
    judgement = judged([*samples([10] * 50), *samples([10] * 50, **changes)])
    assert judgement.untrusted_because == (reason,)


def test_the_blur_is_the_larger_of_spread_and_drift(judged: Judge) -> None:
    """Steady is 1; medians of 10 and 20 blur by 2; a worker that triples blurs by 3; what is void has none."""
    assert judged(samples([10 * MS] * 50, [10 * MS] * 50)).blur == 1.0
    assert judged(samples([10 * MS] * 50, [20 * MS] * 50)).blur == 2.0
    assert judged(samples(*[[10 * MS] * 10 + [15 * MS] * 30 + [30 * MS] * 10] * 2)).blur == 3.0
    assert judged(samples([10 * MS] * 50)).blur is None


@pytest.mark.parametrize(
    ("inputs", "reasons", "flags"),
    [
        (Inputs(images=32, synthetic=True), ["synthetic-input"], ["synthetic-input"]),
        (Inputs(images=32, constant=True), ["constant-input"], ["constant-input"]),
        (Inputs(images=31), [], ["few-images"]),
    ],
)
def test_inputs(judged: Judge, inputs: Inputs, reasons: list[str], flags: list[str]) -> None:
    """Made-up or constant inputs are not believed; few images are a note."""
    judgement = judged(samples([10] * 50, [10] * 50), inputs=inputs)
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
def test_the_machine_is_noted_not_judged(judged: Judge, device: FakeDevice, threads: int, flags: list[str]) -> None:
    """A busy machine or too many threads are told to the reader, who may have wanted them."""
    judgement = judged(samples([10] * 50, [10] * 50), facts=device.facts(), threads=threads)
    assert codes(judgement.flags) == flags
    assert judgement.trusted


def test_another_runtime_version_is_a_note(judged: Judge) -> None:
    """The runtime may have been upgraded since the export; the reader is told."""
    judgement = judged(samples([10] * 50, [10] * 50, runtime="lab 2.0"))
    assert judgement.flags == ("runtime: lab 2.0, but the artifact was checked with lab 1.0",)
    assert judgement.trusted


def test_short_workers_say_that_drift_is_unknown(judged: Judge) -> None:
    """A check that could not be made is said, not passed over."""
    assert codes(judged(samples(*[[10] * 24] * 3)).flags) == ["drift-unknown"]
    assert judged(samples(*[[10] * 25] * 3)).flags == ()


def test_no_samples_at_all_are_not_trusted(judged: Judge) -> None:
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
        assert bool(list(check(workers))) == bool(list(check(slower)))


@pytest.mark.parametrize(
    ("between", "slope", "least", "most"),
    [
        pytest.param(0.00, 0.0, 0.0, 0.005, id="steady"),
        pytest.param(0.05, 0.0, 0.0, 0.02, id="5-percent-between-processes"),
        pytest.param(0.00, 0.25, 0.99, 1.0, id="25-percent-slower-in-the-end"),
        pytest.param(0.30, 0.0, 0.75, 1.0, id="30-percent-between-processes"),
    ],
)
def test_how_often_synthetic_workers_are_distrusted(between: float, slope: float, least: float, most: float) -> None:
    """Of 2000 measurements of 3 workers of 200 inferences with 5 % noise, as many are distrusted as the limits promise."""
    rng = np.random.default_rng(0)
    ramp_T = np.linspace(0.0, slope, 200)
    distrusted = 0
    for _ in range(2000):
        scale_K1 = np.exp(rng.normal(0.0, between, (3, 1)))
        times_KT = 20 * MS * scale_K1 * (1 + ramp_T) * (1 + rng.normal(0.0, 0.05, (3, 200)))
        workers = times_KT.astype(int).tolist()
        distrusted += bool([*protocol.spread(workers), *protocol.drift(workers)])
    assert least <= distrusted / 2000 <= most

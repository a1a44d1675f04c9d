"""The worker's arithmetic is exact on a scripted clock, and what it times is nothing but the inference."""

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benching import earlier_worker as worker
from edgekd.benching.earlier_worker import WorkerAnswer, WorkerPlan, batches_of, measure
from edgekd.core.contracts import Backend, TimingPlan
from edgekd.core.errors import EvidenceError, MachineError, UsageError
from edgekd.core.parts import PartRef
from edgekd.core.records import Artifact
from edgekd.testing import ScriptedClock

MS = 1_000_000


class Scripted:
    """A runtime on which loading and every inference take the time that a script says."""

    executed_on = "CPU"
    executed_precision = "fp32"
    runtime = "scripted 1.0"

    def __init__(self, clock: ScriptedClock, runs_ns: Iterator[int], rows: int | None = None) -> None:
        self.clock = clock
        self.runs_ns = runs_ns
        self.rows = rows
        self.seen: list[np.ndarray[Any, Any]] = []
        self.collecting: list[bool] = []
        self.closed = False

    def run(self, image_BCHW: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.seen.append(image_BCHW)
        self.collecting.append(gc.isenabled())
        self.clock.advance(next(self.runs_ns))
        return np.zeros((len(image_BCHW) if self.rows is None else self.rows, 4), np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.closed = True


class ScriptedBackend(Backend):
    session: Any
    load_ns: int = 300 * MS

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> Any:
        self.session.clock.advance(self.load_ns)
        self.session.opened = (folder, tuple(files), threads)
        return self.session


def asked(*, batch: int = 1, warmup: int = 0, iterations: int = 10) -> WorkerPlan:
    return WorkerPlan(
        backend=PartRef(use="scripted"),
        folder=Path("somewhere"),
        files=("model.bin", "weights.bin"),
        batch=batch,
        threads=3,
        warmup=warmup,
        iterations=iterations,
        images_npy=Path("images.npy"),
    )


def numbered(count: int) -> np.ndarray[Any, Any]:
    """Return images of 2 x 2 pixels that are filled with their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, 2, 2))


# ------------------------------------------------------------------------------------------------------------ arithmetic
def test_a_device_of_20_ms_reads_20_ms() -> None:
    """Load, first inference and every timed inference are the scripted times, to the nanosecond."""
    clock = ScriptedClock(now_ns=123)
    session = Scripted(clock, iter([55 * MS] + [40 * MS] * 5 + [20 * MS] * 10))
    samples = measure(ScriptedBackend(session=session), asked(warmup=5), numbered(4), clock=clock)
    assert samples.worker.load_ns == 300 * MS
    assert samples.worker.first_ns == 55 * MS
    assert samples.worker.warmup_iterations == 5
    assert samples.worker.infer_ns == (20 * MS,) * 10
    assert (samples.runtime, samples.executed_on, samples.executed_precision) == ("scripted 1.0", "CPU", "fp32")
    assert session.opened == (Path("somewhere"), ("model.bin", "weights.bin"), 3)
    assert session.closed


@settings(max_examples=25)  # each collects the whole heap
@given(runs_ns=st.lists(st.integers(0, 10**9), min_size=1, max_size=40), warmup=st.integers(0, 5))
def test_samples_are_the_inferences_after_the_warm_up_in_order(runs_ns: list[int], warmup: int) -> None:
    """Sample i is inference 1 + warm-up + i; nothing is dropped, sorted or averaged."""
    clock = ScriptedClock()
    session = Scripted(clock, iter([7] * (1 + warmup) + runs_ns))
    plan = asked(warmup=warmup, iterations=len(runs_ns))
    assert measure(ScriptedBackend(session=session), plan, numbered(3), clock=clock).worker.infer_ns == tuple(runs_ns)
    assert len(session.seen) == 1 + warmup + len(runs_ns)


def test_the_collector_rests_while_the_clock_runs() -> None:
    """Garbage collection is off in the timed loop only, and afterwards as it was."""
    clock = ScriptedClock()
    session = Scripted(clock, iter([1] * 20))
    measure(ScriptedBackend(session=session), asked(warmup=2, iterations=4), numbered(2), clock=clock)
    assert session.collecting == [True] * 3 + [False] * 4
    assert gc.isenabled()
    gc.disable()
    try:
        measure(ScriptedBackend(session=session), asked(iterations=4), numbered(2), clock=clock)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_comes_back_after_an_error() -> None:
    """A runtime that fails in the timed loop leaves garbage collection on, and its session closed."""
    session = Scripted(ScriptedClock(), iter([1, 1]))
    with pytest.raises(StopIteration):  # the script is over
        measure(ScriptedBackend(session=session), asked(iterations=5), numbered(2), clock=session.clock)
    assert gc.isenabled()
    assert session.closed


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_an_answer_for_another_number_of_images_is_refused(rows: int) -> None:
    """One row of logits for each image, or the time means nothing."""
    session = Scripted(ScriptedClock(), iter([1] * 20), rows=rows)
    with pytest.raises(MachineError, match=rf"scripted answered \({rows}, 4\) to a batch of 2"):
        measure(ScriptedBackend(session=session), asked(batch=2), numbered(4), clock=session.clock)


def test_missing_packages_are_named() -> None:
    """A backend whose runtime is not installed says what to install, before anything is loaded."""

    class NeedsMore(ScriptedBackend):
        requires = ("no_such_runtime",)

    with pytest.raises(MachineError, match="no_such_runtime"):
        measure(NeedsMore(session=None), asked(), numbered(2))


def test_the_runtime_is_imported_before_the_clock_starts() -> None:
    """`load_ns` is the artifact's load: the runtime's own import is over by then."""
    import sys

    class NeedsColours(ScriptedBackend):
        requires = ("colorsys",)

        def open(self, folder: Path, files: Sequence[str], *, threads: int) -> Any:
            assert "colorsys" in sys.modules
            return super().open(folder, files, threads=threads)

    sys.modules.pop("colorsys", None)
    session = Scripted(ScriptedClock(), iter([1] * 20))
    measure(NeedsColours(session=session), asked(), numbered(2), clock=session.clock)
    assert len(session.seen) == 11


# ---------------------------------------------------------------------------------------------------------------- inputs
def test_inputs_rotate_over_every_image() -> None:
    """Thirty-two images, one after the other and round again: no two neighbouring inferences see the same."""
    session = Scripted(ScriptedClock(), iter([1] * 100))
    measure(ScriptedBackend(session=session), asked(iterations=64), numbered(32), clock=session.clock)
    assert [int(image[0, 0, 0, 0]) for image in session.seen[1:]] == [*range(32), *range(32)]


@given(count=st.integers(1, 40), batch=st.integers(1, 50))
def test_batches_hold_every_image(count: int, batch: int) -> None:
    """Batches are full, contiguous float32, as few as can hold every image, and in order from the first image on."""
    batches = batches_of(numbered(count), batch)
    assert len(batches) == -(-count // batch)
    assert all(one.shape == (batch, 3, 2, 2) and one.dtype == np.float32 and one.flags.c_contiguous for one in batches)
    order = np.concatenate(batches)[:, 0, 0, 0]
    assert list(order) == [index % count for index in range(len(batches) * batch)]


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (3, 2, 2)])
def test_inputs_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    """No images, or an array without the batch axis, is a mistake of the asker."""
    with pytest.raises(UsageError, match="4 axes NCHW"):
        batches_of(np.zeros(shape, np.float32), 1)


# ------------------------------------------------------------------------------------------------------------- the answer
def plan_json(artifact: Artifact, folder: Path, plan: TimingPlan, **changes: Any) -> bytes:
    facts = {
        "protocol": "0",
        "backend": artifact.backend.model_dump(mode="json"),
        "folder": str(folder),
        "files": ["model.bin"],
        "batch": 1,
        "threads": 1,
        "warmup": 0,
        "iterations": 3,
        "images_npy": str(plan.images_npy),
    }
    return json.dumps(facts | changes).encode()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"protocol": "9"}, 2, "protocol '9', this worker speaks '0'"),
        ({"iterations": "many"}, 2, "not valid"),
        ({"surprise": 1}, 2, "surprise"),
        ({"backend": {"use": "no_such_backend"}}, 2, "no_such_backend"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_answered_with_a_complaint(
    folder: Path, make_artifact: Callable[..., Artifact], plan: TimingPlan, changes: dict[str, Any], code: int, words: str
) -> None:
    """The worker answers in JSON even when it cannot work, and says which kind of error it is."""
    told = worker.answer(plan_json(make_artifact(), folder, plan, **changes))
    assert told.worker is None
    assert told.complaint is not None
    assert told.complaint.exit_code == code
    assert words in told.complaint.message
    assert WorkerAnswer.model_validate_json(told.model_dump_json()) == told


def test_pickled_images_are_refused(
    folder: Path,
    tmp_path: Path,
    make_artifact: Callable[..., Artifact],
    plan: TimingPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file of images is an array and nothing else; objects in it are never unpickled."""
    images_npy = tmp_path / "objects.npy"
    np.save(images_npy, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    monkeypatch.setattr(worker.parts, "load", lambda kind, name: Backend)
    artifact = make_artifact().model_copy(update={"backend": PartRef(use="lab")})
    with pytest.raises(ValueError, match="allow_pickle"):
        worker.answer(plan_json(artifact, folder, plan, images_npy=str(images_npy)))


def test_a_session_that_cannot_be_timed_is_refused() -> None:
    """Answers that come through another process say nothing about latency; the reason is told, nothing is run."""
    session: Any = Scripted(ScriptedClock(), iter(()))
    session.cannot_be_timed = "every batch is a process of its own"
    with pytest.raises(EvidenceError, match="cannot be timed here: every batch is a process of its own"):
        measure(ScriptedBackend(session=session), asked(), numbered(2), clock=session.clock)
    assert (session.seen, session.closed) == ([], True)

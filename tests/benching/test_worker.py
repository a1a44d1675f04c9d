"""The worker's arithmetic is exact on a scripted clock, and what it times is nothing but the query."""

import ast
import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekd.benching import preparing, turns, worker
from edgekd.benching.answers import samples_of
from edgekd.core.images import decode, prepare
from edgekd.core.latency import nearest_rank
from edgekd.core.records import InputContract
from edgekd.testing import ScriptedClock

MS = 1_000_000
RULES = InputContract(size_px=(16, 16), resize_px=20, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))


class Scripted:
    """A runtime on which every inference takes the time that a script says."""

    executed_on = "CPU"
    executed_precision = "fp32"
    runtime = "scripted 1.0"
    host_readable = True

    def __init__(self, clock: ScriptedClock, runs_ns: Iterator[int], rows: int | None = None) -> None:
        self.clock = clock
        self.runs_ns = runs_ns
        self.rows = rows
        self.seen: list[np.ndarray[Any, Any]] = []
        self.collecting: list[bool] = []

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        self.seen.append(batch)
        self.collecting.append(gc.isenabled())
        self.clock.advance(next(self.runs_ns))
        return [np.zeros((len(batch) if self.rows is None else self.rows, 4), np.float32)]


class Asynchronous:
    """A runtime that answers at once with a promise; reading it waits for the device."""

    executed_on = executed_precision = "unknown"
    runtime = "promising 1.0"

    def __init__(self, clock: ScriptedClock) -> None:
        self.clock = clock

    def run(self, batch: np.ndarray[Any, Any]) -> Any:
        clock = self.clock

        class Promise:
            shape = (len(batch), 4)

            def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
                clock.advance(20 * MS)
                return np.zeros(self.shape, np.float32)

        clock.advance(30_000)
        return Promise()


def plan(**changes: Any) -> dict[str, Any]:
    asked = {"batch": 1, "mode": "single", "warmup": 0, "iterations": 10, "period_ns": None, "record": None, "whole": None}
    return asked | changes


def numbered(count: int) -> np.ndarray[Any, Any]:
    """Return images of 2 x 2 pixels that are filled with their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, 2, 2))


def measured(session: Any, images: np.ndarray[Any, Any], clock: ScriptedClock, **changes: Any) -> dict[str, Any]:
    """Return what the worker measures, its sleep passing on the scripted clock."""

    def sleep(seconds: float) -> None:
        clock.advance(round(seconds * 1e9))

    return worker.measure(session, plan(**changes), images, clock=clock, cpu_clock=clock, sleep=sleep)


def column(told: dict[str, Any], name: str) -> list[int]:
    return [row[worker.COLUMNS.index(name)] for row in told["rows"]]


# ------------------------------------------------------------------------------------------------------------ arithmetic
@settings(max_examples=8)  # each collects the whole heap
@given(runs_ns=st.lists(st.integers(0, 10**9), min_size=1, max_size=40), warmup=st.integers(0, 5))
def test_samples_are_the_queries_after_the_warm_up_in_order(runs_ns: list[int], warmup: int) -> None:
    """Sample i is query 1 + warm-up + i, to the nanosecond; nothing is dropped, sorted or averaged."""
    clock = ScriptedClock(now_ns=123)
    session = Scripted(clock, iter([55 * MS] + [7] * warmup + runs_ns))
    told = measured(session, numbered(3), clock, warmup=warmup, iterations=len(runs_ns))
    assert (told["first_ns"], told["warmup"]) == (55 * MS, warmup)
    assert column(told, "infer") == runs_ns
    assert column(told, "at") == [123 + 55 * MS + 7 * warmup + sum(runs_ns[:i]) for i in range(len(runs_ns))]
    assert len(session.seen) == 1 + warmup + len(runs_ns)
    assert set(column(told, "queue")) == {0}
    assert set(column(told, "e2e")) == {-1}, "what was not measured must not look like a time"


def test_processor_time_is_that_of_the_counted_queries() -> None:
    """The first query and the warm-up are not in it."""
    clock = ScriptedClock()
    told = measured(Scripted(clock, iter([900] * 6 + [30] * 10)), numbered(3), clock, warmup=5, iterations=10)
    assert told["cpu_ns"] == 30


def test_an_asynchronous_device_of_20_ms_reads_20_ms() -> None:
    """A query ends when its answer can be read, not when it was handed to the device."""
    clock = ScriptedClock()
    told = measured(Asynchronous(clock), numbered(3), clock, iterations=50)
    assert all(abs(infer_ns - 20 * MS) <= MS for infer_ns in column(told, "infer"))


def test_the_collector_rests_while_the_clock_runs() -> None:
    """Garbage collection is off in the timed loop, and afterwards as it was, also after an error."""
    clock = ScriptedClock()
    session = Scripted(clock, iter([1] * 20))
    measured(session, numbered(2), clock, warmup=2, iterations=4)
    assert session.collecting == [True] + [False] * 6
    assert gc.isenabled()
    with pytest.raises(StopIteration):
        measured(Scripted(clock, iter([1, 1])), numbered(2), clock, iterations=4)
    assert gc.isenabled()


# ----------------------------------------------------------------------------------------------------------------- modes
def paced(runs_ns: list[int], *, period_ns: int) -> dict[str, Any]:
    clock = ScriptedClock()
    spent = Scripted(clock, iter([0, *runs_ns]))
    ticking = clock.__call__

    def clock_that_ticks() -> int:  # waiting by looking at the clock must end
        clock.advance(1000)
        return ticking()

    asked = plan(mode="paced", iterations=len(runs_ns), period_ns=period_ns)
    return worker.measure(
        spent, asked, numbered(3), clock=clock_that_ticks, cpu_clock=clock, sleep=lambda s: clock.advance(round(s * 1e9))
    )


def test_a_paced_stream_asks_on_time() -> None:
    """Queries of 2 ms every 10 ms do not wait, and are due every 10 ms whatever happens."""
    told = paced([2 * MS] * 20, period_ns=10 * MS)
    due_ns = column(told, "at")
    assert set(np.diff(due_ns)) == {10 * MS}
    assert max(column(told, "queue")) <= 5000


def test_a_stall_in_a_paced_stream_is_felt_by_those_behind_it() -> None:
    """One stall of 100 ms in 100 queries every 10 ms lifts the p99 of what a user waits to 90 ms; in turns it would be 1 ms."""
    runs_ns = [MS] * 100
    runs_ns[40] = 100 * MS
    told = paced(runs_ns, period_ns=10 * MS)
    waited_ns = np.sort(np.array(column(told, "queue")) + column(told, "infer"))
    assert nearest_rank(waited_ns, 99.0) >= 90 * MS
    assert (waited_ns > 5 * MS).sum() >= 10, "those behind the stall waited too"
    assert nearest_rank(np.sort(np.array(column(told, "infer"))), 99.0) < 2 * MS


def test_a_recording_goes_on_until_the_time_is_up() -> None:
    """20 ms a query for half a second are 25 samples, from the first query on."""
    clock = ScriptedClock()
    record = {"seconds": 0.5, "cap_seconds": 8.0, "tolerance": 0.01}
    told = measured(Scripted(clock, iter([20 * MS] * 900)), numbered(3), clock, record=record, iterations=0)
    assert len(told["rows"]) == 25
    assert (told["warmup"], set(column(told, "infer"))) == (0, {20 * MS})


def test_a_recording_that_moves_is_doubled_up_to_its_cap() -> None:
    """A model that becomes slower for ever is recorded for the cap, and one that settles for as long as it takes."""
    record = {"seconds": 1.0, "cap_seconds": 4.0, "tolerance": 0.01}
    for runs_ns, seconds in (([10 * MS + 40_000 * i for i in range(900)], 4.0), ([30 * MS] * 25 + [10 * MS] * 900, 2.0)):
        clock = ScriptedClock()
        told = measured(Scripted(clock, iter([0, *runs_ns])), numbered(3), clock, record=record, iterations=0)
        assert column(told, "at")[-1] / 1e9 == pytest.approx(seconds, abs=0.06)


# ---------------------------------------------------------------------------------------------------------------- inputs
@given(count=st.integers(1, 40), batch=st.integers(1, 9))
def test_batches_hold_every_image(count: int, batch: int) -> None:
    """All batches are full, and between them they show every image before one is shown a third time."""
    batches = worker.batches_of(numbered(count), batch)
    shown = [int(image[0, 0, 0]) for one in batches for image in one]
    assert all(len(one) == batch and one.flags.c_contiguous and one.dtype == np.float32 for one in batches)
    assert shown[:count] == list(range(count))
    assert len(shown) < count + batch


def test_inputs_rotate() -> None:
    """Queries go through the images in turn, and the samples say which one it was."""
    clock = ScriptedClock()
    session = Scripted(clock, iter([1] * 99))
    told = measured(session, numbered(5), clock, batch=2, iterations=7)
    assert [int(batch[0, 0, 0, 0]) for batch in session.seen[1:]] == [0, 2, 4, 0, 2, 4, 0]
    assert column(told, "input") == [0, 1, 2, 0, 1, 2, 0]


def test_bytes_stay_bytes() -> None:
    """Images of bytes are handed over as bytes."""
    (one,) = worker.batches_of(np.zeros((1, 4, 4, 3), np.uint8), 1)
    assert one.dtype == np.uint8


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (3, 2, 2)])
def test_what_is_no_set_of_images_is_refused(shape: tuple[int, ...]) -> None:
    """No images, or an axis too few."""
    with pytest.raises(worker.Refusal, match="4 axes"):
        worker.batches_of(np.zeros(shape, np.float32), 1)


@pytest.mark.parametrize("rows", [0, 2])
def test_an_answer_for_other_images_is_refused(rows: int) -> None:
    """One row of logits for each image, or it is not this batch's answer."""
    clock = ScriptedClock()
    with pytest.raises(worker.Refusal, match="expected one row for each image"):
        measured(Scripted(clock, iter([1] * 9), rows=rows), numbered(3), clock)


def test_what_cannot_be_timed_is_refused_as_evidence() -> None:
    """A session whose calls take time that is not the model's has no latency."""
    session = Scripted(ScriptedClock(), iter([1]))
    session.cannot_be_timed = "each call starts a process"  # type: ignore[attr-defined]
    with pytest.raises(worker.Refusal, match="each call starts a process") as caught:
        measured(session, numbered(3), ScriptedClock())
    assert caught.value.exit_code == 3


# ------------------------------------------------------------------------------------------------------------- whole way
def photographs(tmp_path: Path, count: int = 5) -> list[bytes]:
    """Write JPEGs of several sizes as workers are brought them, and return their bytes."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        held = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24 + 7 * index, 40, 3), dtype=np.uint8)).save(held, "JPEG", quality=90)
        found.append(held.getvalue())
    ends = np.cumsum([len(one) for one in found], dtype=np.int64)
    np.savez(tmp_path / "photographs.npz", bytes=np.frombuffer(b"".join(found), np.uint8), ends=ends)
    (tmp_path / "prepare.py").write_bytes(Path(preparing.__file__).read_bytes())
    return found


def rules_of(contract: InputContract) -> dict[str, Any]:
    told = contract.model_dump(mode="json")
    return told | {"takes_bytes": contract.takes_bytes, "resize_inside": contract.resize_inside}


@pytest.mark.parametrize(
    "contract",
    [
        RULES,
        RULES.model_copy(update={"crop": "squash"}),
        RULES.of_bytes(),
        RULES.of_bytes(resize_inside=True),
    ],
    ids=["centre", "squash", "bytes", "inside"],
)
def test_devices_prepare_photographs_as_edgekd_does(contract: InputContract, tmp_path: Path) -> None:
    """The file that stands alone gives the very numbers of `edgekd.core.images`."""
    for photograph in photographs(tmp_path):
        found = preparing.batch([photograph], rules_of(contract))
        assert np.array_equal(found[0], prepare(decode(photograph), contract))


def test_the_whole_way_is_the_sum_of_its_spans(tmp_path: Path) -> None:
    """From the encoded photograph to the classes: spans add up, one query more than counted, in a segment of its own."""
    photographs(tmp_path)
    clock = ScriptedClock()
    session = Scripted(clock, iter([5] * 99))
    whole = {"photographs": "photographs.npz", "prepare": "prepare.py", "rules": rules_of(RULES), "iterations": 7}
    told = measured(session, np.zeros((4, 3, 16, 16), np.float32), clock, iterations=3, whole=whole, folder=str(tmp_path))
    rows = [row for row in told["rows"] if row[0] == 1]
    assert len(rows) == 7
    assert all(row[7] == row[4] + row[5] + row[6] for row in rows)
    assert [row[1] for row in rows] == [0, 1, 2, 3, 4, 0, 1]
    assert session.seen[-1].shape == (1, 3, 16, 16)


def test_without_a_decoder_there_is_a_note_and_no_guess(tmp_path: Path) -> None:
    """A device without Pillow measures the model alone, and says so."""
    photographs(tmp_path)
    (tmp_path / "prepare.py").write_text("import no_such_decoder")
    clock = ScriptedClock()
    whole = {"photographs": "photographs.npz", "prepare": "prepare.py", "rules": rules_of(RULES), "iterations": 7}
    told = measured(Scripted(clock, iter([5] * 99)), numbered(4), clock, iterations=3, whole=whole, folder=str(tmp_path))
    assert [row[0] for row in told["rows"]] == [0, 0, 0]
    assert told["notes"][0].startswith("e2e-unknown: photographs cannot be decoded on this machine: No module named")


@given(st.integers(1, 8), st.integers(1, 9))
def test_the_best_classes_are_the_highest_logits(batch: int, classes: int) -> None:
    """Up to five, best first, for every image of the batch."""
    logits_BK = np.random.default_rng(batch * 10 + classes).random((batch, classes), dtype=np.float32)
    found_BT = worker.best([logits_BK], np)
    assert found_BT.tolist() == np.argsort(-logits_BK, axis=1)[:, : min(5, classes)].tolist()


# ---------------------------------------------------------------------------------------------------------------- answer
def test_samples_survive_the_way_back() -> None:
    """Packed into text and unpacked, they are the same int64, and less than 16 bytes each."""
    rng = np.random.default_rng(0)
    rows = [(0, i % 32, 10**15 + 2 * MS * i, 0, -1, int(rng.normal(2 * MS, 20_000)), -1, -1) for i in range(5000)]
    told = json.loads(json.dumps(worker.packed({"rows": rows, "first_ns": 1})))
    columns = samples_of(told, whose="w")
    assert told["origin_ns"] == 10**15
    assert columns["infer"].tolist() == [row[5] for row in rows]
    assert columns["at"].tolist() == [row[2] - 10**15 for row in rows]
    assert len(told["samples"]) < 16 * len(rows)


def test_the_pace_of_the_machine_is_the_median_of_a_few_looks() -> None:
    """Nine pieces of arithmetic, of which one was interrupted for a second."""
    times = iter([5, 5, 10**9, 6, 7, 5, 6, 6, 8])
    now, ends = [0], [False]

    def clock() -> int:
        now[0] += next(times) if ends[0] else 0
        ends[0] = not ends[0]
        return now[0]

    assert worker.pace_ns(clock) == 6


def test_a_plan_of_another_protocol_is_refused() -> None:
    """A worker of another version does not guess."""
    told = worker.answer_to({"protocol": "0"})
    assert told["complaint"]["exit_code"] == 2
    assert "this worker speaks '1'" in told["complaint"]["message"]


@pytest.mark.parametrize("changes", [{"mode": "sideways"}, {"mode": "paced"}, {"files": None}])
def test_a_plan_that_is_not_whole_is_refused(changes: dict[str, Any], make_plan: Callable[..., dict[str, Any]]) -> None:
    """A missing key, an unknown mode, a paced stream without a pace."""
    asked = {key: value for key, value in (make_plan() | changes).items() if value is not None or key == "period_ns"}
    assert "not valid" in worker.answer_to(asked)["complaint"]["message"]


def test_a_runner_file_without_its_runtime_says_what_to_install(
    tmp_path: Path, make_plan: Callable[..., dict[str, Any]]
) -> None:
    """On a device that lacks the runtime the complaint names it."""
    runner = tmp_path / "runner.py"
    runner.write_text("class Refusal(Exception): pass\ndef load_runtime():\n    import no_such_runtime\n")
    told = worker.answer_to(make_plan(runner=str(runner)))
    assert "No module named 'no_such_runtime'" in told["complaint"]["message"]
    assert told["complaint"]["exit_code"] == 4


# ------------------------------------------------------------------------------------------------------------ standing alone
ALONE = [Path(worker.__file__), Path(turns.__file__), Path(preparing.__file__)]
ALONE += sorted((Path(worker.__file__).parent.parent / "exporting" / "backends").glob("_*_runner.py"))
MAY_IMPORT = {"numpy", "PIL", "onnxruntime", "openvino"}


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.name)
def test_files_for_devices_need_nothing_of_edgekd(path: Path) -> None:
    """They import the standard library of Python 3.9, numpy, and each its own package."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    named = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert named <= set(sys.stdlib_module_names) | MAY_IMPORT
    assert "edgekd" not in named
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree)), "match is Python 3.10"


def test_the_worker_runs_without_edgekd(tmp_path: Path, images_npy: Path) -> None:
    """Started by path in an isolated Python, with a runner file, it loads neither edgekd nor anything that it brings."""
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import sys, numpy\n"
        "class Refusal(Exception): pass\n"
        "def load_runtime(): pass\n"
        "class Session:\n"
        "    executed_on, executed_precision, host_readable = 'CPU', 'fp32', True\n"
        "    runtime = property(lambda self: ' '.join(sorted({'edgekd', 'pydantic', 'PIL'} & set(sys.modules))) or 'clean')\n"
        "    def run(self, batch): return [numpy.zeros((len(batch), 3), numpy.float32)]\n"
        "    def close(self): pass\n"
        "def open(folder, files, *, threads, options): return Session()\n"
    )
    asked = {"protocol": "1", "folder": str(tmp_path), "runner": "runner.py", "files": [], "threads": 1, "batch": 1}
    asked |= {"inputs": str(images_npy), "mode": "single", "warmup": 1, "iterations": 5}
    told = subprocess.run(
        [sys.executable, "-I", worker.__file__], input=json.dumps(asked).encode(), capture_output=True, check=True
    )
    answer = json.loads(told.stdout.splitlines()[-1])
    assert (answer["runtime"], answer["count"]) == ("clean", 5)

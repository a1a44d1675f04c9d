"""Workers of one round take turns: who asks when, on which cores, and what happens when one of them fails."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benching import turns, worker
from edgekd.benching.answers import samples_of
from edgekd.benching.devices.local import Local
from edgekd.core import host
from edgekd.core.errors import IntegrityError, MachineError
from edgekd.testing import ScriptedClock

WITNESS = '''
"""A runtime that writes down who asks when, and in what state the others are."""
import os, time
from pathlib import Path
import numpy as np

class Refusal(Exception): pass

def load_runtime(): pass

def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

class Witness:
    executed_on, executed_precision, runtime, host_readable = "CPU", "fp32", "witness 1.0", True
    def __init__(self, folder, model):
        self.model = Path(model).stem
        self.folder, self.asked = Path(folder), 0
        (self.folder / f"{os.getpid()}.pid").touch()
    def run(self, batch):
        self.asked += 1
        others = [int(path.stem) for path in self.folder.glob("*.pid") if path.stem != str(os.getpid())]
        until = time.monotonic() + 5
        while any(state(pid) not in "TZX" for pid in others) and time.monotonic() < until:
            time.sleep(0.001)
        alone = all(state(pid) in "TZX" for pid in others)
        with open(self.folder / "log", "a") as log:
            log.write(f"{self.model} {self.asked} {alone}\\n")
        return np.zeros((len(batch), 3), np.float32)
    def close(self):
        (self.folder / f"{os.getpid()}.pid").unlink()

def open_(folder, files, *, threads, options):
    return Witness(folder, files[0])
'''.replace("open(self", "io_open(self").replace("def open_", "io_open = open\ndef open")
linux = pytest.mark.skipif(sys.platform != "linux", reason="states and cores of processes are read from Linux's /proc and /sys")


class Counting:
    """A runtime whose query number i takes i nanoseconds."""

    executed_on = executed_precision = runtime = "counting 1.0"
    host_readable = True

    def __init__(self, clock: ScriptedClock) -> None:
        self.clock, self.asked, self.images = clock, 0, list[float]()

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        self.asked += 1
        self.images.append(float(batch[0, 0, 0, 0]))
        self.clock.advance(self.asked)
        return [np.zeros((len(batch), 4), np.float32)]


def in_turns(iterations: int, *, again_ns: int = 0, **changes: Any) -> tuple[list[int], list[int], Counting, dict[str, Any]]:
    """Return how many queries had been asked at the beginning of each turn, the samples, the runtime and all that was told."""
    clock = ScriptedClock()
    session, waited = Counting(clock), list[int]()
    images = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None, None], (7, 3, 2, 2))
    plan = {
        "batch": 1,
        "mode": "single",
        "warmup": 3,
        "iterations": iterations,
        "period_ns": None,
        "record": None,
        "whole": None,
    }
    with patch.object(worker, "AGAIN_NS", again_ns):
        told = worker.measure(
            session,
            plan | changes,
            images,
            clock=clock,
            cpu_clock=clock,
            sleep=lambda seconds: clock.advance(round(seconds * 1e9)),
            wait=lambda: waited.append(session.asked),
        )
    return waited, [row[worker.COLUMNS.index("infer")] for row in told["rows"]], session, told


# ---------------------------------------------------------------------------------------------------------- the stretches
@settings(max_examples=20)
@given(iterations=st.integers(1, 300))
def test_a_worker_asks_a_twentieth_of_its_queries_in_a_turn(iterations: int) -> None:
    """Twenty turns as even as can be; each begins with queries that do not count; all that count are there once, in order."""
    waited, samples, session, told = in_turns(iterations)
    stretches = [len(part) for part in np.array_split(np.arange(iterations), min(20, iterations))]
    lengths = np.diff([*waited, session.asked])
    assert told["turns"] == len(stretches)
    # A twentieth more does not count, which is one query up to twenty.
    assert sorted(lengths) == sorted(length + 1 for length in stretches)
    expected = [start + 1 + i + 1 for start, length in zip(waited, lengths, strict=True) for i in range(length - 1)]
    assert samples == expected
    assert told["cpu_ns"] == round(sum(expected) / iterations), "processor time of what does not count"


def test_the_images_go_on_where_they_were() -> None:
    """A stretch begins with the images before its own, so that what counts sees each image as often as without turns."""
    waited, _, session, _ = in_turns(40)
    for turn, asked in enumerate(waited):
        assert session.images[asked : asked + 3] == [(2 * turn + step) % 7 for step in (-1, 0, 1)]


def test_what_does_not_count_lasts_a_while() -> None:
    """Query i takes i nanoseconds: of a turn that begins after 4 the first ten take 95 ns, and an eleventh more than 100."""
    waited, samples, _, _ = in_turns(2, again_ns=100)
    assert waited[0] == 4
    assert samples[0] == 4 + 11 + 1


def test_a_paced_stream_is_one_turn() -> None:
    """Its schedule begins when its turn does, and has no pauses."""
    waited, samples, _, told = in_turns(40, mode="paced", period_ns=1)  # always late: nothing waits for the clock to move
    assert (waited, len(samples), told["turns"]) == ([4], 40, None)
    at = [row[worker.COLUMNS.index("at")] for row in told["rows"]]
    assert set(np.diff(at)) == {1}


# ---------------------------------------------------------------------------------------------------------- the processes
def round_of(folder: Path, *models: str, iterations: int = 40) -> dict[str, Any]:
    """Return a round of these models, all of the runtime that writes down who asks."""
    (folder / "witness.py").write_text(WITNESS)
    np.save(folder / "images.npy", np.zeros((4, 3, 2, 2), np.float32))
    common = {
        "protocol": "1",
        "folder": str(folder),
        "runner": "witness.py",
        "options": {},
        "threads": 1,
        "inputs": "images.npy",
    }
    common |= {"batch": 1, "mode": "single", "period_ns": None, "warmup": 2, "iterations": iterations}
    return {"whose": "a round", "turns": [common | {"whose": model, "files": [f"{model}.bin"]} for model in models]}


@linux
def test_workers_take_turns_forwards_and_backwards_while_all_others_stand_still(tmp_path: Path) -> None:
    """Each warms up alone; then a, b, c, c, b, a, ... of two queries that count, after some that do not."""
    with Local().ready() as bench:
        answers = bench.work(round_of(tmp_path, "a", "b", "c"), timeout_s=120)["answers"]
    asked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    runs = [(model, len(list(lines))) for model, lines in itertools.groupby(asked, key=lambda line: line[0])]
    taken = "abc" + "abccba" * 10
    assert [model for model, _ in runs] == [model for model, _ in itertools.groupby(taken)]
    assert [count for _, count in runs[:3]] == [3, 3, 3], "the first query and the warm-up"
    assert all(count >= 3 for _, count in runs)
    assert {alone for *_, alone in asked} == {"True"}
    assert [len(samples_of(answer, whose="")["infer"]) for answer in answers] == [40] * 3


@linux
def test_where_memory_is_short_they_come_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is driven out of memory by holding all models at once; the answers say that they were apart."""
    monkeypatch.setattr(turns, "free_bytes", lambda: 1)
    answers = turns.in_turns(worker.__file__, round_of(tmp_path, "a", "b", iterations=20)["turns"])["answers"]
    models = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert [model for model, _ in itertools.groupby(models)] == ["a", "b"]
    assert all("not-in-turns: the memory was enough for 1 of 2" in " ".join(answer["notes"]) for answer in answers)


@linux
def test_free_memory_is_also_what_the_control_group_leaves() -> None:
    """The number is one of this machine, and without a limit that of /proc/meminfo."""
    free = turns.free_bytes()
    assert free is not None
    assert 0 < free < 1 << 50


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("does", "error", "words"),
    [
        ("segfault", MachineError, r"the worker process for lab in lab-fp32 was ended by SIGSEGV"),
        ("out_of_memory", MachineError, r"was ended by SIGKILL \(the system may have run out of memory\)"),
        ("raise", MachineError, r"crashed with exit code 1; it said last:\n(.|\n)*RuntimeError: kernel"),
        ("quit", MachineError, r"answered what is not a measurement"),
        ("extra_rows", MachineError, r"the model answered \(2, 3\) to a batch of 1"),
        ("refuse", IntegrityError, r"weights are not those"),
        ("hang", MachineError, r"did not end within 3 s"),
    ],
)
def test_one_that_fails_ends_the_round_and_is_named(
    make_plan: Callable[..., dict[str, Any]], folder: Path, does: str, error: type[Exception], words: str
) -> None:
    """As for a worker alone; the one that already waited for its turn is ended, too."""
    plans = [make_plan("nothing"), make_plan(does)]
    with Local().ready() as bench, pytest.raises(error, match=words):
        bench.work({"whose": "a round", "turns": plans}, timeout_s=3 if does == "hang" else 120)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in bytes_of(path)]


@linux
def test_one_that_is_killed_while_it_waits_is_found_out_at_its_turn(tmp_path: Path) -> None:
    """As the system does when memory runs out; ending it afterwards is no error."""
    child = turns.Child(worker.__file__, round_of(tmp_path, "a")["turns"][0])
    child.load()
    assert child.memory_bytes > 10**7
    child.process.kill()
    child.process.wait()
    with pytest.raises(turns.Ended) as caught:
        child.turn()
    assert caught.value.told["died"] == {"whose": "a", "code": -9}
    child.end()


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# -------------------------------------------------------------------------------------------------------------- the cores
@linux
def test_a_worker_of_fewer_threads_than_cores_is_bound(tmp_path: Path) -> None:
    """All workers of a round use the same cores, and say which."""
    with Local().ready() as bench:
        answers = bench.work(round_of(tmp_path, "a", "b", iterations=2), timeout_s=120)["answers"]
    cores = [answer["cores"] for answer in answers]
    assert cores[0] == cores[1]
    assert (cores[0] is None) == (len(os.sched_getaffinity(0)) == 1)
    assert host.usable_cores() == 1 or len(cores[0]) == 1


@linux
@pytest.mark.parametrize(
    ("speed", "siblings", "threads", "expected"),
    [
        ([5, 5, 5, 5], [[0], [1], [2], [3]], 1, [3]),
        ([5, 5, 5, 5], [[0], [1], [2], [3]], 4, None),
        ([5, 5, 5, 5], [[0, 1], [0, 1], [2, 3], [2, 3]], 2, [1, 3]),
        ([9, 9, 5, 5], [[0], [1], [2], [3]], 2, [0, 1]),
        ([9, 9, 5, 5], [[0], [1], [2], [3]], 3, [0, 1, 3]),
        ([0, 0, 0, 0], [[0, 2], [1, 3], [0, 2], [1, 3]], 3, [1, 2, 3]),
    ],
    ids=["last", "all", "siblings", "fast-first", "fast-then-slow", "unknown-speed"],
)
def test_the_fastest_cores_are_taken_and_siblings_last(
    monkeypatch: pytest.MonkeyPatch,
    speed: Sequence[int],
    siblings: Sequence[list[int]],
    threads: int,
    expected: list[int] | None,
) -> None:
    """Big cores before little ones, whole cores before second threads of one, and the first cores are left to the system."""
    bound: list[list[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(len(speed))))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, cores: bound.append(sorted(cores)))
    monkeypatch.setattr(worker, "first_number", lambda core, *_: speed[core])
    monkeypatch.setattr(worker, "siblings", lambda core: siblings[core])
    assert worker.bound_to(threads) == expected
    assert bound == ([expected] if expected else [])


@linux
def test_what_linux_tells_of_cores_is_read() -> None:
    """A core is a sibling of itself, also where nothing is told; an unknown speed is nought."""
    assert 0 in worker.siblings(0)
    assert worker.siblings(99_999) == [99_999]
    assert worker.first_number(99_999, "cpu_capacity") == 0


def test_a_controller_that_is_gone_ends_a_worker_that_waits(tmp_path: Path) -> None:
    """No more turns come when stdin is at its end."""
    (tmp_path / "model.bin").touch()
    plan = round_of(tmp_path, "a")["turns"][0] | {"in_turns": True}
    command, told = [sys.executable, "-P", worker.__file__], json.dumps(plan).encode() + b"\n"
    done = subprocess.run(command, input=told, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout.strip().isdigit(), "the memory that it takes, and no answer"

"""The local device starts real processes: what they say, how they fail, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benching.answers import samples_of
from edgekd.benching.devices.local import Local
from edgekd.benching.subjects import environment
from edgekd.core import host
from edgekd.core.errors import IntegrityError, MachineError, UsageError

pytestmark = pytest.mark.usefixtures("lab")
Answer = dict[str, Any]
Work = Callable[..., Answer]


def test_one_at_a_time_measures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second session is refused and told who measures, as one over ssh would be; the lease is free once that is done."""
    said = rf"this machine has been in use by .*process {os.getpid()} for 0 s \(bench\)"
    with Local().ready():
        with pytest.raises(MachineError, match=said), Local().ready():
            pass
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("EDGEKD_LOCAL_LEASE", f"other-cores-{os.getpid()}")
            with Local().ready():
                pass
    with Local().ready():
        pass


@pytest.fixture
def work(make_plan: Callable[..., dict[str, Any]]) -> Work:
    """Return a function that has one worker of the local device do what the backend `lab` is told."""

    def call(does: str = "nothing", *, threads: int = 1, timeout_s: float = 120.0) -> Answer:
        with Local().ready() as bench:
            return bench.work(make_plan(does, threads=threads, environment=environment(threads)), timeout_s=timeout_s)

    return call


@pytest.fixture
def pids(folder: Path) -> Iterator[Callable[[], list[int]]]:
    """Return a function that waits for the hanging worker's process ids; whatever is left of them ends with the test."""

    def wait() -> list[int]:
        while not (folder / "pids").exists():
            time.sleep(0.02)
        return [int(pid) for pid in (folder / "pids").read_text().split()]

    yield wait
    if (folder / "pids").exists():
        for pid in wait():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits to be collected does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def all_ended(pids: list[int]) -> bool:
    for _ in range(250):
        if not any(map(runs, pids)):
            return True
        time.sleep(0.02)
    return False


# -------------------------------------------------------------------------------------------------------------- it works
def test_a_worker_is_a_process_that_answers_its_samples(work: Work) -> None:
    """Forty samples, with the runtime's own words, and what the process cost."""
    found = work()
    columns = samples_of(found, whose="lab")
    assert len(columns["infer"]) == 40
    assert (columns["infer"] >= 0).all()
    assert (np.diff(columns["at"]) > 0).all()
    assert (found["runtime"], found["executed_on"], found["executed_precision"]) == ("lab 1.0", "CPU", "fp32")
    assert found["peak_rss_bytes"] > 10**7
    assert found["process_cpu_ns"] > found["cpu_ns"] >= 0
    assert len(found["pace_ns"]) == 2
    assert min(found["pace_ns"]) > 10_000


def test_chatter_does_not_spoil_the_answer(work: Work) -> None:
    """What a runtime prints, from Python, C or straight to the descriptor, is not taken for the answer."""
    assert work("chatter")["count"] == 40


def test_threads_are_set_before_the_worker_starts(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread pool is told its size by the environment, the caller's own settings notwithstanding; no network."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = work("environment", threads=3)
    assert found["runtime"] == "3 3 3 3 1 1 asked 3"
    assert found["executed_on"] == "none", "the worker imported a runtime that its backend does not need"


def test_workers_ignore_modules_in_the_current_folder(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that happens to be called like a module does not get into the measurement."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert work()["count"] == 40


def test_what_is_brought_lies_in_a_folder_that_goes_away(folder: Path) -> None:
    """Files stand there under the names that were asked for, the same folder for the same files, and nothing stays."""
    with Local().ready() as bench:
        at = Path(bench.bring({"a.bin": folder / "model.bin"}))
        assert (at / "a.bin").read_bytes() == (folder / "model.bin").read_bytes()
        assert bench.bring({"a.bin": folder / "model.bin"}) == str(at)
        assert bench.bring({"b.bin": folder / "model.bin"}) != str(at)
    assert not at.parent.exists()
    assert (folder / "model.bin").exists()


# ------------------------------------------------------------------------------------------------------------- it breaks
@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("segfault", r"lab in lab-fp32 was ended by SIGSEGV"),
        ("out_of_memory", r"was ended by SIGKILL \(the system may have run out of memory\)"),
        ("odd_signal", r"was ended by (signal \d+|SIG\w+)"),
        ("raise", r"crashed with exit code 1; it said last:\n(.|\n)*RuntimeError: kernel \\x1b\[31mpanic"),
        ("quit", r"answered what is not a measurement and said nothing"),
        ("extra_rows", r"the model answered \(2, 3\) to a batch of 1"),
    ],
)
def test_a_broken_worker_is_explained(work: Work, does: str, words: str) -> None:
    """A crash names the signal or shows the end of what the worker said, without its control characters."""
    with pytest.raises(MachineError, match=words):
        work(does)


def test_an_error_keeps_its_kind_and_its_remedy(work: Work) -> None:
    """What a backend explains in the worker arrives as the same kind of error, with how to mend it."""
    with pytest.raises(IntegrityError, match="weights are not those") as caught:
        work("refuse")
    assert caught.value.mend == "download again"


def test_a_backend_that_is_not_installed(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that the worker cannot find is the asker's mistake, told in one sentence."""
    known = os.environ["PYTHONPATH"].partition(os.pathsep)[2]
    monkeypatch.setenv("PYTHONPATH", known)
    with pytest.raises(UsageError, match="no backend is called 'lab'"):
        work()


def test_a_worker_that_hangs_is_ended(work: Work) -> None:
    """After `timeout_s` the worker is given up, and the message says which option to change."""
    with pytest.raises(MachineError, match=r"did not end within 1 s(.|\n)*timeout_s"):
        work("hang", timeout_s=1.0)


# ----------------------------------------------------------------------------------------------------------- no orphans
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupt_leaves_no_process(work: Work, pids: Callable[[], list[int]]) -> None:
    """Ctrl-C in the middle of a worker ends it and the processes that it started, before anything else happens."""
    started: list[int] = []

    def interrupt() -> None:
        started.extend(pids())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        work("hang_with_child")
    thread.join()
    assert len(started) == 2
    assert all_ended(started)


CONTROLLER = """
import json, sys
from edgekd.benching.devices.local import Local
with Local().ready() as bench:
    bench.work(json.loads(sys.argv[1]), timeout_s=600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_worker_dies_with_its_controller(make_plan: Callable[..., dict[str, Any]], pids: Callable[[], list[int]]) -> None:
    """A controller that is killed without warning leaves no worker that would disturb the next measurement."""
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, json.dumps(make_plan("hang"))])
    started = pids()
    assert all(map(runs, started))
    controller.kill()
    controller.wait()
    assert all_ended(started)


# --------------------------------------------------------------------------------------------------------------- threads
@pytest.mark.parametrize(
    ("asked", "threads"),
    [(None, 4), ("2", 2), ("16", 4), ("0", 4), ("-1", 4), ("2,1", 4), ("many", 4), ("", 4)],
)
def test_default_threads(monkeypatch: pytest.MonkeyPatch, asked: str | None, threads: int) -> None:
    """The usable cores, or fewer if OMP_NUM_THREADS says a smaller number; anything else in it is not for us."""
    monkeypatch.setattr(host, "usable_cores", lambda: 4)
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert Local().default_threads() == threads


@pytest.mark.parametrize("name", ["", "../x", "a b", "a@b/c", "x" * 65])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    """The device's name becomes part of a file name."""
    with pytest.raises(ValueError, match="name"):
        Local(name=name)

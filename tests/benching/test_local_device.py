"""The local device starts real processes: what they say, how they fail, and that none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.benching.devices import local
from edgekd.benching.devices.local import Local
from edgekd.core import host
from edgekd.core.contracts import Samples, TimingPlan
from edgekd.core.errors import IntegrityError, MachineError
from edgekd.core.records import Artifact

pytestmark = pytest.mark.usefixtures("lab")
Time = Callable[..., list[Samples]]


@pytest.fixture
def timed(folder: Path, plan: TimingPlan, make_artifact: Callable[..., Artifact]) -> Time:
    def call(does: str = "nothing", *, device: Local | None = None, workers: int = 1, threads: int = 1) -> list[Samples]:
        asked = replace(plan, workers=workers, threads=threads)
        return list((device or Local()).time(make_artifact(does=does), folder, asked))

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
def test_each_worker_is_a_process_that_answers_its_samples(timed: Time) -> None:
    """Two workers, forty samples each, with the runtime's own words."""
    found = timed(workers=2)
    assert [len(one.worker.infer_ns) for one in found] == [40, 40]
    assert all(time_ns >= 0 for one in found for time_ns in one.worker.infer_ns)
    assert found[0].worker.warmup_iterations == 2
    assert (found[0].runtime, found[0].executed_on, found[0].executed_precision) == ("lab 1.0", "CPU", "fp32")


def test_chatter_does_not_spoil_the_answer(timed: Time) -> None:
    """What a runtime prints, from Python, C or straight to the descriptor, is not taken for the answer."""
    assert len(timed("chatter")[0].worker.infer_ns) == 40


def test_threads_are_set_before_the_worker_starts(timed: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread pool is told its size by the environment, the caller's own settings notwithstanding; no network."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = timed("environment", threads=3)[0]
    assert found.runtime == "3 3 3 3 1 1 asked 3"
    assert found.executed_on == "none", "the worker imported a runtime that its backend does not need"


def test_workers_ignore_modules_in_the_current_folder(timed: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that happens to be called like a module does not get into the measurement."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert len(timed()) == 1


# ------------------------------------------------------------------------------------------------------------- it breaks
@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("segfault", r"lab in lab-fp32 was ended by SIGSEGV"),
        ("out_of_memory", r"was ended by SIGKILL \(the system may have run out of memory\)"),
        ("odd_signal", r"was ended by (signal \d+|SIG\w+)"),
        ("raise", r"crashed with exit code 1; it said last:\n(.|\n)*RuntimeError: kernel \\x1b\[31mpanic"),
        ("quit", r"answered what is not a measurement and said nothing"),
        ("extra_rows", r"lab answered \(2, 3\) to a batch of 1"),
    ],
)
def test_a_broken_worker_is_explained(timed: Time, does: str, words: str) -> None:
    """A crash names the signal or shows the end of what the worker said, without its control characters."""
    with pytest.raises(MachineError, match=words):
        timed(does)


def test_an_error_keeps_its_kind_and_its_remedy(timed: Time) -> None:
    """What a backend explains in the worker arrives as the same kind of error, with how to mend it."""
    with pytest.raises(IntegrityError, match="weights are not those") as caught:
        timed("refuse")
    assert caught.value.mend == "download again"


def test_a_backend_that_is_not_installed(timed: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that the worker cannot find is the asker's mistake, told in one sentence."""
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(local.UsageError, match="no backend is called 'lab'"):
        timed()


def test_a_worker_that_answers_too_little(timed: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without the samples asked for is no measurement."""
    monkeypatch.setattr(local.WorkerAnswer, "model_validate_json", lambda told: local.WorkerAnswer())
    with pytest.raises(MachineError, match="did not answer the 40 samples"):
        timed()


def test_a_worker_that_hangs_is_ended(timed: Time) -> None:
    """After `timeout_s` the worker is given up, and the message says which option to change."""
    with pytest.raises(MachineError, match=r"did not end within 1 s(.|\n)*timeout_s"):
        timed("hang", device=Local(timeout_s=1.0))


# ----------------------------------------------------------------------------------------------------------- no orphans
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupt_leaves_no_process(timed: Time, pids: Callable[[], list[int]]) -> None:
    """Ctrl-C in the middle of a worker ends it and the processes that it started, before anything else happens."""
    started: list[int] = []

    def interrupt() -> None:
        started.extend(pids())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        timed("hang_with_child")
    thread.join()
    assert len(started) == 2
    assert all_ended(started)


CONTROLLER = """
import sys
from pathlib import Path
from edgekd.benching.devices.local import Local
from edgekd.core.contracts import TimingPlan
from edgekd.core.records import Artifact
record, folder, images = map(Path, sys.argv[1:])
plan = TimingPlan(batch=1, threads=1, workers=1, warmup=0, iterations=1, images_npy=images)
list(Local().time(Artifact.from_json(record.read_text()), folder, plan))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_worker_dies_with_its_controller(
    folder: Path, plan: TimingPlan, make_artifact: Callable[..., Artifact], pids: Callable[[], list[int]]
) -> None:
    """A controller that is killed without warning leaves no worker that would disturb the next measurement."""
    record = folder / "artifact.json"
    record.write_text(make_artifact(does="hang").to_json())
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, record, folder, plan.images_npy])
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

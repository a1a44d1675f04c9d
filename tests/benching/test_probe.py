"""The probe as a device gets it: one file, started as a process, watched until it is no longer needed."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgekd.benching import probe
from edgekd.core.errors import MachineError


def wait_until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not is_so():
        pause.wait(0.01)


def test_the_program_is_the_same_bytes_each_time() -> None:
    """Its sha256 can be checked on a device."""
    again = probe.program.__wrapped__()
    assert hashlib.sha256(probe.program()).digest() == hashlib.sha256(again).digest()


def test_the_program_runs_where_edgekd_is_not(machines: ModuleType, tmp_path: Path) -> None:
    """One file, an isolated interpreter without site-packages: the fingerprint is that of the same tree read here."""
    root = machines.lay(tmp_path / "pi", machines.pi5())
    (tmp_path / "probe.pyz").write_bytes(probe.program())
    command = [sys.executable, "-I", "-S", str(tmp_path / "probe.pyz"), "fingerprint", "--root", str(root)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, env={})
    there, here = probe.fingerprint(told.stdout), probe.fingerprint_here(root)
    assert there.device_class == here.device_class
    differing = {name for name in here.fields if here.fields[name] != there.fields[name]}
    assert differing <= {"settings"}


@pytest.mark.parametrize("told", ["", "Traceback", "[]", '{"fields": 3}', '{"fields": {"cpu": [1]}}', b"\xff"])
def test_an_answer_that_is_no_fingerprint(told: str | bytes) -> None:
    """What a broken interpreter prints is refused, and shown."""
    with pytest.raises(MachineError, match="not a fingerprint"):
        probe.fingerprint(told)


def test_watching_this_machine(machines: ModuleType, tmp_path: Path) -> None:
    """Samples come while the block runs, in order of time; the probe has ended after it."""
    root = machines.lay(tmp_path, machines.pi5("50005"))
    with probe.watch_here(hz=50, root=root) as log:
        wait_until(lambda: len(log.rows) >= 3)
    assert not log.ended_early
    assert len(log.rows) >= 3
    assert {row.pi_throttled for row in log.rows} == {0x50005}
    assert sorted(row.at_ns for row in log.rows) == [row.at_ns for row in log.rows]


def test_a_probe_that_cannot_be_started() -> None:
    """There are no samples, the log says so, and the measurement goes on."""
    with probe.watch(["/no/such/program"]) as log:
        pass
    assert (log.rows, log.ended_early) == ([], True)


def test_a_probe_that_dies_and_talks_nonsense() -> None:
    """Whole lines are kept, half ones and those of the past are not, columns of a newer probe are left out."""
    lines = ['{"at_ns": 5, "novelty": 1}', "rubbish", '{"at_ns": 4}', '{"at_ns": 6, "load_1min": 0.5}', '{"at_ns"']
    with probe.watch([sys.executable, "-c", f"print({chr(10).join(lines)!r})"]) as log:
        wait_until(lambda: len(log.rows) >= 2)
    assert [(row.at_ns, row.load_1min) for row in log.rows] == [(5, None), (6, 0.5)]


def test_a_probe_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of its standard input is the gentle way; a probe that goes on is ended the other way."""
    monkeypatch.setattr(probe, "END_TIMEOUT_S", 0.2)
    deaf = "import sys, time\nprint('{\"at_ns\": 1}', flush=True)\ntime.sleep(600)"
    with probe.watch([sys.executable, "-c", deaf]) as log:
        wait_until(lambda: bool(log.rows))
    assert len(log.rows) == 1


def test_the_program_refuses_a_rate_that_makes_no_sense(tmp_path: Path) -> None:
    """Not zero, not more than it can do."""
    (tmp_path / "probe.pyz").write_bytes(probe.program())
    command = [sys.executable, "-I", str(tmp_path / "probe.pyz"), "telemetry", "--hz", "0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert told.returncode == 2
    assert "--hz is 0" in told.stderr

"""This machine as a workbench: every worker is a fresh process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from edgekd.benching import probe, turns, worker
from edgekd.benching.answers import read_answer
from edgekd.core.errors import MachineError
from edgekd.core.records import DeviceFacts, Fingerprint, TelemetryLog
from edgekd.core.store import disk_errors

_TAIL_BYTES = 8192


class LocalBench:
    """A temporary folder for what workers need, and the processes themselves; both are gone when the bench is left."""

    def __init__(self, root: Path, facts: DeviceFacts) -> None:
        self._root = root
        self._facts = facts
        self._folders: dict[tuple[tuple[str, str], ...], str] = {}

    def bring(self, files: Mapping[str, Path]) -> str:
        """Return a folder in which these files have these names; they are linked there, or copied from another disk."""
        key = tuple(sorted((name, str(path.resolve())) for name, path in files.items()))
        if key not in self._folders:
            folder = Path(tempfile.mkdtemp(dir=self._root))
            for name, path in files.items():
                with disk_errors(folder / name):
                    _put(path.resolve(), folder / name)
            self._folders[key] = str(folder)
        return self._folders[key]

    def work(self, plan: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have one fresh process do a plan, or one each take turns; return the answer."""
        programs = [turns.__file__, worker.__file__] if "turns" in plan else [worker.__file__]
        whose = f"device {self._facts.name}: the worker process for {plan.get('whose', plan.get('files'))}"
        with tempfile.TemporaryFile() as stderr:
            # A session of its own: Ctrl-C reaches the controller only, which then ends the worker and all it started.
            process = subprocess.Popen(
                [sys.executable, "-P", *programs],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | {str(k): str(v) for k, v in plan.get("environment", {}).items()},
                start_new_session=True,
            )
            try:
                told, _ = process.communicate(json.dumps(plan).encode(), timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                raise MachineError(
                    f"{whose} did not end within {timeout_s:g} s",
                    mend="raise bench.timeout_s, or choose a shorter bench.profile",
                ) from error
            finally:
                _end(process)
            return read_answer(told, code=process.returncode, whose=whose, stderr=_tail(stderr))

    def fingerprint(self) -> Fingerprint:
        """Return what this machine is, and the state that it is in now."""
        return probe.fingerprint_here()

    @contextmanager
    def telemetry(self) -> Iterator[TelemetryLog]:
        """Watch this machine until the block is left; times are those of the workers' clock."""
        with probe.watch_here() as log:
            yield log


def _put(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a worker that still runs, with everything in its process group, and wait for it."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _tail(stderr: IO[bytes]) -> bytes:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    return stderr.read()

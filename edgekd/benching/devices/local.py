"""The machine that edgekd runs on: every worker is a fresh process of its own, one after the other."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field, ValidationError

from edgekd.benching.earlier_worker import Complaint, WorkerAnswer, WorkerPlan
from edgekd.benching.local_bench import LocalBench
from edgekd.core import host
from edgekd.core.console import printable
from edgekd.core.contracts import Device, Samples, TimingPlan, Workbench
from edgekd.core.errors import EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.records import Artifact, DeviceFacts

# What the runtimes and their libraries read when they are loaded, and only then.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ORT_INTRA_OP_NUM_THREADS",
)
SINGLE_VARIABLES = ("ORT_INTER_OP_NUM_THREADS",)
_ERRORS: dict[int, type[EdgekdError]] = {
    error.exit_code: error for error in (UsageError, EvidenceError, MachineError, IntegrityError)
}
_TAIL_LINES = 12
_TAIL_BYTES = 8192


class Local(Device):
    """This machine: fresh processes one after the other, threads bound to the cores it may use.

    `name` goes into the record and the file name; `timeout_s` is for one worker process, loading included.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "local"
    timeout_s: Annotated[float, Field(gt=0)] = 900.0

    def facts(self) -> DeviceFacts:
        """Return what is known of this machine now."""
        return host.device_facts(self.name)

    def default_threads(self) -> int:
        """Return the usable cores, or OMP_NUM_THREADS if that asks for fewer."""
        cores, asked = host.usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
        return min(cores, int(asked)) if asked.isascii() and asked.isdigit() and int(asked) > 0 else cores

    @contextmanager
    def ready(self) -> Iterator[Workbench]:
        """Make a temporary folder for what workers need; it is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as root:
            yield LocalBench(Path(root), self.facts())

    def time(self, artifact: Artifact, folder: Path, plan: TimingPlan) -> Iterator[Samples]:
        """Yield the samples of each worker process; raise `MachineError` if one crashes, hangs or talks nonsense."""
        asked = WorkerPlan(
            backend=artifact.backend,
            folder=folder.resolve(),
            files=tuple(file.path for file in artifact.files),
            batch=plan.batch,
            threads=plan.threads,
            warmup=plan.warmup,
            iterations=plan.iterations,
            images_npy=plan.images_npy.resolve(),
        )
        for _ in range(plan.workers):
            yield self._one_worker(asked)

    def _one_worker(self, plan: WorkerPlan) -> Samples:
        command = [sys.executable, "-P", "-m", "edgekd.benching.earlier_worker"]
        with tempfile.TemporaryFile() as stderr:
            # A session of its own: Ctrl-C reaches the controller only, which then ends the worker and all it started.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(plan.threads),
                start_new_session=True,
            )
            try:
                told, _ = process.communicate(plan.model_dump_json().encode(), timeout=self.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise MachineError(
                    f"{self._whose(plan)} did not end within {self.timeout_s:g} s{_tail(stderr)}",
                    mend="raise the device's timeout_s, or lower bench.iterations",
                ) from error
            finally:
                _end(process)
            return self._samples(told, process.returncode, plan, stderr)

    def _samples(self, told: bytes, code: int, plan: WorkerPlan, stderr: IO[bytes]) -> Samples:
        if code < 0:
            killed = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
            raise MachineError(f"{self._whose(plan)} was ended by {_signal(-code)}{killed}{_tail(stderr)}")
        try:
            answer = WorkerAnswer.model_validate_json(told)
        except ValidationError as error:
            what = f"crashed with exit code {code}" if code else "answered what is not a measurement"
            raise MachineError(f"{self._whose(plan)} {what}{_tail(stderr)}") from error
        if answer.complaint is not None:
            raise _error(answer.complaint)
        if answer.worker is None or len(answer.worker.infer_ns) != plan.iterations:
            raise MachineError(f"{self._whose(plan)} did not answer the {plan.iterations} samples it was asked for")
        return Samples(
            worker=answer.worker,
            runtime=answer.runtime,
            executed_on=answer.executed_on,
            executed_precision=answer.executed_precision,
        )

    def _whose(self, plan: WorkerPlan) -> str:
        return f"device {self.name}: the worker process for {plan.backend.use} in {plan.folder.name}"


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker: the controller's, with every thread pool told its size and nothing looked up."""
    pools = dict.fromkeys(THREAD_VARIABLES, str(threads)) | dict.fromkeys(SINGLE_VARIABLES, "1")
    return os.environ | pools | {"HF_HUB_OFFLINE": "1"}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a worker that still runs, with everything in its process group, and wait for it."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _error(complaint: Complaint) -> EdgekdError:
    return _ERRORS.get(complaint.exit_code, MachineError)(printable(complaint.message), mend=complaint.mend)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:]
    return "; it said last:\n" + "\n".join(f"    {printable(line)}" for line in lines) if lines else " and said nothing"

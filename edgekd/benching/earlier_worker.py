"""One fresh process that times one artifact: `python -m edgekd.benching.earlier_worker < plan.json > samples.json`.

The controller sets the threads' environment variables before the start, because runtimes read them when they are loaded.
While the worker works, file descriptor 1 is stderr, so that a chatty runtime cannot spoil the answer. A worker that is
left alone ends by itself: it dies with its controller.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pydantic import ValidationError

from edgekd.benching.clock import MONOTONIC, Clock
from edgekd.core import parts
from edgekd.core.config import frozen
from edgekd.core.contracts import Backend, Samples, Session
from edgekd.core.errors import EdgekdError, EvidenceError, MachineError, UsageError
from edgekd.core.parts import PartRef
from edgekd.core.records import Fact, WorkerSamples

if TYPE_CHECKING:
    import numpy as np

    Images = np.ndarray[Any, np.dtype[np.float32 | np.uint8]]

PROTOCOL = "0"
_PR_SET_PDEATHSIG = 1


class WorkerPlan(Fact):
    """What one worker process is asked: an artifact, where it lies, and how often to run it."""

    protocol: str = PROTOCOL
    backend: PartRef
    folder: Path
    files: tuple[str, ...]
    batch: int
    threads: int
    warmup: int
    iterations: int
    images_npy: Path


class Complaint(Fact):
    """An error that the worker could explain; `exit_code` says which kind."""

    exit_code: int
    message: str
    mend: str


class WorkerAnswer(Fact):
    """What one worker process answers: samples, or a complaint."""

    protocol: str = PROTOCOL
    worker: WorkerSamples | None = None
    runtime: str = ""
    executed_on: str = ""
    executed_precision: str = ""
    complaint: Complaint | None = None


def measure(backend: Backend, plan: WorkerPlan, images_NCHW: "Images", *, clock: Clock = MONOTONIC) -> Samples:
    """Load the artifact and time it: load, first inference, warm-up (untimed), then `plan.iterations` inferences.

    The runtime's packages are imported before the clock starts: `load_ns` is the cost of the artifact, not of Python.
    """
    parts.need_packages(backend)
    for package in backend.packages():
        importlib.import_module(package)
    backend.inspect(plan.folder, plan.files)
    batches = batches_of(images_NCHW, plan.batch)
    start_ns = clock()
    opened = backend.open(plan.folder, plan.files, threads=plan.threads)
    load_ns = clock() - start_ns
    with opened as session:
        if because := getattr(session, "cannot_be_timed", ""):
            mend = "set `bench: null` to have the rest judged"
            raise EvidenceError(f"{plan.backend.use} cannot be timed here: {because}", mend=mend)
        start_ns = clock()
        logits_BK = session.run(batches[0])
        first_ns = clock() - start_ns
        if getattr(logits_BK, "ndim", 0) < 1 or logits_BK.shape[0] != plan.batch:
            raise MachineError(
                f"{plan.backend.use} answered {getattr(logits_BK, 'shape', type(logits_BK).__name__)} "
                f"to a batch of {plan.batch}; expected one row of logits for each image"
            )
        for index in range(plan.warmup):
            session.run(batches[index % len(batches)])
        infer_ns = _timed(session, batches, plan.iterations, clock)
        worker = WorkerSamples(load_ns=load_ns, first_ns=first_ns, warmup_iterations=plan.warmup, infer_ns=tuple(infer_ns))
        return Samples(
            worker=worker,
            runtime=session.runtime,
            executed_on=session.executed_on,
            executed_precision=session.executed_precision,
        )


def batches_of(images_NCHW: "Images", batch: int) -> "list[Images]":
    """Return C-contiguous batches that between them hold every image; the last one is filled up from the beginning.

    Bytes stay bytes, everything else becomes float32.
    """
    import numpy as np

    count = len(images_NCHW)
    if images_NCHW.ndim != 4 or count == 0:
        raise UsageError(f"expected images in an array of 4 axes NCHW, found the shape {images_NCHW.shape}")
    kind = np.uint8 if images_NCHW.dtype == np.uint8 else np.float32
    starts = range(0, count, batch)
    return [np.ascontiguousarray(images_NCHW[np.arange(start, start + batch) % count], dtype=kind) for start in starts]


def _timed(session: Session, batches: "Sequence[Images]", iterations: int, clock: Clock) -> list[int]:
    infer_ns = [0] * iterations
    count, run = len(batches), session.run
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for index in range(iterations):
            image_BCHW = batches[index % count]
            start_ns = clock()
            run(image_BCHW)
            infer_ns[index] = clock() - start_ns
    finally:
        if was_enabled:
            gc.enable()
    return infer_ns


# ----------------------------------------------------------------------------------------------------------- the process
def answer(text: bytes) -> WorkerAnswer:
    """Do what a plan in JSON asks; errors that edgekd can explain become a complaint."""
    import numpy as np

    try:
        plan = WorkerPlan.model_validate_json(text)
        if plan.protocol != PROTOCOL:
            raise UsageError(f"the plan is for protocol {plan.protocol!r}, this worker speaks {PROTOCOL!r}")
        cls = parts.load("backend", plan.backend.use)
        backend = cast("Backend", cls.model_validate(frozen(plan.backend.options)))
        images_NCHW = np.load(plan.images_npy, allow_pickle=False)
        samples = measure(backend, plan, images_NCHW)
    except ValidationError as error:
        return _complaint(UsageError(f"the worker's plan is not valid: {error}"))
    except EdgekdError as error:
        return _complaint(error)
    return WorkerAnswer(
        worker=samples.worker,
        runtime=samples.runtime,
        executed_on=samples.executed_on,
        executed_precision=samples.executed_precision,
    )


def main() -> int:
    """Read a plan from stdin, answer on stdout, and return the exit code."""
    _die_with_controller()
    with _answer_channel() as channel:
        told = answer(sys.stdin.buffer.read())
        channel.write(json.dumps(told.model_dump(mode="json")).encode() + b"\n")
    return told.complaint.exit_code if told.complaint else 0


def _complaint(error: EdgekdError) -> WorkerAnswer:
    return WorkerAnswer(complaint=Complaint(exit_code=error.exit_code, message=error.message, mend=error.mend))


def _answer_channel() -> BinaryIO:
    """Return the real stdout, and let everybody else's stdout be stderr from now on."""
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _die_with_controller() -> None:
    """Ask Linux to end this process when its controller ends, however that ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

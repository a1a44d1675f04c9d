"""What one arm of a session is: a model, whose it is, how it is opened, and what each of its workers is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekd.benching import preparing, worker
from edgekd.benching.inputs import Fed
from edgekd.core import parts
from edgekd.core.config import frozen
from edgekd.core.contracts import ArmName, Backend, Workbench
from edgekd.core.errors import EvidenceError, UsageError
from edgekd.core.records import Artifact, InputContract, Mode
from edgekd.core.store import checked_file

# What the runtimes and their libraries read when they are loaded, and only then.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ORT_INTRA_OP_NUM_THREADS")
SINGLE_VARIABLES = ("ORT_INTER_OP_NUM_THREADS",)
_RUNNER, _PREPARE, _INPUTS, _PHOTOGRAPHS = (
    "edgekd_runner.py",
    "edgekd_prepare.py",
    "edgekd_inputs.npy",
    "edgekd_photographs.npz",
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How an artifact ran when its parity and accuracy were found."""

    runtime: str
    executed_on: str
    executed_precision: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One arm of a session. `digest` names the model; `contract` None is a model of which only its input's shape is known."""

    arm: ArmName
    backend: Backend
    folder: Path
    files: tuple[str, ...]
    digest: str
    contract: InputContract | None
    expected: Expected | None = None

    @property
    def group(self) -> str:
        """Return what arms have in common that run with the same counts: candidate and baseline of one artifact."""
        return self.arm.artifact


@dataclass(frozen=True, kw_only=True)
class Load:
    """How the workers of a session are run: batch, threads, whether idle ones wait busily, and how queries arrive."""

    batch: int = 1
    threads: int
    spin: bool = True
    mode: Mode = "single"
    rate_hz: float | None = None


def subject_of(artifact: Artifact, folder: Path, *, arm: str, batch: int) -> Subject:
    """Return an artifact as an arm of a session, its files checked and inspected before any worker opens them."""
    if artifact.not_executed:
        raise EvidenceError(
            f"{artifact.name} was not executed, so it cannot be measured: {artifact.not_executed}",
            mend="run `edgekd export RUN` on the machine that it was made for, then `edgekd bench RUN` there",
        )
    fixed = artifact.inputs[0].shape[0]
    if isinstance(fixed, int) and fixed != batch:
        raise UsageError(
            f"{artifact.name} was exported for batches of exactly {fixed}, bench.batch asks for {batch}",
            mend=f"set bench.batch to {fixed}, or export with a free batch axis",
        )
    for file in artifact.files:
        checked_file(file, folder=folder)
    cls = parts.load("backend", artifact.backend.use)
    backend = cast("Backend", cls.model_validate(frozen(artifact.backend.options)))
    files = tuple(file.path for file in artifact.files)
    backend.inspect(folder, files)
    return Subject(
        arm=ArmName(artifact=artifact.name, arm=arm),
        backend=backend,
        folder=folder,
        files=files,
        digest=artifact.digest(),
        contract=artifact.input,
        expected=Expected(
            runtime=artifact.runtime,
            executed_on=artifact.executed_on,
            executed_precision=artifact.executed_precision,
        ),
    )


def environment(threads: int) -> dict[str, str]:
    """Return what a worker's environment must say: every thread pool is told its size, and nothing is looked up."""
    pools = dict.fromkeys(THREAD_VARIABLES, str(threads)) | dict.fromkeys(SINGLE_VARIABLES, "1")
    return pools | {"HF_HUB_OFFLINE": "1"}


def plan_of(subject: Subject, fed: Fed, load: Load, bench: Workbench) -> dict[str, Any]:
    """Bring what a subject needs to the device, and return the plan of its workers, all but the counts."""
    runner = subject.backend.runner_file()
    brought = {name: subject.folder / name for name in subject.files} | {_INPUTS: fed.inputs_npy}
    if runner is not None:
        brought[_RUNNER] = runner
    if fed.photographs_npz is not None:
        brought |= {_PHOTOGRAPHS: fed.photographs_npz, _PREPARE: Path(preparing.__file__)}
    return {
        "protocol": worker.PROTOCOL,
        "whose": f"{subject.arm.artifact} ({subject.arm.arm})",
        "folder": bench.bring(brought),
        "runner": _RUNNER if runner is not None else None,
        "part": subject.backend.ref().model_dump(mode="json"),
        "files": list(subject.files),
        "options": subject.backend.ref().options | {"spin": load.spin},
        "threads": load.threads,
        "environment": environment(load.threads),
        "inputs": _INPUTS,
        "batch": load.batch,
        "mode": load.mode,
        "period_ns": round(1e9 / load.rate_hz) if load.rate_hz else None,
        "warmup": 0,
        "iterations": 0,
        "record": None,
        "whole": None,
    }


def with_whole_way(plan: dict[str, Any], subject: Subject, fed: Fed, iterations: int) -> dict[str, Any]:
    """Return a plan that also goes from the encoded photograph to the classes, where there are photographs."""
    if fed.photographs_npz is None or subject.contract is None or not iterations:
        return plan
    rules = subject.contract.model_dump(mode="json") | {
        "takes_bytes": subject.contract.takes_bytes,
        "resize_inside": subject.contract.resize_inside,
    }
    whole = {"photographs": _PHOTOGRAPHS, "prepare": _PREPARE, "rules": rules, "iterations": iterations}
    return plan | {"whole": whole}

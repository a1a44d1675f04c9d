"""A bundle: everything a device needs to run an artifact, in one folder and one .tar.gz, without edgekd and without torch."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgekd.core.archives import MANIFEST, write_archive
from edgekd.core.bundles import ARCHIVE_SUFFIX, CLASSES, CONTRACT, check, classes_json, manifest_of, refuse_foreign
from edgekd.core.console import Console
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.records import CANDIDATE, Artifact, Checkpoint, FileRef, LatencySummary, MadeBy, Report
from edgekd.core.side_records import Bundle
from edgekd.core.store import (
    CHECKPOINT,
    INT8,
    MARKER,
    RunFolder,
    checked_file,
    disk_errors,
    read_record,
    write_bytes,
    write_record,
    write_text,
)
from edgekd.exporting import model_card

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime>=1.17",),
    "openvino": ("openvino>=2024.0",),
}
"""What each runtime's Python program needs besides numpy and pillow; only these have programs."""

RECORD = "artifact.json"

_NEEDS = ("numpy>=1.26", "pillow>=11.0")
_MODEL_FOLDER = "model"
_CARD = "README.md"
_PROGRAMS_LICENCE = "LICENSE-programs"
_LICENCES = "LICENCES.md"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a bundle is made from: an artifact and its folder, and what is known besides.

    `checkpoint` is the student that was exported, `latencies` those of this artifact, if there are any.
    """

    artifact: Artifact
    folder: Path
    checkpoint: Checkpoint | None = None
    latencies: tuple[LatencySummary, ...] = ()


def is_artifact(folder: Path) -> bool:
    """Say whether a folder is that of one artifact."""
    return (folder / RECORD).is_file()


def _latencies(report: Report, artifact: Artifact) -> tuple[LatencySummary, ...]:
    return tuple(one for one in report.latencies if (one.artifact, one.arm) == (artifact.name, CANDIDATE))


def write_all(path: Path, *, out: Path | None, console: Console) -> tuple[Bundle, ...]:
    """Write a bundle of each artifact of a run, or of the one whose folder this is, into `out` or the run's `bundles/`.

    Those of a run that cannot be handed over are passed over, with the reason; `UsageError` is raised if none is left.
    """
    run = RunFolder(path.resolve().parents[1] if is_artifact(path) else path)
    folders = [path] if is_artifact(path) else [record.parent for record in run.artifacts()]
    if out is None and not (run.root / MARKER).is_file():
        raise UsageError(f"{path}: belongs to no run, so there is no place for its bundle", mend="say where: --out DIR")
    made = []
    for material in (_material(folder, run) for folder in folders):
        name = material.artifact.name
        if (reason := why_not(material.artifact)) and not is_artifact(path):
            console.warn(f"{name}: no bundle: {reason}")
            continue
        target = out / name if out is not None else run.bundle(name)
        made.append(write(material, target))
        console.say(f"{name}: wrote {target} and {target.name}{ARCHIVE_SUFFIX} beside it")
    if not made:
        raise UsageError(
            f"{path}: none of its artifacts can be handed over",
            mend=f"export one to {' or '.join(RUNTIMES)} that is not refused",
        )
    return tuple(made)


def _material(folder: Path, run: RunFolder) -> Material:
    """Return an artifact with what the run around it knows of the same student and the same artifact."""
    artifact = read_record(Artifact, folder / RECORD)
    report = None
    students = [read_record(Checkpoint, run.checkpoint(name)) for name in (CHECKPOINT, INT8) if run.checkpoint(name).is_file()]
    if run.report.is_file():
        report = read_record(Report, run.report)
    same = report is not None and artifact.digest() in {known.digest() for known in report.artifacts}
    return Material(
        artifact=artifact,
        folder=folder,
        checkpoint=next((student for student in students if student.digest() == artifact.from_.get("checkpoint")), None),
        latencies=_latencies(report, artifact) if report and same else (),
    )


def write(material: Material, out: Path) -> Bundle:
    """Write the folder `out` and, beside it, `out`.tar.gz; the same records give the same bytes. An earlier bundle is replaced.

    Raises `UsageError` for an artifact that cannot be handed over or for an `out` that is something else, `IntegrityError`
    if a model file is not the record's.
    """
    if reason := why_not(material.artifact):
        raise UsageError(f"{material.artifact.name}: no bundle: {reason}", mend="hand over another artifact")
    refuse_foreign(out)
    archive = out.with_name(out.name + ARCHIVE_SUFFIX)
    partial = out.with_name(f".{out.name}.partial")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            contract = _fill(material, partial)
            shutil.rmtree(out, ignore_errors=True)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    write_archive(out, archive)
    check(archive)
    return contract


def why_not(artifact: Artifact) -> str:
    """Return why an artifact cannot be handed over: no program runs it, it never ran, or its own search refused it; else ''."""
    if artifact.backend.use not in RUNTIMES:
        return f"a bundle holds programs for {' and '.join(RUNTIMES)}, not for {artifact.backend.use}"
    if artifact.accuracy is None or artifact.parity is None:
        return f"it was not executed: {artifact.not_executed}"
    if artifact.quantisation is not None and artifact.quantisation.refused:
        return f"it was refused: {artifact.quantisation.refused}"
    return ""


def _fill(material: Material, folder: Path) -> Bundle:
    contract = _contract(material)
    for ref, inside in zip(material.artifact.files, contract.files, strict=True):
        _write(folder / inside.path, checked_file(ref, folder=material.folder).read_bytes())
    for name, content in programs():
        _write(folder / name, content)
    write_text(folder / "python" / "requirements.txt", _requirements(contract))
    write_text(folder / CLASSES, classes_json(contract.classes))
    write_text(folder / _CARD, model_card.render(contract, material.checkpoint, material.latencies))
    write_text(folder / _LICENCES, model_card.licences(contract))
    write_record(folder / CONTRACT, contract)
    write_text(folder / MANIFEST, manifest_of(folder))
    return contract


def _contract(material: Material) -> Bundle:
    artifact, accuracy, parity = material.artifact, material.artifact.accuracy, material.artifact.parity
    assert accuracy is not None
    assert parity is not None
    moved = (FileRef(**{**ref.model_dump(), "path": f"{_MODEL_FOLDER}/{ref.path}"}) for ref in artifact.files)
    return Bundle(
        # No time and no command line: they would tell of the machine, and make other bytes of the same facts.
        made_by=MadeBy(version=artifact.made_by.version),
        from_={"artifact": artifact.digest(), **artifact.from_},
        runtime=artifact.backend.use,
        precision=artifact.precision,
        measured_with=artifact.runtime,
        files=tuple(moved),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        opset=artifact.opset,
        input=artifact.input,
        classes=artifact.classes,
        images=accuracy.images,
        top1_correct=accuracy.top1_correct,
        top5_correct=accuracy.top5_correct,
        top1_agreements=parity.top1_agreements,
        licences=artifact.licences,
    )


def _requirements(contract: Bundle) -> str:
    return "\n".join([f"# measured with {contract.measured_with}", *_NEEDS, *RUNTIMES[contract.runtime], ""])


# ----------------------------------------------------------------------------------------------------------- the programs
def programs() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the programs that every bundle holds, and of their licence."""
    root = _root_of("deploy/runtime")
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix(), path.read_bytes()
    yield _PROGRAMS_LICENCE, (_root_of("LICENSE")).read_bytes()


def _root_of(name: str) -> Path:
    """Return where something of the repository is: inside an installed edgekd, beside the package in a checkout."""
    package = Path(str(resources.files("edgekd")))
    for place in (package / name, package.parent / name):
        if place.exists():
            return place
    raise MachineError(f"{package / name}: is not there", mend="install edgekd again")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)

"""What a run folder holds, read and checked: each file's sha256, and that each record was made from the one before it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core import stats
from edgekd.core.answers import answers_of
from edgekd.core.errors import EvidenceError, IntegrityError
from edgekd.core.predictions import read_right
from edgekd.core.records import (
    CANDIDATE,
    Answers,
    Artifact,
    Checkpoint,
    Comparison,
    CurvePoint,
    Measurement,
    Report,
    canonical_json,
)
from edgekd.core.store import BASELINE, CHECKPOINT, INT8, RunFolder, checked_file, read_record

CURVE_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Student:
    """A checkpoint whose files are sound, its learning curve, and which images it got right (image id -> right)."""

    record: Checkpoint
    curve: tuple[CurvePoint, ...]
    right: Mapping[str, bool]


def read_student(run: RunFolder, name: str = CHECKPOINT) -> Student:
    """Read and check a student: `checkpoint` or `baseline`."""
    path = run.checkpoint(name)
    record = read_record(Checkpoint, path)
    checked_file(record.weights, folder=path.parent)
    history = checked_file(record.history, folder=path.parent)
    right = read_right(record.accuracy, folder=path.parent)
    if not right:
        raise EvidenceError(f"{path}: was validated on no images", mend="give the source validation images and train again")
    return Student(record=record, curve=_read_history(history), right=right)


def read_int8(run: RunFolder, student: Checkpoint) -> Checkpoint | None:
    """Read and check the student that was trained on for int8, if there is one; it must have begun as this student."""
    path = run.checkpoint(INT8)
    if not path.is_file():
        return None
    record = read_student(run, INT8).record
    if record.from_.get("start") != student.digest():
        raise EvidenceError(
            f"{path}: was trained on from another student than the one in this folder",
            mend=f"run `edgekd distill` again, or delete {path.parent} if it is no longer wanted",
        )
    return record


def read_artifacts(run: RunFolder, students: Sequence[Checkpoint], names: Sequence[str] | None) -> tuple[Artifact, ...]:
    """Read and check the named artifacts in that order, or all that are there; each must come from one of these students."""
    paths = run.artifacts() if names is None else [run.artifact(name) for name in names]
    found = []
    for path in paths:
        if not path.is_file():
            raise EvidenceError(f"{path}: this artifact has not been exported", mend=f"run `edgekd export {run.root}`")
        record = read_record(Artifact, path)
        if record.name != path.parent.name:
            raise EvidenceError(
                f"{path}: this record is of the artifact {record.name!r}, not of {path.parent.name!r}",
                mend=f"delete {path.parent} and run `edgekd export {run.root}`",
            )
        if record.from_.get("checkpoint") not in {student.digest() for student in students}:
            raise EvidenceError(
                f"{path}: was exported from another checkpoint than the one in this folder",
                mend=f"run `edgekd export {run.root}` again, or delete {path.parent} if it is no longer wanted",
            )
        for reference in record.files:
            checked_file(reference, folder=path.parent)
        if record.accuracy is not None:
            read_right(record.accuracy, folder=path.parent)
        found.append(record)
    return tuple(found)


def read_measurements(run: RunFolder, artifacts: Sequence[Artifact], *, only_these: bool) -> dict[str, Measurement]:
    """Read and check the measurements (by file name) of these artifacts; `only_these` leaves those of others aside.

    Those of other arms, a baseline or the reference model, come along if they ran in the same session.
    """
    known = {artifact.name: artifact.digest() for artifact in artifacts}
    found, beside = dict[str, Measurement](), dict[str, Measurement]()
    for path in run.measurements():
        name = artifact_of(path.stem)
        record = read_record(Measurement, path)
        if record.arm != CANDIDATE:
            beside[path.stem] = record
            continue
        if name not in known and only_these:
            continue
        if name not in known or record.from_.get("artifact") != known[name]:
            raise EvidenceError(
                f"{path}: was not measured with the artifact {name!r} that is in this folder now",
                mend=f"run `edgekd bench {run.root}` again, or delete the file if it is no longer wanted",
            )
        found[path.stem] = record
    sessions = {record.session for record in found.values()}
    return found | {stem: record for stem, record in beside.items() if record.session in sessions}


def artifact_of(measurement: str) -> str:
    """Return the artifact's name in a measurement's file name, `<artifact>@<device>`."""
    return measurement.partition("@")[0]


def answers(
    run: RunFolder, student: Checkpoint, baseline: Checkpoint | None, artifacts: Sequence[Artifact]
) -> tuple[Answers, ...]:
    """Return what each model answered image by image, so that reports can be compared without their run folders."""
    found = [answers_of("student", student.accuracy, folder=run.checkpoint().parent)]
    found += [
        answers_of(f"teacher:{teacher.name}", teacher.accuracy, folder=run.checkpoint().parent)
        for teacher in student.teachers
        if teacher.accuracy is not None
    ]
    if baseline is not None:
        found.append(answers_of("undistilled", baseline.accuracy, folder=run.checkpoint(BASELINE).parent))
    found += [
        answers_of(artifact.name, artifact.accuracy, folder=run.artifact(artifact.name).parent)
        for artifact in artifacts
        if artifact.accuracy is not None
    ]
    return tuple(found)


def compare_students(student: Student, baseline: Student, *, where: Path) -> Comparison:
    """Compare two students on the same images; raise `EvidenceError` if images or labels are not the same."""
    a, b = student.record, baseline.record
    unlike = {
        "is another model": a.student != b.student,
        "learned from other images or labels": (a.data.digest, a.data.labelled_images)
        != (b.data.digest, b.data.labelled_images),
        "was validated on other images": student.right.keys() != baseline.right.keys(),
    }
    for what, is_so in unlike.items():
        if is_so:
            raise EvidenceError(f"{where}: the baseline {what} than the student", mend="run `edgekd distill` again")
    only_student, only_baseline = discordant(student.right, baseline.right)
    images = len(student.right)
    return Comparison(
        images=images,
        student_top1=stats.wilson(sum(student.right.values()), images),
        baseline_top1=stats.wilson(sum(baseline.right.values()), images),
        only_student_right=only_student,
        only_baseline_right=only_baseline,
        difference=stats.paired_difference(only_student, only_baseline, images),
        mcnemar_p=stats.mcnemar(only_student, only_baseline),
    )


def discordant(a: Mapping[str, bool], b: Mapping[str, bool]) -> tuple[int, int]:
    """Return on how many of the same images only a is right, and only b."""
    only_a = sum(right and not b[image] for image, right in a.items())
    only_b = sum(right and not a[image] for image, right in b.items())
    return only_a, only_b


def check_recomputed(kept: Report, again: Report) -> int:
    """Return how many measurements two reports hold; raise `EvidenceError` for the first figure that is not the same."""
    if len(kept.latencies) != len(again.latencies):
        raise EvidenceError("the report has other measurements than the folder", mend="make it anew with `edgekd report`")
    for old, new in zip(kept.latencies, again.latencies, strict=True):
        facts = old.model_dump(mode="json"), new.model_dump(mode="json")
        unlike = [key for key in facts[0] if canonical_json(facts[0][key]) != canonical_json(facts[1][key])]
        if unlike:
            raise EvidenceError(
                f"{old.artifact} on {old.device.name}: {unlike[0]} is {facts[0][unlike[0]]} in the report, and"
                f" {facts[1][unlike[0]]} from the samples",
                mend="make the report anew with `edgekd report`",
            )
    return len(kept.latencies)


def _read_history(path: Path) -> tuple[CurvePoint, ...]:
    points = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise IntegrityError(f"{path}:{number}: not JSON: {error}", mend="run the stage again") from error
            if not isinstance(entry, dict) or "images_seen" not in entry or "loss" not in entry:
                continue
            if not math.isfinite(entry["loss"]):
                raise EvidenceError(
                    f"{path}:{number}: the loss is {entry['loss']}", mend="lower the learning rate and train again"
                )
            points.append(CurvePoint(images_seen=entry["images_seen"], loss=entry["loss"], top1=entry.get("top1")))
    return _thinned(points)


def _thinned(points: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Keep every evaluation, the first and the last point, and an even share of the rest: a page needs no more."""
    step = max(1, math.ceil(len(points) / CURVE_POINTS))
    last = len(points) - 1
    return tuple(p for i, p in enumerate(points) if i % step == 0 or i == last or p.top1 is not None)

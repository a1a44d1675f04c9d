"""A run into the history: its report, its verdict, its measurements; nothing twice."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.core.errors import EvidenceError
from edgekd.core.records import Artifact, Finding, LatencySummary, Report, Verdict, canonical_json, digest_of
from edgekd.core.store import RunFolder, read_record
from edgekd.history.database import Database
from edgekd.judging import wording

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekd.history.tables import Exported, Found, Judged, Measured, Run


@dataclass(frozen=True, kw_only=True)
class Added:
    """What was new to the history: the verdict or not, and how many measurements."""

    verdict: bool
    measurements: int


def add(target: str, run: Path) -> Added:
    """Put the report and verdict of a run folder into a history, which is made if it is not there; what is known stays.

    Raises `UsageError` for a run without a verdict, `EvidenceError` if the verdict is about another report.
    """
    folder = RunFolder(run)
    report, verdict = read_record(Report, folder.report), read_record(Verdict, folder.verdict)
    if verdict.from_.get("report") != report.digest():
        raise EvidenceError(f"{folder.verdict}: is about another report than the one beside it", mend="edgekd gate RUN")
    with Database(target, make=True) as database, database.writing() as session:
        return _add(session, report, verdict)


def _add(session: "Session", report: Report, verdict: Verdict) -> Added:
    from sqlalchemy import select

    from edgekd.history import tables

    now = datetime.now(UTC)
    run = session.scalar(select(tables.Run).where(tables.Run.report == report.digest()))
    fresh = 0
    if run is None:
        run = _run(report, now)
        session.add(run)
        for digest, summary in {_digest(report, summary): summary for summary in report.latencies}.items():
            known = session.scalar(select(tables.Measured).where(tables.Measured.digest == digest))
            fresh += known is None
            run.measurements.append(known or _measured(summary, digest, now))
        for digest, artifact in {artifact.digest(): artifact for artifact in report.artifacts}.items():
            exported = session.scalar(select(tables.Exported).where(tables.Exported.digest == digest))
            run.artifacts.append(exported or _exported(artifact, now))
    seen = session.scalar(select(tables.Judged.id).where(tables.Judged.digest == verdict.digest()))
    if seen is None:
        run.verdicts.append(_judged(verdict, now))
    return Added(verdict=seen is None, measurements=fresh)


def _run(report: Report, now: datetime) -> "Run":
    from edgekd.history import tables

    accuracy = report.student.accuracy
    return tables.Run(
        report=report.digest(),
        recipe=wording.plain(report.recipe),
        student=wording.plain(report.student.student_name),
        images=accuracy.images,
        top1_correct=accuracy.top1_correct,
        at=_moment(report.made_by.at),
        added=now,
        version=wording.plain(report.made_by.version),
        git=wording.plain(report.made_by.git),
        command=wording.plain(report.made_by.command),
    )


def _judged(verdict: Verdict, now: datetime) -> "Judged":
    from edgekd.history import tables

    return tables.Judged(
        digest=verdict.digest(),
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        budgets=wording.plain(verdict.from_.get("budgets", ""))[:64],
        added=now,
        record=verdict.to_json(),
        findings=[_found(finding, i) for i, finding in enumerate(verdict.findings)],
    )


def _found(finding: Finding, position: int) -> "Found":
    from edgekd.history import tables

    return tables.Found(
        position=position,
        budget=wording.plain(finding.budget),
        subject=wording.plain(finding.subject),
        value=finding.value,
        limit=finding.limit,
        bound=finding.bound,
        unit=wording.plain(finding.unit),
        outcome=finding.outcome,
        because=wording.plain(finding.because),
        name=wording.plain(finding.id if finding.id != finding.metric else ""),
        counts=finding.counts,
    )


def _measured(summary: LatencySummary, digest: str, now: datetime) -> "Measured":
    from edgekd.history import tables

    arm = wording.arm(summary)
    return tables.Measured(
        digest=digest,
        name=wording.plain(f"{summary.artifact}@{summary.device.name}{'' if arm == 'candidate' else f'.{arm}'}"),
        artifact=wording.plain(summary.artifact),
        device=wording.plain(summary.device.name),
        runtime=wording.plain(summary.runtime),
        precision=wording.plain(summary.executed_precision),
        protocol=wording.plain(summary.protocol),
        batch=summary.batch,
        threads=summary.threads,
        samples=summary.samples,
        p50_ms=summary.p50_ms,
        p90_ms=summary.p90_ms,
        trusted=summary.trusted,
        added=now,
        record=canonical_json(summary.model_dump(mode="json")).decode("ascii"),
    )


def _exported(artifact: Artifact, now: datetime) -> "Exported":
    from edgekd.history import tables

    return tables.Exported(
        digest=artifact.digest(),
        name=wording.plain(artifact.name),
        precision=wording.plain(artifact.executed_precision),
        runtime=wording.plain(artifact.runtime),
        size_bytes=artifact.size_bytes,
        images=artifact.accuracy.images if artifact.accuracy else None,
        top1_correct=artifact.accuracy.top1_correct if artifact.accuracy else None,
        added=now,
    )


def _digest(report: Report, summary: LatencySummary) -> str:
    """Return the digest of a measurement: its figures, and the artifact that they are of."""
    of = next((artifact.digest() for artifact in report.artifacts if artifact.name == summary.artifact), "")
    return digest_of({"artifact": of, "summary": summary.model_dump(mode="json")})


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)

"""Judging: the facts of a run side by side, a verdict over them, and both written down.

`judge` is a pure function: the same report and budgets give the same bytes of verdict.json, on any machine, at any time.
"""

from collections.abc import Sequence
from pathlib import Path

from edgekd.core.contracts import Budget, Format
from edgekd.core.errors import (
    BUDGET_FAILED,
    INCONCLUSIVE,
    MACHINE,
    PASSED,
    EvidenceError,
    MachineError,
    UsageError,
    worst,
)
from edgekd.core.records import Artifact, Finding, LatencySummary, MadeBy, Measurement, Outcome, Report, Verdict, digest_of
from edgekd.core.samples import read_samples
from edgekd.core.store import BASELINE, RunFolder, disk_errors, write_bytes, write_text
from edgekd.judging import evidence, latencies, quantisation
from edgekd.judging.details import details_of

_CODES: dict[Outcome, int] = {"pass": PASSED, "fail": BUDGET_FAILED, "inconclusive": INCONCLUSIVE, "error": MACHINE}
_OUTCOMES: dict[int, Outcome] = {code: outcome for outcome, code in _CODES.items()}


def make_report(*, recipe_name: str, run: RunFolder, artifacts: Sequence[str] | None, made_by: MadeBy) -> Report:
    """Put the records of a run side by side; `artifacts` names those that belong to it (None: all that are there).

    Raises `UsageError` without a student, `IntegrityError` for a file that was changed, and `EvidenceError` for a record
    that was not made from the record before it.
    """
    student = evidence.read_student(run)
    baseline = evidence.read_student(run, BASELINE) if run.checkpoint(BASELINE).is_file() else None
    int8 = evidence.read_int8(run, student.record)
    exported = evidence.read_artifacts(run, [student.record] if int8 is None else [student.record, int8], artifacts)
    measured = evidence.read_measurements(run, exported, only_these=artifacts is not None)
    from_ = {"checkpoint": student.record.digest()}
    if baseline is not None:
        from_["baseline"] = baseline.record.digest()
    if int8 is not None:
        from_["int8"] = int8.digest()
    from_ |= {f"artifacts/{record.name}": record.digest() for record in exported}
    from_ |= {f"measurements/{name}": record.digest() for name, record in measured.items()}
    return Report(
        made_by=made_by,
        from_=from_,
        recipe=recipe_name,
        student=student.record,
        baseline=baseline.record if baseline else None,
        comparison=(evidence.compare_students(student, baseline, where=run.checkpoint(BASELINE)) if baseline else None),
        student_curve=student.curve,
        baseline_curve=baseline.curve if baseline else (),
        artifacts=exported,
        details=details_of(run, student.record, baseline.record if baseline else None, exported),
        latencies=tuple(_summary(run, name, record) for name, record in measured.items()),
    )


def judge(report: Report, budgets: Sequence[Budget], made_by: MadeBy) -> Verdict:
    """Hold a report against budgets; without any budget the verdict is inconclusive, because unknown is not passed.

    For the same reason an artifact that was not executed is one inconclusive finding more, whatever the budgets ask.
    Of `made_by` only the version enters the verdict, which therefore depends on nothing but the report and the budgets.
    """
    findings = tuple(finding for budget in budgets for finding in _answers(budget, report)) + quantisation.refusals(report)
    if budgets:
        findings += tuple(_unknown(artifact) for artifact in report.artifacts if artifact.not_executed)
    exit_code = worst(_CODES[finding.outcome] for finding in findings)
    return Verdict(
        made_by=MadeBy(version=made_by.version),
        from_={
            "report": report.digest(),
            "budgets": digest_of([budget.ref().model_dump(mode="json") for budget in budgets]),
        },
        outcome=_OUTCOMES[exit_code],
        exit_code=exit_code,
        findings=findings,
    )


def write(run: RunFolder, report: Report, verdict: Verdict, formats: Sequence[Format]) -> tuple[Path, ...]:
    """Write report.json, the report in each format, and verdict.json last; nothing is written if one cannot be rendered."""
    if verdict.from_.get("report") != report.digest():
        raise EvidenceError("this verdict is about another report", mend="judge this report again")
    pages = {run.report: report.to_json()}
    beside: dict[Path, bytes] = {}
    for part in formats:
        path = run.root / part.file_name
        text = part.render(report, verdict)
        if pages.setdefault(path, text) != text or path == run.verdict:
            raise UsageError(f"two formats want to write {part.file_name}", mend="drop one of them from `formats:`")
        beside |= {run.root / name: content for name, content in part.beside(report, verdict).items()}
    pages[run.verdict] = verdict.to_json()
    for path, content in beside.items():
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    for path, text in pages.items():
        write_text(path, text)
    return tuple(pages)


def _summary(run: RunFolder, name: str, record: Measurement) -> LatencySummary:
    table = read_samples(record, folder=run.root / "measurements")
    return latencies.summarise(evidence.artifact_of(name), record, table)


def _unknown(artifact: Artifact) -> Finding:
    """Return what keeps a verdict from passing over an artifact that never ran, whatever its budgets ask."""
    return Finding(
        budget="executed",
        subject=artifact.name,
        value=0.0,
        limit=1.0,
        bound="at least",
        unit="images",
        outcome="inconclusive",
        because=f"{artifact.name} was exported and not executed, so nothing is known of it: {artifact.not_executed}.",
    )


def _answers(budget: Budget, report: Report) -> tuple[Finding, ...]:
    findings = budget.check(report)
    if not findings:
        raise MachineError(
            f"the budget {budget.ref().use!r} gave no answer", mend="report this to whoever provides that budget"
        )
    return findings

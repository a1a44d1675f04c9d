"""Judging: the facts of a run side by side, a verdict over them, and both written down.

`judge` is a pure function: the same report and budgets give the same bytes of verdict.json, on any machine, at any time.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.core import stats
from edgekd.core.budgets import Budgets, Check
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
from edgekd.core.evidence import Evidence
from edgekd.core.records import (
    Artifact,
    Finding,
    LatencySummary,
    MadeBy,
    Measurement,
    Outcome,
    Report,
    Verdict,
    Waiver,
)
from edgekd.core.samples import read_samples
from edgekd.core.store import BASELINE, RunFolder, checked_file, disk_errors, write_bytes, write_text
from edgekd.judging import evidence, latencies, quantisation
from edgekd.judging.details import details_of
from edgekd.judging.timelines import timelines_of

_CODES: dict[Outcome, int] = {"pass": PASSED, "fail": BUDGET_FAILED, "inconclusive": INCONCLUSIVE, "error": MACHINE}
_OUTCOMES: dict[int, Outcome] = {code: outcome for outcome, code in _CODES.items()}


def make_report(
    *,
    recipe_name: str,
    run: RunFolder,
    artifacts: Sequence[str] | None,
    made_by: MadeBy,
    kept: Report | None = None,
) -> Report:
    """Put the records of a run side by side; `artifacts` names those that belong to it (None: all that are there).

    The figures of a measurement are taken from `kept` where that is a report about the same measurements: computing them anew
    takes longer than judging does; the samples' digests are checked all the same. Raises `UsageError` without a student,
    `IntegrityError` for a file that was changed, and `EvidenceError` for a record that was not made from the record before it.
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
        details=details_of(run, student.record, baseline.record if baseline else None, exported).model_copy(
            update={
                "timelines": timelines_of(measured, run.root / "measurements"),
                "fingerprints": {one.device.name: one.fingerprint for one in measured.values()},
            }
        ),
        latencies=tuple(_summary(run, name, record) for name, record in measured.items())
        if kept is None or kept.from_ != from_
        else _kept(kept, run, measured),
        answers=evidence.answers(run, student.record, baseline.record if baseline else None, exported),
    )


def _kept(report: Report, run: RunFolder, measured: Mapping[str, Measurement]) -> tuple[LatencySummary, ...]:
    for record in measured.values():
        checked_file(record.samples, folder=run.root / "measurements")
    return report.latencies


def judge(
    report: Report,
    budgets: Budgets | Sequence[Budget],
    made_by: MadeBy,
    *,
    baseline: Report | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Hold a report against budgets; without any budget the verdict is inconclusive, because unknown is not passed.

    For the same reason an artifact that was not executed is one inconclusive finding more, whatever the budgets ask.
    Of `made_by` only the version enters the verdict, which therefore depends on nothing but the reports and the budgets.
    `today` only refuses: a waiver that ended before it is a `UsageError`; on every day before that the verdict is the same.
    """
    budgets = budgets if isinstance(budgets, Budgets) else Budgets.of(budgets)
    if today is not None:
        budgets.refuse_expired(today)
    evidence = Evidence(report=report, baseline=baseline, devices=budgets.devices)
    asked = [check for check in budgets.checks if check.level != "off"]
    findings = _held_together(asked, evidence) + quantisation.refusals(report)
    if asked:
        findings += tuple(_unknown(artifact) for artifact in report.artifacts if artifact.not_executed)
    findings = tuple(_waived(finding, budgets) for finding in findings)
    exit_code = _exit_code(findings)
    from_ = {"report": report.digest(), "budgets": budgets.digest()}
    return Verdict(
        made_by=MadeBy(version=made_by.version),
        from_=from_ if baseline is None else from_ | {"baseline": baseline.digest()},
        outcome=_OUTCOMES[exit_code],
        exit_code=exit_code,
        findings=findings,
        budgets_file=budgets.file,
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


def _exit_code(findings: Sequence[Finding]) -> int:
    """Return what the findings that count amount to; what is only told of passes if anything passed at all."""
    counted = [_CODES[finding.outcome] for finding in findings if finding.counts]
    if not counted and any(finding.outcome == "pass" for finding in findings):
        return PASSED
    return worst(counted)


def _held_together(checks: Sequence[Check], evidence: Evidence) -> tuple[Finding, ...]:
    """Return every check's findings; the fails of those that share an error are held to it together (Holm 1979)."""
    found = [list(_answers(check, evidence)) for check in checks]
    tests = [
        (i, j)
        for i, check in enumerate(checks)
        if check.budget.shares_error
        for j, finding in enumerate(found[i])
        if finding.p_value is not None and finding.alpha
    ]
    if len(tests) < 2:
        return tuple(finding for findings in found for finding in findings)
    proven = stats.holm([_relative_p(found[i][j]) for i, j in tests], alpha=1.0)
    share = 1 / (len(tests) - sum(proven)) if not all(proven) else 1.0
    for (i, j), stands in zip(tests, proven, strict=True):
        told = found[i][j]
        step = f"{len(tests)} comparisons share their error (Holm)"
        if told.outcome == "fail" and not stands:
            again = _answers(checks[i], evidence.narrowed({told.subject: share}))
            told = next(one for one in again if one.subject == told.subject)
            step += f"; a fail here may use {share:.3g} of it, which is not enough"
        found[i][j] = told.model_copy(update={"arithmetic": (*told.arithmetic, f"{step}.")})
    return tuple(finding for findings in found for finding in findings)


def _relative_p(finding: Finding) -> float:
    assert finding.p_value is not None
    assert finding.alpha
    return finding.p_value / finding.alpha


def _waived(finding: Finding, budgets: Budgets) -> Finding:
    waiver = next((one for one in budgets.waivers if one.budget == finding.id), None)
    if waiver is None or finding.outcome == "pass":
        return finding
    return finding.model_copy(update={"waived": Waiver(until=waiver.until, reason=waiver.reason, by=waiver.by)})


def _answers(check: Check, evidence: Evidence) -> tuple[Finding, ...]:
    findings = check.budget.check(evidence)
    if not findings:
        raise MachineError(
            f"the budget {check.budget.ref().use!r} gave no answer", mend="report this to whoever provides that budget"
        )
    return tuple(_stamped(finding, check) for finding in findings)


def _stamped(finding: Finding, check: Check) -> Finding:
    level = "warn" if "warn" in (check.level, finding.level) else "error"
    stamp = {
        "id": check.id,
        "metric": check.metric,
        "level": level,
        "tolerated": check.tolerate_inconclusive,
        "line": check.line,
    }
    return finding.model_copy(update=stamp)

"""Markdown, as code hosts show it in a job summary or a comment."""

from collections.abc import Iterator
from typing import ClassVar

from edgekd.core import stats
from edgekd.core.contracts import Format
from edgekd.core.records import Artifact, LatencySummary, Parity, Report, Verdict
from edgekd.judging import heads, quantisation, wording
from edgekd.judging.formats._findings import WORDS, rows, worst_first
from edgekd.judging.formats._markdown import code, fitted, prose, table

LONGEST_LIST = 20
MOST_CHECKS = 1_000
MOST_REASONS = 200
MOST_BYTES = 900 * 1024  # a job summary of more than 1,024 KiB is not shown at all
CUT = "**Cut here:** the rest is in report.json and verdict.json."


class Markdown(Format):
    """Markdown with tables, for job summaries (at most 900 KiB); names are shown, never obeyed."""

    file_name: ClassVar[str] = "report.md"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the document."""
        blocks = [
            f"# edgekd: {prose(report.recipe)} {wording.OUTCOMES[verdict.outcome]}",
            prose(wording.headline(report, verdict)),
            *_verdict(verdict),
            *_learning(report),
            *_representation(report),
            *_artifacts(report),
            *_quantisations(report),
            *_latencies(report),
            *_ingredients(report),
            *_provenance(report, verdict),
        ]
        return fitted("\n\n".join(blocks) + "\n", most_bytes=MOST_BYTES, note=CUT)


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield "## Verdict"
    if not verdict.findings:
        yield prose(wording.NO_BUDGETS)
        return
    found = rows(verdict)
    yield table(
        ("", "Check", "Subject", "Value", "Limit"),
        (
            (
                f"**{WORDS[row.standing]}**" if row.standing != "pass" else WORDS[row.standing],
                prose(row.title),
                code(row.subject),
                prose(row.shown_value),
                prose(row.shown_limit),
            )
            for row in (found if len(found) <= MOST_CHECKS else worst_first(found)[:MOST_CHECKS])
        ),
    )
    if len(found) > MOST_CHECKS:
        yield f"The worst {MOST_CHECKS:,} of {len(found):,} checks; all of them are in verdict.json."
    open_ones = worst_first(row for row in found if row.standing != "pass")
    if open_ones:
        yield "\n".join(f"- **{WORDS[row.standing]}**: {prose(row.told)}" for row in open_ones[:MOST_REASONS])
    yield f"Exit code {verdict.exit_code}. Unknown is not passed."


def _learning(report: Report) -> Iterator[str]:
    comparison, student, baseline = report.comparison, report.student, report.baseline
    if comparison is None or baseline is None:
        return
    yield "## Student against baseline"
    rows = [
        (
            "Student",
            code(student.method.use),
            wording.share_interval(comparison.student_top1),
            f"{student.training.images_seen:,}",
        ),
        (
            "Baseline",
            code(baseline.method.use),
            wording.share_interval(comparison.baseline_top1),
            f"{baseline.training.images_seen:,}",
        ),
    ]
    yield table(("", "Method", "Top-1, 95 % interval", "Images seen"), rows)
    yield (
        f"On the same {comparison.images:,} images {comparison.only_student_right:,} are right with the student only and "
        f"{comparison.only_baseline_right:,} with the baseline only: {wording.points_interval(comparison.difference)}, "
        f"exact McNemar p = {comparison.mcnemar_p:.2g}."
    )


def _representation(report: Report) -> Iterator[str]:
    seen = report.student.representation
    if seen is None:
        return
    yield "## What the student sees"
    rows = ((prose(pair), wording.MISSING if cka is None else f"{cka:.3f}") for pair, cka in seen.cka.items())
    yield table(("Features compared", "Linear CKA"), rows)
    yield f"On {wording.counted(len(seen.labels), 'validation image')}; 1 is alike up to rotation and scale."


def _artifacts(report: Report) -> Iterator[str]:
    if not report.artifacts:
        return
    yield "## Artifacts"
    head = ("Artifact", "Runtime", "Executed", "Size", "Top-1 through runtime", "Agrees with torch", "Max abs")
    yield table(head, map(_artifact_row, report.artifacts))
    for artifact in report.artifacts:
        if artifact.not_executed:
            yield f"{code(artifact.name)} was not executed: {prose(artifact.not_executed)}"
    if further := heads.rows(report):
        yield table(heads.COLUMNS, (tuple(map(prose, row)) for row in further))
    flips = [(artifact.name, flip) for artifact in report.artifacts if artifact.parity for flip in artifact.parity.flips]
    if flips:
        yield table(
            ("Flip in", "Image", "Label", "Torch says", "Artifact says"),
            (
                (code(name), code(flip.image), prose(flip.label), prose(flip.torch_class), prose(flip.runtime_class))
                for name, flip in flips[:LONGEST_LIST]
            ),
        )
        yield from _more(len(flips))


def _artifact_row(artifact: Artifact) -> tuple[str, ...]:
    accuracy, parity = artifact.accuracy, artifact.parity
    if accuracy is None or parity is None:
        nothing = (wording.MISSING,) * 3
        return (code(artifact.name), wording.MISSING, "**not executed**", wording.size(artifact.size_bytes), *nothing)
    return (
        code(artifact.name),
        prose(artifact.runtime),
        prose(f"{artifact.executed_precision} on {artifact.executed_on}"),
        wording.size(artifact.size_bytes),
        wording.share_interval(stats.wilson(accuracy.top1_correct, accuracy.images)) if accuracy.images else wording.MISSING,
        f"{wording.percent(parity.top1_agreement)} of {parity.images:,}{_proven(parity)}" if parity.images else wording.MISSING,
        f"{parity.max_abs:.2g}" + (f", {parity.non_finite:,} NaN or infinite" if parity.non_finite else ""),
    )


def _quantisations(report: Report) -> Iterator[str]:
    for artifact, search in quantisation.searches(report):
        yield f"## int8 for {code(artifact.name)}"
        if search.refused:
            yield f"**Refused:** {prose(search.refused)}."
        yield table(quantisation.COLUMNS, (tuple(map(prose, row)) for row in quantisation.rows(search)))
        yield prose(quantisation.told(search))


def _proven(parity: Parity) -> str:
    return f" (proves {100 * parity.decision.agreement_low:.1f} %)" if parity.decision is not None else ""


def _latencies(report: Report) -> Iterator[str]:
    if not report.latencies:
        return
    yield "## Latency"
    head = (
        *("Artifact", "Device", "p50 [95 % interval]", "p90", "p99", "Photograph to classes, p50"),
        *("Loading", "First inference", "Samples", "Load before", "Remarks"),
    )
    yield table(head, map(_latency_row, report.latencies))
    for device in wording.devices(report):
        quota = "" if device.cgroup_quota_cores is None else f", quota {device.cgroup_quota_cores:g}"
        yield prose(
            f"Device {device.name}: {device.cpu or 'unknown processor'}, {device.usable_cores} usable cores{quota}, "
            f"governor {device.governor or 'unknown'}, {device.system}, {device.python}."
        )


def _latency_row(summary: LatencySummary) -> tuple[str, ...]:
    remarks = [f"not trusted: {line}" for line in summary.untrusted_because]
    remarks += [line for line in summary.flags if line not in summary.untrusted_because]
    remarks += [f"withheld: {line}" for line in summary.withheld]
    return (
        code(summary.artifact) + wording.of_arm(summary),
        prose(f"{summary.device.name}, {wording.load(summary)}"),
        wording.latency_interval(summary, "p50", summary.p50_ms),
        wording.quantity(summary.p90_ms, "ms"),
        wording.quantity(summary.p99_ms, "ms"),
        wording.quantity(summary.whole.e2e_p50_ms if summary.whole else None, "ms"),
        wording.quantity(max(summary.load_ms, default=None), "ms"),
        wording.quantity(max(summary.first_ms, default=None), "ms"),
        f"{summary.samples:,} in {wording.counted(len(summary.rounds), 'process', 'processes')}",
        "unknown" if summary.device.load_1min is None else f"{summary.device.load_1min:.2f}",
        prose("; ".join(remarks)),
    )


def _ingredients(report: Report) -> Iterator[str]:
    student, data = report.student, report.student.data
    yield "## Teacher and data"
    for teacher in student.teachers:
        probe = "not probed" if teacher.probe_top1 is None else f"linear probe {wording.percent(teacher.probe_top1)}"
        yield prose(f"Teacher {teacher.name}: {teacher.parameters:,} parameters, licence {teacher.licence}, {probe}.")
    yield prose(
        f"Data: {data.train_images:,} training images, {data.labelled_images:,} of them labelled, "
        f"{data.validation_images:,} validation images, {wording.counted(len(data.classes), 'class', 'classes')}."
    )
    if data.quarantined:
        rows = ((code(image.image), prose(image.reason)) for image in data.quarantined[:LONGEST_LIST])
        yield table(("Image left out", "Reason"), rows)
        yield from _more(len(data.quarantined))


def _provenance(report: Report, verdict: Verdict) -> Iterator[str]:
    yield "## Provenance"
    rows = [("verdict", verdict.digest()), ("report", report.digest()), *report.from_.items()]
    rows += [(f"teacher {teacher.name}", teacher.weights_sha256) for teacher in report.student.teachers]
    rows.append(("data", report.student.data.digest))
    yield table(("Record", "Digest"), ((code(name), code(digest)) for name, digest in rows))
    made_by = report.made_by
    git = f", git {made_by.git}" if made_by.git else ""
    yield f"Made by {code(made_by.command or 'unknown command')} with {prose(f'edgekd {made_by.version}{git}')}."


def _more(length: int) -> Iterator[str]:
    if length > LONGEST_LIST:
        yield f"and {length - LONGEST_LIST:,} more, all in report.json"

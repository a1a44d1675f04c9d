"""The comment under a pull request: the verdict in a few lines, found again by a hidden mark and replaced."""

import hashlib
from collections.abc import Iterator
from typing import ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats._findings import WORDS, Row, clipped, rows, worst_first
from edgekd.judging.formats._markdown import code, fitted, prose, table

MOST_BYTES = 60_000  # GitHub refuses a comment of more than 65,536 characters
MOST_ROWS = 50
LONGEST_REASON = 600
_CUT = "**Cut here:** the rest is in report.json and verdict.json."
_SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "error": "⚠️"}


class Comment(Format):
    """Markdown for one comment under a pull request (at most 60 kB), found again by its hidden first line."""

    file_name: ClassVar[str] = "comment.md"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the comment; its first line is `mark(report)`."""
        blocks = [
            mark(report),
            f"### {_SIGNS[verdict.outcome]} edgekd: {_short(report.recipe)} {wording.OUTCOMES[verdict.outcome]}",
            prose(clipped(wording.headline(report, verdict), 2_000)),
            *_findings(verdict),
            *_latencies(report),
            _foot(report, verdict),
        ]
        return fitted("\n\n".join(blocks) + "\n", most_bytes=MOST_BYTES, note=_CUT)


def mark(report: Report) -> str:
    """Return the hidden line that a comment begins with: the same for every report of one recipe."""
    return f"<!-- edgekd verdict {hashlib.sha256(wording.plain(report.recipe).encode()).hexdigest()[:16]} -->"


def _foot(report: Report, verdict: Verdict) -> str:
    digests = f"verdict {verdict.digest()[:12]}, report {report.digest()[:12]}, edgekd {prose(report.made_by.version)}"
    return f"<sub>{digests}; exit code {verdict.exit_code}. Unknown is not passed.</sub>"


def _findings(verdict: Verdict) -> Iterator[str]:
    found = rows(verdict)
    if not found:
        yield prose(wording.NO_BUDGETS)
        return
    ranked = worst_first(found)
    shown = [row for row in ranked if row.standing != "pass"] or ranked
    yield table(("", "Check", "Subject", "Value", "Limit"), map(_cells, shown[:MOST_ROWS]))
    if len(shown) > MOST_ROWS:
        yield f"and {len(shown) - MOST_ROWS:,} more"
    if passed := len(found) - len(shown):
        yield f"and {wording.counted(passed, 'check')} passed"
    reasons = [
        f"- **{WORDS[row.standing]}**: {prose(clipped(row.told, LONGEST_REASON))}"
        for row in shown[:MOST_ROWS]
        if row.standing != "pass"
    ]
    if reasons:
        yield "\n".join(reasons)


def _cells(row: Row) -> tuple[str, ...]:
    word = WORDS[row.standing]
    return (
        f"**{word}**" if row.counts else word,
        _short(row.title),
        code(clipped(row.subject, 200)),
        prose(row.shown_value),
        prose(row.shown_limit),
    )


def _latencies(report: Report) -> Iterator[str]:
    measured = [one for one in report.latencies if one.p50_ms is not None and wording.arm(one) == "candidate"]
    if not measured:
        return
    rows_ = (
        (
            code(clipped(summary.artifact, 200)),
            _short(summary.device.name),
            wording.quantity(summary.p50_ms, "ms"),
            wording.quantity(summary.p90_ms, "ms"),
        )
        for summary in measured[:MOST_ROWS]
    )
    yield table(("Artifact", "Device", "p50", "p90"), rows_)


def _short(text: str) -> str:
    return prose(clipped(wording.plain(text), 200))

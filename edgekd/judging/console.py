"""The verdict and other tables as aligned plain text for a terminal."""

import textwrap
import unicodedata
from collections.abc import Sequence

from edgekd.core.records import Finding, Outcome, Verdict
from edgekd.judging import wording

WIDTH = 100
_COLOURS: dict[Outcome, str] = {"pass": "32", "fail": "31", "inconclusive": "33", "error": "31"}
_SIGNS = {"at most": "<=", "at least": ">="}


def verdict_lines(verdict: Verdict, *, colour: bool = False) -> list[str]:
    """Return the table of findings, under each that did not pass why and what would decide it, and the verdict last.

    What only warns is called a warning, what was waived waived; both are told and do not count.
    """
    rows = [("result", "check", "subject", "value", "limit"), *(_row(finding) for finding in verdict.findings)]
    table = aligned(rows) if verdict.findings else []
    lines = table[:1]
    for finding, line in zip(verdict.findings, table[1:], strict=True):
        word = wording.standing(finding)
        lines.append(_painted(word, finding.outcome, colour) + line[len(word) :])
        if finding.outcome != "pass":
            lines += [line for text in _reasons(finding) for line in _wrapped(text)]
    if not verdict.findings:
        lines += _wrapped(wording.NO_BUDGETS, indent="")
    word = _painted(wording.OUTCOMES[verdict.outcome].upper(), verdict.outcome, colour)
    return [*lines, "", f"{word}: {wording.tally(verdict)} (exit code {verdict.exit_code})"]


def _reasons(finding: Finding) -> list[str]:
    return [text for text in (finding.because, finding.needs, wording.waiver(finding)) if text]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with left-aligned columns two spaces apart; every cell is made harmless first."""
    cells = [[wording.plain(cell) for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        wording.standing(finding),
        wording.check(finding),
        finding.subject,
        wording.quantity(finding.value, finding.unit),
        f"{_SIGNS[finding.bound]} {wording.quantity(finding.limit, finding.unit)}",
    )


def _wrapped(text: str, *, indent: str = "    ") -> list[str]:
    return textwrap.wrap(wording.plain(text), WIDTH, initial_indent=indent, subsequent_indent=indent)


def _painted(word: str, outcome: Outcome, colour: bool) -> str:
    return f"\x1b[1;{_COLOURS[outcome]}m{word}\x1b[0m" if colour else word


def _columns(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))

"""Workflow commands: what did not pass, as GitHub's runner shows it beside the budgets file."""

import re
from collections.abc import Sequence
from typing import ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats._findings import WORDS, BudgetsPath, Row, clipped, named_file, rows, worst_first

MOST = 10  # of one step the runner shows no more
LONGEST_MESSAGE = 1_000


class Annotations(Format):
    """`::error` lines for GitHub's runner, worst first, at most ten, everything in them percent-encoded.

    `budgets` is the budgets file's path from the root of the repository, by default the one that the verdict names. What only
    warns is a `::warning`; what passed or was waived has no line.
    """

    file_name: ClassVar[str] = "annotations.txt"
    budgets: BudgetsPath = ""

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return one command a line; print them to the log of a step."""
        file = named_file(verdict, self.budgets)
        told = [row for row in worst_first(rows(verdict)) if row.counts or row.standing == "warned"]
        if not verdict.findings:
            return _command("error", file, 1, f"edgekd: {report.recipe}", wording.NO_BUDGETS)
        room = MOST if len(told) <= MOST else MOST - 1
        return "".join(_line(file, row) for row in told[:room]) + _rest(file, told[room:])


def _line(file: str, row: Row) -> str:
    kind = "error" if row.counts else "warning"
    return _command(kind, file, row.line or 1, f"edgekd: {row.name} {WORDS[row.standing]}", row.told)


def _rest(file: str, left: Sequence[Row]) -> str:
    if not left:
        return ""
    kind = "error" if any(row.counts for row in left) else "warning"
    return _command(kind, file, 1, "edgekd", f"{len(left):,} more did not pass; all of them are in verdict.json")


def _command(kind: str, file: str, line: int, title: str, message: str) -> str:
    where = f"file={_property(file)},line={line},title={_property(clipped(title, 250))}"
    return f"::{kind} {where}::{_data(clipped(message, LONGEST_MESSAGE))}\n"


def _data(text: str) -> str:
    """Return the text of a command, as @actions/core escapes it; `##[` would begin a command of the older kind."""
    encoded = wording.plain(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return re.sub(r"##(?=\[)", "#%23", encoded)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

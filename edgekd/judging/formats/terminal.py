"""The table that a terminal shows, as a file."""

from typing import ClassVar

from edgekd.core.console import printable
from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging.console import verdict_lines


class Terminal(Format):
    """The verdict as the aligned table that a terminal shows; plain text without colours."""

    file_name: ClassVar[str] = "verdict.txt"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the lines; no name in them can steer a terminal or a build server that reads its log."""
        return "".join(f"{printable(line)}\n" for line in verdict_lines(verdict))

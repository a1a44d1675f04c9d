"""The report as the record that it is."""

from typing import ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict


class Json(Format):
    """The report record itself, which `edgekd gate` can judge again.

    The verdict stands beside it in verdict.json, whatever formats are asked for.
    """

    file_name: ClassVar[str] = "report.json"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the report's JSON."""
        return report.to_json()

"""A badge: the verdict in one line, as shields.io draws it."""

import json
from typing import Annotated, ClassVar

from pydantic import Field

from edgekd.core.contracts import Format
from edgekd.core.records import Outcome, Report, Verdict
from edgekd.judging import wording

_COLOURS: dict[Outcome, str] = {"pass": "brightgreen", "fail": "red", "inconclusive": "yellow", "error": "lightgrey"}


class Badge(Format):
    """JSON for shields.io's endpoint badge: the verdict, top-1 and p50; `label` is its left half."""

    file_name: ClassVar[str] = "badge.json"
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")] = "edgekd"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the JSON; no name from the report stands in it."""
        said = [wording.OUTCOMES[verdict.outcome]]
        if report.student.accuracy.images:
            said.append(f"{wording.percent(report.student.accuracy.top1)} top-1")
        fast = wording.fastest(report)
        if fast is not None and fast.p50_ms is not None:
            said.append(f"{wording.milliseconds(fast.p50_ms)} p50")
        badge = {
            "schemaVersion": 1,
            "label": self.label,
            "message": ", ".join(said),
            "color": _COLOURS[verdict.outcome],
            "isError": verdict.outcome == "error",
        }
        return json.dumps(badge, indent=1, ensure_ascii=True) + "\n"

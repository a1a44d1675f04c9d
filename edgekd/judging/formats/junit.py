"""JUnit XML: one test case per budget, as build servers read it."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar
from xml.etree import ElementTree as ET

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats._findings import Row, Standing, by_budget, clipped, rows, worst_first

_TAGS: dict[Standing, str] = {
    "pass": "system-out",
    "fail": "failure",
    "inconclusive": "error",
    "error": "error",
    "warned": "skipped",
    "waived": "skipped",
}
_LONGEST = 10_000


class Junit(Format):
    """JUnit XML for build servers, one test case per budget.

    What failed is a failure; what is inconclusive is an error, as is what could not be judged; what only warns or was
    waived is skipped, with the reason.
    """

    file_name: ClassVar[str] = "junit.xml"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the document; a verdict without findings is one test case in error, because an empty suite reads as passed."""
        budgets = by_budget(rows(verdict))
        counts = Counter(_TAGS[worst_first(found)[0].standing] for found in budgets.values())
        name = clipped(wording.plain(f"edgekd {report.recipe}"), 500)
        totals = {
            "tests": str(max(1, len(budgets))),
            "failures": str(counts["failure"]),
            "errors": str(counts["error"] + (not budgets)),
        }
        root = ET.Element("testsuites", {"name": name, **totals})
        suite = ET.SubElement(root, "testsuite", {"name": name, **totals, "skipped": str(counts["skipped"])})
        for budget, found in budgets.items():
            _add_case(suite, report, budget, worst_first(found))
        if not budgets:
            case = ET.SubElement(suite, "testcase", {"classname": name, "name": "budgets"})
            ET.SubElement(case, "error", {"type": "inconclusive", "message": wording.NO_BUDGETS})
        ET.indent(root, " ")
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, report: Report, budget: str, found: Sequence[Row]) -> None:
    """Add the case of one budget; of its findings, worst first, the message tells those that stand as the worst one does."""
    worst = found[0]
    classname = clipped(wording.plain(f"edgekd.{report.recipe}"), 500)
    case = ET.SubElement(suite, "testcase", {"classname": classname, "name": budget})
    alike = [row for row in found if row.standing == worst.standing]
    told = clipped("\n".join(f"{row.subject}: {row.told}" for row in alike), _LONGEST)
    element = ET.SubElement(case, _TAGS[worst.standing])
    if worst.standing == "pass":
        element.text = told
        return
    if _TAGS[worst.standing] != "skipped":
        element.set("type", worst.outcome)
    element.set("message", clipped(f"{worst.subject}: {worst.told}", 1_000))
    if len(alike) > 1 and _TAGS[worst.standing] != "skipped":
        element.text = told

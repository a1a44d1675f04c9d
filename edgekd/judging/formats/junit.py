"""JUnit XML: one test case per finding, as build servers read it."""

from collections import Counter
from typing import ClassVar
from xml.etree import ElementTree as ET

from edgekd.core.contracts import Format
from edgekd.core.records import Finding, Report, Verdict
from edgekd.judging import wording


class Junit(Format):
    """JUnit XML for build servers, one test case per finding.

    What failed is a failure; what is inconclusive is an error, as is what could not be judged.
    """

    file_name: ClassVar[str] = "junit.xml"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the document; a verdict without findings is one test case in error, because an empty suite reads as passed."""
        counts = Counter(finding.outcome for finding in verdict.findings)
        failures = counts["fail"]
        errors = counts["inconclusive"] + counts["error"] + (not verdict.findings)
        name = wording.plain(f"edgekd {report.recipe}")
        totals = {"tests": str(max(1, len(verdict.findings))), "failures": str(failures), "errors": str(errors)}
        root = ET.Element("testsuites", {"name": name, **totals})
        suite = ET.SubElement(root, "testsuite", {"name": name, **totals, "skipped": "0"})
        for finding in verdict.findings:
            _add_case(suite, report, finding)
        if not verdict.findings:
            case = ET.SubElement(suite, "testcase", {"classname": name, "name": "budgets"})
            ET.SubElement(case, "error", {"type": "inconclusive", "message": wording.NO_BUDGETS})
        ET.indent(root, " ")
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, report: Report, finding: Finding) -> None:
    names = {"classname": f"edgekd.{report.recipe}", "name": f"{finding.budget} [{finding.subject}]"}
    case = ET.SubElement(suite, "testcase", {key: wording.plain(value) for key, value in names.items()})
    because = wording.plain(finding.because)
    if finding.outcome == "pass":
        ET.SubElement(case, "system-out").text = because
        return
    tag = "failure" if finding.outcome == "fail" else "error"
    ET.SubElement(case, tag, {"type": finding.outcome, "message": because})

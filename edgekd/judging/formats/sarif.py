"""SARIF 2.1.0: what did not pass, at the line of its budget, as code scanning shows it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats._findings import (
    WORDS,
    BudgetsPath,
    Row,
    Standing,
    by_budget,
    clipped,
    named_file,
    rows,
    worst_first,
)

MOST_RESULTS = 1_000
LONGEST_MESSAGE = 1_000
_LEVELS: dict[Standing, str] = {
    "error": "error",
    "fail": "error",
    "inconclusive": "error",
    "warned": "warning",
    "waived": "note",
}


class Sarif(Format):
    """SARIF 2.1.0 for code scanning: one rule per budget, results at its line in the budgets file.

    `budgets` is that file's path from the root of the repository, by default the one that the verdict names. At most 1,000
    results, the worst first; what passed is none. An inconclusive budget is an error, because unknown is not passed.
    """

    file_name: ClassVar[str] = "verdict.sarif"
    budgets: BudgetsPath = ""

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the log: one run."""
        found, file = rows(verdict), named_file(verdict, self.budgets)
        open_ones = [row for row in worst_first(found) if row.standing in _LEVELS]
        shown = open_ones[:MOST_RESULTS]
        # The budgets of the results come first, so that every result finds its rule.
        named = by_budget([*shown, *found])
        rules = list(named)[:MOST_RESULTS]
        driver = {"name": "edgekd", "version": _version(report), "rules": [_rule(rule, named[rule]) for rule in rules]}
        run: dict[str, Any] = {
            "tool": {"driver": driver},
            "columnKind": "unicodeCodePoints",
            "results": [_result(report, row, rules, file) for row in shown] or _unjudged(verdict, file),
            "properties": {
                "outcome": verdict.outcome,
                "exitCode": verdict.exit_code,
                "verdict": verdict.digest(),
                "report": report.digest(),
                "leftOut": len(open_ones) - len(shown),
            },
        }
        log = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
        return json.dumps(log, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _result(report: Report, row: Row, rules: Sequence[str], file: str) -> dict[str, Any]:
    said = f"{WORDS[row.standing].capitalize()}, {row.check}, {row.subject}: {row.told}"
    identity = "\n".join((report.recipe, row.budget, row.subject)).encode("utf-8", "backslashreplace")
    return {
        "ruleId": row.budget,
        "ruleIndex": rules.index(row.budget),
        "level": _LEVELS[row.standing],
        "message": {"text": _message(said)},
        "locations": [_location(file, row.line)],
        "partialFingerprints": {"edgekd/v1": hashlib.sha256(identity).hexdigest()},
        **({"suppressions": [{"kind": "external", "justification": row.waiver}]} if row.standing == "waived" else {}),
        "properties": {"outcome": row.outcome},
    }


def _unjudged(verdict: Verdict, file: str) -> list[dict[str, Any]]:
    if verdict.findings:
        return []
    return [{"level": "error", "message": {"text": _message(wording.NO_BUDGETS)}, "locations": [_location(file, None)]}]


def _location(file: str, line: int | None) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": file, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": line or 1},
        }
    }


def _rule(budget: str, found: Sequence[Row]) -> dict[str, Any]:
    return {
        "id": budget,
        "shortDescription": {"text": _message(f"The budget {budget}: {found[0].check}")},
        "help": {"text": "Its arithmetic, and what would change it: edgekd gate RUN --explain ID"},
    }


def _version(report: Report) -> str:
    return clipped(wording.plain(report.made_by.version), 100)


def _message(text: str) -> str:
    """Return text for a SARIF message: brackets would be links and braces placeholders (sections 3.11.5 and 3.11.6)."""
    escaped = clipped(text, LONGEST_MESSAGE).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return escaped.replace("{", "{{").replace("}", "}}")

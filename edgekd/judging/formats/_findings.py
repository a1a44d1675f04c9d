"""A verdict's findings as every format sees them: one name, one line in the budgets file, and whether it counts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgekd.core.records import Finding, Outcome, Verdict
from edgekd.judging import wording

Standing = Literal["pass", "fail", "inconclusive", "error", "warned", "waived"]
"""What became of a finding: its outcome, unless its budget only warns or was waived."""

_URGENCY: tuple[Standing, ...] = ("error", "fail", "inconclusive", "warned", "waived", "pass")
WORDS: dict[Standing, str] = {
    "pass": wording.OUTCOMES["pass"],
    "fail": wording.OUTCOMES["fail"],
    "inconclusive": wording.OUTCOMES["inconclusive"],
    "error": wording.OUTCOMES["error"],
    "warned": wording.WARNING,
    "waived": wording.WAIVED,
}
LONGEST_TEXT = 1_000
_PLAIN_PATH = r"^(|[A-Za-z0-9._-][A-Za-z0-9._/-]*)$"
BudgetsPath = Annotated[str, Field(pattern=_PLAIN_PATH)]
"""The path of a budgets file from the root of its repository; empty for the one that the verdict names."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finding; every text is on one line, at most 1,000 characters, with nothing invisible in it.

    `budget` names the budget in its file, `check` says it in words, `title` both; `line` is where it stands there (None if it
    came from elsewhere), `subject` what was judged, `needs` what would decide or change the outcome.
    """

    budget: str
    check: str
    title: str
    subject: str
    standing: Standing
    outcome: Outcome
    because: str
    needs: str
    waiver: str
    line: int | None
    value: float | None
    limit: float
    bound: Literal["at most", "at least"]
    unit: str

    @property
    def name(self) -> str:
        """Return budget and subject: `latency p50 [onnxruntime-fp32@local]`."""
        return f"{self.budget} [{self.subject}]"

    @property
    def counts(self) -> bool:
        """Return whether it keeps the verdict from passing."""
        return self.standing in ("error", "fail", "inconclusive")

    @property
    def shown_value(self) -> str:
        """Return the value with its unit."""
        return wording.quantity(self.value, self.unit)

    @property
    def shown_limit(self) -> str:
        """Return the limit with its unit and the side of it that is right."""
        return f"{'≤' if self.bound == 'at most' else '≥'} {wording.quantity(self.limit, self.unit)}"

    @property
    def told(self) -> str:
        """Return why, what would decide it, and who waived it, as one text."""
        return " ".join(text for text in (self.because, self.needs, self.waiver) if text)


def rows(verdict: Verdict) -> list[Row]:
    """Return the findings in the verdict's order."""
    return [_row(finding) for finding in verdict.findings]


def worst_first(found: Iterable[Row]) -> list[Row]:
    """Return findings in the order of their urgency, those of one urgency in the verdict's order."""
    return sorted(found, key=lambda row: _URGENCY.index(row.standing))


def named_file(verdict: Verdict, path: BudgetsPath) -> str:
    """Return the budgets file that the lines are of: the path that was asked for, or the verdict's if that is a plain one."""
    return path or (verdict.budgets_file if re.fullmatch(_PLAIN_PATH, verdict.budgets_file) else "") or "budgets.yaml"


def by_budget(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the findings of each budget, budgets in the order of their first finding."""
    grouped: dict[str, list[Row]] = {}
    for row in found:
        grouped.setdefault(row.budget, []).append(row)
    return grouped


def clipped(text: str, longest: int) -> str:
    """Return a text that is no longer than that, an ellipsis in the place of what was cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _row(finding: Finding) -> Row:
    return Row(
        budget=_harmless(finding.id or finding.budget),
        check=_harmless(finding.budget),
        title=_harmless(wording.check(finding)),
        subject=_harmless(finding.subject),
        standing=_standing(finding),
        outcome=finding.outcome,
        because=_harmless(finding.because),
        needs="" if finding.outcome == "pass" else _harmless(finding.needs),
        waiver=_harmless(wording.waiver(finding)),
        line=finding.line,
        value=finding.value,
        limit=finding.limit,
        bound=finding.bound,
        unit=_harmless(finding.unit),
    )


def _standing(finding: Finding) -> Standing:
    if finding.outcome == "pass" or finding.counts:
        return finding.outcome
    return "waived" if finding.waived is not None else "warned"


def _harmless(text: str) -> str:
    return clipped(wording.plain(text[: LONGEST_TEXT + 1]), LONGEST_TEXT)

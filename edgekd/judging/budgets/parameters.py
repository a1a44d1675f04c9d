"""How many weights the student has."""

from typing import ClassVar

from pydantic import model_validator

from edgekd.core.contracts import Budget
from edgekd.core.evidence import Evidence
from edgekd.core.records import Finding
from edgekd.judging import units
from edgekd.judging.budgets._counts import CountRatio, decided
from edgekd.judging.budgets._subjects import Said, exactly_one


class Parameters(Budget):
    """The student has at most `max` (3M) weights, or `max_ratio` times those of baseline or teacher.

    The comparison is exact; of several teachers it is with the largest.
    """

    metrics: ClassVar[tuple[str, ...]] = ("parameters",)
    max: units.CountText | None = None
    max_ratio: CountRatio | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Parameters":
        exactly_one(self, "max", "max_ratio")
        return self

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding, about the student."""
        report, ratio = evidence.report, self.max_ratio
        if ratio is None:
            assert self.max is not None
            said = Said(budget="parameters", limit=float(units.count(self.max)), unit="weights")
            return (decided(said, "student", report.student.parameters, None, what="weights"),)
        said = Said(budget=f"parameters against the {ratio.to}", limit=ratio.value, unit="x", against=ratio.to)
        if ratio.to == "teacher":
            other = max((teacher.parameters for teacher in report.student.teachers), default=None)
        else:
            other = evidence.baseline.student.parameters if evidence.baseline else None
        if not other:
            return (said.unknown("student", f"There is no {ratio.to} to compare with.", needs=_needs(ratio.to)),)
        return (decided(said, "student", report.student.parameters, other, what="weights"),)


def _needs(to: str) -> str:
    return "--baseline RUN" if to == "baseline" else "a student that has a teacher"

"""The facts of a run side by side, and what budgets make of them."""

from typing import ClassVar, Literal

from edgekd.core.records.artifacts import Artifact
from edgekd.core.records.checkpoints import Checkpoint
from edgekd.core.records.measurements import LatencySummary
from edgekd.core.records.record import Fact, Record

Outcome = Literal["pass", "fail", "inconclusive", "error"]


class Interval(Fact):
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Comparison(Fact):
    """The student against the baseline on the same validation images."""

    images: int
    student_top1: Interval
    baseline_top1: Interval
    only_student_right: int
    only_baseline_right: int
    difference: Interval
    mcnemar_p: float


class CurvePoint(Fact):
    """One line of a training history."""

    images_seen: int
    loss: float
    top1: float | None


class Report(Record):
    """The facts side by side; no opinion."""

    kind: ClassVar[str] = "report"
    recipe: str
    student: Checkpoint
    baseline: Checkpoint | None
    comparison: Comparison | None
    student_curve: tuple[CurvePoint, ...]
    baseline_curve: tuple[CurvePoint, ...]
    artifacts: tuple[Artifact, ...]
    latencies: tuple[LatencySummary, ...]


class Finding(Fact):
    """What one budget found: value against limit in `unit`, and one of four outcomes."""

    budget: str
    subject: str
    value: float | None
    limit: float
    bound: Literal["at most", "at least"]
    unit: str
    outcome: Outcome
    because: str


class Verdict(Record):
    """The findings and one word. Unknown is not passed."""

    kind: ClassVar[str] = "verdict"
    outcome: Outcome
    exit_code: int
    findings: tuple[Finding, ...]

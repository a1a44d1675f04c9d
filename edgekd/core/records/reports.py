"""The facts of a run side by side, and what budgets make of them."""

from typing import ClassVar, Literal

from edgekd.core.records.artifacts import Artifact
from edgekd.core.records.checkpoints import Checkpoint
from edgekd.core.records.details import Details
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


class Calibration(Fact):
    """The expected calibration error over 15 bins, and what a perfectly calibrated model would show on as many images."""

    ece: float
    noise_mean: float
    noise_p99: float


class Answers(Fact):
    """Every image's answer of one model, so that two models can be compared image by image from their reports alone.

    `of` is `student`, `undistilled`, `teacher:NAME` or an artifact. Images are in the order of (label, id), of which
    `images_digest` is the sha256; `class_images` counts them label by label. `right` and `top5` hold a bit an image, as
    hexadecimal digits, the first image first; `nll` and `brier` a little-endian float32 an image, in base64. None where it was
    not recorded.
    """

    of: str
    images: int
    images_digest: str
    classes: tuple[str, ...]
    class_images: tuple[int, ...]
    right: str
    top5: str | None = None
    nll: str | None = None
    brier: str | None = None
    calibration: Calibration | None = None


class Report(Record):
    """The facts side by side; no opinion."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 2
    recipe: str
    student: Checkpoint
    baseline: Checkpoint | None
    comparison: Comparison | None
    student_curve: tuple[CurvePoint, ...]
    baseline_curve: tuple[CurvePoint, ...]
    artifacts: tuple[Artifact, ...]
    latencies: tuple[LatencySummary, ...]
    answers: tuple[Answers, ...] = ()
    details: Details = Details()


class Waiver(Fact):
    """Why a finding does not count until a date (ISO, inclusive), and who said so."""

    until: str
    reason: str
    by: str


class Finding(Fact):
    """What one budget found about one subject: value against limit in `unit`, and one of four outcomes.

    `id` and `line` say which budget of the file (`Verdict.budgets_file`), `budget` names the check in words. `value` may be a
    quantity, a ratio or a difference, as `unit` says; `low` and `high` are the bounds that decided, in the same unit, each one
    with error `alpha`. `against` is what it was compared with. `needs` says what would decide or change the outcome;
    `arithmetic` is the decision step by step. A finding counts towards the verdict unless its level is `warn`, it is waived, or
    it is inconclusive and `tolerated`.
    """

    budget: str
    subject: str
    value: float | None
    limit: float
    bound: Literal["at most", "at least"]
    unit: str
    outcome: Outcome
    because: str
    id: str = ""
    metric: str = ""
    level: Literal["error", "warn"] = "error"
    tolerated: bool = False
    waived: Waiver | None = None
    line: int | None = None
    against: Literal["", "baseline", "teacher", "reference", "undistilled"] = ""
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    alpha: float | None = None
    images: int | None = None
    pairs: int | None = None
    needs: str = ""
    arithmetic: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Return whether the verdict heeds this finding; an error is always heeded."""
        if self.outcome == "error":
            return True
        silenced = self.waived is not None and self.outcome != "pass"
        return self.level == "error" and not silenced and not (self.tolerated and self.outcome == "inconclusive")


class Verdict(Record):
    """The findings and one word. Unknown is not passed.

    `budgets_file` is the file that the findings' lines are of, as it was named; empty where there was none.
    """

    kind: ClassVar[str] = "verdict"
    version: ClassVar[int] = 2
    outcome: Outcome
    exit_code: int
    findings: tuple[Finding, ...]
    budgets_file: str = ""

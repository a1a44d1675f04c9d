"""How often the first answer must be right, as far as the number of images can prove it."""

from typing import Self

from pydantic import model_validator

from edgekd.core import stats
from edgekd.core.contracts import Budget
from edgekd.core.records import Accuracy, Artifact, Finding, Outcome, Report
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import matching, none_matching, not_executed

ALPHA = 0.05


class AccuracyLimit(Budget):
    """Top-1 is at least `min` (70%) by its Wilson 95 % interval, or the student beats its baseline.

    `of` says whose: `student` (in torch), an artifact's name or a shell pattern of names, or `all` (every artifact through its
    runtime; the student if nothing was exported). `beat_baseline: true` asks that the student be better than the baseline on
    the same images by the exact one-sided McNemar test at 5 %.
    """

    min: units.OpenShareText | None = None
    of: str = "all"
    beat_baseline: bool = False

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.min is None and not self.beat_baseline:
            raise ValueError("give `min: 70%`, or `beat_baseline: true`, or both")
        return self

    def check(self, report: Report) -> tuple[Finding, ...]:
        """Return one finding per model for `min` and one for `beat_baseline`."""
        found: tuple[Finding, ...] = ()
        if self.min is not None:
            found += self._floors(report, self.min)
        if self.beat_baseline:
            found += (_against_baseline(report),)
        return found

    def _floors(self, report: Report, limit: str) -> tuple[Finding, ...]:
        if self.of == "student" or (self.of == "all" and not report.artifacts):
            return (_judged("student", report.student.accuracy, limit),)
        artifacts = matching(report, "*" if self.of == "all" else self.of)
        if not artifacts:
            return (_floor(self.of, None, limit, "inconclusive", none_matching(report, self.of)),)
        return tuple(_judged_artifact(artifact, limit) for artifact in artifacts)


def _judged_artifact(artifact: Artifact, limit: str) -> Finding:
    if artifact.accuracy is None:
        return _floor(artifact.name, None, limit, "inconclusive", not_executed(artifact))
    return _judged(artifact.name, artifact.accuracy, limit)


def _judged(name: str, accuracy: Accuracy, limit: str) -> Finding:
    if accuracy.images == 0:
        return _floor(name, None, limit, "inconclusive", f"{name} was tried on no images.")
    needed = units.open_share(limit)
    interval = stats.wilson(accuracy.top1_correct, accuracy.images)
    said = (
        f"{name} is right on {accuracy.top1_correct:,} of {accuracy.images:,} images: "
        f"{wording.share_interval(interval)} at 95 % confidence"
    )
    if interval.low >= needed:
        outcome: Outcome = "pass"
        said += f"; even the lower end reaches {limit}."
    elif interval.high < needed:
        outcome = "fail"
        said += f"; even the upper end is below {limit}."
    else:
        outcome = "inconclusive"
        images = stats.trials_to_decide(interval.value, float(needed))
        decides = f"at this rate {images:,} images would decide it" if images else "at exactly this rate no number decides it"
        said += f", which contains {limit}; {decides}."
    return _floor(name, 100 * interval.value, limit, outcome, said)


def _floor(subject: str, value: float | None, limit: str, outcome: Outcome, because: str) -> Finding:
    return Finding(
        budget="accuracy",
        subject=subject,
        value=value,
        limit=float(100 * units.open_share(limit)),
        bound="at least",
        unit="%",
        outcome=outcome,
        because=because,
    )


def _against_baseline(report: Report) -> Finding:
    comparison = report.comparison
    if comparison is None:
        because = "There is no baseline to compare with; give the recipe a baseline and run edgekd distill."
        return _gain(None, "inconclusive", because)
    better, worse = comparison.only_student_right, comparison.only_baseline_right
    p_better = stats.mcnemar(better, worse, alternative="greater")
    p_worse = stats.mcnemar(worse, better, alternative="greater")
    said = (
        f"{wording.points_interval(comparison.difference)} on {comparison.images:,} images: {better:,} are right with the "
        f"student only, {worse:,} with the baseline only; exact one-sided McNemar "
    )
    value = 100 * comparison.difference.value
    if p_better < ALPHA:
        return _gain(value, "pass", f"{said}p = {p_better:.2g}, below {ALPHA}: the student is better.")
    if p_worse < ALPHA:
        return _gain(value, "fail", f"{said}p = {p_worse:.2g} the other way, below {ALPHA}: the baseline is better.")
    return _gain(value, "inconclusive", f"{said}p = {p_better:.2g}, not below {ALPHA}: this could be chance.")


def _gain(value: float | None, outcome: Outcome, because: str) -> Finding:
    return Finding(
        budget="accuracy over baseline",
        subject="student",
        value=value,
        limit=0.0,
        bound="at least",
        unit="points",
        outcome=outcome,
        because=because,
    )

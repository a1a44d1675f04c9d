"""How often a model must be right, and what it may lose, as far as the number of images can prove it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from edgekd.core.evidence import Evidence
from edgekd.core.plan import Section
from edgekd.core.records import Finding, Report
from edgekd.judging import units
from edgekd.judging.budgets import _floors, _losses, _paired, _per_class
from edgekd.judging.budgets._answers import Model, accuracy_of, baseline_of, foreign_data, model_of
from edgekd.judging.budgets._subjects import Alpha, OfArtifacts, Said, exactly_one, not_executed

Metric = Literal["accuracy.top1", "accuracy.top5", "accuracy.per_class", "accuracy.brier", "accuracy.nll", "accuracy.ece"]
_WORDS = {"top1": "top-1", "top5": "top-5", "per_class": "top-1 of each class", "brier": "Brier", "nll": "NLL", "ece": "ECE"}
_BOUNDS = ("min", "max", "max_drop", "max_rise", "min_gain")
_ALLOWED = {
    "top1": ("min", "max_drop", "min_gain"),
    "top5": ("min", "max_drop", "min_gain"),
    "per_class": ("max_drop",),
    "brier": ("max", "max_rise"),
    "nll": ("max", "max_rise"),
    "ece": ("max",),
}


class Drop(Section):
    """At most so many percentage points less than the other has on the same images."""

    to: Literal["baseline", "teacher", "undistilled"]
    points: Annotated[float, Field(gt=0, lt=100)]


class Gain(Section):
    """More than the other has on the same images, by at least so many percentage points; with 0, better at all."""

    to: Literal["baseline", "teacher", "undistilled"]
    points: Annotated[float, Field(ge=0, lt=100)] = 0.0


class Rise(Section):
    """A loss at most so much larger than the other's on the same images."""

    to: Literal["baseline", "teacher", "undistilled"]
    value: Annotated[float, Field(gt=0)]


class AccuracyLimit(OfArtifacts):
    """Right answers: at least `min` (70%), or compared image by image with a baseline, a teacher or the undistilled student.

    top1 and top5: `min` by Wilson's bound, `max_drop: {to: baseline, points: 0.5}` as non-inferiority by the interval of
    Agresti and Min, `min_gain: {to: undistilled}` as being better (exact McNemar). per_class: `max_drop` for every class.
    brier and nll: `max`, or `max_rise: {to: baseline, value: 0.01}` by paired t. ece: `max`, advisory below 10,000 images.
    `of` is `artifacts` (each through its runtime) or `student` (in torch); by default the artifacts, if there are any. `data`
    pins the digest of the images (sha256:...). Bounds are one-sided with error `alpha`.
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(f"accuracy.{name}" for name in _WORDS)
    metric: Metric = "accuracy.top1"
    min: units.OpenShareText | None = None
    max: Annotated[float, Field(gt=0)] | units.OpenShareText | None = None
    max_drop: Drop | None = None
    max_rise: Rise | None = None
    min_gain: Gain | None = None
    of: Literal["artifacts", "student"] | None = None
    data: Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{8,64}$")] | None = None
    alpha: Alpha = 0.01

    @model_validator(mode="after")
    def _one_claim_of_this_metric(self) -> "AccuracyLimit":
        allowed = _ALLOWED[self._name]
        wrong = [bound for bound in _BOUNDS if getattr(self, bound) is not None and bound not in allowed]
        if wrong:
            raise ValueError(f"{self.metric} has no `{wrong[0]}`; it takes {' or '.join(f'`{bound}`' for bound in allowed)}")
        exactly_one(self, *allowed)
        if self._name == "ece" and not isinstance(self.max, str):
            raise ValueError("`max` of accuracy.ece is a percentage, such as 5%")
        if self._name in ("brier", "nll") and isinstance(self.max, str):
            raise ValueError(f"`max` of {self.metric} is a number, such as 0.3")
        return self

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per model."""
        report = evidence.report
        if self.of == "student" or (self.of is None and not report.artifacts):
            return (self._of("student", evidence),)
        artifacts = self.artifacts(report)
        if not artifacts:
            return (self._said().unknown(self.subject(), self.none_matching(report)),)
        return tuple(
            self._said().unknown(one.name, not_executed(one)) if one.accuracy is None else self._of(one.name, evidence)
            for one in artifacts
        )

    @property
    def _name(self) -> str:
        return self.metric.partition(".")[2]

    def _said(self) -> Said:
        words, against = _WORDS[self._name], self.max_drop or self.max_rise or self.min_gain
        if against is not None:
            limit = (
                -against.points if isinstance(against, Drop) else against.points if isinstance(against, Gain) else against.value
            )
            return Said(
                budget=f"{words} against the {_OTHERS[against.to]}",
                limit=limit,
                bound="at most" if isinstance(against, Rise) else "at least",
                unit="" if isinstance(against, Rise) else "points",
                against=against.to,
                alpha=self.alpha,
            )
        if self.min is not None:
            limit = float(100 * units.open_share(self.min))
            return Said(budget=words, limit=limit, bound="at least", unit="%", alpha=self.alpha)
        if isinstance(self.max, str):
            return Said(budget=words, limit=float(100 * units.open_share(self.max)), unit="%", alpha=self.alpha)
        assert self.max is not None
        return Said(budget=words, limit=self.max, alpha=self.alpha)

    def _of(self, subject: str, evidence: Evidence) -> Finding:
        said = self._said()
        refused = self._other_images(evidence.report)
        if refused:
            return said.unknown(subject, refused)
        accuracy = accuracy_of(evidence.report, subject)
        if self.min is not None and accuracy is not None:
            return _floors.of(said, subject, accuracy, self._name, written=self.min)
        model = model_of(evidence.report, subject)
        if isinstance(model, str):
            return said.unknown(subject, model, needs="edgekd report RUN, or edgekd export RUN for older predictions")
        against = self.max_drop or self.max_rise or self.min_gain
        if against is None:
            return _losses.ece(said, model) if self._name == "ece" else _losses.absolute(said, model, self._name)
        other = self._other(against.to, subject, evidence)
        if isinstance(other, str):
            return said.unknown(subject, other, needs="--baseline RUN" if against.to == "baseline" else "")
        if isinstance(against, Rise):
            return _losses.paired(said, model, other, self._name)
        if self._name == "per_class":
            return _per_class.judged(said, model, other)
        return _paired.judged(said, model, other, self._name, gain=isinstance(against, Gain))

    def _other_images(self, report: Report) -> str:
        digest = report.student.data.digest
        if self.data is None or digest.startswith(self.data.removeprefix("sha256:")):
            return ""
        return f"The images are others than the budget is about: sha256:{digest[:8]}, and {self.data} is asked."

    def _other(self, to: str, subject: str, evidence: Evidence) -> Model | str:
        if to == "undistilled":
            if evidence.report.baseline is None:
                return "The student was not trained without its teacher; give the recipe a baseline and run edgekd distill."
            return model_of(evidence.report, "undistilled")
        if to == "teacher":
            return model_of(evidence.report, "teacher")
        return foreign_data(evidence) or baseline_of(evidence, subject)


_OTHERS = {"baseline": "baseline", "teacher": "teacher", "undistilled": "undistilled student"}

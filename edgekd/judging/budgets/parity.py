"""How far an artifact may be from the torch student on the same real images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from edgekd.core import agreement, stats
from edgekd.core.evidence import Evidence
from edgekd.core.records import Artifact, Finding, Outcome, Parity
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import OfArtifacts, Said, not_executed

Precision = Literal["fp32", "fp16", "int8"]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Share = units.OpenShareText
_ALLOWED = {"top1_agreement": ("min", "min_counted"), "cosine": ("min",), "max_abs": ("max",)}


class ParityLimit(OfArtifacts):
    """An artifact answers like the torch student: proven by its images, or as counted on them.

    top1_agreement: `min` is proven by the exact lower bound (95 %), one value for all or one a precision:
    `{fp32: 99.9%, int8: 98%}`; without it, what every precision owes: 99.9, 99.5, 98 %. `min_counted` (99.5%) asks only what
    was counted on these images. cosine: the mean cosine of the logits, by default .9999, .999, .99. max_abs: the largest
    difference of a logit is at most `max`. NaN or infinity in an output always fails.
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(f"parity.{name}" for name in _ALLOWED)
    metric: Literal["parity.top1_agreement", "parity.cosine", "parity.max_abs"] = "parity.top1_agreement"
    min: Share | Cosine | dict[Precision, Share | Cosine] | None = None
    min_counted: units.ShareText | None = None
    max: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _limits_of_this_metric(self) -> "ParityLimit":
        allowed = _ALLOWED[self._name]
        given = [name for name in ("min", "min_counted", "max") if getattr(self, name) is not None]
        wrong = [name for name in given if name not in allowed]
        if wrong:
            raise ValueError(f"{self.metric} has no `{wrong[0]}`; it takes {' or '.join(f'`{name}`' for name in allowed)}")
        if len(given) > 1 or (self._name == "max_abs" and not given):
            raise ValueError(f"give exactly one of {', '.join(f'`{name}`' for name in allowed)}")
        values = self.min.values() if isinstance(self.min, dict) else () if self.min is None else (self.min,)
        if any(isinstance(value, str) != (self._name == "top1_agreement") for value in values):
            raise ValueError("a top-1 agreement is a percentage, such as 99.5%; a cosine is a number, such as 0.999")
        return self

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per artifact."""
        artifacts = self.artifacts(evidence.report)
        if not artifacts:
            return (self._said(None).unknown(self.subject(), self.none_matching(evidence.report)),)
        return tuple(self._of(artifact) for artifact in artifacts)

    @property
    def _name(self) -> str:
        return self.metric.partition(".")[2]

    def _asked(self, precision: str) -> float | None:
        """Return the limit for a precision as a share or a cosine; None where nothing is asked of it."""
        standard = agreement.LIMITS.get(precision)
        if self._name == "cosine":
            asked = _for(precision, self.min)
            return (standard.cosine if standard else None) if self.min is None else asked if isinstance(asked, float) else None
        text = _for(precision, self.min)
        if self.min is None:
            return standard.agreement if standard else None
        return float(units.open_share(text)) if isinstance(text, str) else None

    def _said(self, precision: str | None) -> Said:
        if self._name == "max_abs":
            assert self.max is not None
            return Said(budget="parity max abs", limit=self.max)
        asked = self._asked(precision) if precision is not None else None
        if self._name == "cosine":
            return Said(budget="parity cosine", limit=1.0 if asked is None else asked, bound="at least")
        if self.min_counted is not None:
            return Said(budget="parity", limit=float(100 * units.share(self.min_counted)), bound="at least", unit="%")
        alpha = 1 - stats.CONFIDENCE
        return Said(
            budget="parity proven", limit=100.0 if asked is None else 100 * asked, bound="at least", unit="%", alpha=alpha
        )

    def _of(self, artifact: Artifact) -> Finding:
        parity, name, said = artifact.parity, artifact.name, self._said(artifact.precision)
        if parity is None:
            return said.unknown(name, not_executed(artifact))
        if parity.images == 0:
            because = f"{name} was compared with the torch student on no images; run edgekd export again."
            return said.unknown(name, because, needs="validation images")
        if parity.non_finite:
            because = (
                f"{name} answered NaN or infinity ({parity.non_finite:,} found on "
                f"{wording.counted(parity.images, 'image')}); such a model must not ship."
            )
            return said.found(name, 100 * parity.top1_agreement, "fail", because, images=parity.images)
        if self._name == "max_abs":
            return _distance(said, name, parity)
        if self.min_counted is not None:
            return _counted(said, name, parity, self.min_counted)
        limit = self._asked(artifact.precision)
        if limit is None:
            because = f"No {said_of(self._name)} is asked of the precision {artifact.precision}; say so with min."
            return said.unknown(name, because, needs="`min` for this precision")
        return _cosine(said, name, parity, limit) if self._name == "cosine" else _proven(said, artifact, parity, limit)


def said_of(name: str) -> str:
    """Return what a metric of this family is called in a sentence."""
    return "cosine" if name == "cosine" else "proven agreement"


def _for(precision: str, asked: "str | float | dict[Precision, str | float] | None") -> str | float | None:
    return {str(key): value for key, value in asked.items()}.get(precision) if isinstance(asked, dict) else asked


def _counted(said: Said, name: str, parity: Parity, limit: str) -> Finding:
    enough = parity.top1_agreements >= units.share(limit) * parity.images
    because = (
        f"{name} gives the torch student's first answer on {parity.top1_agreements:,} of {parity.images:,} "
        f"images ({wording.percent(parity.top1_agreement)}); at least {limit} is asked."
    )
    return said.found(name, 100 * parity.top1_agreement, "pass" if enough else "fail", because, images=parity.images)


def _proven(said: Said, artifact: Artifact, parity: Parity, limit: float) -> Finding:
    outcome, told = agreement.agreement(parity.top1_agreements, parity.images, limit)
    if agreement.UNKNOWN in artifact.executed_precision and outcome == "pass":
        outcome, told = "inconclusive", f"{told}; but {artifact.runtime} does not say what it computed in"
    low, high = stats.exact_bounds(parity.top1_agreements, parity.images)
    needed = stats.trials_to_prove(parity.top1_agreement, limit)
    needs = f"{needed:,} validation images" if needed else "another limit"
    return said.found(
        artifact.name,
        100 * low,
        outcome,
        f"{artifact.name}: {told}.",
        needs=needs if outcome == "inconclusive" else "",
        bounds=(100 * low, 100 * high),
        images=parity.images,
        arithmetic=(
            (
                f"Clopper-Pearson bounds of {parity.top1_agreements} of {parity.images}, each one-sided at "
                f"{100 * (1 - stats.CONFIDENCE):.0f} %: {low:.5f} and {high:.5f}"
            ),
        ),
    )


def _cosine(said: Said, name: str, parity: Parity, limit: float) -> Finding:
    outcome, told = agreement.cosine(parity.logit_cosine_mean, limit)
    because = f"{name}: {told}; the smallest of an image is {parity.logit_cosine_min:.6f}."
    return said.found(name, parity.logit_cosine_mean, outcome, because, images=parity.images)


def _distance(said: Said, name: str, parity: Parity) -> Finding:
    outcome: Outcome = "pass" if parity.max_abs <= said.limit else "fail"
    because = (
        f"The largest difference of a logit between {name} and the torch student is {parity.max_abs:.3g} "
        f"on {parity.images:,} images; at most {said.limit:g} is allowed."
    )
    return said.found(name, parity.max_abs, outcome, because, images=parity.images)

"""How far an artifact may be from the torch student on the same real images."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from edgekd.core import agreement, stats
from edgekd.core.contracts import Budget
from edgekd.core.records import Artifact, Finding, Outcome, Parity, Report
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import matching, none_matching, not_executed

Precision = Literal["fp32", "fp16", "int8"]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Limit = TypeVar("Limit")


class ParityLimit(Budget):
    """An artifact answers like the torch student: proven by its images, or as counted on them.

    Without any `min_...`, what every precision owes: a proven top-1 agreement (exact lower bound, 95 %) of 99.9 % for fp32,
    99.5 % for fp16, 98 % for int8, and a mean cosine of the logits of .9999, .999, .99; too few images are inconclusive.
    `min_proven` and `min_cosine` ask otherwise, one value for all or one a precision: `{fp32: 99%, int8: 95%}`.
    `min_agreement` (99.5%) asks only what was counted on these images: the share with the same first answer.
    `max_abs` also limits the largest difference of a logit. `artifact` is a name or a shell pattern. NaN or infinity in an
    output always fails.
    """

    min_agreement: units.ShareText | None = None
    min_proven: units.OpenShareText | dict[Precision, units.OpenShareText] | None = None
    min_cosine: Cosine | dict[Precision, Cosine] | None = None
    max_abs: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    artifact: str = "*"

    def check(self, report: Report) -> tuple[Finding, ...]:
        """Return one finding per artifact for each thing asked."""
        artifacts = matching(report, self.artifact)
        if not artifacts:
            return (self._unknown(self.artifact, none_matching(report, self.artifact)),)
        return tuple(finding for artifact in artifacts for finding in self._of(artifact))

    @property
    def _standard(self) -> bool:
        return self.min_agreement is None and self.min_proven is None and self.min_cosine is None

    def _of(self, artifact: Artifact) -> tuple[Finding, ...]:
        parity = artifact.parity
        if parity is None:
            return (self._unknown(artifact.name, not_executed(artifact)),)
        if parity.images == 0:
            because = f"{artifact.name} was compared with the torch student on no images; run edgekd export again."
            return (self._unknown(artifact.name, because),)
        if parity.non_finite:
            because = (
                f"{artifact.name} answered NaN or infinity ({parity.non_finite:,} found on "
                f"{wording.counted(parity.images, 'image')}); such a model must not ship."
            )
            limit = 100 * float(units.share(self.min_agreement)) if self.min_agreement is not None else 100.0
            return (_share(artifact.name, "parity", 100 * parity.top1_agreement, limit, "fail", because),)
        found = [] if self.min_agreement is None else [_counted(artifact.name, parity, self.min_agreement)]
        if self.min_proven is not None or self._standard:
            found.append(_proven(artifact, parity, self._proof_asked(artifact.precision)))
        if self.min_cosine is not None or self._standard:
            found.append(_cosine(artifact, parity, self._cosine_asked(artifact.precision)))
        if self.max_abs is not None:
            found.append(_distance(artifact.name, parity, self.max_abs))
        return tuple(found)

    def _proof_asked(self, precision: str) -> float | None:
        if self.min_proven is not None:
            text = _for(precision, self.min_proven)
            return None if text is None else float(units.open_share(text))
        standard = agreement.LIMITS.get(precision)
        return standard.agreement if standard else None

    def _cosine_asked(self, precision: str) -> float | None:
        if self.min_cosine is not None:
            return _for(precision, self.min_cosine)
        standard = agreement.LIMITS.get(precision)
        return standard.cosine if standard else None

    def _unknown(self, subject: str, because: str) -> Finding:
        limit = 100 * float(units.share(self.min_agreement)) if self.min_agreement is not None else 100.0
        return _share(subject, "parity", None, limit, "inconclusive", because)


def _for(precision: str, asked: "Limit | dict[Precision, Limit]") -> Limit | None:
    return {str(key): value for key, value in asked.items()}.get(precision) if isinstance(asked, dict) else asked


def _counted(name: str, parity: Parity, limit: str) -> Finding:
    enough = parity.top1_agreements >= units.share(limit) * parity.images
    because = (
        f"{name} gives the torch student's first answer on {parity.top1_agreements:,} of {parity.images:,} "
        f"images ({wording.percent(parity.top1_agreement)}); at least {limit} is asked."
    )
    outcome: Outcome = "pass" if enough else "fail"
    return _share(name, "parity", 100 * parity.top1_agreement, float(100 * units.share(limit)), outcome, because)


def _proven(artifact: Artifact, parity: Parity, limit: float | None) -> Finding:
    name = artifact.name
    if limit is None:
        because = f"No proven agreement is asked of the precision {artifact.precision}; say so with min_proven."
        return _share(name, "parity proven", None, 100.0, "inconclusive", because)
    outcome, said = agreement.agreement(parity.top1_agreements, parity.images, limit)
    if agreement.UNKNOWN in artifact.executed_precision and outcome == "pass":
        outcome, said = "inconclusive", f"{said}; but {artifact.runtime} does not say what it computed in"
    low_percent = 100 * stats.exact_bounds(parity.top1_agreements, parity.images)[0]
    return _share(name, "parity proven", low_percent, 100 * limit, outcome, f"{name}: {said}.")


def _cosine(artifact: Artifact, parity: Parity, limit: float | None) -> Finding:
    if limit is None:
        because = f"No cosine is asked of the precision {artifact.precision}; say so with min_cosine."
        return _figure(artifact.name, "parity cosine", None, 1.0, "at least", "inconclusive", because)
    mean = parity.logit_cosine_mean
    outcome, said = agreement.cosine(mean, limit)
    because = f"{artifact.name}: {said}; the smallest of an image is {parity.logit_cosine_min:.6f}."
    return _figure(artifact.name, "parity cosine", mean, limit, "at least", outcome, because)


def _distance(name: str, parity: Parity, limit: float) -> Finding:
    value = parity.max_abs
    because = (
        f"The largest difference of a logit between {name} and the torch student is {value:.3g} "
        f"on {parity.images:,} images; at most {limit:g} is allowed."
    )
    return _figure(name, "parity max abs", value, limit, "at most", "pass" if value <= limit else "fail", because)


def _share(subject: str, budget: str, value: float | None, limit: float, outcome: Outcome, because: str) -> Finding:
    return _figure(subject, budget, value, limit, "at least", outcome, because, unit="%")


def _figure(
    subject: str,
    budget: str,
    value: float | None,
    limit: float,
    bound: Literal["at most", "at least"],
    outcome: Outcome,
    because: str,
    *,
    unit: str = "",
) -> Finding:
    return Finding(
        budget=budget, subject=subject, value=value, limit=limit, bound=bound, unit=unit, outcome=outcome, because=because
    )

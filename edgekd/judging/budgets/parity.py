"""How far an artifact may be from the torch student on the same real images."""

from typing import Annotated

from pydantic import Field

from edgekd.core.contracts import Budget
from edgekd.core.records import Artifact, Finding, Outcome, Parity, Report
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import matching, none_matching, not_executed


class ParityLimit(Budget):
    """An artifact agrees with the torch student on at least `min_agreement` (99.5%) of the images.

    They agree on an image if both give the same first answer. `max_abs`, if given, also limits the largest difference of a
    logit. `artifact` is a name or a shell pattern. NaN or infinity in an output always fails.
    """

    min_agreement: units.ShareText
    max_abs: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    artifact: str = "*"

    def check(self, report: Report) -> tuple[Finding, ...]:
        """Return one finding per artifact, two if `max_abs` is given."""
        artifacts = matching(report, self.artifact)
        if not artifacts:
            return (self._agreement(self.artifact, None, "inconclusive", none_matching(report, self.artifact)),)
        return tuple(finding for artifact in artifacts for finding in self._of(artifact))

    def _of(self, artifact: Artifact) -> tuple[Finding, ...]:
        parity = artifact.parity
        if parity is None:
            return (self._agreement(artifact.name, None, "inconclusive", not_executed(artifact)),)
        if parity.images == 0:
            because = f"{artifact.name} was compared with the torch student on no images; run edgekd export again."
            return (self._agreement(artifact.name, None, "inconclusive", because),)
        value = 100 * parity.top1_agreement
        if parity.non_finite:
            because = (
                f"{artifact.name} answered NaN or infinity ({parity.non_finite:,} found on "
                f"{wording.counted(parity.images, 'image')}); such a model must not ship."
            )
            return (self._agreement(artifact.name, value, "fail", because),)
        enough = parity.top1_agreements >= units.share(self.min_agreement) * parity.images
        because = (
            f"{artifact.name} gives the torch student's first answer on {parity.top1_agreements:,} of {parity.images:,} "
            f"images ({wording.percent(parity.top1_agreement)}); at least {self.min_agreement} is asked."
        )
        found = self._agreement(artifact.name, value, "pass" if enough else "fail", because)
        return (found,) if self.max_abs is None else (found, self._distance(artifact, parity, self.max_abs))

    def _distance(self, artifact: Artifact, parity: Parity, limit: float) -> Finding:
        value = parity.max_abs
        return Finding(
            budget="parity max abs",
            subject=artifact.name,
            value=value,
            limit=limit,
            bound="at most",
            unit="",
            outcome="pass" if value <= limit else "fail",
            because=(
                f"The largest difference of a logit between {artifact.name} and the torch student is {value:.3g} "
                f"on {parity.images:,} images; at most {limit:g} is allowed."
            ),
        )

    def _agreement(self, subject: str, value: float | None, outcome: Outcome, because: str) -> Finding:
        return Finding(
            budget="parity",
            subject=subject,
            value=value,
            limit=float(100 * units.share(self.min_agreement)),
            bound="at least",
            unit="%",
            outcome=outcome,
            because=because,
        )

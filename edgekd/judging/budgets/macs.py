"""How many multiplications one image costs."""

from typing import ClassVar

from pydantic import model_validator

from edgekd.core.evidence import Evidence
from edgekd.core.records import Artifact, Finding
from edgekd.judging import units
from edgekd.judging.budgets._counts import ExactRatio, decided
from edgekd.judging.budgets._subjects import OfArtifacts, Said, exactly_one


class Macs(OfArtifacts):
    """One image takes at most `max` (300M) multiply-accumulates, or `max_ratio` times the baseline's.

    Counted at export over convolutions and matrix products; exact, and no measure of latency.
    """

    metrics: ClassVar[tuple[str, ...]] = ("macs",)
    max: units.CountText | None = None
    max_ratio: ExactRatio | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Macs":
        exactly_one(self, "max", "max_ratio")
        return self

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per artifact."""
        artifacts = self.artifacts(evidence.report)
        if not artifacts:
            return (self._said().unknown(self.subject(), self.none_matching(evidence.report)),)
        return tuple(self._judged(artifact, evidence) for artifact in artifacts)

    def _said(self) -> Said:
        if self.max_ratio is not None:
            return Said(budget="MACs against the baseline", limit=self.max_ratio.value, unit="x", against="baseline")
        assert self.max is not None
        return Said(budget="MACs", limit=float(units.count(self.max)), unit="MACs")

    def _judged(self, artifact: Artifact, evidence: Evidence) -> Finding:
        said, name = self._said(), artifact.name
        if artifact.macs is None:
            return said.unknown(name, f"The MACs of {name} were not counted when it was exported.", needs="edgekd export RUN")
        if self.max_ratio is None:
            return decided(said, name, artifact.macs, None, what="MACs")
        baseline = evidence.baseline.artifacts if evidence.baseline else ()
        other = next((one.macs for one in baseline if one.name == name), None)
        if not other:
            return said.unknown(name, f"There is no {name} with counted MACs in a baseline.", needs="--baseline RUN")
        return decided(said, name, artifact.macs, other, what="MACs")

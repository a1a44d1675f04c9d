"""The size of an artifact, exactly as its files are on disk."""

from typing import ClassVar, Literal

from pydantic import model_validator

from edgekd.core.evidence import Evidence
from edgekd.core.records import Artifact, Finding
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import OfArtifacts, Ratio, Said, exactly_one, not_executed


class Size(OfArtifacts):
    """An artifact's files together take at most `max` (12MB), or at most `max_ratio` times the baseline's.

    The comparison is exact.
    """

    metrics: ClassVar[tuple[str, ...]] = ("size.bytes",)
    metric: Literal["size.bytes"] = "size.bytes"
    max: units.SizeText | None = None
    max_ratio: Ratio | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Size":
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
            return Said(budget="size against the baseline", limit=self.max_ratio.value, unit="x", against="baseline")
        assert self.max is not None
        return Said(budget="size", limit=float(units.size_bytes(self.max)), unit="bytes")

    def _judged(self, artifact: Artifact, evidence: Evidence) -> Finding:
        name, size_bytes, said = artifact.name, artifact.size_bytes, self._said()
        if artifact.not_executed:
            return said.unknown(name, not_executed(artifact))
        if self.max is not None:
            limit = units.size_bytes(self.max)
            fits = size_bytes <= limit
            side = "within" if fits else "over"
            because = f"{name} takes {size_bytes:,} bytes on disk, {side} the limit of {float(limit):,.0f} bytes ({self.max})."
            return said.found(name, size_bytes, "pass" if fits else "fail", because)
        assert self.max_ratio is not None
        earlier = next((one for one in evidence.baseline.artifacts if one.name == name), None) if evidence.baseline else None
        if earlier is None or earlier.size_bytes == 0:
            return said.unknown(name, f"There is no {name} in a baseline to compare with.", needs="--baseline RUN")
        fits = size_bytes <= self.max_ratio.value * earlier.size_bytes
        because = (
            f"{name} takes {wording.size(size_bytes)} and the baseline's {wording.size(earlier.size_bytes)}, "
            f"{size_bytes / earlier.size_bytes:.4g} times as much; at most {self.max_ratio.value:g} is allowed."
        )
        return said.found(name, size_bytes / earlier.size_bytes, "pass" if fits else "fail", because)

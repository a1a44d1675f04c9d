"""The size of an artifact, exactly as its files are on disk."""

from edgekd.core.contracts import Budget
from edgekd.core.records import Artifact, Finding, Outcome, Report
from edgekd.judging import units
from edgekd.judging.budgets._subjects import matching, none_matching, not_executed


class Size(Budget):
    """An artifact's files together take at most `max` (12MB, 800kB, 12MiB).

    `artifact` is a name or a shell pattern. The comparison is exact.
    """

    max: units.SizeText
    artifact: str = "*"

    def check(self, report: Report) -> tuple[Finding, ...]:
        """Return one finding per artifact."""
        artifacts = matching(report, self.artifact)
        if not artifacts:
            return (self._finding(self.artifact, None, "inconclusive", none_matching(report, self.artifact)),)
        return tuple(self._judged(artifact) for artifact in artifacts)

    def _judged(self, artifact: Artifact) -> Finding:
        name, size_bytes = artifact.name, artifact.size_bytes
        if artifact.not_executed:
            return self._finding(name, None, "inconclusive", not_executed(artifact))
        limit = units.size_bytes(self.max)
        fits = size_bytes <= limit
        side = "within" if fits else "over"
        because = f"{name} takes {size_bytes:,} bytes on disk, {side} the limit of {float(limit):,.0f} bytes ({self.max})."
        return self._finding(name, size_bytes, "pass" if fits else "fail", because)

    def _finding(self, subject: str, value: float | None, outcome: Outcome, because: str) -> Finding:
        return Finding(
            budget="size",
            subject=subject,
            value=value,
            limit=float(units.size_bytes(self.max)),
            bound="at most",
            unit="bytes",
            outcome=outcome,
            because=because,
        )

"""How long one query may take. The replicate is the process, not the iteration."""

from fnmatch import fnmatchcase
from typing import Literal

from edgekd.core.contracts import Budget
from edgekd.core.records import Artifact, Finding, LatencySummary, Outcome, Report
from edgekd.core.stats import FLOORS
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import matching, none_matching, not_executed


class Latency(Budget):
    """A query takes at most `max` (20ms, 800us, 1.5s) at the p50 or p90 of every measured process.

    All processes within the limit pass, all above it fail, and a limit that they straddle is inconclusive, as is a measurement
    that cannot be trusted or has too few samples. If it is only unsteady, by a factor that the protocol states, a limit further
    away than that factor is decided all the same. `artifact` and `device` are names or shell patterns.
    """

    max: units.TimeText
    percentile: Literal["p50", "p90"] = "p50"
    artifact: str = "*"
    device: str = "*"

    def check(self, report: Report) -> tuple[Finding, ...]:
        """Return one finding per artifact and device."""
        artifacts = matching(report, self.artifact)
        if not artifacts:
            return (self._finding(self.artifact, None, "inconclusive", none_matching(report, self.artifact)),)
        found: list[Finding] = []
        for artifact in artifacts:
            summaries = [
                summary
                for summary in wording.candidates(report)
                if summary.artifact == artifact.name and fnmatchcase(summary.device.name, self.device)
            ]
            found += [self._of(summary) for summary in summaries] or [self._unmeasured(artifact)]
        return tuple(found)

    def _of(self, summary: LatencySummary) -> Finding:
        subject = f"{summary.artifact}@{summary.device.name}"
        value, own_ms = (
            (summary.p50_ms, summary.worker_p50_ms) if self.percentile == "p50" else (summary.p90_ms, summary.worker_p90_ms)
        )
        reasons = "; ".join(summary.untrusted_because) or "no reason was given"
        blur = 1.0 if summary.trusted else summary.blur
        if blur is None:
            return self._finding(subject, value, "inconclusive", f"The measurement cannot be trusted: {reasons}.")
        if value is None or not own_ms:
            because = (
                f"There are too few samples for {self.percentile}, which needs {FLOORS[int(self.percentile[1:])]} in each "
                f"process: {'; '.join(summary.withheld)}."
            )
            return self._finding(subject, value, "inconclusive", because)
        outcome, side = self._decide(own_ms, blur)
        spread = f"{wording.milliseconds(min(own_ms))} to {wording.milliseconds(max(own_ms))}"
        because = (
            f"{self.percentile} is {wording.milliseconds(value)} over {summary.samples:,} samples (batch {summary.batch}, "
            f"{wording.counted(summary.threads, 'thread')}); {side} of {self.max}: {spread} over "
            f"{wording.counted(len(own_ms), 'process', 'processes')}."
        )
        if not summary.trusted:
            because += f" The measurement is unsteady, by a factor of {blur:.2f}, which was allowed for: {reasons}."
        return self._finding(subject, value, outcome, because)

    def _decide(self, own_ms: tuple[float, ...], blur: float) -> tuple[Outcome, str]:
        limit = float(units.milliseconds(self.max))
        within = sum(value * blur <= limit for value in own_ms)
        above = sum(value / blur > limit for value in own_ms)
        if within == len(own_ms):
            return "pass", "every process stays within the limit"
        if above == len(own_ms):
            return "fail", "every process exceeds the limit"
        between = len(own_ms) - within - above
        unclear = f", {between} too close to it to tell" if between else ""
        return "inconclusive", f"{within} of {len(own_ms)} processes within and {above} above the limit{unclear}"

    def _unmeasured(self, artifact: Artifact) -> Finding:
        on = "" if self.device == "*" else f" on a device called {self.device!r}"
        unmeasured = f"{artifact.name} was not measured{on}; run edgekd bench."
        because = not_executed(artifact) if artifact.not_executed else unmeasured
        return self._finding(f"{artifact.name}@{self.device}", None, "inconclusive", because)

    def _finding(self, subject: str, value: float | None, outcome: Outcome, because: str) -> Finding:
        return Finding(
            budget=f"latency {self.percentile}",
            subject=subject,
            value=value,
            limit=float(units.milliseconds(self.max)),
            bound="at most",
            unit="ms",
            outcome=outcome,
            because=because,
        )

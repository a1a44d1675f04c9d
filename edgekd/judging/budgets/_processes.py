"""Limits on what was measured process by process: absolute ones, and ratios to what was measured beside it or another day.

The replicate is the process. An absolute limit is decided by Student's t on the logarithms of the processes' own figures; a
ratio within one session by the sequential test over its rounds; a ratio to another session only through the reference model
that both ran beside, and the finding says so.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from edgekd.core import sequential
from edgekd.core.contracts import ArmName, Pairing
from edgekd.core.evidence import Evidence
from edgekd.core.records import Artifact, Finding, LatencySummary, Report
from edgekd.judging.budgets._deciding import (
    Quantity,
    TimeRatio,
    amount,
    beside_in,
    cannot_pair,
    decide_absolute,
    decide_across,
    drifting_apart,
    log_ratios,
    more_pairs,
    or_dash,
    pairable,
)
from edgekd.judging.budgets._subjects import OfMeasurements, Said, not_executed

STOPS_BY = "latency p50"  # the one figure that sessions look at while they run
TAIL_SAMPLES = 1_000
TAIL_PAIRS = 20
TAIL_EFFECT = 0.10
_SAME = ("protocol", "mode", "profile", "runtime", "executed_on", "executed_precision", "batch", "threads")


class ProcessLimit(OfMeasurements):
    """A limit on a quantity that every process of a measurement has its own figure of."""

    shares_error: ClassVar[bool] = True
    max_ratio: TimeRatio | None = None
    alpha: Annotated[float, Field(gt=0, lt=0.1, description="the chance of a wrong fail")] = sequential.ALPHA

    def quantity(self) -> Quantity:
        """Return what is limited."""
        raise NotImplementedError

    def limit(self) -> tuple[float, str] | None:
        """Return the absolute limit in the quantity's unit, and as it was written; None where a ratio is asked."""
        raise NotImplementedError

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per artifact and device."""
        artifacts = self.artifacts(evidence.report)
        if not artifacts:
            return (self._said().unknown(self.subject(), self.none_matching(evidence.report)),)
        found: list[Finding] = []
        for artifact in artifacts:
            measured = self.measured(evidence.report, artifact)
            found += [self._of(one, evidence) for one in measured] or self._unmeasured(artifact, evidence.report)
        nothing = f"every matching device is judged by another budget ({', '.join(self.except_devices)})"
        return tuple(found) or (self._said().unknown(self.subject(), f"Nothing is left to judge: {nothing}."),)

    def pairings(self, artifacts: Sequence[Artifact]) -> tuple[Pairing, ...]:
        """Return the comparisons of a query's p50 with the baseline, which a session goes on for."""
        ratio = self.max_ratio
        if ratio is None or ratio.to != "baseline" or ratio.unchanged != 1.0 or self.quantity().words != STOPS_BY:
            return ()
        names = [artifact.name for artifact in artifacts if self.speaks_of(artifact)]
        return tuple(
            Pairing(
                a=ArmName(artifact=name, arm="baseline"),
                b=ArmName(artifact=name, arm="candidate"),
                max_ratio=ratio.value,
                min_effect=ratio.effect,
            )
            for name in names
        )

    # ------------------------------------------------------------------------------------------------------------- parts
    def _said(self) -> Said:
        quantity, limit, ratio = self.quantity(), self.limit(), self.max_ratio
        if limit is not None:
            return Said(budget=quantity.words, limit=limit[0], unit=quantity.unit, alpha=self.alpha)
        assert ratio is not None
        return Said(
            budget=f"{quantity.words} against the {ratio.to}", limit=ratio.value, unit="x", against=ratio.to, alpha=self.alpha
        )

    def _unmeasured(self, artifact: Artifact, report: Report) -> list[Finding]:
        others = [one for one in report.latencies if one.artifact == artifact.name and one.arm == "candidate"]
        if others and all(one.device.name in self.except_devices for one in others):
            return []
        device = self.device if isinstance(self.device, str) else ", ".join(self.device)
        on = "" if device == "*" else f" on a device called {device!r}"
        mode = "" if self.mode == "single" else f" in {self.mode} mode"
        unmeasured = f"{artifact.name} was not measured{on}{mode}; run edgekd bench."
        because = not_executed(artifact) if artifact.not_executed else unmeasured
        return [self._said().unknown(f"{artifact.name}@{device}", because, needs="a measurement: edgekd bench RUN")]

    def _of(self, summary: LatencySummary, evidence: Evidence) -> Finding:
        subject = f"{summary.artifact}@{summary.device.name}"
        said, value = self._said(), self.quantity().point(summary)
        refused = self._unusable(summary, evidence)
        if refused:
            shown = None if self.max_ratio is not None or refused[0] == "estimate" else value
            return said.unknown(subject, refused[1], value=shown)
        if self.max_ratio is None:
            return self._absolute(summary, subject, said, evidence.fail_share(subject))
        return self._ratio(summary, subject, said, evidence)

    def _unusable(self, summary: LatencySummary, evidence: Evidence) -> tuple[str, str] | None:
        if summary.kind == "estimate":
            return "estimate", "This is an estimate, and only what was measured can pass a gate; run edgekd bench."
        reasons = "; ".join(summary.untrusted_because) or "no reason was given"
        if not summary.trusted and (summary.blur is None or (self.max_ratio is not None and not pairable(summary))):
            return "untrusted", f"The measurement cannot be trusted: {reasons}."
        rule = evidence.rule(summary.device.name)
        broken = rule.broken_by(summary) if rule is not None else ""
        if broken:
            return "device", f"The device is not the one that the budgets file describes: its {broken}."
        return None

    # ---------------------------------------------------------------------------------------------------------- absolute
    def _absolute(self, summary: LatencySummary, subject: str, said: Said, share: float) -> Finding:
        quantity, limit = self.quantity(), self.limit()
        assert limit is not None
        value, own = quantity.point(summary), quantity.own(summary)
        if value is None or not own or min(own) <= 0:
            withheld = "; ".join(summary.withheld) or "it was not recorded"
            return said.unknown(subject, f"{quantity.words} is not known of this measurement: {withheld}.", value=value)
        if len(own) < 2:
            because = f"{quantity.words} is {amount(value, quantity)} in one process, and one says nothing of the next."
            return said.unknown(subject, because, value=value, needs="at least 2 processes, better 7: bench.workers")
        return decide_absolute(summary, subject, said, quantity=quantity, written=limit[1], share=share)

    # -------------------------------------------------------------------------------------------------------------- ratio
    def _ratio(self, summary: LatencySummary, subject: str, said: Said, evidence: Evidence) -> Finding:
        ratio = self.max_ratio
        assert ratio is not None
        beside = beside_in(summary, ratio.to, evidence.report)
        if beside is not None:
            return self._paired(summary, beside, subject, said, evidence.fail_share(subject))
        if ratio.to == "reference":
            because = "The reference model was not measured beside this artifact."
            return said.unknown(subject, because, needs="a measurement with the reference arm: edgekd bench RUN")
        return self._other_session(summary, subject, said, evidence)

    def _paired(self, summary: LatencySummary, other: LatencySummary, subject: str, said: Said, share: float) -> Finding:
        quantity, ratio = self.quantity(), self.max_ratio
        assert ratio is not None
        refused = cannot_pair(other, quantity) or self._tail_refused(summary, other)
        if refused:
            return said.unknown(subject, refused[0], needs=refused[1])
        if apart := drifting_apart(summary, other):
            return said.unknown(subject, apart, needs="a longer warm-up, or a cooler machine")
        pairs = log_ratios(summary, other, quantity)
        decision = sequential.decide(
            pairs,
            max_ratio=ratio.value,
            min_effect=ratio.effect,
            unchanged=ratio.unchanged,
            fail_share=share * self.alpha / sequential.ALPHA,
            first_look=TAIL_PAIRS if quantity.tail else sequential.LOOKS[0],
        )
        steps = (
            (
                f"{len(pairs)} pairs of fresh processes from one session ({summary.session[:8]}), "
                f"{quantity.words} of {summary.artifact} over {other.artifact} ({other.arm})"
                f"{', each the middle one of the ratios of its turns' if quantity.turns(summary) else ''}"
            ),
            (
                f"looks at {', '.join(map(str, sequential.LOOKS))} pairs; fail: lower bound above {ratio.unchanged:g} and "
                f"ratio above {ratio.unchanged * (1 + ratio.effect):.4g}; pass: upper bound below {ratio.value:g}"
            ),
            (
                f"at {decision.look} pairs: ratio {or_dash(decision.ratio)}, bounds {or_dash(decision.low)} and "
                f"{or_dash(decision.high)}, pair sd {or_dash(decision.pair_sd)}, p (fail) {decision.p_fail:.3g}"
            ),
        )
        following = decision.next_look
        because = f"{summary.artifact} against the {other.arm} of the same session: {decision.because}."
        if not (summary.trusted and other.trusted):
            reasons = dict.fromkeys((*summary.untrusted_because, *other.untrusted_because))
            because += f" The machine was unsteady, which both felt in turns: {'; '.join(reasons)}."
        return said.found(
            subject,
            decision.ratio,
            decision.outcome,
            because,
            needs="" if decision.outcome != "inconclusive" else more_pairs(following, decision.because),
            bounds=(decision.low, decision.high),
            p_value=decision.p_fail,
            pairs=len(pairs),
            arithmetic=steps,
        )

    def _tail_refused(self, summary: LatencySummary, other: LatencySummary) -> tuple[str, str] | None:
        if not self.quantity().tail:
            return None
        ratio = self.max_ratio
        assert ratio is not None
        if ratio.unchanged == 1.0 and ratio.effect < TAIL_EFFECT:
            return (
                f"A p99 cannot tell effects below {100 * TAIL_EFFECT:g} %, and {100 * ratio.effect:g} % are asked.",
                "min_effect: 0.10 and value: 1.25",
            )
        fewest = min(one.samples // max(1, len(one.rounds)) for one in (summary, other))
        pairs = len(set(summary.rounds) & set(other.rounds))
        if fewest < TAIL_SAMPLES or pairs < TAIL_PAIRS:
            return (
                (
                    f"A p99 is compared from {TAIL_SAMPLES:,} samples in each of {TAIL_PAIRS} pairs of processes; "
                    f"there are {fewest:,} in {pairs}."
                ),
                f"bench with {TAIL_SAMPLES:,} iterations and {TAIL_PAIRS} rounds",
            )
        return None

    def _other_session(self, summary: LatencySummary, subject: str, said: Said, evidence: Evidence) -> Finding:
        refused, earlier = self._comparable(summary, evidence)
        quantity, ratio = self.quantity(), self.max_ratio
        assert ratio is not None
        if earlier is None or evidence.baseline is None:
            return said.unknown(subject, refused, needs="edgekd bench RUN --against BASELINE measures both in one session")
        here = beside_in(summary, "reference", evidence.report)
        there = beside_in(earlier, "reference", evidence.baseline)
        unpaired = [one for one in (here, there) if one is None or cannot_pair(one, quantity)]
        if here is None or there is None or unpaired or quantity.tail:
            because = (
                "The two sessions share no trusted reference model, so nothing takes out how fast the machine was that day."
            )
            return said.unknown(subject, because, needs="edgekd bench RUN --against BASELINE measures both in one session")
        now, then = log_ratios(summary, here, quantity), log_ratios(earlier, there, quantity)
        if min(len(now), len(then)) < sequential.LOOKS[0]:
            because = (
                f"The sessions have {len(now)} and {len(then)} pairs with the reference; each needs {sequential.LOOKS[0]}."
            )
            return said.unknown(subject, because, needs=f"{sequential.LOOKS[0]} rounds in both sessions")
        return decide_across(subject, said, now, then, ratio=ratio, alpha=self.alpha * evidence.fail_share(subject))

    def _comparable(self, summary: LatencySummary, evidence: Evidence) -> tuple[str, LatencySummary | None]:
        if evidence.baseline is None:
            return "There is no baseline to compare with: none was measured beside it and none was given.", None
        named = [
            one
            for one in evidence.baseline.latencies
            if (one.artifact, one.arm, one.device.name) == (summary.artifact, "candidate", summary.device.name)
            and one.mode == summary.mode
        ]
        if not named:
            return f"The baseline has no measurement of {summary.artifact} on {summary.device.name}.", None
        earlier = named[0]
        unlike = [key for key in _SAME if getattr(earlier, key) != getattr(summary, key)]
        if earlier.device_class != summary.device_class or earlier.device_class is None:
            unlike.append("device class")
        if unlike:
            return f"The baseline's measurement is not comparable: other {', '.join(unlike).replace('_', ' ')}.", None
        if not earlier.trusted or earlier.kind == "estimate":
            return "The baseline's measurement cannot be trusted.", None
        if not summary.trusted:
            return f"The measurement cannot be trusted across sessions: {'; '.join(summary.untrusted_because)}.", None
        return "", earlier

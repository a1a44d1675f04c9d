"""How figures of processes are decided: against a number, and against another session through the reference model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekd.core import latency, sequential
from edgekd.core.plan import Section
from edgekd.core.records import Finding, LatencySummary, Outcome, Report
from edgekd.judging import wording
from edgekd.judging.budgets._subjects import Against, Said

FELT_ALIKE = ("unstable:", "contended:", "clock-unsteady:")
"""Reasons not to trust a figure that leave the ratio of two arms of one session as it is. Ours."""
DRIFT = "drift:"


class TimeRatio(Section):
    """At most `value` times as much as the other, which is measured, not read off.

    To the `baseline`, `value` is the slow-down that must not get through, and anything proven slower by more than `min_effect`
    (by default two fifths of the slow-down) fails. To the `reference` model, or below 1, `value` is the limit itself.
    """

    to: Literal["baseline", "reference"]
    value: Annotated[float, Field(gt=0)]
    min_effect: Annotated[float, Field(ge=0, lt=10)] | None = None

    @property
    def unchanged(self) -> float:
        """Return the ratio above which a fail must be proven."""
        return 1.0 if self.to == "baseline" and self.value > 1 else self.value

    @property
    def effect(self) -> float:
        """Return the smallest effect that may fail, relative to `unchanged`."""
        if self.min_effect is not None:
            return self.min_effect
        return round(0.4 * (self.value - 1), 9) if self.unchanged == 1.0 and self.value > 1 else 0.0

    @model_validator(mode="after")
    def _effect_is_below_the_limit(self) -> "TimeRatio":
        if self.unchanged < self.value <= 1 + self.effect:
            raise ValueError(f"`min_effect` must be smaller than the slow-down of {self.value - 1:.3g} that `value` asks about")
        return self


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is limited: its words and unit, the figure over all processes, each process's own, and that of each of its turns."""

    words: str
    unit: str
    point: Callable[[LatencySummary], float | None]
    own: Callable[[LatencySummary], tuple[float, ...]]
    turns: Callable[[LatencySummary], tuple[tuple[float, ...], ...]] = lambda _: ()
    tail: bool = False


def log_ratios(a: LatencySummary, b: LatencySummary, quantity: Quantity) -> tuple[float, ...]:
    """Return ln(a / b) of the rounds that both have, in the order of rounds; none where a figure is missing."""
    own_a, own_b = (dict(zip(one.rounds, quantity.own(one), strict=False)) for one in (a, b))
    taken = (zip(one.rounds, quantity.turns(one), strict=False) for one in (a, b))
    turns_a, turns_b = ({k: medians for k, medians in of if medians and min(medians) > 0} for of in taken)
    shared = [k for k in sorted(own_a.keys() & own_b.keys()) if own_a[k] > 0 and own_b[k] > 0]
    turns = ([found[k] for k in shared if k in found] for found in (turns_b, turns_a))
    return latency.log_ratios([own_b[k] for k in shared], [own_a[k] for k in shared], *turns)


def decide_across(
    subject: str, said: Said, now: Sequence[float], then: Sequence[float], *, ratio: TimeRatio, alpha: float
) -> Finding:
    """Decide a ratio of ratios by Welch's t: this session and another one, each over the reference model it ran beside."""
    difference = sequential.mean_of(now) - sequential.mean_of(then)
    errors = [sequential.sd_of(side) ** 2 / len(side) for side in (now, then)]
    error = math.sqrt(sum(errors))
    degrees = sum(errors) ** 2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, (now, then), strict=True)) if error else 1.0
    low = difference - sequential.t_quantile(degrees, alpha) * error
    high = difference + sequential.t_quantile(degrees, sum(sequential.PASS_ALPHAS)) * error
    zero = math.log(ratio.unchanged)
    beyond = difference > zero + math.log1p(ratio.effect)
    outcome: Outcome = "fail" if beyond and low > zero else "pass" if high < math.log(ratio.value) else "inconclusive"
    shown = f"{math.exp(difference):.3f} (bounds {math.exp(low):.3f} and {math.exp(high):.3f})"
    because = (
        f"The sessions are different ones and are compared through the reference model only, a ratio of ratios: {shown} over "
        f"{len(now)} and {len(then)} rounds; {ratio.value:g} is the limit."
    )
    return said.found(
        subject,
        math.exp(difference),
        outcome,
        because,
        needs="" if outcome != "inconclusive" else "edgekd bench RUN --against BASELINE measures both in one session",
        bounds=(math.exp(low), math.exp(high)),
        p_value=sequential.p_above(difference - zero, error, degrees) if beyond else 1.0,
        pairs=min(len(now), len(then)),
        arithmetic=(
            f"mean ln(artifact / reference): {sequential.mean_of(now):.4f} here, {sequential.mean_of(then):.4f} there",
            f"difference {difference:.4f}, standard error {error:.4f}, {degrees:.1f} degrees of freedom (Welch)",
        ),
    )


def decide_absolute(
    summary: LatencySummary, subject: str, said: Said, *, quantity: Quantity, written: str, share: float
) -> Finding:
    """Decide a limit by Student's t on the logarithms of the processes' figures; a fail may use `share` of the error."""
    own, value, alpha = quantity.own(summary), quantity.point(summary), said.alpha or sequential.ALPHA
    assert value is not None
    blur = 1.0 if summary.trusted else summary.blur or 1.0
    logs = [math.log(one) for one in own]
    mean, error, degrees = sequential.mean_of(logs), sequential.sd_of(logs) / math.sqrt(len(logs)), len(logs) - 1
    low = math.exp(mean - sequential.t_quantile(degrees, alpha * share) * error) / blur
    high = math.exp(mean + sequential.t_quantile(degrees, alpha) * error) * blur
    p_fail = sequential.p_above(mean - math.log(said.limit * blur), error, degrees)
    # A bound of equal figures is the figure itself, but for the rounding of its logarithm.
    low, high = (min(own) / blur, max(own) * blur) if error == 0 else (low, high)
    outcome: Outcome = "pass" if high <= said.limit else "fail" if low > said.limit else "inconclusive"
    spread = f"{amount(min(own), quantity)} to {amount(max(own), quantity)}"
    sides = {
        "pass": f"even the upper bound {amount(high, quantity)} is within {written}",
        "fail": f"even the lower bound {amount(low, quantity)} is above {written}",
        "inconclusive": f"the bounds {amount(low, quantity)} and {amount(high, quantity)} have {written} between them",
    }
    because = (
        f"{quantity.words} is {amount(value, quantity)} over {wording.counted(len(own), 'process', 'processes')} ({spread}; "
        f"batch {summary.batch}, {wording.counted(summary.threads, 'thread')}); {sides[outcome]}."
    )
    if not summary.trusted:
        reasons = "; ".join(summary.untrusted_because) or "no reason was given"
        because += f" The measurement is unsteady, by a factor of {blur:.2f}, which was allowed for: {reasons}."
    return said.found(
        subject,
        value,
        outcome,
        because,
        needs=_processes_needed(mean, error * math.sqrt(len(logs)), said.limit, alpha) if outcome == "inconclusive" else "",
        bounds=(low, high),
        p_value=p_fail,
        arithmetic=(
            f"{len(own)} processes, mean of logarithms {mean:.4f}, standard error {error:.4f}",
            f"Student's t with {degrees} degrees of freedom at {100 * alpha * share:.3g} % (fail) and {100 * alpha:g} % (pass)",
        ),
    )


def _processes_needed(mean: float, sd: float, limit: float, alpha: float) -> str:
    distance = abs(math.log(limit) - mean)
    for count in range(2, 1001):
        if sequential.t_quantile(count - 1, alpha) * sd / math.sqrt(count) < distance:
            return f"about {wording.counted(count, 'process', 'processes')} at this spread: bench.workers"
    return "a limit further away from what was measured"


def beside_in(summary: LatencySummary, arm: Against, report: Report) -> LatencySummary | None:
    """Return the other arm that ran in the same session on the same runtime, or None."""
    backend = summary.artifact.rpartition("-")[0]
    wanted = f"{backend}-reference" if arm == "reference" else summary.artifact
    alike = ("session", "protocol", "mode", "batch", "threads")
    return next(
        (
            one
            for one in report.latencies
            if summary.session
            and (one.arm, one.artifact, one.device.name) == (arm, wanted, summary.device.name)
            and all(getattr(one, key) == getattr(summary, key) for key in alike)
        ),
        None,
    )


def pairable(summary: LatencySummary) -> bool:
    """Return whether a measurement can be compared with the arms that ran beside it, though it may be unsteady.

    What others did to the machine, all arms felt alike, because they took turns on the same cores; pairs that scatter
    for it widen the interval. Of a drift the turns tell whether both did (`drifting_apart`); a paced stream takes none.
    """
    if summary.trusted:
        return True
    apart = summary.mode == "paced" or any(flag.startswith("not-in-turns") for flag in summary.flags)
    alike = (*FELT_ALIKE, *([DRIFT] if summary.worker_turns_ms else []))
    shared = bool(summary.untrusted_because) and all(one.startswith(alike) for one in summary.untrusted_because)
    return summary.blur is not None and shared and not apart


def drifting_apart(summary: LatencySummary, other: LatencySummary) -> str:
    """Return why two arms of a session, one of which drifts, cannot be compared; '' if they drift alike, or not at all."""
    if not any(reason.startswith(DRIFT) for one in (summary, other) for reason in one.untrusted_because):
        return ""
    found = latency.drift_apart(other.worker_turns_ms, summary.worker_turns_ms)
    if found is None:
        return f"One of them drifts, and too little is known of the turns of {summary.artifact} and the {other.arm}."
    if not found.flagged:
        return ""
    return (
        f"They drift apart: over the last turns their ratio is {1 + found.share:.3f} x that of the first (p = {found.p:.2g})."
    )


def cannot_pair(other: LatencySummary, quantity: Quantity) -> tuple[str, str] | None:
    """Return why the other arm cannot be compared with, and what would help; None if it can."""
    if other.kind == "estimate":
        return f"What stands for the {other.arm} is an estimate, and only what was measured counts.", "edgekd bench RUN"
    if not pairable(other):
        reasons = "; ".join(other.untrusted_because) or "no reason was given"
        return f"The measurement of the {other.arm} cannot be trusted: {reasons}.", "a quieter machine"
    if not quantity.own(other):
        return f"{quantity.words} is not known of the {other.arm}: too few samples.", "more iterations"
    return None


def more_pairs(following: int | None, because: str) -> str:
    """Return what a comparison that is still open needs."""
    if "quieter" in because:
        return "a quieter machine"
    return f"{following} pairs of processes" if following else "a smaller spread between processes, or another limit"


def amount(value: float, quantity: Quantity) -> str:
    """Return a figure of a quantity with its unit."""
    return wording.quantity(value, quantity.unit)


def or_dash(value: float | None) -> str:
    """Return a number of the arithmetic, or a dash."""
    return "-" if value is None else f"{value:.4f}"

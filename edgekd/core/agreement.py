"""What agreement with the torch student is asked of each precision, and what a number of images can prove of it. Pure.

An artifact is a pass only if the exact lower bound of its top-1 agreement reaches the limit and the mean cosine of its logits
does too; no flip on 299, 598 and 2,995 images proves 99, 99.5 and 99.9 %. Too few images prove nothing: that is inconclusive,
with the number that would decide.
"""

from dataclasses import dataclass

from edgekd.core import stats
from edgekd.core.records import Outcome, Parity, ParityDecision

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The least proven top-1 agreement and the least mean cosine of the logits; None asks nothing."""

    agreement: float | None
    cosine: float | None


LIMITS = {
    "fp32": Limits(agreement=0.999, cosine=0.9999),
    "fp16": Limits(agreement=0.995, cosine=0.999),
    "int8": Limits(agreement=0.98, cosine=0.99),
    "original": Limits(agreement=0.999, cosine=0.9999),  # an imported graph that was not changed
}


def decide(parity: Parity, *, precision: str, executed_precision: str) -> ParityDecision:
    """Return what a parity proves under the limits of the artifact's precision.

    Never a pass if the precision has no limits, if the runtime cannot say what it computed in, or if no image was compared.
    """
    limits = LIMITS.get(precision)
    low, high = stats.exact_bounds(parity.top1_agreements, parity.images) if parity.images else (0.0, 1.0)
    outcome, because = _judged(parity, limits, precision, executed_precision)
    return ParityDecision(
        outcome=outcome,
        agreement_low=low,
        agreement_high=high,
        min_agreement=limits.agreement if limits else None,
        min_cosine=limits.cosine if limits else None,
        because=because,
    )


def _judged(parity: Parity, limits: Limits | None, precision: str, executed_precision: str) -> tuple[Outcome, str]:
    if parity.non_finite:
        return "fail", f"it answers NaN or infinity on {parity.non_finite:,} of {parity.images:,} images."
    if limits is None:
        return "inconclusive", f"no limits are known for the precision {precision}; known are {', '.join(LIMITS)}."
    if parity.images == 0:
        return "inconclusive", "it was compared on no images."
    found = [agreement(parity.top1_agreements, parity.images, limits.agreement)] if limits.agreement is not None else []
    found += [cosine(parity.logit_cosine_mean, limits.cosine)] if limits.cosine is not None else []
    if UNKNOWN in executed_precision:
        found.append(("inconclusive", "the runtime does not say what it computed in"))
    outcomes = {outcome for outcome, _ in found}
    outcome: Outcome = next((one for one in ("fail", "inconclusive") if one in outcomes), "pass")
    return outcome, "; ".join(said for _, said in found) + "."


def agreement(agreements: int, images: int, limit: float) -> tuple[Outcome, str]:
    """Return whether so many agreements prove a share, and the sentence that says so (without its full stop)."""
    low, high = stats.exact_bounds(agreements, images)
    said = f"it agrees with torch on {agreements:,} of {images:,} images, which proves {_down(low)}"
    if low >= limit:
        return "pass", f"{said}; {_share(limit)} is asked"
    if high < limit:
        return "fail", f"{said} and rules out more than {_up(high)}; {_share(limit)} is asked"
    needed = stats.trials_to_prove(agreements / images, limit)
    decides = f"at this rate {needed:,} images would decide" if needed else "at exactly this rate no number of images decides"
    return "inconclusive", f"{said}; {_share(limit)} is asked, and {decides}"


def cosine(mean: float, limit: float) -> tuple[Outcome, str]:
    """Return whether a mean cosine of the logits is large enough, and the sentence that says so (without its full stop)."""
    return ("pass" if mean >= limit else "fail"), f"the mean cosine of its logits is {mean:.6f}, at least {limit:g} is asked"


def _share(value: float) -> str:
    return f"{100 * value:.6g} %"


def _down(value: float) -> str:
    # Never rounded towards a limit that was not reached.
    return f"{int(10_000 * value) / 100:.2f} %"


def _up(value: float) -> str:
    return f"{-int(-10_000 * value // 1) / 100:.2f} %"

"""The test that decides "slower or not" while rounds are still being measured: paired, group-sequential, with known errors.

Each round gives one pair of fresh processes and so one log-ratio. At declared numbers of pairs (`LOOKS`) the pairs so far are
looked at: a one-sided t bound above "unchanged" with a point estimate beyond the smallest effect of interest is a fail, a
bound below the limit is a pass, anything else goes on to the next look. The first decision stands. The chances of a wrong fail
(`FAIL_ALPHAS`) and of a wrong pass (`PASS_ALPHAS`) are shared out over the looks, so that looking several times costs nothing:
unchanged code fails in at most 1 % of all cases, a slow-down of the limit passes in at most 5 %. Pure; numbers in, a decision
out. The simulated characteristics stand in `benchmarks/`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekd.core import beta

if TYPE_CHECKING:
    import numpy as np

LOOKS = (7, 12, 20, 40)
FAIL_ALPHAS = (0.001, 0.002, 0.003, 0.004)
PASS_ALPHAS = (0.0125,) * 4
ALPHA = math.fsum(FAIL_ALPHAS)
MAX_PAIR_SD = 0.07
"""Standard deviation of the log-ratios above which no number of pairs up to the last look tells 5 % from noise."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the pairs decide: the look that decided (or the last one taken), and its bounds as ratios.

    `low` is the lower bound that a fail needs above unchanged, `high` the upper bound that a pass needs below the limit;
    with too few pairs for a look, ratio and bounds are what there is so far or None. `p_fail` is the smallest total error
    at which this would have been a fail (1.0: at none), for corrections over several comparisons.
    """

    outcome: Literal["pass", "fail", "inconclusive"]
    look: int
    ratio: float | None
    low: float | None
    high: float | None
    pair_sd: float | None
    because: str
    p_fail: float = 1.0
    next_look: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The statistics of the first `pairs` log-ratios."""

    pairs: int
    mean: float
    sd: float
    low: float
    high: float
    p: float


def next_look(pairs: int) -> int | None:
    """Return the next declared number of pairs above this one, or None after the last."""
    return next((look for look in LOOKS if look > pairs), None)


def decide(
    log_ratios: Sequence[float],
    *,
    max_ratio: float = 1.05,
    min_effect: float = 0.02,
    unchanged: float = 1.0,
    fail_share: float = 1.0,
    first_look: int = LOOKS[0],
    max_pair_sd: float = MAX_PAIR_SD,
) -> Decision:
    """Walk the declared looks over ln(candidate / baseline), one a round; the first decision stands.

    A fail needs a lower bound above `unchanged` and a point estimate more than `min_effect` above it; a pass an upper bound
    below `max_ratio`. `fail_share` scales the chance of a wrong fail where several comparisons are decided together (Holm,
    Bonferroni); `first_look` skips looks that are too early for the quantity compared. A look at pairs that differ by more than
    `max_pair_sd` decides nothing. Pairs beyond a look that are not a full next one are not used. Raises `ValueError` for ratios
    that are not finite, or limits that make no sense.
    """
    _check(log_ratios, max_ratio, min_effect, unchanged, fail_share)
    taken = [k for k in LOOKS if first_look <= k <= len(log_ratios)]
    limit, zero, effect = math.log(max_ratio), math.log(unchanged), math.log1p(min_effect)
    p_fail, look = 1.0, None
    for k in taken:
        index = LOOKS.index(k)
        look = _look(log_ratios[:k], zero, fail_share * FAIL_ALPHAS[index], PASS_ALPHAS[index])
        if look.sd > max_pair_sd:
            if k == taken[-1]:
                return _noisy(look, p_fail, max_pair_sd)
            continue
        beyond = look.mean > zero + effect
        p_fail = min(p_fail, look.p * ALPHA / FAIL_ALPHAS[index]) if beyond else p_fail
        if beyond and look.low > zero:
            return _decided("fail", look, p_fail, unchanged=unchanged, max_ratio=max_ratio)
        if look.high < limit:
            return _decided("pass", look, p_fail, unchanged=unchanged, max_ratio=max_ratio)
    return _open(log_ratios, look, p_fail, unchanged=unchanged, max_ratio=max_ratio, first_look=first_look)


def decide_many(
    log_ratios_JK: "np.ndarray[Any, Any]",
    *,
    max_ratio: float = 1.05,
    min_effect: float = 0.02,
    max_pair_sd: float = MAX_PAIR_SD,
) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Return what `decide` says of each of many jobs (rows of 40 pairs, J jobs): 1 fail, 2 pass, 0 neither; and the pairs used.

    For simulations of the design; `unchanged` is 1.
    """
    import numpy as np

    outcome_J = np.zeros(len(log_ratios_JK), np.int8)
    pairs_J = np.full(len(log_ratios_JK), LOOKS[-1])
    for look, fail_alpha, pass_alpha in zip(LOOKS, FAIL_ALPHAS, PASS_ALPHAS, strict=True):
        seen_JK = log_ratios_JK[:, :look]
        mean_J, sd_J = seen_JK.mean(axis=1), seen_JK.std(axis=1, ddof=1)
        error_J = sd_J / math.sqrt(look)
        fails_J = (mean_J - t_quantile(look - 1, fail_alpha) * error_J > 0) & (mean_J > math.log1p(min_effect))
        passes_J = mean_J + t_quantile(look - 1, pass_alpha) * error_J < math.log(max_ratio)
        now_J = np.where(fails_J, 1, np.where(passes_J, 2, 0)) * (sd_J <= max_pair_sd) * (outcome_J == 0)
        pairs_J[now_J > 0] = look
        outcome_J += now_J.astype(np.int8)
    return outcome_J, pairs_J


def _check(log_ratios: Sequence[float], max_ratio: float, min_effect: float, unchanged: float, fail_share: float) -> None:
    if not all(map(math.isfinite, log_ratios)):
        raise ValueError("a log-ratio is not a finite number")
    if not (0 < unchanged <= max_ratio and math.isfinite(max_ratio) and min_effect >= 0 and 0 < fail_share * ALPHA < 0.5):
        raise ValueError(
            f"0 < unchanged <= max_ratio, min_effect >= 0 and 0 < fail_share < 50 are needed; got {unchanged}, {max_ratio}, "
            f"{min_effect} and {fail_share}"
        )


def _look(log_ratios: Sequence[float], zero: float, fail_alpha: float, pass_alpha: float) -> _Look:
    pairs, mean, sd = len(log_ratios), mean_of(log_ratios), sd_of(log_ratios)
    error = sd / math.sqrt(pairs)
    return _Look(
        pairs=pairs,
        mean=mean,
        sd=sd,
        low=mean - t_quantile(pairs - 1, fail_alpha) * error,
        high=mean + t_quantile(pairs - 1, pass_alpha) * error,
        p=p_above(mean - zero, error, pairs - 1),
    )


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return math.fsum(values) / len(values)


def sd_of(values: Sequence[float]) -> float:
    """Return the standard deviation (n - 1) of at least two values."""
    mean = mean_of(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_quantile(degrees: float, alpha: float) -> float:
    """Return how many standard errors a one-sided bound with error `alpha` stands from the mean (Student's t)."""
    return beta.t_quantile(alpha, degrees)


def p_above(difference: float, error: float, degrees: float) -> float:
    """Return the one-sided p-value of "not above" for a difference with this standard error (Student's t)."""
    if error == 0:  # equal in every round, as scripted clocks have it: known exactly
        return 0.0 if difference > 0 else 1.0
    return beta.t_tail(difference / error, degrees)


def _decided(outcome: Literal["pass", "fail"], look: _Look, p_fail: float, *, unchanged: float, max_ratio: float) -> Decision:
    if outcome == "pass":
        said = f"the ratio is below {max_ratio:g}: its upper bound is {math.exp(look.high):.3f}"
    else:
        said = f"the ratio is above {unchanged:g}: its lower bound is {math.exp(look.low):.3f}"
    because = f"after {look.pairs} pairs {said} ({math.exp(look.mean):.3f} measured, pair sd {100 * look.sd:.1f} %)"
    return Decision(
        outcome=outcome,
        look=look.pairs,
        ratio=math.exp(look.mean),
        low=math.exp(look.low),
        high=math.exp(look.high),
        pair_sd=look.sd,
        because=because,
        p_fail=min(1.0, p_fail),
    )


def _noisy(look: _Look, p_fail: float, max_pair_sd: float) -> Decision:
    following = next_look(look.pairs)
    return Decision(
        outcome="inconclusive",
        look=look.pairs,
        ratio=math.exp(look.mean),
        low=math.exp(look.low),
        high=math.exp(look.high),
        pair_sd=look.sd,
        because=(
            f"the pairs differ by {100 * look.sd:.1f} % (sd) after {look.pairs}, more than the {100 * max_pair_sd:g} % up to "
            "which this test can tell; make the machine quieter"
        ),
        p_fail=min(1.0, p_fail),
        next_look=following,
    )


def _open(
    log_ratios: Sequence[float],
    look: _Look | None,
    p_fail: float,
    *,
    unchanged: float,
    max_ratio: float,
    first_look: int,
) -> Decision:
    pairs = len(log_ratios)
    if look is None:
        return Decision(
            outcome="inconclusive",
            look=0,
            ratio=math.exp(mean_of(log_ratios)) if pairs else None,
            low=None,
            high=None,
            pair_sd=sd_of(log_ratios) if pairs > 1 else None,
            because=f"there are {pairs} pairs, and the first look is at {max(first_look, LOOKS[0])}",
            next_look=max(first_look, LOOKS[0]),
        )
    following = next_look(pairs)
    goes_on = f"the next look is at {following} pairs" if following else "this was the last look"
    return Decision(
        outcome="inconclusive",
        look=look.pairs,
        ratio=math.exp(look.mean),
        low=math.exp(look.low),
        high=math.exp(look.high),
        pair_sd=look.sd,
        because=(
            f"after {look.pairs} pairs the ratio {math.exp(look.mean):.3f} is neither proven above {unchanged:g} (lower bound "
            f"{math.exp(look.low):.3f}) by the smallest effect of interest nor below {max_ratio:g} (upper bound "
            f"{math.exp(look.high):.3f}); {goes_on}"
        ),
        p_fail=min(1.0, p_fail),
        next_look=following,
    )

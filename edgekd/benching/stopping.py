"""When a session has seen enough: at declared looks, when every comparison is decided, or a lone measurement is narrow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.benching.profiles import HALF_WIDTHS
from edgekd.core import latency, sequential
from edgekd.core.contracts import ArmName, Pairing

Medians = Mapping[ArmName, Sequence[float]]
"""Each arm's worker percentiles in ns, one a round."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at a session found."""

    done: bool
    because: str


def look(
    rounds: int,
    looks: Sequence[int],
    percentiles: Callable[[float], Medians],
    ratios: Callable[[Pairing], Sequence[float]],
    comparisons: Sequence[Pairing],
) -> Look:
    """Return whether to stop after so many rounds; between declared looks nothing is looked at.

    `percentiles(50.0)` gives the workers' medians, `ratios` the logarithm of each pair's ratio. The rounds at which a
    comparison may be decided are fixed beforehand: looking at every round, and stopping when it pleases, would decide by
    chance.
    """
    if rounds < looks[-1] and rounds not in looks:
        return Look(done=False, because="")
    if comparisons:
        open_ = [one for one in comparisons if not _decided(ratios(one), one)]
        if not open_:
            return Look(done=True, because=f"every comparison was decided after {rounds} rounds")
        because = f"{len(open_)} of {len(comparisons)} comparisons still open after {rounds} rounds"
    else:
        wide = _widest(percentiles)
        if not wide:
            return Look(done=True, because=f"every interval is narrow enough after {rounds} rounds")
        because = f"{wide} after {rounds} rounds"
    return Look(done=rounds >= looks[-1], because=because)


def _decided(log_ratios: Sequence[float], one: Pairing) -> bool:
    if len(log_ratios) < 2:
        return True  # an arm that is not measured decides nothing, and nobody waits for it
    decision = sequential.decide(log_ratios, max_ratio=one.max_ratio, min_effect=one.min_effect)
    return decision.outcome != "inconclusive" or decision.next_look is None


def _widest(percentiles: Callable[[float], Medians]) -> str:
    for percent, limit in HALF_WIDTHS.items():
        for arm, values in percentiles(percent).items():
            half = latency.half_width(values) if values else 0.0
            if half > limit:
                return f"the p{percent:.0f} of {arm.artifact} is known to {100 * half:.1f} %, wanted are {100 * limit:g} %"
    return ""

"""How long a model takes to warm up, found afterwards from one long recording. Pure functions of times in ns.

"Warm up until two windows agree" does not work: a slow-down of 30 % with a time constant of a minute moves by 0.5 % a second,
and passes at once. So the recording is made first, and its end says what is steady.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.latency import median

if TYPE_CHECKING:
    import numpy as np

    Times = np.ndarray[Any, np.dtype[np.int64]]

TOLERANCE = 0.01
STANDARD_ERRORS = 3.0
MARGIN = 1.25
LATEST_SHARE = 2 / 3
LEAST_IN_WINDOW = 5
_OF_MEDIAN = 1.2533  # standard error of a median, of Gaussian noise, in sd / sqrt(n)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """When a recording became steady, how long to warm up, and whether it ever settled."""

    settled_s: float
    warmup_s: float
    converged: bool
    recorded_s: float
    level_ns: float


def warm_up(
    at_ns: "Times", infer_ns: "Times", *, least_s: float = 3.0, least_inferences: int = 10, window_s: float = 1.0
) -> WarmUp:
    """Return how long to warm up: the larger of `least_s`, 1.25 times the time of settling, and so many inferences.

    It settles at the end of the last run of two windows or more that lie outside 1 % and 3 standard errors of the median of the
    second half. A recording that settles only in its last third, or whose last two quarters differ, has not converged. Windows
    are of `window_s`, or of a thirtieth of a shorter recording, and never of fewer than five inferences.
    """
    import numpy as np

    ends_ns = at_ns + infer_ns
    length_ns = float(ends_ns[-1] - at_ns[0])
    late = infer_ns[at_ns - at_ns[0] >= length_ns / 2]
    level = median(late)
    noise = 1.4826 * median(np.abs(late - level))
    window_ns = max(min(window_s * 1e9, length_ns / 30), LEAST_IN_WINDOW * level)
    index = ((at_ns - at_ns[0]) // window_ns).astype(np.int64)
    settled_ns, run = 0.0, 0
    for window in range(int(index[-1]) + 1):
        times = infer_ns[index == window]
        if len(times) == 0:
            continue
        allowed = TOLERANCE * level + STANDARD_ERRORS * _OF_MEDIAN * noise / math.sqrt(len(times))
        run = run + 1 if abs(median(times) - level) > allowed else 0
        if run >= 2:
            settled_ns = min((window + 1) * window_ns, length_ns)
    return WarmUp(
        settled_s=settled_ns / 1e9,
        warmup_s=max(least_s, MARGIN * settled_ns / 1e9, least_inferences * level / 1e9),
        converged=settled_ns <= LATEST_SHARE * length_ns and not still_moving(at_ns, infer_ns),
        recorded_s=length_ns / 1e9,
        level_ns=level,
    )


def still_moving(at_ns: "Times", infer_ns: "Times") -> bool:
    """Return whether the medians of the third and fourth quarter of the time differ by more than 1 %: record twice as long."""
    quarter = 4 * (at_ns - at_ns[0]) // max(1, int(at_ns[-1] - at_ns[0]) + 1)
    third, fourth = infer_ns[quarter == 2], infer_ns[quarter == 3]
    if len(third) == 0 or len(fourth) == 0:
        return True
    return abs(median(fourth) - median(third)) > TOLERANCE * median(third)


def steady_from_the_start(at_ns: "Times", infer_ns: "Times", level_ns: float, *, window_s: float = 1.0) -> bool:
    """Return whether a second process begins at the level at which the first one settled: the device has warmed up."""
    first = infer_ns[at_ns - at_ns[0] < window_s * 1e9]
    noise = 1.4826 * median(abs(first - median(first)))
    allowed = TOLERANCE * level_ns + STANDARD_ERRORS * _OF_MEDIAN * noise / math.sqrt(len(first))
    return abs(median(first) - level_ns) <= allowed


def inferences_within(at_ns: "Times", seconds: float) -> int:
    """Return how many inferences of a recording began within its first seconds: the warm-up as a count, the same for all."""
    return int(((at_ns - at_ns[0]) < seconds * 1e9).sum())

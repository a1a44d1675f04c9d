"""How often each worker runs a model: found once, in a worker that does not count, and then the same in every worker."""

import math
from typing import Any

from edgekd.benching.answers import samples_of
from edgekd.benching.profiles import Profile
from edgekd.core import warmup
from edgekd.core.contracts import Workbench
from edgekd.core.records import Counts

MOST_ITERATIONS = 20_000  # of one worker; the tail of a model of microseconds needs no more
LATE_S = 10.0
_SECOND_S = 10.0


def calibrate(bench: Workbench, plan: dict[str, Any], profile: Profile, *, timeout_s: float) -> Counts:
    """Return the counts for a plan: its warm-up found afterwards from one long recording, and enough queries for the profile.

    What settles only after ten seconds is looked at again in a second process: if that is steady from its first second, the
    device had to get warm, which the recording has done for the whole session.
    """
    at_ns, infer_ns = _recorded(bench, plan, profile.calibrate_s, profile.calibrate_cap_s, timeout_s)
    found = warmup.warm_up(at_ns, infer_ns, least_s=profile.least_warmup_s)
    warmup_s, effect = found.warmup_s, "process" if found.settled_s else "none"
    if found.settled_s > LATE_S:
        second = _recorded(bench, plan, _SECOND_S, _SECOND_S, timeout_s)
        if warmup.steady_from_the_start(*second, found.level_ns):
            warmup_s, effect = profile.least_warmup_s, "device"
    within = warmup.inferences_within(at_ns, warmup_s)
    queries = within if warmup_s <= found.recorded_s else math.ceil(warmup_s * 1e9 / found.level_ns)
    each_ns = max(found.level_ns, float(plan["period_ns"] or 0))
    return Counts(
        warmup=min(MOST_ITERATIONS, max(10, queries)),
        iterations=min(MOST_ITERATIONS, max(profile.min_iterations, math.ceil(profile.min_s * 1e9 / each_ns))),
        whole_iterations=profile.whole,
        warmup_s=round(warmup_s, 3),
        settled_s=round(found.settled_s, 3),
        recorded_s=round(found.recorded_s, 3),
        warmup_converged=found.converged or effect == "device",
        effect=effect,
    )


def _recorded(bench: Workbench, plan: dict[str, Any], seconds: float, cap_s: float, timeout_s: float) -> tuple[Any, Any]:
    record = {"seconds": seconds, "cap_seconds": cap_s, "tolerance": warmup.TOLERANCE}
    answer = bench.work(plan | {"record": record, "mode": "single", "iterations": 0}, timeout_s=timeout_s + 2 * cap_s)
    columns = samples_of(answer, whose=plan["whose"])
    return columns["at"], columns["infer"]

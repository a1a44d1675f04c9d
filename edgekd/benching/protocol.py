"""Protocol 1: what makes a measurement worth believing. Pure functions over samples.

A flag tells the reader something; a reason not to trust makes every budget that needs the number inconclusive.

Samples   An order statistic that bounds p90 from above with 99 % confidence needs 64 samples (the rule of MLPerf's LoadGen);
          with fewer, the tail that a reader sees is luck.
Workers   The replicate is the process: iterations share memory layout, thread placement and clock state. Two are the least
          that say anything of the spread between processes; figures that are compared rest on seven and more.
Spread    At a standard deviation of 5 % between processes, beyond which even paired comparisons stop being able to decide,
          the medians of 3 workers stay within a factor 1.23 of one another in 99 % of the cases. Beyond 1.25 something
          else went on, or the machine is too unsteady for one number.
Drift     Mean over the workers of ln(median of the last fifth / median of the first), beyond 1.5 % and p < 0.01: the warm-up
          was not over or the machine was throttling, and the number describes neither state.
Warm-up   A calibration that never became steady: whatever is counted afterwards may be a state in between.
Blur      Spread and drift say by how much the samples may mislead: the larger of the two factors. A limit that is further
          away than that can be decided; the other reasons leave nothing to decide on.
Load      The load average counts what ran before, edgekd's own training too, so a busy machine is a flag only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.benching.inputs import MIN_IMAGES, Fed
from edgekd.benching.sessions import Worker
from edgekd.benching.subjects import Expected, Load
from edgekd.core import latency
from edgekd.core.records import Condition, Counts, DeviceFacts

if TYPE_CHECKING:
    import numpy as np

    Times = np.ndarray[Any, np.dtype[np.int64]]

MIN_SAMPLES = 64
MIN_WORKERS = 2
ADVISED_WORKERS = 5  # load, compile and first inference come from at least so many
MAX_SPREAD = 1.25
MAX_LOAD_PER_CORE = 0.5
MAX_SLOPE = 0.03


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is remarkable about a measurement, and why it should not be believed (a subset; empty if it should)."""

    flags: tuple[str, ...]
    untrusted_because: tuple[str, ...]
    blur: float | None = 1.0

    @property
    def trusted(self) -> bool:
        """Return whether nothing speaks against the measurement."""
        return not self.untrusted_because


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that one arm of a session is judged by; `facts` are those of the device before the start."""

    workers: Sequence[Worker]
    counts: Counts
    expected: Expected | None
    fed: Fed
    load: Load
    facts: DeviceFacts
    profile: str
    circumstances: Sequence[Condition] = ()

    @property
    def times(self) -> "list[Times]":
        """Return each worker's latencies in ns."""
        return [worker.latency_ns for worker in self.workers]


def judge(found: Evidence) -> Judgement:
    """Return what the samples of one arm are worth."""
    times = found.times
    void = (
        *too_few(times),
        *unreal_inputs(found.fed),
        *not_as_asked(found),
        *not_warm(found),
        *(str(one) for one in found.circumstances if one.effect == "void"),
    )
    unsteady = (*spread(times), *drift(times), *(str(one) for one in found.circumstances if one.effect == "blur"))
    reasons = (*void, *unsteady)
    notes = (
        *few_images(found.fed),
        *few_workers(times),
        *other_runtime(found),
        *short(found),
        *drift_unknown(times),
        *rising(times),
        *busy(found.facts),
        *oversubscribed(found.facts, found.load.threads),
        *no_switch(found),
        *dict.fromkeys(note for worker in found.workers for note in worker.facts.notes),
        *(str(one) for one in found.circumstances if one.effect == "note"),
    )
    blur = None if void else _blur(times) if unsteady else 1.0
    return Judgement(flags=(*reasons, *notes), untrusted_because=reasons, blur=blur)


# -------------------------------------------------------------------------------------------------- reasons not to trust
def too_few(times: "Sequence[Times]") -> Iterator[str]:
    """Complain about fewer samples or processes than the shown numbers need."""
    count = sum(map(len, times))
    if count < MIN_SAMPLES:
        yield f"too-few-samples: {count}, at least {MIN_SAMPLES} are needed"
    if len(times) < MIN_WORKERS:
        yield f"too-few-workers: {len(times)}, at least {MIN_WORKERS} fresh processes are needed"


def unreal_inputs(fed: Fed) -> Iterator[str]:
    """Complain about inputs that are not photographs: zeros let some hardware run faster."""
    if fed.synthetic:
        yield "synthetic-input: the inputs were made up"
    if fed.constant:
        yield "constant-input: the inputs are all the same, or each has one value only"


def not_as_asked(found: Evidence) -> Iterator[str]:
    """Complain if it ran elsewhere, or in another precision, than where its parity and accuracy were found."""
    if found.expected is None:
        return
    ran_on = sorted({worker.answer["executed_on"] for worker in found.workers} - {found.expected.executed_on})
    if ran_on:
        yield f"executed-on: {', '.join(ran_on)}, but the artifact was checked on {found.expected.executed_on}"
    ran_in = sorted({worker.answer["executed_precision"] for worker in found.workers} - {found.expected.executed_precision})
    if ran_in:
        yield f"executed-precision: {', '.join(ran_in)}, but the artifact was checked in {found.expected.executed_precision}"


def not_warm(found: Evidence) -> Iterator[str]:
    """Complain about a calibration that did not become steady; a quick one is too short to tell."""
    counts = found.counts
    if not counts.warmup_converged and found.profile != "quick":
        yield f"warm-up: not converged, still moving after {counts.settled_s:g} of {counts.recorded_s:g} s"


def spread(times: "Sequence[Times]") -> Iterator[str]:
    """Complain about workers whose medians disagree."""
    medians = [latency.median(one) for one in times if len(one)]
    if len(medians) < 2:
        return
    low, high = min(medians), max(medians)
    if high > MAX_SPREAD * low:
        yield f"unstable: worker medians from {_ms(low)} to {_ms(high)} ms, more than a factor of {MAX_SPREAD:.2f} apart"


def drift(times: "Sequence[Times]") -> Iterator[str]:
    """Complain if the workers ended faster or slower than they began."""
    found = latency.drift(times)
    if found is not None and found.flagged:
        yield f"drift: the last fifth of a worker took {1 + found.share:.3f} x the first (p = {found.p:.2g})"


# ------------------------------------------------------------------------------------------------------------ notes only
def few_images(fed: Fed) -> Iterator[str]:
    """Note inputs that repeat after fewer images than the protocol wants."""
    if fed.images < MIN_IMAGES:
        yield f"few-images: {fed.images} distinct inputs, {MIN_IMAGES} are wanted"


def few_workers(times: "Sequence[Times]") -> Iterator[str]:
    """Note fewer fresh processes than the figures of loading want."""
    if MIN_WORKERS <= len(times) < ADVISED_WORKERS:
        yield f"few-workers: {len(times)} fresh processes, {ADVISED_WORKERS} are wanted"


def other_runtime(found: Evidence) -> Iterator[str]:
    """Note a runtime of another version than the one that the artifact was checked with."""
    checked = {found.expected.runtime} if found.expected else {worker.answer["runtime"] for worker in found.workers}
    others = sorted({worker.answer["runtime"] for worker in found.workers} - checked)
    if others:
        yield f"runtime: {', '.join(others)}, but the artifact was checked with {', '.join(checked)}"


def short(found: Evidence) -> Iterator[str]:
    """Note a profile that is for a look only, and counts that a recipe gave instead of a calibration."""
    if found.profile == "quick":
        yield "advisory: measured with the profile quick; decide with gate"
    if not found.counts.calibrated:
        yield f"given-counts: {found.counts.warmup} to warm up and {found.counts.iterations} counted, not calibrated"


def drift_unknown(times: "Sequence[Times]") -> Iterator[str]:
    """Note workers too few, or too short, to be looked at for drift."""
    if latency.drift(times) is None:
        yield f"drift-unknown: fewer than two workers with {latency.LEAST_FOR_DRIFT} inferences"


def rising(times: "Sequence[Times]") -> Iterator[str]:
    """Note medians that rise or fall over the whole session."""
    medians = [latency.median(one) for one in times if len(one)]
    share = latency.slope(medians) if len(medians) >= ADVISED_WORKERS and min(medians) > 0 else 0.0
    if abs(share) > MAX_SLOPE:
        yield f"slope: the workers' medians changed by {100 * share:+.1f} % from the first round to the last"


def busy(facts: DeviceFacts) -> Iterator[str]:
    """Note a machine that had other work when the measurement began."""
    if facts.load_1min is None or not facts.logical_cores:
        yield "load-unknown: the load average cannot be read"
    elif facts.load_1min / facts.logical_cores > MAX_LOAD_PER_CORE:
        yield f"busy: load average {facts.load_1min:.2f} on {facts.logical_cores} cores at the start"


def oversubscribed(facts: DeviceFacts, threads: int) -> Iterator[str]:
    """Note more threads than the process has cores."""
    if threads > facts.usable_cores:
        yield f"oversubscribed: {threads} threads on {facts.usable_cores} usable cores"


def no_switch(found: Evidence) -> Iterator[str]:
    """Note threads that were asked not to wait busily of a runtime that has no switch for it."""
    if not found.load.spin and any(worker.answer.get("spin") is None for worker in found.workers):
        yield "spin: this runtime has no switch for busily waiting threads"


def _blur(times: "Sequence[Times]") -> float:
    medians = [latency.median(one) for one in times if len(one)]
    drifted = latency.drift(times)
    factor = max(1.0, 1 + drifted.share, 1 / (1 + drifted.share)) if drifted else 1.0
    return round(max(max(medians) / max(1.0, min(medians)), factor), 3)


def _ms(value_ns: float) -> str:
    return f"{value_ns / 1e6:.3g}"

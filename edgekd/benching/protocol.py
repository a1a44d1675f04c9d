"""Protocol "0": what makes a measurement worth believing. Pure functions over samples.

A flag tells the reader something; a reason not to trust makes every budget that needs the number inconclusive. The limits
below are wide on purpose: this protocol runs a fixed plan once, and claims no more than medians that are not far off.

Samples   p50 and p90 are shown. An order statistic that bounds p90 from above with 99 % confidence needs 64 samples (the
          rule of MLPerf's LoadGen); with fewer, the tail that a reader sees is luck.
Workers   The replicate is the process: iterations share memory layout, thread placement and clock state. With one process
          the spread between processes is unknown.
Spread    At a standard deviation of 5 % between processes, beyond which even paired comparisons stop being able to decide,
          the medians of 3 workers stay within a factor 1.23 of one another in 99 % of the cases. Beyond 1.25 something
          else went on, or the machine is too unsteady for one number.
Drift     Medians of the first and the last fifth of a worker, 40 samples each at the default plan, differ by less than 5 %
          in 99.9 % of steady workers with 5 % noise. Beyond 10 %, in the median over the workers, the warm-up was not over or
          the machine was throttling: the number describes neither state. A passing hiccup in one worker is not drift.
Blur      Spread and drift say by how much the samples may mislead: the larger of the two factors. A limit that is further
          away than that can be decided; the other reasons leave nothing to decide on.
Load      The load average counts what ran before, edgekd's own training too, so a busy machine is a flag only.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from edgekd.core.contracts import Samples
from edgekd.core.records import Artifact, DeviceFacts

MIN_SAMPLES = 64
MIN_WORKERS = 2
MAX_SPREAD = 1.25
MAX_DRIFT = 1.10
MIN_FOR_DRIFT = 25
MIN_IMAGES = 32
MAX_LOAD_PER_CORE = 0.5


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the workers were fed."""

    images: int
    constant: bool = False
    synthetic: bool = False


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


def judge(samples: Sequence[Samples], *, artifact: Artifact, facts: DeviceFacts, threads: int, inputs: Inputs) -> Judgement:
    """Return what the samples of one measurement are worth; `facts` are those of the device before the start."""
    times_ns = [one.worker.infer_ns for one in samples]
    void = (*too_few(times_ns), *unreal_inputs(inputs), *not_as_asked(samples, artifact))
    unsteady = (*spread(times_ns), *drift(times_ns))
    reasons = (*void, *unsteady)
    notes = (
        *few_images(inputs),
        *other_runtime(samples, artifact),
        *drift_unknown(times_ns),
        *busy(facts),
        *oversubscribed(facts, threads),
    )
    blur = None if void else _blur(times_ns) if unsteady else 1.0
    return Judgement(flags=(*reasons, *notes), untrusted_because=reasons, blur=blur)


# -------------------------------------------------------------------------------------------------- reasons not to trust
def too_few(times_ns: Sequence[Sequence[int]]) -> Iterator[str]:
    """Complain about fewer samples or processes than the shown numbers need."""
    count = sum(map(len, times_ns))
    if count < MIN_SAMPLES:
        yield f"too-few-samples: {count}, at least {MIN_SAMPLES} are needed"
    if len(times_ns) < MIN_WORKERS:
        yield f"too-few-workers: {len(times_ns)}, at least {MIN_WORKERS} fresh processes are needed"


def unreal_inputs(inputs: Inputs) -> Iterator[str]:
    """Complain about inputs that are not photographs: zeros let some hardware run faster."""
    if inputs.synthetic:
        yield "synthetic-input: the inputs were made up"
    if inputs.constant:
        yield "constant-input: the inputs are all the same, or each has one value only"


def not_as_asked(samples: Sequence[Samples], artifact: Artifact) -> Iterator[str]:
    """Complain if it ran elsewhere, or in another precision, than where its parity and accuracy were found."""
    ran_on = sorted({one.executed_on for one in samples} - {artifact.executed_on})
    if ran_on:
        yield f"executed-on: {', '.join(ran_on)}, but the artifact was checked on {artifact.executed_on}"
    ran_in = sorted({one.executed_precision for one in samples} - {artifact.executed_precision})
    if ran_in:
        yield f"executed-precision: {', '.join(ran_in)}, but the artifact was checked in {artifact.executed_precision}"


def spread(times_ns: Sequence[Sequence[int]]) -> Iterator[str]:
    """Complain about workers whose medians disagree."""
    medians = [median(times) for times in times_ns if times]
    if len(medians) < 2:
        return
    low, high = min(medians), max(medians)
    if high > MAX_SPREAD * low:
        yield (f"unstable: worker medians from {_ms(low)} to {_ms(high)} ms, more than a factor of {MAX_SPREAD:.2f} apart")


def drift(times_ns: Sequence[Sequence[int]]) -> Iterator[str]:
    """Complain if most workers ended faster or slower than they began."""
    logs = [_log_drift(times) for times in times_ns if len(times) >= MIN_FOR_DRIFT]
    if not logs:
        return
    typical = median(logs)
    if abs(typical) > math.log(MAX_DRIFT):
        change = math.exp(typical)
        yield f"drift: the last fifth of a worker took {change:.2f} x the first, more than a factor of {MAX_DRIFT:.2f}"


# ------------------------------------------------------------------------------------------------------------ notes only
def few_images(inputs: Inputs) -> Iterator[str]:
    """Note inputs that repeat after fewer images than the protocol wants."""
    if inputs.images < MIN_IMAGES:
        yield f"few-images: {inputs.images} distinct inputs, {MIN_IMAGES} are wanted"


def other_runtime(samples: Sequence[Samples], artifact: Artifact) -> Iterator[str]:
    """Note a runtime of another version than the one that the artifact was checked with."""
    others = sorted({one.runtime for one in samples} - {artifact.runtime})
    if others:
        yield f"runtime: {', '.join(others)}, but the artifact was checked with {artifact.runtime}"


def drift_unknown(times_ns: Sequence[Sequence[int]]) -> Iterator[str]:
    """Note workers too short to be looked at for drift."""
    if all(len(times) < MIN_FOR_DRIFT for times in times_ns):
        yield f"drift-unknown: fewer than {MIN_FOR_DRIFT} inferences in a worker"


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


def _blur(times_ns: Sequence[Sequence[int]]) -> float:
    medians = [median(times) for times in times_ns if times]
    drifts = [math.exp(abs(_log_drift(times))) for times in times_ns if len(times) >= MIN_FOR_DRIFT]
    return round(max([max(medians) / max(1.0, min(medians)), *drifts]), 3)


def _log_drift(times: Sequence[int]) -> float:
    fifth = len(times) // 5
    return math.log(max(1.0, median(times[-fifth:])) / max(1.0, median(times[:fifth])))


def _ms(value_ns: float) -> str:
    return f"{value_ns / 1e6:.3g}"

"""How long an artifact takes on a device, and on what kind of device in what state."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from edgekd.core.growing import later
from edgekd.core.records.circumstances import Energy, Fingerprint
from edgekd.core.records.record import Fact, FileRef, Record

CANDIDATE: Final = "candidate"
BASELINE_ARM: Final = "baseline"
REFERENCE: Final = "reference"
Mode = Literal["single", "paced", "offline"]
Arm = Literal["candidate", "baseline", "reference"]


class DeviceFacts(Fact):
    """The machine that something ran on; what could not be read is None, never left out."""

    name: str
    system: str
    machine: str
    cpu: str | None
    logical_cores: int | None
    usable_cores: int
    cgroup_quota_cores: float | None
    memory_bytes: int | None
    governor: str | None
    load_1min: float | None
    python: str
    container: str | None
    physical_cores: int | None = None
    affinity_cores: int | None = None


class Counts(Fact):
    """How often each worker ran the model, found once by a calibration worker and then the same in every worker.

    `warmup_s` is how long the warm-up takes, `settled_s` when the calibration became steady, `recorded_s` how long it looked.
    `effect` says what warmed up: nothing to speak of, the process, or the device (then it was soaked once, and `warmup` is
    short). `calibrated` is False where a recipe gave the counts.
    """

    warmup: int
    iterations: int
    whole_iterations: int = 0
    warmup_s: float | None = None
    settled_s: float | None = None
    recorded_s: float | None = None
    warmup_converged: bool = True
    effect: Literal["none", "process", "device"] = "none"
    calibrated: bool = True


class WorkerFacts(Fact):
    """What one fresh process did once: its place in the session, loading, first inference, memory; its times are the samples'.

    `p50_ns` is the median of its queries, `pace_ns` the time of a fixed piece of arithmetic before and after, which is the
    machine's own. `window_ns` is when its counted queries began and ended, on the device's monotonic clock, as in the
    telemetry. It asked its queries in so many `turns` with the other arms, or (None) all at once.
    """

    round: int
    position: int
    load_ns: int
    compile_ns: int | None
    first_ns: int
    cpu_ns: int | None
    peak_rss_bytes: int | None
    p50_ns: int | None = None
    exit: int
    window_ns: tuple[int, int]
    notes: tuple[str, ...] = ()
    pace_ns: tuple[int, int] | None = later(None)
    turns: int | None = later(None)


class Sustained(Fact):
    """The model without a pause: the first `burst_s` against the last `settled_s` of `duration_s`."""

    duration_s: float
    burst_s: float
    settled_s: float
    burst_p50_ms: float
    sustained_p50_ms: float

    @property
    def ratio(self) -> float:
        """Return by what factor it has become slower."""
        return self.sustained_p50_ms / self.burst_p50_ms


class Measurement(Record):
    """One arm of a session: an artifact on a device, every sample, and whether they can be trusted.

    Arms of one session ran in turns, so that their workers of one round can be compared pair by pair. `samples` is an .npz of
    int64 columns: worker, round, position, segment (0 the model alone, 1 the whole way, 2 without a pause, by worker -1),
    input, and in ns at, queue, pre, infer, post, e2e, where -1 was not measured. `blur` is the factor by which unsteady
    processes may mislead (1 for steady ones); a limit further away than that is decided all the same. None where the samples
    must not be used at all. `cores` are those that its workers were bound to; None where they could use all there are.
    """

    kind: ClassVar[str] = "measurement"
    version: ClassVar[int] = 2
    artifact: str
    session: str
    arm: Arm
    device: DeviceFacts
    fingerprint: Fingerprint
    protocol: str
    profile: str
    mode: Mode
    rate_hz: float | None = None
    runtime: str
    executed_on: str
    executed_precision: str
    session_options: dict[str, str] = Field(default={})
    batch: int
    threads: int
    spin: bool | None
    seed: int
    input_images: int
    inputs_sha256: str
    synthetic_input: bool = False
    counts: Counts
    samples: FileRef
    workers: tuple[WorkerFacts, ...]
    telemetry: FileRef | None = None
    energy: tuple[Energy, ...] = ()
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None
    cores: tuple[int, ...] | None = later(None)


class Outliers(Fact):
    """Samples beyond Tukey's fences (1.5 and 3 interquartile ranges), counted and kept; `first` are first ones of a worker."""

    mild_low: int
    mild_high: int
    severe_low: int
    severe_high: int
    first: int


class WholeWay(Fact):
    """From the encoded photograph to the best classes: decode and prepare (pre), infer, choose (post), and all of it (e2e)."""

    samples: int
    worker_e2e_p50_ms: tuple[float, ...]
    e2e_p50_ms: float | None
    e2e_p90_ms: float | None
    e2e_p99_ms: float | None
    pre_p50_ms: float | None
    infer_p50_ms: float | None
    post_p50_ms: float | None
    intervals_ms: dict[str, tuple[float, float]]


class LatencySummary(Fact):
    """A measurement in a few numbers; a percentile that the samples cannot carry is None and `withheld` says why.

    `kind` is `estimate` for what was not measured, which no budget passes. `digest` is that of the artifact. The times are of
    one query: of the whole batch, and in a paced session from when it was due. `rounds` names the rounds, and every `worker_*`
    tuple is aligned with it; it is empty if any process has too few samples for it. `worker_turns_ms` has the median of each of
    a process's turns, or nothing where they took none. `intervals_ms` are 95 % intervals over
    workers (the replicates), by percentile: p50, p90, ...; `bounds_ms` bound the true percentile from above with 99 %
    confidence. `drift` is how much slower the last fifth of a worker is than the first, as a share.
    """

    kind: Literal["measured", "estimate"] = "measured"
    artifact: str
    digest: str
    session: str
    arm: Arm
    device: DeviceFacts
    device_class: str
    device_state: str
    protocol: str
    profile: str
    mode: Mode
    rate_hz: float | None = None
    runtime: str
    executed_on: str
    executed_precision: str
    batch: int
    threads: int
    spin: bool | None
    input_images: int
    synthetic_input: bool = False
    counts: Counts
    samples: int
    rounds: tuple[int, ...]
    worker_p50_ms: tuple[float, ...]
    worker_turns_ms: tuple[tuple[float, ...], ...] = later(())
    worker_p90_ms: tuple[float, ...]
    worker_p95_ms: tuple[float, ...] = ()
    worker_p99_ms: tuple[float, ...]
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    intervals_ms: dict[str, tuple[float, float]]
    bounds_ms: dict[str, float]
    withheld: tuple[str, ...]
    load_ms: tuple[float, ...]
    compile_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    peak_rss_bytes: tuple[int, ...]
    images_per_s: float | None
    whole: WholeWay | None
    outliers: Outliers
    drift: float | None
    sustained: Sustained | None
    energy: tuple[Energy, ...] = ()
    curve_ms: tuple[float, ...]
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None

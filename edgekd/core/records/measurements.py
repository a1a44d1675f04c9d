"""How long an artifact takes on a device, and on what kind of device in what state."""

from typing import ClassVar, Literal

from pydantic import Field

from edgekd.core.records.record import Fact, Record


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


class WorkerSamples(Fact):
    """What one fresh process measured; times in nanoseconds from a monotonic clock."""

    load_ns: int
    first_ns: int
    warmup_iterations: int
    infer_ns: tuple[int, ...]


class Measurement(Record):
    """The latency of one artifact on one device: every sample, and whether it can be trusted.

    `blur` is the factor by which unsteady processes may mislead (1 for steady ones); a limit further away than that is
    decided all the same. None where the samples must not be used at all.
    """

    kind: ClassVar[str] = "measurement"
    artifact: str
    device: DeviceFacts
    protocol: str
    runtime: str
    executed_on: str
    executed_precision: str
    batch: int
    threads: int
    input_images: int
    workers: tuple[WorkerSamples, ...]
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None


class WholeWay(Fact):
    """The way from the encoded photograph to the best classes, in a few numbers."""

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

    `worker_*_ms` holds each process's own percentile and is empty if any process has too few samples for it; they are in the
    order of `rounds`. Measurements of one `session` ran interleaved; `arm` says whose artifact it was. `kind` is `estimate`
    for what was not measured, which no budget passes.
    """

    kind: Literal["measured", "estimate"] = "measured"
    session: str = ""
    arm: Literal["candidate", "baseline", "reference"] = "candidate"
    device_class: str | None = None
    device_state: str | None = None
    profile: str = ""
    mode: Literal["single", "paced", "offline"] = "single"
    rounds: tuple[int, ...] = ()
    worker_p95_ms: tuple[float, ...] = ()
    worker_p99_ms: tuple[float, ...] = ()
    p95_ms: float | None = None
    p99_ms: float | None = None
    intervals_ms: dict[str, tuple[float, float]] = Field(default={})
    cpu_ms: tuple[float, ...] = ()
    peak_rss_bytes: tuple[int, ...] = ()
    whole: WholeWay | None = None

    artifact: str
    device: DeviceFacts
    protocol: str
    runtime: str
    executed_on: str
    executed_precision: str
    batch: int
    threads: int
    input_images: int
    warmup_iterations: tuple[int, ...]
    samples: int
    worker_p50_ms: tuple[float, ...]
    worker_p90_ms: tuple[float, ...]
    p50_ms: float | None
    p90_ms: float | None
    load_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    curve_ms: tuple[float, ...]
    withheld: tuple[str, ...]
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None

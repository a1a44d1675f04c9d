"""Whether the machine was fit to be measured: pure functions of fingerprints, telemetry and samples.

Void      What makes the numbers those of another machine: any live throttle bit of a Raspberry Pi or one that was newly set
          since the start, thermal, power-brake or hardware slow-down of a GPU in more than 1 % of the samples, a control group
          that was held back, more than 1 % of the time taken by the hypervisor, a cooling device that slowed the processor
          down, a processor that counted heat throttling.
Blur      What makes them less sure: a clock that varies by more than 3 % (standard deviation over mean, within the timed
          windows), other work on the machine. (Workers that end slower than they began are seen in the samples themselves.)
Note      What a reader should know; nothing follows from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, pstdev

from edgekd.core.records import Condition, Energy, Fingerprint, TelemetryLog, TelemetryRow
from edgekd.core.records.circumstances import CLASS_FIELDS, STATE_FIELDS

PI_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
GPU_REASONS = {0x08: "hardware slow-down", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake"}
MAX_GPU_SHARE = 0.01
MAX_STEAL = 0.01
MAX_CLOCK_CV = 0.03
MAX_OTHERS = 0.05  # of all processors' time
MAX_PRESSURE = 0.10  # of the time with a task that waits for a processor
MIN_CLOCK_SAMPLES = 5
MIN_AVAILABLE = 0.10
TICKS_PER_S = 100.0  # what the kernel counts in for programs, on every architecture that edgekd runs on
FLOATING = {"ondemand", "conservative", "schedutil", "powersave", "interactive", "userspace"}

Windows = Sequence[tuple[int, int]]


def conditions(
    log: TelemetryLog,
    *,
    windows: Windows = (),
    own_cpu_s: float | None = None,
    threads: int = 1,
    cores: Sequence[int] | None = None,
) -> tuple[Condition, ...]:
    """Return what the samples say about the measurement beside which they were taken.

    `windows` are the timed phases of the workers (first and last ns); the clock is looked at within them only, since it may
    sink in between. `own_cpu_s` is the processor time that was the measurement's own; without it other work shows only where
    tasks had to wait. `cores` are those that the workers may run on, all by default; of them the `threads` fastest count.
    """
    if len(log.rows) < 2:
        return (Condition(code="telemetry-missing", reason="the machine was not watched while it worked", effect="note"),)
    rows = log.rows
    return (
        *pi_throttled(rows),
        *gpu_throttled(rows),
        *held_back(rows),
        *stolen(rows),
        *braked(rows),
        *heated(rows),
        *clock_unsteady(log.between(windows) if windows else rows, threads=threads, cores=cores),
        *contended(rows, own_cpu_s=own_cpu_s),
        *watched_in_part(log, windows),
    )


# ------------------------------------------------------------------------------------------------------------------ void
def pi_throttled(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find a live throttle bit in any sample, or a sticky one (16 above) that was not set in the first."""
    words = [row.pi_throttled for row in rows if row.pi_throttled is not None]
    if not words:
        return
    live = sorted({name for word in words for bit, name in PI_NOW.items() if word >> bit & 1})
    fresh = sorted({name for word in words for bit, name in PI_NOW.items() if (word & ~words[0]) >> (bit + 16) & 1})
    if live or fresh:
        told = ", ".join(sorted({*live, *fresh}))
        yield _void("pi-throttled", f"the firmware tells of {told} (0x{words[-1]:x}) during the measurement")
    elif before := sorted(name for bit, name in PI_NOW.items() if words[0] >> (bit + 16) & 1):
        yield _note("pi-throttled-before", f"{', '.join(before)} since the board was started, before the measurement")


def gpu_throttled(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find heat, a power brake or a hardware slow-down in more than 1 % of the samples; the power cap alone is no reason."""
    words = [row.gpu_reasons for row in rows if row.gpu_reasons is not None]
    hit = sum(any(word & mask for mask in GPU_REASONS) for word in words)
    if words and hit > MAX_GPU_SHARE * len(words):
        told = ", ".join(name for mask, name in GPU_REASONS.items() if any(word & mask for word in words))
        yield _void("gpu-throttled", f"the GPU was slowed down ({told}) in {hit} of {len(words)} samples")


def held_back(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find periods in which the control group had used up its quota."""
    grown = _grown(rows, lambda row: row.nr_throttled)
    if grown:
        yield _void("quota-throttled", f"the control group was held back in {grown:g} periods: it asks for more than its quota")


def stolen(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find time that the hypervisor gave to other machines."""
    steal, total = _grown(rows, lambda row: row.steal_ticks), _grown(rows, lambda row: row.total_ticks)
    if steal and total and steal / total > MAX_STEAL:
        yield _void("steal", f"the hypervisor took {100 * steal / total:.1f} % of the processors' time")


def braked(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find a cooling device (not a fan) that slowed something down."""
    states = [row.braking for row in rows if row.braking is not None]
    hit = sum(state > 0 for state in states)
    if hit:
        yield _void("cooling", f"a cooling device slowed the machine down in {hit} of {len(states)} samples")


def heated(rows: Sequence[TelemetryRow]) -> Iterator[Condition]:
    """Find heat throttling that the processor itself counts."""
    grown = _grown(rows, lambda row: row.heat_throttle_count)
    if grown:
        yield _void("heat-throttled", f"the processor throttled itself {grown:g} times because of heat")


# ------------------------------------------------------------------------------------------------------------------ blur
def clock_unsteady(
    rows: Sequence[TelemetryRow], *, threads: int = 1, cores: Sequence[int] | None = None
) -> Iterator[Condition]:
    """Find a clock that varies: of each sample the mean of as many of the fastest cores as there are threads."""
    clocks = []
    for row in rows:
        own = [row.clock_khz[i] for i in cores if i < len(row.clock_khz)] if cores is not None else row.clock_khz
        if own:
            clocks.append(fmean(sorted(own, reverse=True)[: max(1, threads)]))
    for name, values in (("processor", clocks), ("GPU", [row.gpu_clock_mhz for row in rows if row.gpu_clock_mhz])):
        if len(values) >= MIN_CLOCK_SAMPLES and (spread := pstdev(values) / fmean(values)) > MAX_CLOCK_CV:
            yield _blur("clock-unsteady", f"the {name}'s clock varies by {100 * spread:.1f} % while it is timed")


def contended(rows: Sequence[TelemetryRow], *, own_cpu_s: float | None = None) -> Iterator[Condition]:
    """Find work on the machine that is not the measurement's."""
    busy, total = _grown(rows, lambda row: row.busy_ticks), _grown(rows, lambda row: row.total_ticks)
    waited = _grown(rows, lambda row: row.pressure_us)
    seconds = (rows[-1].at_ns - rows[0].at_ns) / 1e9
    if own_cpu_s is not None and busy is not None and total:
        others = (busy - own_cpu_s * TICKS_PER_S) / total
        if others > MAX_OTHERS:
            yield _blur("contended", f"other work took {100 * others:.0f} % of the processors' time")
            return
    if waited is not None and seconds > 0 and waited / 1e6 / seconds > MAX_PRESSURE:
        yield _blur("contended", f"tasks waited for a processor during {100 * waited / 1e6 / seconds:.0f} % of the time")


# ------------------------------------------------------------------------------------------------------------------ note
def watched_in_part(log: TelemetryLog, windows: Windows) -> Iterator[Condition]:
    """Find timed windows that no sample lies in, or a probe that ended before it was told to."""
    missed = sum(not log.between([window]) for window in windows if window[1] - window[0] > 1e9)
    if log.ended_early or missed:
        what = f"{missed} of {len(windows)} timed phases lie between the samples" if missed else "the probe ended early"
        yield _note("telemetry-gaps", what)


def preflight(fingerprint: Fingerprint) -> tuple[Condition, ...]:
    """Return what a machine's fingerprint says before anything is timed."""
    told = fingerprint.fields
    return (*_throttled_already(told), *_floating(told), *_short_of_memory(told))


def changed(before: Fingerprint, after: Fingerprint) -> tuple[Condition, ...]:
    """Return what is no longer as it was when the measurement began."""
    names = [
        name
        for name in (*CLASS_FIELDS, *STATE_FIELDS, "machine_sha256")
        if before.fields.get(name) != after.fields.get(name) and name != "braking"
    ]
    found = [_void("state-changed", f"{n}: {before.fields.get(n)} became {after.fields.get(n)}") for n in names]
    counts = [one.fields.get("heat_throttle_count") for one in (before, after)]
    if isinstance(counts[0], int) and isinstance(counts[1], int) and counts[1] > counts[0]:
        found.append(_void("heat-throttled", f"the processor throttled itself {counts[1] - counts[0]} times because of heat"))
    words = [one.fields.get("pi_throttled") for one in (before, after)]
    if isinstance(words[0], int) and isinstance(words[1], int) and (words[1] & ~words[0]) >> 16:
        found.append(_void("pi-throttled", f"the firmware's throttle word went from 0x{words[0]:x} to 0x{words[1]:x}"))
    return tuple(found)


def _throttled_already(told: Mapping[str, object]) -> Iterator[Condition]:
    word, braking = told.get("pi_throttled"), told.get("braking")
    if isinstance(word, int) and word & 0xF:
        names = ", ".join(name for bit, name in PI_NOW.items() if word >> bit & 1)
        yield _void("pi-throttled", f"the firmware tells of {names} (0x{word:x}) before anything is timed")
    if isinstance(braking, str) and braking != "none":
        yield _void("cooling", f"a cooling device slows the machine down: {braking}")


def _floating(told: Mapping[str, object]) -> Iterator[Condition]:
    governors = set(str(told.get("governor") or "").split(",")) & FLOATING
    pinned = told.get("frequency_min_khz") is not None and told.get("frequency_min_khz") == told.get("frequency_max_khz")
    if governors and not pinned:
        yield _note("clock-floats", f"governor {', '.join(sorted(governors))}: pin the clock to compare small differences")
    if told.get("power_source") == "battery":
        yield _note("on-battery", "the machine runs on its battery")


def _short_of_memory(told: Mapping[str, object]) -> Iterator[Condition]:
    total, free = told.get("memory_bytes"), told.get("memory_available_bytes")
    if isinstance(total, int) and isinstance(free, int) and free < MIN_AVAILABLE * total:
        yield _note("memory-short", f"{free / 2**20:.0f} MiB of {total / 2**20:.0f} MiB are free")


# ---------------------------------------------------------------------------------------------------------------- energy
def energy(log: TelemetryLog, *, start_ns: int, end_ns: int) -> Energy | None:
    """Return what was spent between two moments by the best sensor there is, or None.

    Processor packages by RAPL, else the board's input by its INA sensor, else the GPU; power is integrated by trapezoids.
    """
    rows = log.between([(start_ns, end_ns)])
    if len(rows) < 2:
        return None
    seconds = (rows[-1].at_ns - rows[0].at_ns) / 1e9
    if rows[0].energy_uj and len(rows[0].energy_uj) == len(rows[-1].energy_uj):
        return Energy(sensor="rapl", joules=(sum(rows[-1].energy_uj) - sum(rows[0].energy_uj)) / 1e6, seconds=seconds)
    board = _integrated([(row.at_ns, row.board_power_mw) for row in rows])
    if board is not None:
        return Energy(sensor="ina", joules=board / 1000, seconds=seconds)
    gpu = _integrated([(row.at_ns, row.gpu_power_w) for row in rows])
    return None if gpu is None else Energy(sensor="nvml", joules=gpu, seconds=seconds)


def _integrated(points: Sequence[tuple[int, float | None]]) -> float | None:
    known = [(at_ns, value) for at_ns, value in points if value is not None]
    if len(known) < len(points):
        return None
    return sum((b_ns - a_ns) / 1e9 * (a + b) / 2 for (a_ns, a), (b_ns, b) in pairwise(known))


# ---------------------------------------------------------------------------------------------------------------- shared
def _grown(rows: Sequence[TelemetryRow], column: Callable[[TelemetryRow], int | None]) -> int | None:
    """Return by how much a counter grew from the first to the last sample that has it."""
    known = [value for row in rows if (value := column(row)) is not None]
    return known[-1] - known[0] if len(known) > 1 else None


def _void(code: str, reason: str) -> Condition:
    return Condition(code=code, reason=reason, effect="void")


def _blur(code: str, reason: str) -> Condition:
    return Condition(code=code, reason=reason, effect="blur")


def _note(code: str, reason: str) -> Condition:
    return Condition(code=code, reason=reason, effect="note")

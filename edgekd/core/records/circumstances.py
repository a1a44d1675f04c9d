"""In what state a machine was while it was measured: fingerprint, samples beside the measurement, and what they say of it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from edgekd.core.errors import IntegrityError
from edgekd.core.records.record import Fact, digest_of

FieldValue = str | int | float | bool | None

# What a machine is. Where these agree, two measurements were made on machines of one kind.
CLASS_FIELDS = (
    "board",
    "caches",
    "core_capacities",
    "cpu",
    "cpu_revision",
    "frequency_hardware_max_khz",
    "gpu",
    "gpu_compute_capability",
    "gpu_memory_mib",
    "instructions",
    "logical_cores",
    "machine",
    "memory_gib",
    "numa_nodes",
    "physical_cores",
    "sockets",
    "system",
    "virtualisation",
)
# How it is set up. Limits in absolute numbers hold between machines that agree in this too.
STATE_FIELDS = (
    "address_randomisation",
    "affinity",
    "boost",
    "boot_options",
    "braking",
    "cgroup_memory_bytes",
    "cgroup_quota_cores",
    "cgroup_version",
    "cgroup_weight",
    "clocksource",
    "container",
    "cpuset",
    "distribution",
    "energy_preference",
    "firmware",
    "frequency_driver",
    "frequency_max_khz",
    "frequency_min_khz",
    "governor",
    "gpu_clock_graphics_max_mhz",
    "gpu_clock_graphics_set_mhz",
    "gpu_clock_memory_max_mhz",
    "gpu_compute_mode",
    "gpu_driver",
    "gpu_ecc",
    "gpu_mig",
    "gpu_pcie_width",
    "gpu_persistence",
    "gpu_power_cap_w",
    "gpu_vbios",
    "idle_driver",
    "idle_governor",
    "isolated_cores",
    "jetson_clocks",
    "jetson_power_mode",
    "jetson_release",
    "kernel",
    "libc",
    "microcode",
    "mitigations",
    "nmi_watchdog",
    "platform_profile",
    "power_source",
    "python",
    "scheduler_autogroup",
    "settings",
    "smt",
    "swap_bytes",
    "swappiness",
    "transparent_huge_pages",
    "usable_cores",
)


class Fingerprint(Fact):
    """What is known of a machine: `fields` by name, those `unknown`, and two hashes by which measurements are compared.

    Agreeing in `device_class` makes measurements comparable at all, agreeing in `device_state` too makes absolute limits
    hold for both. Fields in neither (load, temperature, ...) are told only.
    """

    fields: dict[str, FieldValue]
    unknown: tuple[str, ...]
    device_class: str
    device_state: str

    @classmethod
    def of(cls, fields: Mapping[str, FieldValue]) -> Self:
        """Return the fingerprint with these fields; a field without a value is unknown."""
        return cls(
            fields=dict(sorted(fields.items())),
            unknown=tuple(sorted(name for name, value in fields.items() if value is None)),
            device_class=_hash(fields, CLASS_FIELDS),
            device_state=_hash(fields, STATE_FIELDS),
        )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        wanted = (_hash(self.fields, CLASS_FIELDS), _hash(self.fields, STATE_FIELDS))
        if (self.device_class, self.device_state) != wanted:
            raise ValueError("device_class and device_state are not those of the fields")
        if self.unknown != tuple(sorted(name for name, value in self.fields.items() if value is None)):
            raise ValueError("unknown does not name exactly the fields without a value")
        return self


class TelemetryRow(Fact):
    """One sample of a machine; None (or an empty list) where it has no such counter.

    Counters run since the start of the machine: `*_ticks` of all processors together, `pressure_us` with a task waiting for
    one, `context_switches`, `nr_throttled` (periods in which the control group was held back), `heat_throttle_count`,
    `energy_uj` by processor package. `braking` is the highest state of the devices that slow something down to cool it,
    `pi_throttled` and `gpu_reasons` are bit fields.
    """

    at_ns: int
    clock_khz: tuple[int, ...] = ()
    temperature_c: tuple[float, ...] = ()
    braking: int | None = None
    heat_throttle_count: int | None = None
    pi_throttled: int | None = None
    nr_throttled: int | None = None
    total_ticks: int | None = None
    busy_ticks: int | None = None
    steal_ticks: int | None = None
    context_switches: int | None = None
    running_tasks: int | None = None
    pressure_us: int | None = None
    load_1min: float | None = None
    energy_uj: tuple[int, ...] = ()
    board_power_mw: float | None = None
    gpu_clock_mhz: float | None = None
    gpu_memory_clock_mhz: float | None = None
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None
    gpu_reasons: int | None = None


@dataclass
class TelemetryLog:
    """Samples in order of time; on disk one line of JSON each, without the columns that a machine has not.

    `ended_early` if the probe ended before it was told to.
    """

    rows: list[TelemetryRow] = field(default_factory=list)
    ended_early: bool = False

    def to_text(self) -> str:
        """Return the samples as they are written to disk."""
        return "".join(row.model_dump_json(exclude_defaults=True) + "\n" for row in self.rows)

    @classmethod
    def from_text(cls, text: str, *, where: str = "telemetry") -> Self:
        """Read samples; raise `IntegrityError` at the first line that is none, or goes back in time."""
        rows: list[TelemetryRow] = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                row = TelemetryRow.model_validate_json(line)
            except ValidationError as error:
                raise IntegrityError(f"{where}:{number}: not a sample: {error.errors()[0]['msg']}") from error
            if rows and row.at_ns <= rows[-1].at_ns:
                raise IntegrityError(f"{where}:{number}: goes back in time")
            rows.append(row)
        return cls(rows=rows)

    def between(self, windows: Iterable[tuple[int, int]]) -> list[TelemetryRow]:
        """Return the samples within any of the windows (first and last ns)."""
        chosen = tuple(windows)
        return [row for row in self.rows if any(first <= row.at_ns <= last for first, last in chosen)]


class Condition(Fact):
    """Something about the circumstances that a reader must know.

    `void`: the measurement must not be used. `blur`: it is less sure than its numbers say. `note`: only to be known.
    """

    code: str
    reason: str
    effect: Literal["void", "blur", "note"]

    def __str__(self) -> str:
        """Return the condition as flags are written: `code: reason`."""
        return f"{self.code}: {self.reason}"


class Energy(Fact):
    """What sensors say was spent; informative, since they see more than the process that was measured."""

    sensor: Literal["rapl", "ina", "nvml"]
    joules: float
    seconds: float

    @property
    def watts(self) -> float:
        """Return the mean power."""
        return self.joules / self.seconds


def _hash(fields: Mapping[str, FieldValue], names: Iterable[str]) -> str:
    return digest_of({name: fields.get(name) for name in names})


def row_from(line: str | bytes) -> TelemetryRow | None:
    """Return one line of the probe's telemetry, or None if it is not whole; columns of a newer probe are left out."""
    try:
        told = json.loads(line)
        return TelemetryRow.model_validate({key: told[key] for key in told if key in TelemetryRow.model_fields})
    except (ValueError, TypeError):
        return None

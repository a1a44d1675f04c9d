"""Circumstances that spoil a measurement are found nearly always, and nearly never where nothing is wrong."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekd.benching import conditions as looking
from edgekd.benching.conditions import changed, conditions, energy, preflight
from edgekd.benching.probe import fingerprint_here
from edgekd.core.machine.telemetry import Sampler
from edgekd.core.records import Fingerprint, TelemetryLog, TelemetryRow

SEEDS = 100
ROWS = 60  # half a minute at 2 Hz
PERIOD_NS = 500_000_000
Change = Callable[[dict[str, Any], int, np.random.Generator], None]


def healthy(seed: int, change: Change | None = None, *, rows: int = ROWS) -> TelemetryLog:
    """Return a watch over a fit machine of 4 cores: clocks within 0.7 %, 0.3 % stolen, 1 % other work, one core measured."""
    rng = np.random.default_rng(seed)
    log = TelemetryLog()
    late_ns = rng.integers(0, 10_000_000, rows).tolist()
    clock_khz = rng.normal(2_400_000, 17_000, rows).astype(int).tolist()
    temperature_c = rng.normal(60, 1, rows).tolist()
    busy = np.cumsum(50 + 200 * rng.normal(0.01, 0.005, rows).clip(0)).astype(int).tolist()
    steal = np.cumsum(200 * np.abs(rng.normal(0.003, 0.001, rows))).astype(int).tolist()
    pressure = np.cumsum(5e5 * np.abs(rng.normal(0.01, 0.01, rows))).astype(int).tolist()
    capped = (rng.random(rows) < 0.3).tolist()
    for index in range(rows):
        row: dict[str, Any] = {
            "at_ns": index * PERIOD_NS + late_ns[index],
            "clock_khz": [clock_khz[index], 600_000, 600_000, 1_500_000],
            "temperature_c": [temperature_c[index]],
            "braking": 0,
            "heat_throttle_count": 4,
            "pi_throttled": 0xE0000,
            "nr_throttled": 17,
            "total_ticks": 200 * (index + 1),
            "busy_ticks": busy[index],
            "steal_ticks": steal[index],
            "pressure_us": pressure[index],
            "gpu_reasons": 0x4 if capped[index] else 0,
            "gpu_clock_mhz": 1980,
        }
        if change is not None:
            change(row, index, rng)
        log.rows.append(TelemetryRow(**row))
    return log


def codes(log: TelemetryLog, effect: str) -> set[str]:
    own_s = 0.25 * 2.0 * len(log.rows)  # one of the four cores
    return {found.code for found in conditions(log, own_cpu_s=own_s) if found.effect == effect}


def once(key: str, value: Any) -> Change:
    """Set one value in one sample, at a random place after the first."""

    def change(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
        if index == ROWS // 2:
            row[key] = value

    return change


def from_the_middle(key: str, value: Any) -> Change:
    def change(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
        if index >= ROWS // 2:
            row[key] = value(row, index, rng) if callable(value) else value

    return change


def throttling_clock(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
    """After a third of the time the clock saws between full speed and 12 % less."""
    if index > ROWS // 3 and rng.random() < 0.5:
        row["clock_khz"][0] = int(row["clock_khz"][0] * 0.88)


def share(key: str, fraction: float) -> Change:
    """Let a counter of ticks grow by a fraction of all ticks, with noise of a tenth of it."""

    def change(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
        row[key] = row[key] + int(row["total_ticks"] * fraction * rng.normal(1, 0.01))

    return change


def waiting(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
    """A fifth of the time some task waits for a processor."""
    row["pressure_us"] = int(0.2 * index * 5e5 * rng.normal(1, 0.01))


FAULTS: dict[str, tuple[str, str, Change]] = {
    "a live throttle bit for one sample": ("pi-throttled", "void", once("pi_throttled", 0xE0004)),
    "under-voltage since the middle": ("pi-throttled", "void", from_the_middle("pi_throttled", 0xF0000)),
    "a GPU too hot in 2 of 60 samples": (
        "gpu-throttled",
        "void",
        lambda row, index, rng: row.update(gpu_reasons=0x40) if index in (7, 8) else None,
    ),
    "a power brake": ("gpu-throttled", "void", from_the_middle("gpu_reasons", 0x84)),
    "one period held back": ("quota-throttled", "void", from_the_middle("nr_throttled", 18)),
    "2 % stolen": ("steal", "void", share("steal_ticks", 0.02)),
    "a cooling device at work once": ("cooling", "void", once("braking", 1)),
    "one heat event": ("heat-throttled", "void", from_the_middle("heat_throttle_count", 5)),
    "a clock that saws": ("clock-unsteady", "blur", throttling_clock),
    "10 % other work": ("contended", "blur", share("busy_ticks", 0.10)),
    "tasks that wait": (
        "contended",
        "blur",
        lambda row, i, rng: row.update(pressure_us=int(0.2 * i * 5e5 * rng.normal(1, 0.01))),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    """Of 100 seeded watches with the fault at least 99 % carry its flag."""
    code, effect, change = FAULTS[fault]
    found = sum(code in codes(healthy(seed, change), effect) for seed in range(SEEDS))
    assert found >= 0.99 * SEEDS


def test_a_fit_machine_is_left_alone() -> None:
    """Of 300 seeded watches over a fit machine at most 1 % carry any flag that spoils them."""
    flagged = sum(bool(codes(log, "void") | codes(log, "blur")) for log in (healthy(seed) for seed in range(1000, 1300)))
    assert flagged <= 3


def test_sticky_bits_of_before_are_a_note() -> None:
    """What happened before the measurement is told, and does not spoil it."""
    (note,) = [one for one in conditions(healthy(0), own_cpu_s=30.0) if one.effect == "note"]
    assert note.code == "pi-throttled-before"
    assert str(note).startswith("pi-throttled-before: clock capped, soft temperature limit, throttled since the board")


def test_the_clock_is_looked_at_while_it_is_timed() -> None:
    """A clock that sinks between the workers is no fault; neither is that of cores that no worker may run on."""

    def resting(row: dict[str, Any], index: int, rng: np.random.Generator) -> None:
        if index % 10 >= 7:
            row["clock_khz"] = [1_500_000] * 4

    log = healthy(3, resting)
    windows = tuple((start * PERIOD_NS, (start + 6) * PERIOD_NS) for start in range(0, ROWS, 10))
    assert "clock-unsteady" in {one.code for one in conditions(log)}
    assert "clock-unsteady" not in {one.code for one in conditions(log, windows=windows)}
    assert "clock-unsteady" not in {one.code for one in conditions(healthy(3, throttling_clock), cores=[1, 2])}


def test_a_machine_that_was_not_watched_says_so() -> None:
    """No samples, phases between the samples, or a probe that ended early: each is told."""
    assert [one.code for one in conditions(TelemetryLog())] == ["telemetry-missing"]
    log = healthy(5)
    assert "telemetry-gaps" not in {one.code for one in conditions(log, windows=((0, 2_000_000_000),))}
    late = log.rows[-1].at_ns + 1
    assert "telemetry-gaps" in {one.code for one in conditions(log, windows=((late, late + 2_000_000_000),))}
    log.ended_early = True
    assert "telemetry-gaps" in {one.code for one in conditions(log)}


def test_columns_that_a_machine_has_not_are_no_fault() -> None:
    """A machine that tells its time only is not accused of anything."""
    log = TelemetryLog([TelemetryRow(at_ns=index * PERIOD_NS) for index in range(10)])
    assert conditions(log, own_cpu_s=1.0) == ()


# --------------------------------------------------------------------------------------------------------------- recorded
RECORDED: dict[str, tuple[str, str, str]] = {
    "pi5": ("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50005", "pi-throttled"),
    "jetson": ("sys/class/thermal/cooling_device1/cur_state", "1", "cooling"),
    "container_v1": ("sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_periods 200\nnr_throttled 9\n", "quota-throttled"),
    "container_v2": ("sys/fs/cgroup/cpu.stat", "usage_usec 6\nnr_periods 200\nnr_throttled 9\n", "quota-throttled"),
    "virtual": ("proc/stat", "cpu  4000 0 0 190000 0 0 0 6100 0 0\nctxt 9\n", "steal"),
    "laptop": ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "13", "heat-throttled"),
    "gpu_server": ("commands/nvidia-smi.samples", "1200, 3201, 312.50, 91, 0x0000000000000040\n", "gpu-throttled"),
}


@pytest.mark.parametrize("kind", RECORDED)
def test_recorded_trees_are_flagged_when_something_happens_and_only_then(
    machines: ModuleType, tmp_path: Path, kind: str
) -> None:
    """The same tree sampled twice is fit; after one file has changed, the flag is there."""
    root = machines.lay(tmp_path, getattr(machines, kind)())
    rows = [TelemetryRow(**Sampler(root).sample(at_ns=at_ns)) for at_ns in (0, PERIOD_NS)]
    assert conditions(TelemetryLog(rows)) == ()
    file, text, code = RECORDED[kind]
    (root / file).write_text(text)
    rows.append(TelemetryRow(**Sampler(root).sample(at_ns=2 * PERIOD_NS)))
    assert [one.code for one in conditions(TelemetryLog(rows)) if one.effect == "void"] == [code]


def test_preflight(machines: ModuleType, tmp_path: Path) -> None:
    """A throttled board and a braked one must not be measured; a floating clock, a battery and full memory are told."""
    throttled = fingerprint_here(machines.lay(tmp_path / "a", machines.pi5("50005")))
    assert {(one.code, one.effect) for one in preflight(throttled)} == {("pi-throttled", "void"), ("clock-floats", "note")}
    orin = machines.jetson() | {"sys/class/thermal/cooling_device1/cur_state": "2\n"}
    braked = preflight(fingerprint_here(machines.lay(tmp_path / "b", orin)))
    assert ("cooling", "void") in {(one.code, one.effect) for one in braked}
    full = machines.laptop() | {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 300000 kB\n"}
    told = preflight(fingerprint_here(machines.lay(tmp_path / "c", full)))
    assert [one.code for one in told] == ["clock-floats", "on-battery", "memory-short"]
    assert preflight(Fingerprint.of({})) == ()


def test_a_machine_that_changes_meanwhile(machines: ModuleType, tmp_path: Path) -> None:
    """Another governor, a new sticky bit, a heat event: each voids; temperature and load may change."""
    root = machines.lay(tmp_path / "a", machines.pi5())
    before = fingerprint_here(root)
    (root / "sys/class/thermal/thermal_zone0/temp").write_text("71000")
    (root / "proc/loadavg").write_text("1.20 0.12 0.09 2/467 12345\n")
    assert changed(before, fingerprint_here(root)) == ()
    for core in range(4):
        (root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor").write_text("performance\n")
    next(root.glob("sys/devices/platform/*/*/get_throttled")).write_text("10000")
    found = changed(before, fingerprint_here(root))
    assert [str(one) for one in found] == [
        "state-changed: governor: ondemand became performance",
        "pi-throttled: the firmware's throttle word went from 0x0 to 0x10000",
    ]
    laptop = machines.lay(tmp_path / "b", machines.laptop())
    cool = fingerprint_here(laptop)
    (laptop / "sys/devices/system/cpu/cpu3/thermal_throttle/package_throttle_count").write_text("15")
    assert [one.code for one in changed(cool, fingerprint_here(laptop))] == ["heat-throttled"]


# ---------------------------------------------------------------------------------------------------------------- energy
def test_energy_by_the_best_sensor() -> None:
    """Package counters are differences, power is integrated; the processor's counter comes before the board's and the GPU's."""

    def log(**columns: Any) -> TelemetryLog:
        rows = [{name: values[i] for name, values in columns.items()} | {"at_ns": i * 10**9} for i in range(3)]
        return TelemetryLog([TelemetryRow(**row) for row in rows])

    def spent(watch: TelemetryLog) -> Any:
        return energy(watch, start_ns=0, end_ns=2 * 10**9)

    gpu = {"gpu_power_w": [100.0, 200.0, 100.0]}
    board = {"board_power_mw": [5000.0, 7000.0, 9000.0]}
    package = {"energy_uj": [[10, 5], [10, 5], [4_000_010, 2_000_005]]}
    rapl = spent(log(**package, **board, **gpu))
    assert (rapl.sensor, rapl.joules, rapl.seconds, rapl.watts) == ("rapl", 6.0, 2.0, 3.0)
    assert (spent(log(**board, **gpu)).sensor, spent(log(**board, **gpu)).joules) == ("ina", 14.0)
    assert (spent(log(**gpu)).sensor, spent(log(**gpu)).joules) == ("nvml", 300.0)
    assert spent(log(gpu_power_w=[100.0, None, 100.0])) is None
    assert energy(log(**gpu), start_ns=0, end_ns=10) is None


def test_the_limits_are_those_of_the_protocol() -> None:
    """The figures that the documentation of the protocol gives."""
    assert (looking.MAX_GPU_SHARE, looking.MAX_STEAL, looking.MAX_CLOCK_CV) == (0.01, 0.01, 0.03)

"""A machine's fingerprint and telemetry, read from recorded trees of six kinds of machines."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgekd.core.machine
from edgekd.core.machine import boards, files, fingerprint, gpus, groups, telemetry
from edgekd.core.records.circumstances import CLASS_FIELDS, STATE_FIELDS, Fingerprint

PROGRAM = Path(edgekd.core.machine.__file__).parent
KINDS = ("laptop", "pi5", "jetson", "container_v1", "container_v2", "virtual", "gpu_server")
# Told, but no ground for calling two machines different.
TOLD_ONLY = {
    "battery_percent",
    "energy_sensors",
    "frequency_now_khz",
    "gpu_pcie_generation",
    "gpu_sha256",
    "heat_throttle_count",
    "load_1min",
    "machine_sha256",
    "memory_available_bytes",
    "memory_bytes",
    "pi_throttled",
    "running_tasks",
    "temperature_c",
    "uptime_s",
}


def read(root: Path) -> dict[str, Any]:
    return fingerprint.fields(root, environment={})


@pytest.fixture
def lay(machines: ModuleType, tmp_path: Path) -> Any:
    """Return a function that writes one of the recorded machines, with changes, and returns its root."""

    def write(kind: str, **changes: str) -> Path:
        tree = getattr(machines, kind)() | {name.replace("__", "/"): text for name, text in changes.items()}
        return machines.lay(tmp_path / kind, tree)

    return write


# ----------------------------------------------------------------------------------------------------------- fingerprint
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (
            "laptop",
            {
                "cpu": "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz",
                "cpu_revision": "GenuineIntel 6 142 10",
                "microcode": "0xf4",
                "instructions": "avx avx2 f16c fma sse4_2",
                "logical_cores": 8,
                "physical_cores": 4,
                "usable_cores": 4,
                "sockets": 1,
                "smt": "on",
                "numa_nodes": 1,
                "caches": "L1d 32K, L2 256K",
                "governor": "powersave",
                "frequency_driver": "intel_pstate",
                "frequency_min_khz": "8x400000",
                "frequency_hardware_max_khz": "8x3400000",
                "frequency_now_khz": 3100000,
                "energy_preference": "balance_performance",
                "boost": "on",
                "mitigations": "mds=open meltdown=mitigated",
                "power_source": "battery",
                "battery_percent": 81,
                "platform_profile": "balanced",
                "board": "LENOVO 20L5CTO1WW",
                "firmware": "N24ET76W (1.51 ) 02/27/2024",
                "braking": "none",
                "heat_throttle_count": 12,
                "temperature_c": 58.0,
                "energy_sensors": "rapl",
                "virtualisation": "none",
                "container": "none",
                "cgroup_version": "v2",
                "cgroup_quota_cores": "none",
                "affinity": "0-7",
                "isolated_cores": "none",
                "boot_options": "isolcpus=3 mitigations=auto",
                "clocksource": "tsc",
                "transparent_huge_pages": "madvise",
                "swap_bytes": 102396 * 1024,
                "memory_gib": 8.0,
                "distribution": "Debian GNU/Linux 12 (bookworm)",
                "pi_throttled": "absent",
                "jetson_power_mode": "absent",
                "gpu": "absent",
                "settings": "none",
            },
        ),
        (
            "pi5",
            {
                "cpu": "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)",
                "board": "Raspberry Pi 5 Model B Rev 1.0",
                "governor": "ondemand",
                "smt": "off",
                "pi_throttled": 0,
                "temperature_c": 61.45,
                "frequency_max_khz": "4x2400000",
                "braking": None,
                "virtualisation": "none",
                "power_source": "mains",
                "usable_cores": 4,
                "memory_gib": 8.0,
                "instructions": "asimd asimddp asimdhp",
            },
        ),
        (
            "jetson",
            {
                "cpu": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (Cortex-A78AE)",
                "jetson_release": "R36.4.3",
                "jetson_power_mode": "0 15W",
                "jetson_clocks": "floating",
                "braking": "none",
                "core_capacities": "6x1024",
                "energy_sensors": "ina",
            },
        ),
        (
            "container_v2",
            {
                "container": "docker",
                "cgroup_version": "v2",
                "cgroup_quota_cores": 2.0,
                "cgroup_weight": 79,
                "cpuset": "0-15",
                "cgroup_memory_bytes": 4 << 30,
                "usable_cores": 2,
                "logical_cores": 64,
            },
        ),
        (
            "container_v1",
            {
                "container": "docker",
                "cgroup_version": "v1",
                "cgroup_quota_cores": 2.0,
                "cgroup_weight": 1024,
                "cpuset": "0-15",
                "cgroup_memory_bytes": 2 << 30,
                "usable_cores": 2,
            },
        ),
        ("virtual", {"virtualisation": "kvm (Google)", "usable_cores": 1, "frequency_now_khz": 2596122, "governor": None}),
        (
            "gpu_server",
            {
                "gpu": "NVIDIA H200",
                "gpu_driver": "575.57.08",
                "gpu_memory_mib": 143771,
                "gpu_compute_capability": 9.0,
                "gpu_ecc": "Enabled",
                "gpu_mig": "Disabled",
                "gpu_persistence": "Enabled",
                "gpu_power_cap_w": 700.0,
                "gpu_clock_graphics_max_mhz": 1980,
                "gpu_clock_graphics_set_mhz": None,
                "gpu_pcie_width": 16,
            },
        ),
    ],
)
def test_fields_of_a_recorded_machine(lay: Any, kind: str, wanted: dict[str, Any]) -> None:
    """Each kind of machine is described as its tree says."""
    told = read(lay(kind))
    assert {name: told[name] for name in wanted} == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_every_machine_has_the_same_fields_and_names_what_is_unknown(lay: Any, kind: str, tmp_path: Path) -> None:
    """At least 40 fields, the same on every machine, each with a value or named as unknown."""
    told = read(lay(kind))
    assert len(told) >= 40
    assert set(told) == set(read(tmp_path / "nothing"))
    assert fingerprint.unknown(told) == sorted(name for name, value in told.items() if value is None)
    assert {type(value) for value in told.values()} <= {str, int, float, type(None)}


def test_every_field_has_its_place() -> None:
    """A field is what a machine is, how it is set up, or only told; a new one must be put in one of the three."""
    places = [set(CLASS_FIELDS), set(STATE_FIELDS), TOLD_ONLY]
    fields = set(fingerprint.PROBES) | set(gpus.FACTS) | {"settings"}
    assert set.union(*places) == fields
    assert sum(map(len, places)) == len(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_what_names_one_machine_does_not_come_through(lay: Any, kind: str) -> None:
    """Host name, machine id, serial numbers, network addresses and UUIDs are hashed or not read."""
    assert "CANARY" not in json.dumps(read(lay(kind)))


def test_the_same_machine_is_known_again_by_a_hash(lay: Any) -> None:
    """Two boards of a kind agree in everything but the hash of their ids."""
    one, other = read(lay("pi5")), read(lay("pi5", **{"etc__machine-id": "another\n"}))
    assert re.fullmatch(r"[0-9a-f]{16}", one["machine_sha256"])
    assert {name for name in one if one[name] != other[name]} == {"machine_sha256"}


def test_settings_are_those_that_change_the_speed() -> None:
    """Thread pools, runtimes and allocators are kept, with the last name of a path only; keys and tokens are not."""
    environment = {
        "OMP_NUM_THREADS": "2",
        "ORT_INTRA_OP_NUM_THREADS": "2",
        "LD_PRELOAD": "/home/ada/lib/libtcmalloc.so.4:/opt/x/b.so",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "HOME": "/home/ada",
    }
    assert fingerprint.settings(environment) == "LD_PRELOAD=libtcmalloc.so.4:b.so OMP_NUM_THREADS=2 ORT_INTRA_OP_NUM_THREADS=2"


def test_threads_follow_the_quota_inside_of_a_container(lay: Any) -> None:
    """Half a core makes one thread; a quota above the cores leaves the cores."""
    root = lay("container_v2")
    (root / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert read(root)["usable_cores"] == 1
    (root / "sys/fs/cgroup/cpu.max").write_text("9900000 100000\n")
    assert read(root)["usable_cores"] == 32


@pytest.mark.parametrize(
    ("supplies", "source"),
    [
        ({}, "mains"),
        ({"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Charging"}, "mains"),
        ({"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery", "BAT0/status": "Unknown"}, "battery"),
        ({"BAT0/type": "Battery", "BAT0/status": "Discharging"}, "battery"),
        ({"BAT0/type": "Battery", "BAT0/status": "Full"}, "mains"),
        ({"mouse/type": "Battery", "mouse/scope": "Device", "mouse/status": "Discharging"}, "mains"),
    ],
)
def test_power_source(machines: ModuleType, tmp_path: Path, supplies: dict[str, str], source: str) -> None:
    """A plug that is in counts, a battery that empties counts, a mouse's battery does not."""
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    machines.lay(tmp_path / "sys/class/power_supply", supplies)
    assert boards.power_source(tmp_path) == source


def test_pi_without_the_file_asks_the_command(lay: Any) -> None:
    """An older kernel has no file with the throttle word; `vcgencmd` is asked, and its silence is unknown."""
    root = lay("pi5")
    next(root.glob("sys/devices/platform/*/*/get_throttled")).unlink()
    assert boards.pi_throttle_word(root) is None
    (root / "commands").mkdir()
    (root / "commands/vcgencmd.get_throttled").write_text("throttled=0x50005\n")
    assert boards.pi_throttle_word(root) == 0x50005
    assert telemetry.Sampler(root).sample()["pi_throttled"] == 0x50005


def test_a_driver_that_knows_not_every_name_is_asked_for_each(lay: Any) -> None:
    """One unknown name makes nvidia-smi answer nothing at all; then what it knows is asked for alone."""
    root = lay("gpu_server")
    (root / "commands/nvidia-smi.facts").unlink()
    (root / "commands/nvidia-smi.name").write_text("Tesla T4\n")
    told = gpus.facts(root)
    assert told["gpu"] == "Tesla T4"
    assert {value for name, value in told.items() if name != "gpu"} == {None}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Amazon EC2", "kvm (Amazon EC2)"), ("QEMU", "qemu"), ("VMware, Inc.", "vmware"), ("Dell Inc.", "unnamed hypervisor")],
)
def test_virtualisation_by_the_name_of_the_board(lay: Any, name: str, kind: str) -> None:
    """A known vendor names the hypervisor; a processor that says it is a guest's is believed without."""
    root = lay("virtual")
    (root / "sys/class/dmi/id/sys_vendor").write_text(name)
    (root / "sys/class/dmi/id/product_name").unlink()
    assert boards.virtualisation(root) == kind


def test_files_and_numbers_that_make_no_sense_are_unknown(tmp_path: Path) -> None:
    """A list is spelled as the kernel does; rubbish, missing files and commands are None."""
    assert files.spelled([8, 0, 1, 2, 2, 3]) == "0-3,8"
    assert (files.number("nan"), files.number("x"), files.whole("-1"), files.whole(None)) == (None, None, -1, None)
    assert files.told_by(files.REAL_ROOT, ["/no/such/command"], name="x") is None
    assert files.told_by(files.REAL_ROOT, ["false"], name="x") is None
    assert files.told_by(files.REAL_ROOT, ["echo", "a b"], name="x") == "a b\n"
    assert groups.version(tmp_path) is None
    assert boards.hexadecimal("zz") is None


# ------------------------------------------------------------------------------------------------------------- telemetry
def test_a_sample_of_each_machine(lay: Any) -> None:
    """Clocks of all cores, temperatures, throttle word, quota, ticks, and what the sensors of each machine tell."""
    laptop = telemetry.Sampler(lay("laptop")).sample(at_ns=7)
    assert laptop["at_ns"] == 7
    assert laptop["clock_khz"] == [3_100_000] * 8
    assert (laptop["heat_throttle_count"], laptop["braking"], laptop["energy_uj"]) == (12, 0, [5_000_000])
    assert (laptop["total_ticks"], laptop["busy_ticks"], laptop["steal_ticks"]) == (800_000, 16_000, 0)
    assert (laptop["context_switches"], laptop["running_tasks"], laptop["pressure_us"]) == (5_000_000, 1, 1_000_000)
    pi = telemetry.Sampler(lay("pi5")).sample()
    assert (pi["pi_throttled"], pi["temperature_c"], pi["braking"]) == (0, [61.45], None)
    orin = telemetry.Sampler(lay("jetson")).sample()
    assert (orin["braking"], orin["temperature_c"], orin["board_power_mw"]) == (0, [52.312, 53.906], 7000.0)
    for kind in ("container_v1", "container_v2"):
        assert telemetry.Sampler(lay(kind)).sample()["nr_throttled"] == 0
    guest = telemetry.Sampler(lay("virtual")).sample()
    assert (guest["clock_khz"], guest["nr_throttled"], guest["pi_throttled"]) == ([2596122, 2596122], None, None)
    gpu = telemetry.Sampler(lay("gpu_server")).sample()
    assert (gpu["gpu_clock_mhz"], gpu["gpu_power_w"], gpu["gpu_reasons"]) == (1980, 312.5, 0)


def test_nothing_to_sample(tmp_path: Path) -> None:
    """Where nothing can be read a sample is a time and nothing else."""
    row = telemetry.Sampler(tmp_path).sample()
    assert {name for name, value in row.items() if value not in (None, [])} == {"at_ns"}


def test_an_energy_counter_that_starts_again_goes_on(lay: Any) -> None:
    """RAPL counts to its range and starts at 0; the energy told never goes back."""
    root = lay("laptop")
    sampler, counter = telemetry.Sampler(root), root / "sys/class/powercap/intel-rapl:0/energy_uj"
    told = []
    for value in (262_143_328_000, 500, 1_500):
        counter.write_text(str(value))
        told.append(sampler.sample()["energy_uj"])
    assert told == [[262_143_328_000], [262_143_329_350], [262_143_330_350]]


def test_power_that_is_told_as_such(lay: Any, machines: ModuleType) -> None:
    """A sensor with a power of its own is read in microwatts."""
    root = machines.lay(
        lay("pi5"), {"sys/class/hwmon/hwmon0/name": "ina226\n", "sys/class/hwmon/hwmon0/power1_input": "4200000"}
    )
    assert telemetry.Sampler(root).sample()["board_power_mw"] == 4200.0


# ------------------------------------------------------------------------------------------------------------ the program
@pytest.mark.parametrize("path", sorted(PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_the_probe_needs_python_3_9_and_nothing_else(path: Path) -> None:
    """Every module is Python 3.9, imports the standard library and its own siblings only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or (node.module or "").partition(".")[0] in sys.stdlib_module_names
            siblings = {alias.name for alias in node.names} if node.level else set()
            assert all((PROGRAM / f"{name}.py").is_file() for name in siblings)


def test_the_program_tells_the_fingerprint(lay: Any) -> None:
    """From its folder, without edgekd on the path, it prints fields and unknown ones as JSON."""
    start = f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); from machine.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-I", "-c", start, "fingerprint", "--root", str(lay("pi5"))]
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer = json.loads(told.stdout)
    assert answer["fields"]["pi_throttled"] == 0
    assert "OMP_NUM_THREADS=3" in answer["fields"]["settings"]
    assert "braking" in answer["unknown"]
    assert Fingerprint.of(answer["fields"]).unknown == tuple(answer["unknown"])


def test_this_machine() -> None:
    """The machine at hand has a fingerprint too, and its threads are those that the operating system lets it use."""
    told = fingerprint.fields()
    assert told["kernel"]
    assert told["usable_cores"] <= (os.cpu_count() or 1)

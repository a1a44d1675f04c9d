"""The fingerprint of a machine: what it is, how it is set up, and how it is at the moment, field by field.

`absent` is knowledge (this board has no throttle word); None is its lack. Names and numbers of one particular machine
(host name, machine id, UUID of a GPU) are hashed; serial numbers and network addresses are not read.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Union

from . import boards, files, gpus, groups, processors

Value = Union[str, int, float, None]
_SETTINGS = re.compile(
    r"^(OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|ORT|ONNXRUNTIME|OV|OPENVINO|TBB|DNNL|ONEDNN|CUDA|NVIDIA|XNNPACK|MALLOC)_"
)
_SINGLE_SETTINGS = ("LD_PRELOAD", "GLIBC_TUNABLES", "GOTO_NUM_THREADS", "PYTHONHASHSEED")
_BOOT_OPTIONS = re.compile(
    r"^(isolcpus|nohz|nohz_full|rcu_nocbs|mitigations|intel_pstate|amd_pstate|processor\.max_cstate|intel_idle\.max_cstate|"
    r"idle|nosmt|maxcpus|irqaffinity|transparent_hugepage|clocksource|tsc|preempt|cpufreq\.default_governor)(=\S*)?$"
)


def fields(root: Path = files.REAL_ROOT, *, environment: Mapping[str, str] | None = None) -> dict[str, Value]:
    """Return every field by name, None where it is not known; `root` stands for `/`."""
    told: dict[str, Value] = {name: _checked(probe(root)) for name, probe in PROBES.items()}
    told.update(gpus.facts(root))
    told["settings"] = settings(os.environ if environment is None else environment)
    return told


def settings(environment: Mapping[str, str]) -> str:
    """Return the environment variables that change how fast inference is; of paths only the last name is kept."""
    chosen = {name for name in environment if _SETTINGS.match(name) or name in _SINGLE_SETTINGS}
    return " ".join(f"{name}={_without_folders(environment[name])}" for name in sorted(chosen)) or "none"


def unknown(told: Mapping[str, Value]) -> list[str]:
    """Return the names of the fields that could not be read."""
    return sorted(name for name, value in told.items() if value is None)


# ---------------------------------------------------------------------------------------------------------------- probes
def _line(path: str) -> Callable[[Path], Value]:
    return lambda root: files.line(root / path)


def _whole(path: str) -> Callable[[Path], Value]:
    return lambda root: files.whole(files.line(root / path))


def _clocking(file: str) -> Callable[[Path], Value]:
    return lambda root: processors.clocking(root, file)


def _chosen(path: str) -> Callable[[Path], Value]:
    """Return a probe for files that list the choices, with the one in use in brackets."""

    def probe(root: Path) -> Value:
        told = files.line(root / path)
        found = re.search(r"\[(.+?)\]", told or "")
        return found[1] if found else told

    return probe


def _memory(key: str) -> Callable[[Path], Value]:
    def probe(root: Path) -> Value:
        told = re.search(rf"^{key}:\s*(\d+) kB$", files.text(root / "proc/meminfo") or "", re.MULTILINE)
        return int(told[1]) * 1024 if told else None

    return probe


def _memory_gib(root: Path) -> Value:
    """Return the memory as it is sold: kernels keep different amounts of it for themselves."""
    told = _memory("MemTotal")(root)
    return None if not isinstance(told, int) else math.ceil(2 * told / 2**30) / 2


def memory_bytes(root: Path) -> int | None:
    """Return the smaller of the machine's memory and what the control groups allow."""
    limits = (_memory("MemTotal")(root), groups.memory_limit_bytes(root))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _boot_options(root: Path) -> Value:
    told = files.line(root / "proc/cmdline")
    if told is None:
        return None
    return " ".join(option for option in told.split() if _BOOT_OPTIONS.match(option)) or "none"


def _distribution(root: Path) -> Value:
    told = files.text(root / "etc/os-release") or files.text(root / "usr/lib/os-release") or ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', told, re.MULTILINE)
    return found[1] if found else None


def _libc(root: Path) -> Value:
    return " ".join(platform.libc_ver()).strip() or None if root == files.REAL_ROOT else None


def _this_machine(root: Path) -> Value:
    told = files.line(root / "etc/machine-id") or files.line(root / "proc/sys/kernel/hostname")
    return hashlib.sha256(f"edgekd machine {told}".encode()).hexdigest()[:16] if told else None


def _load(root: Path) -> Value:
    return files.number((files.line(root / "proc/loadavg") or "").partition(" ")[0])


def _running(root: Path) -> Value:
    told = (files.line(root / "proc/loadavg") or "").split()
    return files.whole(told[3].partition("/")[0]) if len(told) > 3 else None


def _uptime(root: Path) -> Value:
    return files.number((files.line(root / "proc/uptime") or "").partition(" ")[0])


def _clock_now(root: Path) -> Value:
    told = processors.clocks_khz(root)
    return max(told) if told else None


def _throttle_count(root: Path) -> Value:
    counts = [files.whole(files.line(path)) for path in processors.throttle_counters(root)]
    return max((count for count in counts if count is not None), default=None)


def _quota(root: Path) -> Value:
    told = groups.quota_cores(root)
    return told if told is not None else "none" if groups.version(root) else None


def _memory_limit(root: Path) -> Value:
    told = groups.memory_limit_bytes(root)
    return told if told is not None else "none" if groups.version(root) else None


def _container(root: Path) -> Value:
    return groups.container(root) or ("none" if files.text(root / "proc/self/cgroup") is not None else None)


def _energy(root: Path) -> Value:
    kinds = ["rapl"] * bool(boards.energy_counters(root)) + ["ina"] * bool(boards.board_power_sensors(root))
    return ",".join(kinds) or "none readable"


def _checked(value: object) -> Value:
    return value if isinstance(value, (str, int, float)) else None


def _without_folders(value: str) -> str:
    return re.sub(r"(?<![\w.])[~/][^\s:;,=]*/", "", value)


PROBES: dict[str, Callable[[Path], object]] = {
    "system": lambda root: files.line(root / "proc/sys/kernel/ostype") or platform.system(),
    "kernel": lambda root: files.line(root / "proc/sys/kernel/osrelease") or platform.release(),
    "machine": lambda root: files.line(root / "proc/sys/kernel/arch") or platform.machine(),
    "distribution": _distribution,
    "libc": _libc,
    "python": lambda _: f"{platform.python_implementation()} {platform.python_version()}",
    "boot_options": _boot_options,
    "clocksource": _line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
    "transparent_huge_pages": _chosen("sys/kernel/mm/transparent_hugepage/enabled"),
    "swap_bytes": _memory("SwapTotal"),
    "swappiness": _whole("proc/sys/vm/swappiness"),
    "address_randomisation": _whole("proc/sys/kernel/randomize_va_space"),
    "scheduler_autogroup": _whole("proc/sys/kernel/sched_autogroup_enabled"),
    "nmi_watchdog": _whole("proc/sys/kernel/nmi_watchdog"),
    "mitigations": processors.mitigations,
    "virtualisation": boards.virtualisation,
    "container": _container,
    "cgroup_version": groups.version,
    "cgroup_quota_cores": _quota,
    "cgroup_weight": groups.weight,
    "cgroup_memory_bytes": _memory_limit,
    "cpuset": groups.cpuset,
    "affinity": processors.affinity,
    "usable_cores": processors.usable_cores,
    "isolated_cores": processors.isolated,
    "memory_bytes": _memory("MemTotal"),
    "memory_gib": _memory_gib,
    "memory_available_bytes": _memory("MemAvailable"),
    "cpu": processors.model,
    "cpu_revision": processors.revision,
    "microcode": processors.microcode,
    "instructions": processors.instructions,
    "logical_cores": processors.logical_cores,
    "physical_cores": processors.physical_cores,
    "sockets": processors.sockets,
    "smt": processors.smt,
    "numa_nodes": processors.numa_nodes,
    "core_capacities": processors.capacities,
    "caches": processors.caches,
    "governor": processors.governor,
    "frequency_driver": _clocking("scaling_driver"),
    "frequency_min_khz": _clocking("scaling_min_freq"),
    "frequency_max_khz": _clocking("scaling_max_freq"),
    "frequency_hardware_max_khz": _clocking("cpuinfo_max_freq"),
    "energy_preference": _clocking("energy_performance_preference"),
    "frequency_now_khz": _clock_now,
    "boost": processors.boost,
    "idle_driver": _line("sys/devices/system/cpu/cpuidle/current_driver"),
    "idle_governor": _line("sys/devices/system/cpu/cpuidle/current_governor"),
    "board": boards.board,
    "firmware": boards.firmware,
    "power_source": boards.power_source,
    "battery_percent": boards.battery_percent,
    "platform_profile": _line("sys/firmware/acpi/platform_profile"),
    "energy_sensors": _energy,
    "temperature_c": boards.hottest_c,
    "braking": boards.braking,
    "heat_throttle_count": _throttle_count,
    "pi_throttled": boards.pi_throttle_word,
    "jetson_release": boards.jetson_release,
    "jetson_power_mode": boards.jetson_power_mode,
    "jetson_clocks": boards.jetson_clocks,
    "load_1min": _load,
    "running_tasks": _running,
    "uptime_s": _uptime,
    "machine_sha256": _this_machine,
}

"""Processors: what they are, how many may be used, and at which clocks they may run."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from pathlib import Path

from . import files, groups

CPUS = "sys/devices/system/cpu"
ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
# What kernels of inference are chosen by.
# fmt: off
_INSTRUCTIONS = frozenset((
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16",
    "svei8mm", "svebf16",
))
# fmt: on


def cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return /proc/cpuinfo as one mapping per block; on Arm the last block describes the board."""
    blocks = (files.text(root / "proc/cpuinfo") or "").strip().split("\n\n")
    pairs = [[line.partition(":") for line in block.split("\n") if ":" in line] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in block} for block in pairs if block]


def model(root: Path) -> str | None:
    """Return the processor's name; on Arm the kinds of cores, after the board's name where it is known."""
    blocks = cpuinfo(root)
    named = [b["model name"] for b in blocks if "model name" in b]
    arm = {ARM_CORES[b["CPU part"]] for b in blocks if b.get("CPU part") in ARM_CORES}
    core = " + ".join(sorted(arm)) or (named[0] if named else "")
    board = files.line(root / "proc/device-tree/model") or next((b["Model"] for b in blocks if "Model" in b), "")
    return f"{board} ({core})" if board and core else board or core or None


def revision(root: Path) -> str | None:
    """Return vendor, family, model and stepping of an x86 processor, or implementer, part and revision of an Arm one."""
    for keys in (
        ("vendor_id", "cpu family", "model", "stepping"),
        ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"),
    ):
        kinds = [" ".join(b.get(key, "?") for key in keys) for b in cpuinfo(root) if keys[0] in b]
        if kinds:
            return files.distinct(kinds)
    return None


def microcode(root: Path) -> str | None:
    """Return the microcode's revision."""
    told = [b["microcode"] for b in cpuinfo(root) if "microcode" in b]
    return files.distinct(told or list(files.lines(root / CPUS, "cpu[0-9]*/microcode/version")))


def instructions(root: Path) -> str | None:
    """Return those instruction sets that inference is written for, sorted."""
    has = {flag for b in cpuinfo(root) for flag in (b.get("flags") or b.get("Features") or "").split()}
    return " ".join(sorted(has & _INSTRUCTIONS)) or None


def logical_cores(root: Path) -> int | None:
    """Return how many processors are online; without /proc and /sys the interpreter's count."""
    online = files.listed(files.line(root / CPUS / "online"))
    if online:
        return len(online)
    counted = sum("processor" in block for block in cpuinfo(root))
    return counted or (os.cpu_count() if root == files.REAL_ROOT else None)


def physical_cores(root: Path) -> int | None:
    """Return how many cores there are, hyper-threads of one core counted once."""
    siblings = set(files.lines(root / CPUS, "cpu[0-9]*/topology/thread_siblings_list"))
    if siblings:
        return len(siblings)
    pairs = {(b.get("physical id", "0"), b["core id"]) for b in cpuinfo(root) if "core id" in b and "processor" in b}
    return len(pairs) or None


def sockets(root: Path) -> int | None:
    """Return how many packages the cores are in."""
    told = set(files.lines(root / CPUS, "cpu[0-9]*/topology/physical_package_id"))
    return len(told - {"-1"}) or None


def affinity(root: Path) -> str | None:
    """Return the cores that this process may run on, as a kernel list."""
    told = re.search(r"^Cpus_allowed_list:\s*(\S+)$", files.text(root / "proc/self/status") or "", re.MULTILINE)
    allowed = files.listed(told[1]) if told else None
    return files.spelled(sorted(allowed)) if allowed else None


def affinity_cores(root: Path) -> int | None:
    """Return how many cores this process may run on."""
    allowed = files.listed(affinity(root))
    return len(allowed) if allowed else None


def usable_cores(root: Path) -> int:
    """Return max(1, floor(min(cgroup quota, affinity, physical cores))); the logical cores stand in where none is known."""
    limits = (groups.quota_cores(root), affinity_cores(root), physical_cores(root))
    known = [limit for limit in limits if limit is not None] or [logical_cores(root) or 1]
    return max(1, math.floor(min(known)))


def smt(root: Path) -> str | None:
    """Return whether two threads share a core: `on`, `off`, `notsupported`, ..."""
    told = files.line(root / CPUS / "smt/control")
    if told and told != "notimplemented":
        return told
    siblings = list(files.lines(root / CPUS, "cpu[0-9]*/topology/thread_siblings_list"))
    shared = any(len(files.listed(one) or ()) > 1 for one in siblings)
    return ("on" if shared else "off") if siblings else told


def capacities(root: Path) -> str | None:
    """Return how many cores of which relative capacity there are: `4x1024,4x446`; equal cores are `4x1024`."""
    return _counted(list(files.lines(root / CPUS, "cpu[0-9]*/cpu_capacity")))


def caches(root: Path) -> str | None:
    """Return the caches that the first core sees: `L1d 32K, L1i 32K, L2 1024K`."""
    shown = []
    for folder in files.found(root / CPUS, "cpu0/cache/index[0-9]*"):
        level, kind, size = (files.line(folder / name) for name in ("level", "type", "size"))
        if level and kind and size:
            shown.append(f"L{level}{kind[0].lower() if kind in ('Data', 'Instruction') else ''} {size}")
    return ", ".join(shown) or None


def numa_nodes(root: Path) -> int | None:
    """Return how many memory nodes there are."""
    online = files.listed(files.line(root / "sys/devices/system/node/online"))
    return len(online) if online else None


def isolated(root: Path) -> str | None:
    """Return the cores kept from ordinary work, as a kernel list; `none` if there are none."""
    path = root / CPUS / "isolated"
    return files.line(path) or ("none" if files.text(path) is not None else None)


# ---------------------------------------------------------------------------------------------------------------- clocks
def governor(root: Path) -> str | None:
    """Return what decides about the clock."""
    return files.distinct(list(files.lines(root / CPUS, "cpu[0-9]*/cpufreq/scaling_governor")))


def clocking(root: Path, file: str) -> str | None:
    """Return one of the settings of cpufreq over all cores: `4x2400000` (kHz), or words such as a driver's name."""
    told = list(files.lines(root / CPUS, f"cpu[0-9]*/cpufreq/{file}"))
    return _counted(told) if all(value.isdigit() for value in told) else files.distinct(told)


def clocks_khz(root: Path) -> list[int]:
    """Return the clocks at which the cores run now; of /proc/cpuinfo where there is no cpufreq."""
    told = [files.whole(value) for value in files.lines(root / CPUS, "cpu[0-9]*/cpufreq/scaling_cur_freq")]
    if not told:
        told = [int(1000 * value) for b in cpuinfo(root) if (value := files.number(b.get("cpu MHz"))) is not None]
    return [value for value in told if value]


def boost(root: Path) -> str | None:
    """Return whether the processor may run above its base clock: `on` or `off`."""
    no_turbo = files.line(root / CPUS / "intel_pstate/no_turbo")
    if no_turbo in ("0", "1"):
        return "off" if no_turbo == "1" else "on"
    told = files.line(root / CPUS / "cpufreq/boost")
    return {"0": "off", "1": "on"}.get(told or "")


def mitigations(root: Path) -> str | None:
    """Return which of the processor's weaknesses are worked around and which are open; those it has not are left out."""
    shown = []
    for path in files.found(root / CPUS, "vulnerabilities/*"):
        told = (files.line(path) or "").lower()
        if told and not told.startswith("not affected"):
            shown.append(f"{path.name}={'mitigated' if 'mitigation' in told and 'vulnerable' not in told else 'open'}")
    return " ".join(shown) or ("none needed" if (root / CPUS / "vulnerabilities").is_dir() else None)


def throttle_counters(root: Path) -> list[Path]:
    """Return the files that count how often heat slowed an x86 processor: once a package where it is known, else a core."""
    for kind in ("package", "core"):
        paths = files.found(root / CPUS, f"cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
        if paths:
            return paths
    return []


def _counted(values: list[str]) -> str | None:
    ordered = sorted(Counter(values).items(), key=lambda item: (-(files.number(item[0]) or 0), item[0]))
    return ",".join(f"{count}x{value}" for value, count in ordered) or None

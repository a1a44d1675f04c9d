"""What is known of the machine that edgekd runs on, and who made a record.

Everything is read from files below `root`, so that tests stand in recorded trees of /proc and /sys. What cannot be read is
None: on systems without /proc most facts are. A container's share counts, not the host's size: a process that may use 2 of
64 cores gets 2 threads.
"""

import math
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from edgekd.core.records import DeviceFacts, MadeBy

GIT_TIMEOUT_S = 10.0
_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_ARM_CORES = {
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
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
_CONTAINER_FILES = {
    "run/secrets/kubernetes.io": "kubernetes",
    "var/run/secrets/kubernetes.io": "kubernetes",
    "run/.containerenv": "podman",
    ".dockerenv": "docker",
}
_CONTAINER_GROUPS = {
    "kubepods": "kubernetes",
    "libpod-": "podman",
    "/docker/": "docker",
    "/docker-": "docker",
    "/lxc": "lxc",
}
_NO_LIMIT_BYTES = 1 << 60


def cache_folder() -> Path | None:
    """Return the folder for what edgekd remembers between runs (it need not exist), or None if no home is known."""
    if named := os.environ.get("EDGEKD_CACHE"):
        return Path(named).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "edgekd"
    try:
        return Path.home() / ".cache" / "edgekd"
    except RuntimeError:
        return None


def config_folder() -> Path | None:
    """Return the folder for what a person has decided once, such as whom to trust (it need not exist), or None without a home."""
    if named := os.environ.get("EDGEKD_CONFIG"):
        return Path(named).expanduser()
    if shared := os.environ.get("XDG_CONFIG_HOME"):
        return Path(shared) / "edgekd"
    try:
        return Path.home() / ".config" / "edgekd"
    except RuntimeError:
        return None


def device_facts(name: str = "local", *, root: Path = _ROOT) -> DeviceFacts:
    """Return what is known of this machine; `root` stands for `/`."""
    return DeviceFacts(
        name=name,
        system=_system(root),
        machine=_first_line(root / "proc/sys/kernel/arch") or platform.machine(),
        cpu=_cpu(root),
        logical_cores=_logical_cores(root),
        physical_cores=_physical_cores(root),
        affinity_cores=_affinity_cores(root),
        usable_cores=usable_cores(root=root),
        cgroup_quota_cores=_quota_cores(root),
        memory_bytes=_memory_bytes(root),
        governor=_governor(root),
        load_1min=_number((_first_line(root / "proc/loadavg") or "").partition(" ")[0]),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        container=_container(root),
    )


def usable_cores(*, root: Path = _ROOT) -> int:
    """Return max(1, floor(min(cgroup quota, affinity, physical cores))); the logical cores stand in where none is known."""
    known = [c for c in (_quota_cores(root), _affinity_cores(root), _physical_cores(root)) if c is not None] or [
        _logical_cores(root) or 1
    ]
    return max(1, math.floor(min(known)))


def made_by(command: Sequence[str] | None, *, folder: Path | None = None) -> MadeBy:
    """Return who makes a record now: version, command line (home folder written `~`), git state of `folder`, UTC time."""
    from edgekd import __version__

    return MadeBy(
        version=__version__,
        command=_without_home(shlex.join(command)) if command else "",
        git=_git_state(folder or Path.cwd()),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


# ----------------------------------------------------------------------------------------------------------------- files
def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def _first_line(path: Path) -> str | None:
    lines = (_text(path) or "").replace("\0", "").split("\n")
    return lines[0].strip() or None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _listed(text: str | None) -> frozenset[int] | None:
    """Return the cores of a kernel list such as `0-3,8`; None if it is missing or malformed."""
    if not text or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return None
    spans = [span.partition("-") for span in text.split(",")]
    return frozenset(n for low, _, high in spans for n in range(int(low), int(high or low) + 1)) or None


# ------------------------------------------------------------------------------------------------------------ processors
def _system(root: Path) -> str:
    kind = _first_line(root / "proc/sys/kernel/ostype") or platform.system()
    return f"{kind} {_first_line(root / 'proc/sys/kernel/osrelease') or platform.release()}"


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return /proc/cpuinfo as one mapping per block; on Arm the last block describes the board."""
    blocks = (_text(root / "proc/cpuinfo") or "").strip().split("\n\n")
    pairs = [[line.partition(":") for line in block.split("\n") if ":" in line] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in block} for block in pairs if block]


def _cpu(root: Path) -> str | None:
    blocks = _cpuinfo(root)
    named = [b["model name"] for b in blocks if "model name" in b]
    arm = {_ARM_CORES[b["CPU part"]] for b in blocks if b.get("CPU part") in _ARM_CORES}
    core = " + ".join(sorted(arm)) or (named[0] if named else "")
    board = _first_line(root / "proc/device-tree/model") or next((b["Model"] for b in blocks if "Model" in b), "")
    return f"{board} ({core})" if board and core else board or core or None


def _logical_cores(root: Path) -> int | None:
    online = _listed(_first_line(root / _CPUS / "online"))
    if online:
        return len(online)
    listed = sum("processor" in block for block in _cpuinfo(root))
    return listed or (os.cpu_count() if root == _ROOT else None)


def _physical_cores(root: Path) -> int | None:
    siblings = {_first_line(path) for path in (root / _CPUS).glob("cpu[0-9]*/topology/thread_siblings_list")} - {None}
    if siblings:
        return len(siblings)
    pairs = {(b.get("physical id", "0"), b["core id"]) for b in _cpuinfo(root) if "core id" in b and "processor" in b}
    return len(pairs) or None


def _affinity_cores(root: Path) -> int | None:
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", _text(root / "proc/self/status") or "", re.MULTILINE)
    allowed = _listed(found[1]) if found else None
    return len(allowed) if allowed else None


def _governor(root: Path) -> str | None:
    paths = (root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")
    found = {line for path in paths if (line := _first_line(path))}
    return ",".join(sorted(found)) or None


# ------------------------------------------------------------------------------------------------------- control groups
@dataclass(frozen=True)
class _Mount:
    """Where a hierarchy of control groups is mounted, and which of its groups stands there."""

    point: Path
    group: str
    controllers: frozenset[str]
    unified: bool


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        group, point = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), text) for text in place[3:5])
        yield _Mount(root / point.lstrip("/"), group, frozenset(kind[2].split(",")), kind[0] == "cgroup2")


def _group_folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield this process's groups that may limit `controller`, innermost first, and whether they speak version 2.

    In a container the mount shows a part of the hierarchy only, and the path in /proc/self/cgroup may lie outside of it;
    then the mount itself is the group.
    """
    mounts = tuple(_mounts(root))
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, own = rest.partition(":")
        unified = number == "0" and not names
        if not unified and controller not in names.split(","):
            continue
        for mount in mounts:
            if mount.unified != unified or not (unified or controller in mount.controllers):
                continue
            path = PurePosixPath(own)
            below = path.is_relative_to(mount.group) and ".." not in path.parts
            steps = path.relative_to(mount.group).parts if below else ()
            for length in range(len(steps), -1, -1):
                yield mount.point.joinpath(*steps[:length]), unified


def _quota_cores(root: Path) -> float | None:
    """Return the smallest CPU quota of this process's group and the groups above it, in cores."""
    found = []
    for folder, unified in _group_folders(root, "cpu"):
        if unified:
            quota, _, period = (_first_line(folder / "cpu.max") or "").partition(" ")
        else:
            quota = _first_line(folder / "cpu.cfs_quota_us") or ""
            period = _first_line(folder / "cpu.cfs_period_us") or ""
        most, every = _number(quota), _number(period)
        if most and every and most > 0 and every > 0:
            found.append(most / every)
    return min(found, default=None)


def _memory_bytes(root: Path) -> int | None:
    """Return the smaller of the machine's memory and what the control groups allow."""
    total = re.search(r"^MemTotal:\s*(\d+) kB$", _text(root / "proc/meminfo") or "", re.MULTILINE)
    found = [int(total[1]) * 1024] if total else []
    for folder, unified in _group_folders(root, "memory"):
        limit = _number(_first_line(folder / ("memory.max" if unified else "memory.limit_in_bytes")))
        if limit and 0 < limit < _NO_LIMIT_BYTES:
            found.append(int(limit))
    return min(found, default=None)


def _container(root: Path) -> str | None:
    for file, engine in _CONTAINER_FILES.items():
        if (root / file).exists():
            return engine
    named = _first_line(root / "run/systemd/container")
    if named:
        return named
    groups = (_text(root / "proc/self/cgroup") or "") + (_text(root / "proc/1/cgroup") or "")
    return next((engine for word, engine in _CONTAINER_GROUPS.items() if word in groups), None)


# --------------------------------------------------------------------------------------------------------------- made by
def _without_home(text: str) -> str:
    home = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - Path.home() raises where this answers "~"
    if len(home) < 2:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)


def _git_state(folder: Path) -> str:
    """Return the commit checked out in `folder`, with `-dirty` if tracked files differ from it; "" outside of git."""
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""

"""Control groups, both versions: what this process may use of the machine, and how often it was held back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import files

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


@dataclass(frozen=True)
class _Mount:
    """Where a hierarchy of control groups is mounted, and which of its groups stands there."""

    point: Path
    group: str
    controllers: frozenset[str]
    unified: bool


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in (files.text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        group, point = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), text) for text in place[3:5])
        yield _Mount(root / point.lstrip("/"), group, frozenset(kind[2].split(",")), kind[0] == "cgroup2")


def folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield this process's groups that may limit `controller`, innermost first, and whether they speak version 2.

    In a container the mount shows a part of the hierarchy only, and the path in /proc/self/cgroup may lie outside of it;
    then the mount itself is the group.
    """
    mounts = tuple(_mounts(root))
    for line in (files.text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, own = rest.partition(":")
        unified = number == "0" and not names
        if not unified and controller not in names.split(","):
            continue
        for mount in mounts:
            if mount.unified != unified or not (unified or controller in mount.controllers):
                continue
            path = PurePosixPath(own)
            try:
                below = ".." not in path.parts and path.relative_to(mount.group)
            except ValueError:
                below = False
            steps = below.parts if below else ()
            for length in range(len(steps), -1, -1):
                yield mount.point.joinpath(*steps[:length]), unified


def version(root: Path) -> str | None:
    """Return `v1`, `v2` or `v1+v2`, or None if no control groups are mounted."""
    spoken = {mount.unified for mount in _mounts(root)}
    return {frozenset([True]): "v2", frozenset([False]): "v1", frozenset([True, False]): "v1+v2"}.get(frozenset(spoken))


def quota_cores(root: Path) -> float | None:
    """Return the smallest CPU quota of this process's group and the groups above it, in cores."""
    found = []
    for folder, unified in folders(root, "cpu"):
        if unified:
            quota, _, period = (files.line(folder / "cpu.max") or "").partition(" ")
        else:
            quota = files.line(folder / "cpu.cfs_quota_us") or ""
            period = files.line(folder / "cpu.cfs_period_us") or ""
        most, every = files.number(quota), files.number(period)
        if most and every and most > 0 and every > 0:
            found.append(most / every)
    return min(found, default=None)


def weight(root: Path) -> int | None:
    """Return this group's weight against its neighbours (100 or 1024 shares by default), or None."""
    for folder, unified in folders(root, "cpu"):
        told = files.whole(files.line(folder / ("cpu.weight" if unified else "cpu.shares")))
        if told is not None:
            return told
    return None


def cpuset(root: Path) -> str | None:
    """Return the cores that the innermost control group with a set of them leaves to this process, as a kernel list."""
    for folder, unified in folders(root, "cpuset"):
        names = ("cpuset.cpus.effective",) if unified else ("cpuset.effective_cpus", "cpuset.cpus")
        for name in names:
            allowed = files.listed(files.line(folder / name))
            if allowed:
                return files.spelled(sorted(allowed))
    return None


def memory_limit_bytes(root: Path) -> int | None:
    """Return the smallest memory limit of this process's groups, or None without one."""
    found = []
    for folder, unified in folders(root, "memory"):
        limit = files.number(files.line(folder / ("memory.max" if unified else "memory.limit_in_bytes")))
        if limit and 0 < limit < _NO_LIMIT_BYTES:
            found.append(int(limit))
    return min(found, default=None)


def cpu_stat_files(root: Path) -> list[Path]:
    """Return the files that count how often the groups with a CPU quota were held back."""
    stats = [folder / "cpu.stat" for folder, _ in folders(root, "cpu")]
    return [path for path in stats if "nr_throttled" in (files.text(path) or "")]


def container(root: Path) -> str | None:
    """Return the engine of the container that this process is in, or None if none shows."""
    for file, engine in _CONTAINER_FILES.items():
        if (root / file).exists():
            return engine
    named = files.line(root / "run/systemd/container")
    if named:
        return named
    told = (files.text(root / "proc/self/cgroup") or "") + (files.text(root / "proc/1/cgroup") or "")
    return next((engine for word, engine in _CONTAINER_GROUPS.items() if word in told), None)

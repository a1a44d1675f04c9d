"""What is known of the machine that edgekd runs on, and who made a record.

Read below `root` by `edgekd.core.machine`, so that tests stand in recorded trees of /proc and /sys. What cannot be read is
None: on systems without /proc most facts are. A container's share counts, not the host's size: a process that may use 2 of
64 cores gets 2 threads.
"""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgekd.core.machine import files, fingerprint, groups, processors
from edgekd.core.records import DeviceFacts, MadeBy

GIT_TIMEOUT_S = 10.0
_ROOT = files.REAL_ROOT


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
    """Return the folder for what a person decided, such as whom to trust (it need not exist), or None without a home."""
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
        machine=files.line(root / "proc/sys/kernel/arch") or platform.machine(),
        cpu=processors.model(root),
        logical_cores=processors.logical_cores(root),
        physical_cores=processors.physical_cores(root),
        affinity_cores=processors.affinity_cores(root),
        usable_cores=usable_cores(root=root),
        cgroup_quota_cores=groups.quota_cores(root),
        memory_bytes=fingerprint.memory_bytes(root),
        governor=processors.governor(root),
        load_1min=files.number((files.line(root / "proc/loadavg") or "").partition(" ")[0]),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        container=groups.container(root),
    )


def usable_cores(*, root: Path = _ROOT) -> int:
    """Return max(1, floor(min(cgroup quota, affinity, physical cores))); the logical cores stand in where none is known."""
    return processors.usable_cores(root)


def made_by(command: Sequence[str] | None, *, folder: Path | None = None) -> MadeBy:
    """Return who makes a record now: version, command line (home folder written `~`), git state of `folder`, UTC time."""
    from edgekd import __version__

    return MadeBy(
        version=__version__,
        command=_without_home(shlex.join(command)) if command else "",
        git=_git_state(folder or Path.cwd()),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _system(root: Path) -> str:
    kind = files.line(root / "proc/sys/kernel/ostype") or platform.system()
    return f"{kind} {files.line(root / 'proc/sys/kernel/osrelease') or platform.release()}"


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

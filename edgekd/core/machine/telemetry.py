"""How a machine is doing while it is measured: a few dozen counters, read again and again.

Which files there are is found out once; a sample then reads those only. Times are the monotonic clock that the workers on
the same machine measure with.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Union

from . import boards, files, gpus, groups, processors

Column = Union[int, float, list[int], list[float], None]


class Sampler:
    """Takes samples of the machine below `root`; `close` ends what it has started."""

    def __init__(self, root: Path = files.REAL_ROOT, *, hz: float = 2.0) -> None:
        self._root = root
        self._clocks = _paths(files.found(root / processors.CPUS, "cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._cpuinfo = "" if self._clocks else str(root / "proc/cpuinfo")
        self._zones = _paths([path for _, path in boards.zones(root)])
        self._brakes = _paths([path for _, path in boards.brakes(root)])
        self._heat = _paths(processors.throttle_counters(root))
        self._groups = _paths(groups.cpu_stat_files(root))
        self._pi = str(boards.pi_throttle_file(root) or "")
        self._pi_command = not self._pi and boards.is_pi(root)
        self._energy = [_Counter(str(path), wraps_at) for path, wraps_at in boards.energy_counters(root)]
        self._board_power = [tuple(map(str, filter(None, pair))) for pair in boards.board_power_sensors(root)]
        self._gpu = _Gpu(root, hz)

    def sample(self, at_ns: int | None = None) -> dict[str, Column]:
        """Return one row: counters since the machine's start, states and values of now."""
        stat = _read(str(self._root / "proc/stat"))
        row: dict[str, Column] = {
            "at_ns": time.perf_counter_ns() if at_ns is None else at_ns,
            "clock_khz": self._clock_khz(),
            "temperature_c": [value / 1000 for path in self._zones if (value := _whole(path)) is not None],
            "braking": _most(self._brakes),
            "heat_throttle_count": _most(self._heat),
            "pi_throttled": self._pi_throttled(),
            "load_1min": files.number(_read(str(self._root / "proc/loadavg")).partition(" ")[0]),
            "pressure_us": _after("some .*total=", _read(str(self._root / "proc/pressure/cpu"))),
            "context_switches": _after("ctxt ", stat),
            "running_tasks": _after("procs_running ", stat),
            "energy_uj": [value for counter in self._energy if (value := counter.value()) is not None],
            "board_power_mw": self._board_power_mw(),
        }
        row.update(_ticks(stat))
        row.update(self._held_back())
        row.update(self._gpu.latest())
        return row

    def close(self) -> None:
        """End the process that tells of the GPU, if there is one."""
        self._gpu.close()

    def _clock_khz(self) -> list[int]:
        if self._clocks:
            return [value for path in self._clocks if (value := _whole(path)) is not None]
        told = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(self._cpuinfo), re.MULTILINE)
        return [int(1000 * float(value)) for value in told]

    def _pi_throttled(self) -> int | None:
        if self._pi:
            return boards.hexadecimal(_read(self._pi).strip())
        if not self._pi_command:
            return None
        word = boards.pi_throttle_word(self._root)
        return word if isinstance(word, int) else None

    def _held_back(self) -> dict[str, Column]:
        told = [_read(path) for path in self._groups]
        times = [_after("nr_throttled ", text) for text in told]
        known = [value for value in times if value is not None]
        return {"nr_throttled": sum(known) if known else None}

    def _board_power_mw(self) -> float | None:
        for paths in self._board_power:
            values = [_whole(path) for path in paths]
            if None not in values:
                first, *second = [float(value or 0) for value in values]
                return first * second[0] / 1000 if second else first / 1000
        return None


class _Counter:
    """A counter that starts again at 0 when it is full, read often enough to notice."""

    def __init__(self, path: str, wraps_at: int) -> None:
        self._path, self._wraps_at = path, wraps_at
        self._last = self._before = 0

    def value(self) -> int | None:
        now = _whole(self._path)
        if now is None:
            return None
        if now < self._last:
            self._before += self._wraps_at
        self._last = now
        return self._before + now


class _Gpu:
    """The last line of an `nvidia-smi` that goes on telling; started only where there is a driver."""

    def __init__(self, root: Path, hz: float) -> None:
        self._last: dict[str, gpus.Value] = {}
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        names = list(gpus.SAMPLES.values())
        if root != files.REAL_ROOT:
            self._last = gpus.sample(files.text(root / "commands/nvidia-smi.samples") or "")
        elif Path("/dev/nvidiactl").exists():
            try:
                self._process = subprocess.Popen(
                    gpus.query(names, every_ms=int(1000 / hz)),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                return
            if self._process.stdout is not None:
                os.set_blocking(self._process.stdout.fileno(), False)

    def latest(self) -> dict[str, Column]:
        if self._process is not None and self._process.stdout is not None:
            self._rest += self._process.stdout.read() or b""
            *whole, self._rest = self._rest.split(b"\n")
            if whole:
                self._last = gpus.sample(whole[-1].decode("utf-8", "replace"))
        return {name: value for name, value in self._last.items() if not isinstance(value, str)}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


def _ticks(stat: str) -> dict[str, Column]:
    """Return the first line of /proc/stat as ticks: all, at work, and taken by the hypervisor."""
    told = re.match(r"cpu\s+([\d ]+)", stat)
    if not told:
        return {"total_ticks": None, "busy_ticks": None, "steal_ticks": None}
    user, nice, system, idle, iowait, irq, softirq, steal = ([int(value) for value in told[1].split()] + [0] * 8)[:8]
    busy = user + nice + system + irq + softirq
    return {"total_ticks": busy + idle + iowait + steal, "busy_ticks": busy, "steal_ticks": steal}


def _paths(found: list[Path]) -> list[str]:
    return [str(path) for path in found]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - half as dear as Path, many times a second
            return file.read()
    except (OSError, ValueError):
        return ""


def _whole(path: str) -> int | None:
    return files.whole(_read(path).strip())


def _most(paths: list[str]) -> int | None:
    return max((value for path in paths if (value := _whole(path)) is not None), default=None)


def _after(pattern: str, text: str) -> int | None:
    told = re.search(rf"^{pattern}(\d+)", text, re.MULTILINE)
    return int(told[1]) if told else None

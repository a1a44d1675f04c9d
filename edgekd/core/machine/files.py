"""Small files of /proc and /sys, and the few commands that know more: text, numbers and lists, or None."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

COMMAND_TIMEOUT_S = 10.0
REAL_ROOT = Path("/")


def text(path: Path) -> str | None:
    """Return a file's text, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def line(path: Path) -> str | None:
    """Return a file's first line without blanks and NULs around it, or None if there is nothing in it."""
    lines = (text(path) or "").replace("\0", "").split("\n")
    return lines[0].strip() or None


def number(found: str | None) -> float | None:
    """Return text as a finite number, or None."""
    try:
        value = float(found or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(found: str | None) -> int | None:
    """Return text as a whole number, or None."""
    value = number(found)
    return None if value is None else int(value)


def listed(found: str | None) -> frozenset[int] | None:
    """Return the members of a kernel list such as `0-3,8`; None if it is missing or malformed."""
    if not found or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", found):
        return None
    spans = [span.partition("-") for span in found.split(",")]
    return frozenset(n for low, _, high in spans for n in range(int(low), int(high or low) + 1)) or None


def spelled(numbers: Sequence[int]) -> str:
    """Return whole numbers as a kernel list: `0-3,8`."""
    runs: list[list[int]] = []
    for value in sorted(set(numbers)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def found(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern below a folder, in the order of the numbers in the names."""
    try:
        paths = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))])


def lines(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the first line of each file that matches and has one."""
    for path in found(folder, pattern):
        told = line(path)
        if told is not None:
            yield told


def distinct(values: Sequence[str]) -> str | None:
    """Return the different values, sorted and joined by commas, or None if there are none."""
    return ",".join(sorted(set(values))) or None


def told_by(root: Path, command: Sequence[str], *, name: str) -> str | None:
    """Return what a command prints, or None if it is not there or fails.

    In a recorded tree the answer is the file `commands/<name>`.
    """
    if root != REAL_ROOT:
        return text(root / "commands" / name)
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None

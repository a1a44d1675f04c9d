"""NVIDIA GPUs as `nvidia-smi` tells of them; its query is stable over drivers, and no package is needed."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Union

from . import files

ABSENT = "absent"
# Field of the fingerprint -> what nvidia-smi calls it.
FACTS = {
    "gpu": "name",
    "gpu_driver": "driver_version",
    "gpu_memory_mib": "memory.total",
    "gpu_compute_capability": "compute_cap",
    "gpu_vbios": "vbios_version",
    "gpu_sha256": "uuid",
    "gpu_ecc": "ecc.mode.current",
    "gpu_mig": "mig.mode.current",
    "gpu_compute_mode": "compute_mode",
    "gpu_persistence": "persistence_mode",
    "gpu_power_cap_w": "power.limit",
    "gpu_clock_graphics_max_mhz": "clocks.max.graphics",
    "gpu_clock_memory_max_mhz": "clocks.max.memory",
    "gpu_clock_graphics_set_mhz": "clocks.applications.graphics",
    "gpu_pcie_generation": "pcie.link.gen.current",
    "gpu_pcie_width": "pcie.link.width.current",
}
# Column of the telemetry -> what nvidia-smi calls it. Drivers before 535 say throttle_reasons, and later ones still know it.
SAMPLES = {
    "gpu_clock_mhz": "clocks.current.sm",
    "gpu_memory_clock_mhz": "clocks.current.memory",
    "gpu_power_w": "power.draw",
    "gpu_temperature_c": "temperature.gpu",
    "gpu_reasons": "clocks_throttle_reasons.active",
}
_NOTHING = frozenset(["", "[n/a]", "n/a", "[not supported]", "[unknown error]", "[insufficient permissions]"])

Value = Union[str, int, float, None]


def query(names: list[str], *, every_ms: int = 0) -> list[str]:
    """Return the command that asks for these, once or every so many milliseconds."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits", "--id=0"]
    return [*command, f"--loop-ms={every_ms}"] if every_ms else command


def facts(root: Path) -> dict[str, Value]:
    """Return what is known of the first GPU; `absent` everywhere if there is no NVIDIA driver.

    A driver that knows not all of the names answers none of them, so then each is asked for alone.
    """
    if not (root / "proc/driver/nvidia/version").exists() and not (root / "dev/nvidiactl").exists():
        return dict.fromkeys(FACTS, ABSENT)
    row = _row(files.told_by(root, query(list(FACTS.values())), name="nvidia-smi.facts"))
    if row is None or len(row) != len(FACTS):
        row = [_alone(root, name) for name in FACTS.values()]
    told = {field: value_of(text) for field, text in zip(FACTS, row)}
    if isinstance(told["gpu_sha256"], str):
        told["gpu_sha256"] = hashlib.sha256(f"edgekd gpu {told['gpu_sha256']}".encode()).hexdigest()[:16]
    return told


def sample(line: str) -> dict[str, Value]:
    """Return one line of `query(SAMPLES)` as columns of the telemetry; the reasons are the bits of a number."""
    row = _row(line)
    if row is None or len(row) != len(SAMPLES):
        return {}
    told = {column: value_of(text) for column, text in zip(SAMPLES, row)}
    told["gpu_reasons"] = int(row[-1], 16) if row[-1].lower().startswith("0x") else None
    return {column: value for column, value in told.items() if not isinstance(value, str)}


def value_of(text: str) -> Value:
    """Return a cell as a number where it is one, None where nvidia-smi does not know."""
    if text.lower() in _NOTHING:
        return None
    value = files.number(text)
    return text if value is None else int(value) if value == int(value) and "." not in text else value


def _alone(root: Path, name: str) -> str:
    row = _row(files.told_by(root, query([name]), name=f"nvidia-smi.{name}"))
    return row[0] if row else ""


def _row(told: str | None) -> list[str] | None:
    rows = list(csv.reader((told or "").strip().splitlines()[:1], skipinitialspace=True))
    return [cell.strip() for cell in rows[0]] if rows else None

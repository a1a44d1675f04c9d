"""What this machine has, and what is missing: processors, runtimes, its fingerprint, and whether it is a known device."""

import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from edgekd.core import gpu
from edgekd.core.device_profiles import read_profile
from edgekd.core.host import device_facts, usable_cores
from edgekd.core.machine import fingerprint as machine
from edgekd.core.records import Fingerprint

_RUNTIMES = {
    "torch": "",
    "torchvision": "",
    "timm": "",
    "accelerate": "",
    "onnx": "",
    "onnxruntime": "",
    "openvino": "openvino",
    "sklearn": "report",
    "tensorrt": "tensorrt",
    "matplotlib": "report",
    "fsspec": "store",
    "sqlalchemy": "history",
}


def doctor(*, fingerprint: bool = False, profile: Path | None = None) -> list[str]:
    """Return what this machine has and what to install for what it has not.

    With `fingerprint` every field of the machine's fingerprint as well, with `profile` whether it is such a device.
    """
    facts, told = device_facts(), Fingerprint.of(machine.fields())
    memory = f"{facts.memory_bytes / 2**30:.1f} GiB" if facts.memory_bytes else "unknown"
    quota = f", quota {facts.cgroup_quota_cores:g}" if facts.cgroup_quota_cores else ""
    counted = f"class {told.device_class[:12]}, state {told.device_state[:12]}: {len(told.fields)} fields"
    counted += f", {len(told.unknown)} unknown"
    lines = [
        f"edgekd {metadata.version('edgekd')}, Python {platform.python_version()}, {facts.system}",
        f"cpu      {facts.cpu or 'unknown'}: {usable_cores()} usable of {facts.logical_cores or '?'} cores{quota}",
        f"memory   {memory}",
        f"governor {facts.governor or 'unknown'}   load {facts.load_1min if facts.load_1min is not None else 'unknown'}",
        f"device   {counted}",
    ]
    if fingerprint:
        lines += [f"  {name:<26} {value}" for name, value in told.fields.items() if value is not None]
        lines.append(f"unknown  {', '.join(told.unknown) or 'nothing'}")
    lines += _runtimes(gpu.unavailable())
    return lines if profile is None else [*lines, *_against(profile, told)]


def _runtimes(missing_gpu: str) -> list[str]:
    lines = [f"gpu      none: {missing_gpu}" if missing_gpu else _gpu(gpu.facts())]
    for package, extra in _RUNTIMES.items():
        if find_spec(package) is None:
            needs = "; of use on a machine with an NVIDIA GPU only" if package == "tensorrt" and missing_gpu else ""
            lines.append(f"missing  {package}: pip install 'edgekd{f'[{extra}]' if extra else ''}'{needs}")
        else:
            lines.append(f"ok       {package} {_version(package)}")
    return lines


def _against(profile: Path, told: Fingerprint) -> list[str]:
    kind = read_profile(profile)
    wrong = kind.differences(told)
    lines = [f"profile  {kind.title}: {'no' if wrong else 'this is one, with its clocks pinned'}"]
    lines += [f"         {text}" for text in wrong]
    if kind.pin is not None and any(text.startswith("clocks") for text in wrong):
        lines += [f"pin by   {command}" for command in kind.pin.commands]
    return lines


def _gpu(facts: gpu.GpuFacts) -> str:
    return f"gpu      {facts}, {facts.memory_bytes / 2**30:.0f} GiB, driver for CUDA {facts.driver_cuda}"


def _version(package: str) -> str:
    names = metadata.packages_distributions().get(package) or [package]
    try:
        return metadata.version(names[0])
    except metadata.PackageNotFoundError:
        return "(version unknown)"

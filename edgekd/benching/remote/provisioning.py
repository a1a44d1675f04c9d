"""What a device has and lacks for measuring, and giving it that: seen from this side."""

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekd.benching.remote import provision
from edgekd.benching.remote.bench import RemoteBench
from edgekd.core.console import Console, printable
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.parts import nearest

RUNTIMES = ("onnxruntime", "openvino")
PACKAGES = ("numpy", *RUNTIMES, "tensorrt")
LOOK_S = 600.0
INSTALL_S = 3600.0
_LOOSE = {"numpy": "numpy>=1.21,<3", "onnxruntime": "onnxruntime>=1.16,<2", "openvino": "openvino>=2023.1,<2027"}
_PROGRAM = Path(provision.__file__)


def look(bench: RemoteBench) -> dict[str, Any]:
    """Return which Python the workers run by, what it can import, and the space that is left."""
    return _answer(bench, "look", {"packages": PACKAGES}, timeout_s=LOOK_S)


def missing(seen: dict[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the packages that the workers' Python cannot import."""
    return tuple(name for name in wanted if seen["packages"].get(name, {}).get("version") is None)


def runtimes_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the runtimes to install: those that are named, else those that are installed here."""
    for name in names:
        if name not in RUNTIMES:
            known = ", ".join(RUNTIMES)
            raise UsageError(f"no runtime called {name!r} can be installed.{nearest(name, RUNTIMES)} Known: {known}.")
    return tuple(dict.fromkeys(names)) or tuple(name for name in RUNTIMES if _version_here(name)) or RUNTIMES[:1]


def requirements(runtimes: Sequence[str], *, same_python: bool, loose: bool) -> tuple[str, ...]:
    """Return what pip is asked for: the versions that are used here, which are those that artifacts were checked with.

    With `loose` the newest that its Python can have; measurements tell which runtime they were made with. numpy has other
    versions for other Pythons, and computes nothing that is measured.
    """
    told = []
    for name in ("numpy", *runtimes):
        version = _version_here(name)
        exact = version is not None and not loose and (same_python or name != "numpy")
        told.append(f"{name}=={version}" if exact else _LOOSE[name])
    return tuple(told)


def setup(
    bench: RemoteBench,
    wanted: Sequence[str],
    *,
    console: Console,
    wheels: str | None = None,
    system_site_packages: bool = False,
) -> None:
    """Make the virtual environment on the device; raise `MachineError` that says what to do if that does not work there."""
    asked = {"requirements": wanted, "wheels": wheels, "system_site_packages": system_site_packages}
    told = _answer(bench, "setup", asked, timeout_s=INSTALL_S, console=console)
    if told["failed"] is None:
        return
    said = "\n".join(f"    {printable(str(line))}" for line in told["said"])
    if told["failed"] == "venv":
        mend = "install the Python package `venv` there (Debian: sudo apt install python3-venv), or name another `--python`"
        raise MachineError(f"{bench.manner.address}: a virtual environment cannot be made:\n{said}", mend=mend)
    raise MachineError(
        f"{bench.manner.address}: pip cannot install {' '.join(wanted)}:\n{said}",
        mend="without a network there: fetch the wheels here and give them with --wheels (--offline says how);"
        " if there is no such version for it: --loose; if certificates look invalid: set the device's clock",
    )


def how_offline(bench: RemoteBench, seen: dict[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return how to bring packages to a device that has no network."""
    python = ".".join(str(seen["python"] or bench.told["python"]).split(".")[:2])
    names = " ".join(f"'{one}'" for one in wanted)
    platforms = " ".join(f"--platform {one}_{seen['machine']}" for one in ("manylinux_2_28", "manylinux_2_27", "manylinux2014"))
    return (
        f"pip download --only-binary :all: --python-version {python} {platforms} --dest wheels {names}",
        f"edgekd device setup {bench.manner.address} --wheels wheels",
    )


def _answer(
    bench: RemoteBench, do: str, asked: dict[str, Any], *, timeout_s: float, console: Console | None = None
) -> dict[str, Any]:
    stdin = {"root": bench.told["root"], **asked}
    lines: list[str] = []

    def note(line: str) -> None:
        if console is not None and not line.startswith("{"):
            console.say(line)

    told = bench.run(_PROGRAM.read_bytes(), do, own=True, stdin=stdin, timeout_s=timeout_s, note=note)
    lines = told["stdout"].splitlines()
    try:
        answer = json.loads(lines[-1])
    except (ValueError, IndexError) as error:
        because = printable(str(told["stderr"]).strip()[-300:]) or f"exit code {told['code']}"
        raise MachineError(f"{bench.manner.address}: looking at the device failed: {because}") from error
    if not isinstance(answer, dict):
        raise MachineError(f"{bench.manner.address}: looking at the device answered nonsense")
    return answer


def _version_here(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None

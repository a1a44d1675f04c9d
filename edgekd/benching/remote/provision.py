"""Looks at the Python of a device, and makes a virtual environment there: `provision.py look|setup < asked.json`.

A stand-alone program: it runs on the device, with Python 3.9 and nothing else, by the Python that the environment is made
from. What it is doing is told line by line; the last line of stdout is the answer, in JSON.

    look    {root, packages}: which Python the workers run by, what of the packages it can import, space
    setup   {root, requirements, wheels, system_site_packages}: makes `root`/venv with them, from the index that pip knows
            there or, if a folder of wheels is given, from those alone
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

MARKER = "edgekd.json"
IMPORT_S = 120
# Imported one process a package: one that was built for another processor may end the process.
_VERSION = (
    "import importlib,sys;"
    "m=importlib.import_module(sys.argv[1]);"
    "sys.stdout.write(str(getattr(m,'__version__',None) or 'unknown'))"
)


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what the workers' Python is and can import, and how much space is left."""
    root = os.path.expanduser(asked["root"])
    own = worker_python(root)
    found = {name: version_of(own, name) for name in asked["packages"]}
    version = run([own, "-I", "-c", "import platform;print(platform.python_version())"])
    return {
        "python": version.stdout.strip() if version.returncode == 0 else None,
        "executable": own,
        "environment": own != sys.executable,
        "packages": found,
        "free_bytes": shutil.disk_usage(root).free,
        "kept_bytes": sum(entry.stat().st_size for entry in os.scandir(os.path.join(root, "files"))),
        "machine": platform.machine(),
    }


def setup(asked: dict[str, Any]) -> dict[str, Any]:
    """Make the environment, or add to the one that is there; return `failed` with what to do about it if that does not work."""
    root = os.path.expanduser(asked["root"])
    place = os.path.join(root, "venv")
    own = os.path.join(place, "bin", "python")
    if not os.path.isfile(os.path.join(place, MARKER)):
        shutil.rmtree(place, ignore_errors=True)
        tell(f"making a virtual environment in {place} with Python {platform.python_version()}")
        options = ["--system-site-packages"] if asked.get("system_site_packages") else []
        made = run([sys.executable, "-I", "-m", "venv", *options, place])
        if made.returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            return {"failed": "venv", "said": tail(made.stdout + made.stderr)}
    source = ["--no-index", "--find-links", asked["wheels"]] if asked.get("wheels") else []
    command = [own, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    said = shown([*command, "--only-binary", ":all:", *source, "--", *asked["requirements"]])
    if said is not None:
        return {"failed": "pip", "said": said}
    with open(os.path.join(place, MARKER), "w", encoding="utf-8") as file:
        json.dump({"edgekd": "environment", "requirements": asked["requirements"]}, file)
    return {"failed": None, "said": []}


def worker_python(root: str) -> str:
    """Return the interpreter that workers run by: the environment's if it is whole, else this one."""
    place = os.path.join(root, "venv")
    own = os.path.join(place, "bin", "python")
    return own if os.path.isfile(os.path.join(place, MARKER)) and os.path.exists(own) else sys.executable


def version_of(own: str, package: str) -> dict[str, Any]:
    """Return a package's version, or why it cannot be imported; None for one that is not there."""
    try:
        told = run([own, "-I", "-c", _VERSION, package], timeout_s=IMPORT_S)
    except subprocess.TimeoutExpired:
        return {"version": None, "error": f"importing it takes more than {IMPORT_S} s"}
    if told.returncode == 0:
        return {"version": told.stdout.strip().splitlines()[-1] if told.stdout.strip() else "unknown", "error": None}
    last = (tail(told.stderr) or [f"ended with {told.returncode}"])[-1]
    missing = last == f"ModuleNotFoundError: No module named {package!r}"
    return {"version": None, "error": None if missing else last}


def run(command: Sequence[str], *, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it says."""
    return subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def shown(command: Sequence[str]) -> list[str] | None:
    """Run a command, telling what it says; return the end of that if it fails."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        tell(lines[-1])
    return tail("\n".join(lines)) if process.wait() != 0 else None


def tail(text: str) -> list[str]:
    """Return the last lines of what a program said."""
    return [line for line in text.splitlines() if line.strip()][-12:]


def tell(line: str) -> None:
    """Say what is being done."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the command line and stdin ask."""
    asked = json.load(sys.stdin)
    told = look(asked) if sys.argv[1] == "look" else setup(asked)
    tell(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())

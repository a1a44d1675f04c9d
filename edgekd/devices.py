"""Devices that are reached over ssh: trusting, setting up, looking, listing. What the commands `edgekd device ...` do."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.benching.devices.ssh import Ssh
from edgekd.benching.remote import provisioning, trust
from edgekd.benching.remote.address import Address, parse
from edgekd.benching.remote.bench import RemoteBench
from edgekd.benching.remote.facts import device_facts
from edgekd.core import host
from edgekd.core.console import Console
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.records import DeviceFacts, Fingerprint
from edgekd.core.store import disk_errors, write_text

SEEN_FILE = "devices.json"
MOST_APART_S = 300.0
_GIB = 1 << 30
_STEADY_GOVERNORS = {"performance", "userspace"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A device as the command line names it; see the part `ssh`."""

    host: str
    key: Path | None = None
    config: Path | None = None
    python: str = "python3"
    root: str = "~/.edgekd"

    @property
    def address(self) -> Address:
        """Return where it is reached; raise `UsageError` if that is no address."""
        return parse(self.host, key=self.key, config=self.config)

    def device(self) -> Ssh:
        """Return it as a part; raise `UsageError` for what cannot be one."""
        address = self.address
        options: dict[str, Any] = {name: getattr(address, name) for name in ("host", "user", "port", "key", "config")}
        try:
            return Ssh(**options, python=self.python, root=self.root)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise UsageError(f"--{wrong['loc'][0]}: {wrong['msg']} (found {wrong['input']!r})") from error


# ------------------------------------------------------------------------------------------------------------------ trust
def trust_device(
    place: Place, *, fingerprint: str | None = None, replace: bool = False, confirm: Callable[[str], bool]
) -> list[str]:
    """Pin a device's host key, after a person has seen its fingerprint or given the one that it must have."""
    key = trust.offered(place.address)
    known = any(key == one for one in trust.pinned())
    if fingerprint is not None:
        trust.chosen(key, fingerprint)
    elif not known and not confirm(f"{place.address} shows the {key.kind} key {key.fingerprint}"):
        raise UsageError(
            f"{place.address} shows {key.fingerprint} ({key.kind}); nothing was pinned",
            mend="compare it on the device (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then give it with --fingerprint",
        )
    new = trust.pin(key, replace=replace)
    return [f"{key.names}  {key.kind}  {key.fingerprint}  {'pinned' if new else 'was pinned already'}"]


# ------------------------------------------------------------------------------------------------------------------ check
def check_device(place: Place) -> tuple[list[str], bool]:
    """Return what a device has, line by line, and whether it can measure: numpy and a runtime are there."""
    with RemoteBench(place.device().manner("check")) as bench:
        apart_s = bench.told["wall_s"] - _wall_s()
        fingerprint, seen = bench.fingerprint(), provisioning.look(bench)
    facts = device_facts(fingerprint, name=place.host)
    _remember(place, facts, seen)
    usable = [name for name in provisioning.PACKAGES[1:] if not provisioning.missing(seen, [name])]
    ready = bool(usable) and not provisioning.missing(seen, ["numpy"])
    lines = [
        ("device", f"{place.address}: {facts.cpu or 'unknown processor'}, {facts.machine}, {facts.system}"),
        ("cores", f"{facts.usable_cores} usable of {facts.logical_cores or '?'}"),
        ("memory", _gib(facts.memory_bytes) if facts.memory_bytes else "unknown"),
        ("python", f"{seen['python'] or 'does not start'} ({seen['executable']})"),
        *((name, _shown(seen["packages"][name])) for name in provisioning.PACKAGES),
        ("space", f"{_gib(seen['free_bytes'])} free; {_gib(seen['kept_bytes'])} kept in {bench.told['root']}"),
        ("clock", _clock(fingerprint)),
        ("time", _apart(apart_s)),
        ("ready", "yes" if ready else f"no: edgekd device setup {place.address}"),
    ]
    return [f"{name:<12} {text}" for name, text in lines], ready


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f} GiB"


def _shown(package: dict[str, Any]) -> str:
    return str(package["version"] or (f"broken: {package['error']}" if package["error"] else "not installed"))


def _clock(fingerprint: Fingerprint) -> str:
    told = fingerprint.fields
    governor, low, high = (told.get(name) for name in ("governor", "frequency_min_khz", "frequency_max_khz"))
    if governor is None and low is None:
        return "unknown: the system does not tell how the processor is clocked"
    if governor in _STEADY_GOVERNORS or (low is not None and low == high):
        return f"pinned (governor {governor})"
    return f"not pinned (governor {governor}): sudo cpupower frequency-set -g performance; see deploy/devices for boards"


def _apart(seconds: float) -> str:
    if abs(seconds) < MOST_APART_S:
        return "right"
    days, way = abs(seconds) / 86400, "behind" if seconds < 0 else "ahead of"
    return f"{days:.1f} days {way} this machine's: pip may find certificates invalid; measuring does not use it"


def _wall_s() -> float:
    folder = host.config_folder()
    if folder is None:
        raise MachineError("no home folder is known", mend="set EDGEKD_CONFIG to a folder")
    probe = folder / ".now"
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.touch()
        now_s = probe.stat().st_mtime
        probe.unlink()
    return now_s


# ------------------------------------------------------------------------------------------------------------------ setup
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a device is given: runtimes (none: those that are installed here), and where they come from."""

    runtimes: Sequence[str] = ()
    wheels: Path | None = None
    offline: bool = False
    loose: bool = False
    system_site_packages: bool = False


def setup_device(place: Place, wanted: Wanted, *, console: Console) -> list[str]:
    """Make a virtual environment on a device with numpy and the runtimes; return what is there then.

    Offline nothing is installed: `MachineError` says exactly what is missing, and how to bring it.
    """
    runtimes = provisioning.runtimes_of(wanted.runtimes)
    with RemoteBench(place.device().manner("setup")) as bench:
        seen = provisioning.look(bench)
        same_python = bench.told["python"].rpartition(".")[0] == platform.python_version().rpartition(".")[0]
        asked = provisioning.requirements(runtimes, same_python=same_python, loose=wanted.loose)
        lacking = provisioning.missing(seen, ("numpy", *runtimes))
        if wanted.offline and wanted.wheels is None:
            if lacking:
                lines = "\n".join(f"    {line}" for line in provisioning.how_offline(bench, seen, asked))
                versions = ", ".join(one for one in asked if one.startswith(lacking))
                raise MachineError(f"{place.address} lacks {versions}", mend=f"bring them:\n{lines}")
            return [f"{place.address}: nothing is missing"]
        if wanted.loose or wanted.wheels or lacking or not seen["environment"]:
            wheels = bench.bring(_wheels(wanted.wheels)) if wanted.wheels is not None else None
            site = wanted.system_site_packages
            provisioning.setup(bench, asked, console=console, wheels=wheels, system_site_packages=site)
            seen = provisioning.look(bench)
    lacking = provisioning.missing(seen, ("numpy", *runtimes))
    if lacking:
        broken = "; ".join(f"{name}: {_shown(seen['packages'][name])}" for name in lacking)
        raise MachineError(f"{place.address}: installed, but cannot be imported: {broken}")
    return [f"{name:<12} {_shown(seen['packages'][name])}" for name in ("numpy", *runtimes)]


def _wheels(folder: Path) -> dict[str, Path]:
    found = {path.name: path for path in sorted(folder.glob("*.whl"))} if folder.is_dir() else {}
    if not found:
        raise UsageError(f"{folder}: holds no wheels (*.whl)", mend="fill it with pip download; --offline shows the line")
    return found


# ------------------------------------------------------------------------------------------------------------------- list
def list_devices() -> list[str]:
    """Return this machine, the devices whose keys are pinned, and what was last seen of those that were looked at."""
    here = host.device_facts()
    lines = [f"local  {here.cpu or here.machine}, {here.usable_cores} usable cores"]
    lines += [f"ssh    {key.names}  {key.kind} {key.fingerprint}" for key in trust.pinned()]
    return lines + [f"seen   {name}  {text}" for name, text in sorted(_seen().items())]


def _seen_file() -> Path | None:
    folder = host.config_folder()
    return folder / SEEN_FILE if folder is not None else None


def _seen() -> dict[str, str]:
    path = _seen_file()
    try:
        told = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return {str(name): str(text) for name, text in told.items()} if isinstance(told, dict) else {}


def _remember(place: Place, facts: DeviceFacts, seen: dict[str, Any]) -> None:
    packages = [f"{name} {one['version']}" for name, one in seen["packages"].items() if one["version"]]
    path = _seen_file()
    if path is not None:
        text = f"{facts.cpu or facts.machine}, Python {seen['python']}, {', '.join(packages) or 'no runtime'}"
        with disk_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, json.dumps(_seen() | {str(place.address): text}, indent=1) + "\n")

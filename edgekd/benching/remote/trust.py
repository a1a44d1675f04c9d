"""Which devices are who they say they are: host keys that a person has seen and pinned, in a file of edgekd's own."""

import base64
import binascii
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.benching.remote.address import CONNECT_S, Address, environment
from edgekd.benching.remote.failures import last_line, no_ssh
from edgekd.core import host
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.store import disk_errors, write_text

FILE_NAME = "known_hosts"


@dataclass(frozen=True)
class HostKey:
    """A host's public key under the names that ssh knows it by; `line` is as it stands in a known_hosts file."""

    names: str
    kind: str
    key: str

    @property
    def line(self) -> str:
        """Return the line of a known_hosts file."""
        return f"{self.names} {self.kind} {self.key}"

    @property
    def fingerprint(self) -> str:
        """Return `SHA256:...`, as ssh-keygen shows it."""
        digest = hashlib.sha256(base64.b64decode(self.key, validate=True)).digest()
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def own_file() -> Path:
    """Return the file of pinned keys; it need not exist."""
    folder = host.config_folder()
    if folder is None:
        raise MachineError("no home folder is known to keep trusted host keys in", mend="set EDGEKD_CONFIG to a folder")
    return folder / FILE_NAME


def trusted_files() -> tuple[Path, ...]:
    """Return the files whose keys are believed: edgekd's own, and the person's, who has confirmed those to ssh already."""
    try:
        return (own_file(), Path.home() / ".ssh" / FILE_NAME)
    except RuntimeError:
        return (own_file(),)


def pinned(path: Path | None = None) -> tuple[HostKey, ...]:
    """Return the keys in a known_hosts file, by default edgekd's own; lines that are none are left out."""
    try:
        lines = (path or own_file()).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise MachineError(f"{path or own_file()}: cannot be read: {error.strerror}") from error
    return tuple(filter(None, map(_read, lines)))


def offered(address: Address) -> HostKey:
    """Return the key that a host shows, under the names by which ssh will look for it; nobody logs in.

    ssh itself is asked, so that aliases and jump hosts of its configuration count.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-trust-") as folder:
        seen = Path(folder) / FILE_NAME
        options = {
            "StrictHostKeyChecking": "accept-new",
            "HashKnownHosts": "no",
            "GlobalKnownHostsFile": "/dev/null",
            "PreferredAuthentications": "none",
        }
        command = address.command("true", known_hosts=(seen,), options=options)
        told = ran(command, timeout_s=2 * CONNECT_S)
        found = pinned(seen)
    if not found:
        raise MachineError(f"{address}: no host key was shown: {last_line(told)}", mend="check the address and that sshd runs")
    return found[-1]


def pin(key: HostKey, *, replace: bool = False) -> bool:
    """Write a key into edgekd's own file, and return whether it was not there yet.

    Raises `IntegrityError` if the host is pinned with another key of this kind and `replace` does not say that it may be.
    """
    path, known = own_file(), pinned()
    if key in known:
        return False
    others = [one for one in known if one.names == key.names]
    if others and not replace:
        raise IntegrityError(
            f"{key.names} is pinned with {others[0].fingerprint} ({others[0].kind}), but shows {key.fingerprint} ({key.kind}):"
            " another machine answers, or its keys were made anew",
            mend="if you know why, look at the device's own key and run `edgekd device trust` with --replace",
        )
    kept = [one for one in known if one.names != key.names]
    with disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(path, "".join(f"{one.line}\n" for one in (*kept, key)))
    with disk_errors(path):
        path.chmod(0o600)
    return True


def ran(command: Sequence[str], *, timeout_s: float) -> str:
    """Run ssh to its end and return what it said on stderr."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise no_ssh() from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"ssh did not end within {timeout_s:g} s") from error
    return done.stderr.decode("utf-8", "replace")


def chosen(key: HostKey, fingerprint: str) -> None:
    """Raise `IntegrityError` if a key is not the one that a person has read off the device."""
    if not fingerprint.startswith("SHA256:"):
        raise UsageError(f"{fingerprint!r} is no fingerprint", mend="give it as ssh-keygen -l shows it: SHA256:...")
    if fingerprint.rstrip("=") != key.fingerprint:
        raise IntegrityError(f"{key.names} shows {key.fingerprint}, not {fingerprint}; nothing was pinned")


def _read(line: str) -> HostKey | None:
    words = line.split()
    if len(words) < 3 or words[0].startswith(("#", "@")):
        return None
    key = HostKey(*words[:3])
    try:
        _ = key.fingerprint
    except (binascii.Error, ValueError):
        return None
    return key

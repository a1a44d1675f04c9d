"""Why a device cannot be reached or will not do something, in words that say how to mend it."""

import re
from collections.abc import Mapping
from typing import Any

from edgekd.benching.remote.address import Address
from edgekd.benching.remote.program import OLD_PYTHON
from edgekd.core.console import printable
from edgekd.core.errors import EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError

_KINDS: dict[str, type[EdgekdError]] = {
    "usage": UsageError,
    "evidence": EvidenceError,
    "machine": MachineError,
    "disk": MachineError,
    "integrity": IntegrityError,
}
_NOT_FOUND = 127


class DroppedError(Exception):
    """The connection was lost; what was asked may be asked again over another one. `ended`: ssh itself has ended."""

    def __init__(self, because: str = "", *, ended: bool = False) -> None:
        super().__init__(last_line(because) if because.strip() else "the connection was lost")
        self.ended = ended


def not_started(address: Address, code: int | None, said: str, error: DroppedError) -> EdgekdError | DroppedError:
    """Return why there is no agent: an error where trying again would not help, else `DroppedError`."""
    if "HOST IDENTIFICATION HAS CHANGED" in said:
        return IntegrityError(
            f"{address} shows another host key than the trusted one: another machine answers, or its keys were made anew",
            mend=f"if you know why: edgekd device trust {address} --replace; one in ~/.ssh/known_hosts goes with ssh-keygen -R",
        )
    if "Host key verification failed" in said:
        return IntegrityError(
            f"{address}: its host key is not trusted yet", mend=f"look at it, and pin it: edgekd device trust {address}"
        )
    if "Permission denied" in said:
        return MachineError(
            f"{address}: ssh cannot log in: {last_line(said)}",
            mend="it must work without a password: ssh-copy-id, ssh-agent, or the device's `user` and `identity`",
        )
    if re.search("Could not resolve|Bad configuration option|no such identity|bad permissions", said, re.IGNORECASE):
        return MachineError(f"{address}: {last_line(said)}", mend="check the address, and ssh's configuration")
    if code == _NOT_FOUND:
        return MachineError(
            f"{address}: {last_line(said)}", mend="install Python 3.9 or newer there, or say which in the device's `python`"
        )
    if code == OLD_PYTHON or "Unknown option: -I" in said:
        return MachineError(f"{address}: its Python is older than 3.9", mend="name a newer one in the device's `python`")
    if code in (1, 2, 126):
        return MachineError(f"{address}: the agent cannot be started there: {last_line(said)}")
    return DroppedError(said) if said.strip() else error


def refused(address: Address, error: Mapping[str, Any]) -> EdgekdError:
    """Return what an agent refuses as the error that it is."""
    if error.get("kind") == "busy":
        return in_use(address, error.get("told") or {})
    message, mend = printable(str(error.get("message"))), printable(str(error.get("mend") or ""))
    return _KINDS.get(str(error.get("kind")), MachineError)(f"{address}: {message}", mend=mend)


def in_use(where: object, told: Mapping[str, Any]) -> MachineError:
    """Return who measures on a device, since when, and how long that may last."""
    who = printable(str(told.get("owner") or f"process {told.get('process', '?')} of account {told.get('account', '?')}"))
    held, left = told.get("held_s"), told.get("expires_s")
    since = f" for {_duration(held)}" if isinstance(held, int) else ""
    until = f"wait for it to end; its lease runs out in {_duration(left)} at the latest" if isinstance(left, int) else "wait"
    purpose = f" ({printable(str(told['purpose']))})" if told.get("purpose") else ""
    message = f"{where} has been in use by {who}{since}{purpose}; two at a time would disturb each other"
    return MachineError(message, mend=until)


def no_ssh() -> MachineError:
    """Return the complaint about a machine without ssh."""
    return MachineError("ssh is not installed on this machine", mend="install OpenSSH's client (openssh-client)")


def last_line(text: str) -> str:
    """Return the last line of what a program said, fit to be shown."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return printable(lines[-1].strip())[:300] if lines else "ssh said nothing"


def _duration(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"

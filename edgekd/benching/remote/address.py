"""Where a device is reached, and the command that reaches it: arguments, never a line for a shell."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgekd.core.errors import UsageError

HOST = r"^[A-Za-z0-9_]([A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?$|^[0-9A-Fa-f:]{2,39}$"
USER = r"^[A-Za-z_][A-Za-z0-9._-]{0,63}$"
PYTHON = r"^[A-Za-z0-9_/.][A-Za-z0-9_/.+-]{0,255}$"
CONNECT_S = 15
# Nothing of this machine is offered to the device, nothing is asked of a person, and an unknown or changed key is refused.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "VerifyHostKeyDNS": "no",
    "UpdateHostKeys": "no",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ForwardX11Trusted": "no",
    "ClearAllForwardings": "yes",
    "GSSAPIDelegateCredentials": "no",
    "Tunnel": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ConnectionAttempts": "1",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}


class Address(BaseModel):
    """A host as ssh knows it: a name (or an alias of ssh's own configuration), and what else ssh must be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    host: Annotated[str, Field(pattern=HOST)]
    user: Annotated[str, Field(pattern=USER)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    key: Path | None = None
    config: Path | None = None

    def __str__(self) -> str:
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"{user}{self.host if not port or ':' not in self.host else f'[{self.host}]'}{port}"

    def command(self, remote: str, *, known_hosts: tuple[Path, ...], options: dict[str, str] | None = None) -> list[str]:
        """Return the arguments of a process that runs `remote`, a line for the device's shell that must be a constant."""
        told = {**_OPTIONS, "UserKnownHostsFile": " ".join(map(_quoted, known_hosts)), **(options or {})}
        command = ["ssh", "-T", "-x", "-a"]
        if self.config is not None:
            command += ["-F", str(self.config.absolute())]
        for name, value in told.items():
            command += ["-o", f"{name}={value}"]
        if self.key is not None:
            command += ["-o", "IdentitiesOnly=yes", "-i", str(self.key.absolute())]
        if self.user is not None:
            command += ["-l", self.user]
        if self.port is not None:
            command += ["-p", str(self.port)]
        return [*command, "--", self.host, remote]


def parse(text: str, *, key: Path | None = None, config: Path | None = None) -> Address:
    """Return the address that a person writes as `[USER@]HOST[:PORT]`; an IPv6 address with a port stands in brackets."""
    user, at, rest = text.rpartition("@")
    found = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?|([^:]*)(?::(\d{1,5}))?|([0-9A-Fa-f:]+)", rest)
    host = next((one for one in (found[1], found[3], found[5]) if one is not None), "") if found else ""
    port = (found[2] or found[4]) if found else None
    wrong = not found or not re.fullmatch(HOST, host) or (at and not re.fullmatch(USER, user))
    if wrong or (port is not None and not 1 <= int(port) <= 65535):
        raise UsageError(f"{text!r} is not the address of a device", mend="write [USER@]HOST[:PORT], for example pi@pi5.local")
    return Address(host=host, user=user or None, port=int(port) if port else None, key=key, config=config)


def environment() -> dict[str, str]:
    """Return this process's environment without what lets ssh ask a person or show a window."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "SSH_ASKPASS", "WAYLAND_DISPLAY")}
    return kept | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    if '"' in text or "\n" in text or "\0" in text:
        raise UsageError(f"{text!r}: ssh cannot read a file with this name", mend="set EDGEKD_CONFIG to another folder")
    return f'"{text.replace("%", "%%")}"'

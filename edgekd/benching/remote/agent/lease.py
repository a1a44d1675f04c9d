"""Who may measure on this machine: one at a time, for all of its accounts, until the process that holds the lease ends."""

from __future__ import annotations

import errno
import hmac
import json
import os
import selectors
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from .refusals import Refusal

_TAKE_OVER_S = 8.0


class Lease:
    """The right to measure on this machine, for all its accounts: an abstract socket, which the kernel frees with its owner."""

    def __init__(self, name: str, token: str, told: dict[str, Any], *, lease_s: float) -> None:
        self.took_over = False
        self._token, self._told = token, told
        self.listener = self._taken("\0edgekd-lease." + name)
        self.listener.setblocking(False)
        self._start_ns = time.perf_counter_ns()
        self._end_ns = self._start_ns + int(lease_s * 1e9)

    def _taken(self, place: str) -> socket.socket:
        give_up_ns = time.perf_counter_ns() + int(_TAKE_OVER_S * 1e9)
        while True:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(place)
                listener.listen(4)
                return listener
            except OSError as error:
                listener.close()
                if error.errno != errno.EADDRINUSE:
                    raise Refusal("machine", f"the lease cannot be taken: {error.strerror}") from error
            told, pid = ask_holder(place, self._token)
            left_s = (give_up_ns - time.perf_counter_ns()) / 1e9
            if left_s < 0 or not told.get("released"):
                raise Refusal("busy", "the device is in use", told=told)
            self.took_over = True
            if left_s < _TAKE_OVER_S / 2 and pid > 0:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)  # our own, and stuck; its workers die with it
            wait(0.05)

    def left_s(self) -> float:
        """Return how long the lease still holds."""
        return (self._end_ns - time.perf_counter_ns()) / 1e9

    def visited(self) -> bool:
        """Tell a visitor who holds the lease; return whether it was its owner, come back over a new connection."""
        try:
            visitor, _ = self.listener.accept()
        except OSError:
            return False
        with visitor:
            visitor.settimeout(0.5)
            try:
                said = visitor.recv(256).strip()
                owner_is_back = bool(said) and hmac.compare_digest(said, self._token.encode())
                held_s = (time.perf_counter_ns() - self._start_ns) // 10**9
                told = {"released": True} if owner_is_back else {"held_s": held_s, "expires_s": int(self.left_s())}
                visitor.sendall(json.dumps({**self._told, **told}).encode())
            except OSError:
                return False
        return owner_is_back


def ask_holder(place: str, token: str) -> tuple[dict[str, Any], int]:
    """Return what the lease's holder says of itself, and its process if that is of this account.

    The token, which asks it to let go, is shown to processes of this account only.
    """
    told: dict[str, Any] = {}
    pid, mine = -1, False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(2.0)
        try:
            asker.connect(place)
            pid, uid, _ = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
            mine = uid == os.getuid()
            told = {"account": uid, "process": pid}
            asker.sendall((token if mine else "").encode() + b"\n")
            said = json.loads(asker.recv(4096) or b"{}")
            told.update(said if isinstance(said, dict) else {})
        except ConnectionError:
            told["released"] = True  # it ended just now
        except (OSError, ValueError):
            pass
    return told, pid if mine else -1


def wait(seconds: float) -> None:
    """Do nothing for a while."""
    with selectors.DefaultSelector() as nothing:
        nothing.select(seconds)

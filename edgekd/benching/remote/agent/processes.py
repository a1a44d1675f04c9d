"""Processes that are started for somebody far away: none of them outlives the agent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from .refusals import Refusal

MARK = "EDGEKD_LEASE"
_TAIL_BYTES = 8192
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that was started here, with all that it starts in turn; it dies with the agent."""

    def __init__(self, command: Sequence[str], *, mark: str, stdin: bytes | None = b"") -> None:
        agent, prctl = os.getpid(), ctypes.CDLL(None).prctl

        def die_with_agent() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != agent:
                os._exit(1)

        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process has ended
        said = None
        if stdin is not None:
            said = os.memfd_create("stdin")
            with os.fdopen(os.dup(said), "wb") as file:
                file.write(stdin)
                file.seek(0)
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if said is None else said,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, MARK: mark},
                start_new_session=True,
                preexec_fn=die_with_agent,  # the agent has one thread
            )
        except OSError as error:
            raise Refusal("machine", f"{command[0]}: cannot be started: {error.strerror}") from error
        finally:
            if said is not None:
                os.close(said)
        assert self.process.stdout is not None
        self.out = self.process.stdout.fileno()
        os.set_blocking(self.out, False)

    def read(self) -> bytes | None:
        """Return what it said since the last time: b"" for nothing, None at the end."""
        try:
            return os.read(self.out, 1 << 16) or None
        except BlockingIOError:
            return b""

    def end(self) -> None:
        """End it and everything in its process group, and wait for it."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def tail(self) -> str:
        """Return the end of what it said on stderr."""
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - _TAIL_BYTES))
        return self.errors.read().decode("utf-8", "replace")


def end_left_behind(mark: str) -> int:
    """End what a killed agent could not end: the lease being ours, whoever carries its mark is left behind."""
    return sum(_ended(int(name), f"{MARK}={mark}".encode()) for name in os.listdir("/proc") if name.isdigit())


def _ended(process: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            if process == os.getpid() or mark not in file.read().split(b"\0"):
                return False
        os.kill(process, signal.SIGKILL)
    except OSError:  # of another account, or ended by now
        return False
    return True

"""One ssh connection to an agent: requests and answers in lines of JSON, and a heartbeat beside them.

The line that the device's shell gets is constant. Everything else goes through the connection as JSON.
"""

import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from edgekd.benching.remote import program
from edgekd.benching.remote.address import Address, environment
from edgekd.benching.remote.agent.serving import READY
from edgekd.benching.remote.clocks import ClockCheck
from edgekd.benching.remote.failures import DroppedError, no_ssh, not_started, refused
from edgekd.benching.remote.trust import trusted_files
from edgekd.core.console import printable
from edgekd.core.errors import EdgekdError, MachineError

MOST_NOISE_BYTES = 1 << 16  # of what a login prints before the agent speaks
MOST_LINE_BYTES = 512 << 20
END_S = 3.0


class Connection:
    """An agent that runs on a device for as long as this is open; safe to be used by one thread at a time.

    `heartbeat_s` is how long either side waits for a sign of life from the other before it gives it up.
    """

    def __init__(self, address: Address, *, python: str, heartbeat_s: float) -> None:
        self.address = address
        self._heartbeat_s = heartbeat_s
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._writing = threading.Lock()
        self._asked: dict[int, int] = {}  # pings have negative numbers
        self._number = self._pings = 0
        self._clocks = ClockCheck()
        self._wrong_clock = ""
        self._closed = threading.Event()
        self._stderr: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed with the connection
        alive = {"ServerAliveInterval": str(max(1, round(heartbeat_s / 6)))}
        try:
            self._ssh = subprocess.Popen(
                address.command(program.line(python), known_hosts=trusted_files(), options=alive),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment(),
                start_new_session=True,  # Ctrl-C reaches the controller only, which then says goodbye
            )
        except FileNotFoundError as error:
            self._stderr.close()
            raise no_ssh() from error
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        self._in, self._out = self._ssh.stdin.fileno(), self._ssh.stdout.fileno()
        os.set_blocking(self._in, False)
        self._reader = threading.Thread(target=self._read, name="edgekd-ssh", daemon=True)

    def start(self, *, wait_s: float) -> None:
        """Send the agent and wait until it runs; raise an error that says why it does not, or `DroppedError`."""
        until_ns = time.perf_counter_ns() + int(wait_s * 1e9)
        try:
            self._write(program.greeting(), until_ns)
            self._await_ready(until_ns)
        except DroppedError as error:
            if error.ended:
                with suppress(subprocess.TimeoutExpired):
                    self._ssh.wait(END_S)
            code = self._ssh.poll()
            said = self._said()
            self.kill()
            raise not_started(self.address, code, said, error) from error
        except BaseException:
            self.kill()
            raise
        self._reader.start()

    def request(
        self, do: str, fields: Mapping[str, Any], *, wait_s: float, note: Callable[[str], None] | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """Ask, and return the answer and the samples that came with it; `note` hears what is said meanwhile.

        Raises the agent's refusal as the error that it is, `MachineError` if the device's clock cannot be believed, and
        `DroppedError` if the connection is lost or there is no answer within `wait_s`.
        """
        until_ns = time.perf_counter_ns() + int(wait_s * 1e9)
        self._number += 1
        number = self._number
        self._write(json.dumps({**fields, "id": number, "do": do}).encode() + b"\n", until_ns)
        while True:
            try:
                told = self._answers.get(timeout=max(0.0, (until_ns - time.perf_counter_ns()) / 1e9))
            except queue.Empty as error:
                raise DroppedError(f"no answer within {wait_s:g} s") from error
            if self._wrong_clock:
                raise MachineError(f"{self.address}: {self._wrong_clock}")
            if told is None:
                self._answers.put(None)
                raise DroppedError(self._said())
            if told.get("id") != number:
                continue
            if "note" in told:
                if note is not None:
                    note(printable(str(told["note"])))
                continue
            if "error" in told:
                raise refused(self.address, told["error"])
            return told["ok"], told.get("rows", [])

    def close(self) -> None:
        """Say goodbye and wait a little for the agent to clean up, then end the connection in any case."""
        if not self._closed.is_set() and self._reader.is_alive():
            with suppress(DroppedError, EdgekdError):
                self.request("bye", {}, wait_s=END_S)
        self._closed.set()
        with suppress(OSError):
            self._ssh.stdin.close()  # type: ignore[union-attr]
        with suppress(subprocess.TimeoutExpired):
            self._ssh.wait(END_S)
        self.kill()

    def kill(self) -> None:
        """End the connection at once."""
        self._closed.set()
        self._end_ssh()
        if self._reader.is_alive():
            self._reader.join()
        for pipe in (self._ssh.stdin, self._ssh.stdout, self._stderr):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    # ------------------------------------------------------------------------------------------------------ underneath
    def _write(self, data: bytes, until_ns: int) -> None:
        rest = memoryview(data)
        with self._writing:
            while rest:
                left_s = (until_ns - time.perf_counter_ns()) / 1e9
                if left_s <= 0 or self._closed.is_set():
                    raise DroppedError("the connection takes nothing any more")
                try:
                    if select.select([], [self._in], [], min(left_s, 1.0))[1]:
                        rest = rest[os.write(self._in, rest) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise DroppedError(self._said()) from error

    def _await_ready(self, until_ns: int) -> None:
        told = b""
        while READY.encode() not in told.splitlines() or not told.endswith(b"\n"):
            left_s = (until_ns - time.perf_counter_ns()) / 1e9
            if left_s <= 0:
                raise DroppedError("the device did not answer in time")
            if len(told) > MOST_NOISE_BYTES:
                raise DroppedError("the device's login prints without end")
            if select.select([self._out], [], [], left_s)[0]:
                piece = os.read(self._out, 1 << 16)
                if not piece:
                    raise DroppedError(ended=True)
                told += piece

    def _read(self) -> None:
        """Hear the device until it ends or falls silent, asking it for a sign of life now and then."""
        buffer = bytearray()
        heard_ns = asked_ns = time.perf_counter_ns()
        every_ns = int(self._heartbeat_s * 1e9 / 6)
        while not self._closed.is_set() and not self._wrong_clock:
            now_ns = time.perf_counter_ns()
            if now_ns - heard_ns > self._heartbeat_s * 1e9 or len(buffer) > MOST_LINE_BYTES:
                break
            if now_ns - asked_ns >= every_ns:
                asked_ns = now_ns
                self._ping()
            if select.select([self._out], [], [], min(0.5, every_ns / 1e9))[0]:
                piece = os.read(self._out, 1 << 18)
                if not piece:
                    break
                heard_ns = time.perf_counter_ns()
                buffer += piece
                if b"\n" in piece and not self._dispatch(buffer, heard_ns):
                    break
        self._end_ssh()
        self._answers.put(None)

    def _ping(self) -> None:
        # What is being written is a sign of life itself; and one that cannot be written must not keep this thread.
        if not self._writing.acquire(blocking=False):
            return
        try:
            line = json.dumps({"id": self._pings - 1, "do": "ping"}).encode() + b"\n"
            if select.select([], [self._in], [], 0)[1]:
                self._pings -= 1
                self._asked[self._pings] = time.perf_counter_ns()
                with suppress(OSError):
                    os.write(self._in, line)  # far below PIPE_BUF: whole or not at all
        finally:
            self._writing.release()

    def _end_ssh(self) -> None:
        if self._ssh.poll() is None:
            with suppress(OSError):
                os.killpg(self._ssh.pid, signal.SIGKILL)  # with what reaches a jump host
        self._ssh.wait()

    def _dispatch(self, buffer: bytearray, heard_ns: int) -> bool:
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        for line in lines:
            try:
                told = json.loads(line)
                sent_ns = self._asked.pop(told["id"], None)
                if sent_ns is None:
                    self._answers.put(told)
                else:
                    there_ns = int(told["ok"]["ns"])
                    self._wrong_clock = self._clocks.hear(sent_ns=sent_ns, there_ns=there_ns, received_ns=heard_ns)
            except (ValueError, TypeError, KeyError):
                return False
        return True

    def _said(self) -> str:
        with suppress(OSError, ValueError):
            self._stderr.seek(0)
            return self._stderr.read(1 << 16).decode("utf-8", "replace")
        return ""

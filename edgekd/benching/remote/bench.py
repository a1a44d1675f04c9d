"""A device over ssh as a workbench: what a dropped connection costs is at most the worker that was at work."""

import base64
import getpass
import hashlib
import io
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from edgekd.benching import probe, turns, worker
from edgekd.benching.answers import read_answer
from edgekd.benching.remote.address import CONNECT_S, Address
from edgekd.benching.remote.agent.serving import PROTOCOL
from edgekd.benching.remote.connection import Connection
from edgekd.benching.remote.failures import DroppedError
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.records import Fingerprint, TelemetryLog
from edgekd.core.records.circumstances import TelemetryRow, row_from
from edgekd.core.store import disk_errors, sha256_of

PIECE_BYTES = 192 << 10
ANSWER_S = 60.0  # for what the device does by itself: hashing, linking
FIRST_TRIES, FIRST_S = 3, 8  # what is not there is said soon, a connection that breaks at once is given another chance
MOST_LOSSES = 5  # of the connection, in one thing that is asked
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a device is used: see the fields of the part `ssh`."""

    address: Address
    python: str = "python3"
    root: str = "~/.edgekd"
    heartbeat_s: float = 30.0
    reconnect_s: float = 60.0
    lease: str = "edgekd"
    lease_s: float = 12 * 3600.0
    keep_bytes: int = 2 << 30
    purpose: str = "bench"
    worker: Path = field(default_factory=lambda: Path(worker.__file__))
    probe: bytes = field(default_factory=probe.program)


class RemoteBench:
    """An agent on the device, leased for as long as the context is open.

    Each thing that is asked is asked again over a new connection if the old one is lost. The new agent takes over the lease of
    the old one, which ends its worker; so nothing is measured twice at the same time, and a number comes from one whole worker.
    """

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.told: dict[str, Any] = {}  # what the agent told of the device
        self.losses = 0
        self._token = secrets.token_hex(16)
        self._lease_end_ns = time.perf_counter_ns() + int(manner.lease_s * 1e9)
        self._connection: Connection | None = None
        self._brought: dict[str, dict[str, Path]] = {}
        self._present: set[str] = set()
        self._programs: set[str] = set()
        self._log: TelemetryLog | None = None

    def __enter__(self) -> Self:
        late_ns = time.perf_counter_ns() + FIRST_S * 10**9
        while self._connection is None:
            try:
                self._connection = self._connected()
            except DroppedError as error:
                self.losses += 1
                if self.losses >= FIRST_TRIES or time.perf_counter_ns() > late_ns:
                    mend = "see that the device is on, and that sshd runs"
                    raise MachineError(f"{self.manner.address} cannot be reached: {error}", mend=mend) from error
                threading.Event().wait(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ------------------------------------------------------------------------------------------------------- workbench
    def bring(self, files: Mapping[str, Path]) -> str:
        """Have a folder on the device hold these files under these names, and return its path there."""
        folder = self._asked("bringing files", lambda connection: self._bring(connection, files))
        self._brought[folder] = dict(files)
        return folder

    def work(self, plan: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have one fresh worker process do a plan, and return its answer."""
        whose = f"device {self.manner.address}: the worker process for {plan.get('whose', plan.get('files'))}"
        plans = plan.get("turns", [plan])
        if not all(one.get("runner") for one in plans):
            raise UsageError(
                f"{whose} needs edgekd itself, which is not on the device", mend="measure it on the device `local`"
            )
        folders = {str(one.get("folder")) for one in plans}
        if missing := folders - self._brought.keys():
            raise UsageError(f"{whose}: its folder {min(missing)} was not brought to the device")

        def one(connection: Connection) -> dict[str, Any]:
            for folder in sorted(folders - self._present):
                if self._bring(connection, self._brought[folder]) != folder:
                    raise IntegrityError(f"{whose}: its files were changed while they were measured")
            files = [Path(turns.__file__), self.manner.worker] if "turns" in plan else [self.manner.worker]
            programs = [self._program(connection, file.read_bytes()) for file in files]
            asked = {"programs": programs, "plan": dict(plan), "timeout_s": timeout_s}
            return self._request(connection, "work", asked, wait_s=timeout_s + ANSWER_S)

        told = self._asked("a worker", one)
        if told["timed_out"]:
            mend = "raise bench.timeout_s, or choose a shorter bench.profile"
            raise MachineError(f"{whose} did not end within {timeout_s:g} s", mend=mend)
        said, errors = str(told["stdout"]).encode(), str(told["stderr"]).encode()
        return read_answer(said, code=int(told["code"]), whose=whose, stderr=errors)

    def fingerprint(self) -> Fingerprint:
        """Return the circumstances that the device is in now."""
        told = self.run(self.manner.probe, "fingerprint")
        if told["code"]:
            raise MachineError(f"{self.manner.address}: the probe failed: {told['stderr'].strip()[-300:]}")
        return probe.fingerprint(told["stdout"])

    @contextmanager
    def telemetry(self) -> Iterator[TelemetryLog]:
        """Sample clocks, temperatures and contention while the context is open; the samples come with the workers' answers."""
        self._log = log = TelemetryLog()
        self._asked("telemetry", self._watch)
        try:
            yield log
        finally:
            try:
                log.ended_early |= not self._asked("telemetry", self._unwatch)
            except MachineError:
                log.ended_early = True
            self._log = None

    # ------------------------------------------------------------------------------------------------------------ more
    def run(
        self,
        program: bytes,
        *arguments: str,
        timeout_s: float = ANSWER_S,
        own: bool = False,
        stdin: Any = None,
        note: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Run a stand-alone program on the device and return `code`, `stdout` and `stderr`.

        With `own` it runs by the Python that the agent runs by, not by that of the workers, and `note` hears each line.
        """

        def one(connection: Connection) -> dict[str, Any]:
            asked = {"program": self._program(connection, program), "arguments": arguments, "own": own, "stdin": stdin}
            return self._request(connection, "run", {**asked, "timeout_s": timeout_s}, wait_s=timeout_s + ANSWER_S, note=note)

        return self._asked("a program", one)

    # ------------------------------------------------------------------------------------------------------- connection
    def _asked(self, what: str, ask: Callable[[Connection], Answer]) -> Answer:
        """Ask, and ask again over a new connection as often as the old one is lost, but not forever."""
        losses = 0
        while True:
            try:
                if self._connection is None:
                    self._connection = self._reconnected()
                return ask(self._connection)
            except DroppedError as error:
                losses += 1
                self.losses += 1
                if self._connection is not None:
                    self._connection.kill()
                    self._connection = None
                if losses > MOST_LOSSES:
                    raise MachineError(
                        f"{self.manner.address}: the connection was lost {losses} times during {what}; last: {error}",
                        mend="look at the network between here and the device; what was measured before is kept",
                    ) from error

    def _reconnected(self) -> Connection:
        give_up_ns = time.perf_counter_ns() + int(self.manner.reconnect_s * 1e9)
        pause_s = 0.2
        while True:
            try:
                return self._connected()
            except DroppedError as error:
                if time.perf_counter_ns() > give_up_ns:
                    raise MachineError(
                        f"{self.manner.address}: the connection was lost, and there was no other for"
                        f" {self.manner.reconnect_s:g} s: {error}",
                        mend="see that the device is on and reachable, and run the same command again",
                    ) from error
            threading.Event().wait(pause_s)
            pause_s = min(2 * pause_s, 5.0)

    def _connected(self) -> Connection:
        """Return a new connection whose agent has the lease, and has been told what the last one was told."""
        manner = self.manner
        connection = Connection(manner.address, python=manner.python, heartbeat_s=manner.heartbeat_s)
        try:
            connection.start(wait_s=2 * CONNECT_S)
            self._present.clear()
            self._programs.clear()
            told = self._request(connection, "hello", self._hello(), wait_s=ANSWER_S)
            if self.told and told["boot"] != self.told["boot"]:
                raise MachineError(
                    f"{manner.address} was started anew while it was measured: before and after cannot be compared",
                    mend="find out why (power, heat, watchdog), and run the same command again",
                )
            self.told = told
            if self._log is not None:
                self._watch(connection)
        except BaseException:
            connection.kill()
            raise
        return connection

    def _hello(self) -> dict[str, Any]:
        manner = self.manner
        left_s = (self._lease_end_ns - time.perf_counter_ns()) / 1e9
        if left_s <= 0:
            raise MachineError(
                f"{manner.address}: the lease of {manner.lease_s:g} s has run out", mend="raise the device's lease_s"
            )
        return {
            "protocol": PROTOCOL,
            "token": self._token,
            "owner": owner(),
            "purpose": manner.purpose,
            "root": manner.root,
            "heartbeat_s": manner.heartbeat_s,
            "lease": manner.lease,
            "lease_s": left_s,
            "keep_bytes": manner.keep_bytes,
        }

    def _request(
        self,
        connection: Connection,
        do: str,
        fields: Mapping[str, Any],
        *,
        wait_s: float,
        note: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        told, rows = connection.request(do, fields, wait_s=wait_s, note=note)
        if self._log is not None:
            self._log.rows += later(self._log, rows)
        return told

    # ------------------------------------------------------------------------------------------------------------ files
    def _bring(self, connection: Connection, files: Mapping[str, Path]) -> str:
        digests = {}
        for name, path in files.items():
            with disk_errors(path):
                digests[name] = sha256_of(path)
        held = self._request(connection, "held", {"digests": sorted(set(digests.values()))}, wait_s=10 * ANSWER_S)["held"]
        missing = {digest: files[name] for name, digest in digests.items() if digest not in held}
        for digest, path in missing.items():
            with disk_errors(path), path.open("rb") as file:
                self._put(connection, digest, file, path.stat().st_size)
        folder = str(self._request(connection, "folder", {"files": digests}, wait_s=10 * ANSWER_S)["folder"])
        self._present.add(folder)
        return folder

    def _program(self, connection: Connection, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._programs:
            self._put(connection, digest, io.BytesIO(content), len(content))
            self._programs.add(digest)
        return digest

    def _put(self, connection: Connection, digest: str, file: BinaryIO, size_bytes: int) -> None:
        """Send what is missing of a file; a device that was sent a part of it before goes on from there."""
        about = {"sha256": digest, "size_bytes": size_bytes}
        offset = self._request(connection, "put", about, wait_s=ANSWER_S)["offset"]
        while offset is not None and (offset < size_bytes or size_bytes == 0):
            file.seek(offset)
            data = base64.b64encode(file.read(PIECE_BYTES)).decode("ascii")
            piece = {**about, "offset": offset, "data": data}
            offset = self._request(connection, "chunk", piece, wait_s=10 * ANSWER_S)["offset"]
            if size_bytes == 0:
                return

    # -------------------------------------------------------------------------------------------------------- telemetry
    def _watch(self, connection: Connection) -> None:
        program = self._program(connection, self.manner.probe)
        asked = {"program": program, "arguments": ("telemetry", "--hz", str(probe.DEFAULT_HZ))}
        self._request(connection, "telemetry", asked, wait_s=ANSWER_S)

    def _unwatch(self, connection: Connection) -> bool:
        return bool(self._request(connection, "telemetry", {}, wait_s=ANSWER_S)["ran"])


def later(log: TelemetryLog, lines: Sequence[str]) -> list[TelemetryRow]:
    """Return the samples in these lines that come after those in the log; a line that is not whole is none."""
    last_ns = log.rows[-1].at_ns if log.rows else -1
    found = []
    for row in filter(None, map(row_from, lines)):
        if row.at_ns > last_ns:
            found.append(row)
            last_ns = row.at_ns
    return found


def owner() -> str:
    """Return who asks, as somebody else who wants the device is told."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name}@{platform.node() or 'somewhere'}"

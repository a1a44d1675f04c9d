"""One connection: requests from stdin, answers on stdout, and what runs because of them.

Both are lines of JSON: a request `{"id": 1, "do": "..."}` is answered by `{"id": 1, "ok": {...}}` or
`{"id": 1, "error": {"kind", "message", "mend"}}`, after lines `{"id": 1, "note": "..."}` where something takes long.

    hello      who asks, which folder, for how long: takes the lease, tells what the machine is
    ping, bye  answered at any time, also while a worker works; after bye it ends
    held       which of these digests are kept here
    put, chunk a file in pieces; goes on where an earlier connection stopped
    folder     a folder in which kept files have names, each checked by its sha256
    work       one fresh worker process: a plan on its stdin, its stdout as the answer
    run        a kept program (a probe, the setting up): its stdout as the answer
    telemetry  a kept program that goes on telling: its lines come with the answers, as `rows`

No value of a request ever reaches a shell. However the agent ends (bye, end of the connection, nothing read for `heartbeat_s`,
a signal, the end of its lease), every process that it started is ended first, with its process group. Times are those of
the machine's monotonic clock; the time of day is told and nothing is done with it.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import platform
import re
import selectors
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from typing import Any, Callable

from .files import Store, free_bytes
from .lease import Lease
from .processes import Child, end_left_behind
from .refusals import Gone, Refusal

PROTOCOL = 1
READY = "edgekd-agent 1"
MOST_LINE_BYTES = 16 << 20
MOST_ANSWER_BYTES = 256 << 20
MOST_ROWS = 200_000


class Agent:
    """One connection: requests from stdin one after the other, and what runs because of them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, self._on_input)
        self._buffer = b""
        self._requests: deque[dict[str, Any]] = deque()
        self._children: list[Child] = []
        self._watcher: Child | None = None
        self._rows: deque[str] = deque(maxlen=MOST_ROWS)
        self._row = b""
        self._lease: Lease | None = None
        self._mark = ""
        self._store: Store | None = None
        self._keep_bytes = 0
        self._heartbeat_s = 60.0

    def serve(self) -> None:
        """Answer requests until nobody asks any more, and end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, self._end)
        # The end of a process is an event like any other: nothing is looked at again and again while a worker measures.
        ended, tells = os.pipe()
        os.set_blocking(tells, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        self._selector.register(ended, selectors.EVENT_READ, lambda: os.read(ended, 512))
        try:
            self._set_alarm()
            self._say(READY)
            while True:
                while not self._requests:
                    self._pump(None)
                self._answer(self._requests.popleft())
        except Gone:
            self._end()

    # -- the connection
    def _say(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError as error:
            raise Gone from error

    def _on_input(self) -> None:
        told = os.read(0, 1 << 16)
        self._set_alarm()
        *lines, self._buffer = (self._buffer + told).split(b"\n")
        if not told or len(self._buffer) > MOST_LINE_BYTES:
            raise Gone
        for line in lines:
            try:
                request = json.loads(line)
            except ValueError as error:
                raise Gone from error
            if request.get("do") == "ping":
                self._say(json.dumps({"id": request.get("id"), "ok": {"ns": time.perf_counter_ns()}}))
            elif request.get("do") == "bye":  # also while a worker works: whoever asked for it waits no longer
                self._say(json.dumps({"id": request.get("id"), "ok": {}}))
                raise Gone
            else:
                self._requests.append(request)

    def _set_alarm(self) -> None:
        # Whatever the agent is doing, writing to a connection that nobody reads for instance: silence ends it.
        signal.setitimer(signal.ITIMER_REAL, self._heartbeat_s)

    def _end(self, *_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for child in self._children:
            with suppress(OSError):
                os.killpg(child.process.pid, signal.SIGKILL)
        if self._store is not None:
            self._store.tidy(self._keep_bytes)
        os._exit(0)

    def _pump(self, timeout_s: float | None) -> None:
        """Wait for something to happen and see to it: input, a visitor of the lease, output of a process."""
        left_s = 3600.0 if self._lease is None else self._lease.left_s()
        if left_s <= 0:
            raise Gone
        for key, _ in self._selector.select(left_s if timeout_s is None else min(left_s, timeout_s)):
            key.data()

    def _on_visitor(self) -> None:
        if self._lease is not None and self._lease.visited():
            raise Gone

    def _answer(self, request: dict[str, Any]) -> None:
        told: dict[str, Any] = {"id": request.get("id")}
        try:
            told["ok"] = self._done(request)
        except Refusal as refusal:
            told["error"] = {key: getattr(refusal, key) for key in ("kind", "message", "mend", "told")}
        except OSError as error:
            kind = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "machine"
            told["error"] = {"kind": kind, "message": f"the device: {error}", "mend": "", "told": {}}
        except (KeyError, TypeError, ValueError) as error:
            told["error"] = {"kind": "usage", "message": f"malformed request: {error!r}", "mend": "", "told": {}}
        if self._rows:
            told["rows"] = [self._rows.popleft() for _ in range(len(self._rows))]
        self._say(json.dumps(told))
        if told.get("error", {}).get("kind") == "busy":
            raise Gone

    # -- what can be asked
    def _done(self, request: dict[str, Any]) -> dict[str, Any]:
        do, store = request["do"], self._store
        if do == "hello":
            return self._hello(request)
        if store is None:
            raise Refusal("usage", "hello comes first")
        if do == "held":
            return {"held": [digest for digest in request["digests"] if store.holds(digest)]}
        if do == "put":
            return {"offset": store.begin(request["sha256"], request["size_bytes"])}
        if do == "chunk":
            data = base64.b64decode(request["data"], validate=True)
            return {"offset": store.add(request["sha256"], request["offset"], data, request["size_bytes"])}
        if do == "folder":
            return {"folder": store.folder(request["files"])}
        if do == "work":
            return self._work(store, request)
        if do == "run":
            return self._run(store, request)
        if do == "telemetry":
            return self._telemetry(store, request)
        raise Refusal("usage", "no such request")

    def _hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the lease and the folder, end what was left behind, and tell what this machine is."""
        mark = request["lease"]
        if request["protocol"] != PROTOCOL or self._lease is not None or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", mark):
            raise Refusal("usage", f"this agent speaks protocol {PROTOCOL}, and is greeted once")
        told = {key: str(request[key])[:200] for key in ("owner", "purpose")}
        self._lease = Lease(mark, request["token"], told, lease_s=request["lease_s"])
        self._selector.register(self._lease.listener, selectors.EVENT_READ, self._on_visitor)
        self._mark, self._heartbeat_s = mark, float(request["heartbeat_s"])
        self._set_alarm()
        ended = end_left_behind(mark)
        self._keep_bytes = request["keep_bytes"]
        self._store = Store(request["root"], mark, breathe=lambda: self._pump(0.0))
        return {
            "root": self._store.root,
            "boot": boot_id(),
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "free_bytes": free_bytes(self._store.root),
            "wall_s": wall_s(self._store.root),
            "took_over": self._lease.took_over,
            "ended": ended,
        }

    def _python(self, *arguments: str) -> list[str]:
        """Return the command of an isolated Python: that of the virtual environment if there is one, else the agent's own."""
        made = os.path.join(self._store.root, "venv") if self._store else ""
        ready = bool(made) and os.path.isfile(os.path.join(made, "edgekd.json"))
        own = os.path.join(made, "bin", "python") if ready else sys.executable
        return [own, "-I", "-X", "utf8", *arguments]

    def _work(self, store: Store, request: dict[str, Any]) -> dict[str, Any]:
        """Have one fresh worker process do a plan, over files that are those that were brought, before and after."""
        plan = request["plan"]
        folders = {one["folder"] for one in plan.get("turns", [plan])}
        for folder in folders:
            store.same_as_brought(folder)
        command = self._python(*(store.checked(program) for program in request["programs"]))
        child = Child(command, mark=self._mark, stdin=json.dumps(plan).encode())
        told = self._supervised(child, timeout_s=request["timeout_s"])
        for folder in folders:
            store.same_as_brought(folder)
        return told

    def _run(self, store: Store, request: dict[str, Any]) -> dict[str, Any]:
        """Run a kept program to its end; with `own` by the agent's own Python, and what it says line by line as notes."""
        program, arguments = store.checked(request["program"]), [str(one) for one in request["arguments"]]
        own = request.get("own", False)
        command = [sys.executable, "-I", "-X", "utf8", program, *arguments] if own else self._python(program, *arguments)
        child = Child(command, mark=self._mark, stdin=json.dumps(request.get("stdin")).encode())

        def note(text: str) -> None:
            self._say(json.dumps({"id": request["id"], "note": text}))

        return self._supervised(child, timeout_s=request["timeout_s"], note=note if own else None)

    def _supervised(self, child: Child, *, timeout_s: float, note: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Wait for a process, answering pings meanwhile; return its exit code and what it said."""
        said, start_ns, open_, timed_out = bytearray(), time.perf_counter_ns(), [True], False

        def on_output() -> None:
            piece = child.read()
            if piece is None:
                open_[0] = False
                self._selector.unregister(child.out)
                return
            before = said.rfind(b"\n") + 1
            said.extend(piece)
            for line in said[before:].split(b"\n")[:-1] if note else ():
                note(line.decode("utf-8", "replace"))  # type: ignore[misc]

        self._children.append(child)
        self._selector.register(child.out, selectors.EVENT_READ, on_output)
        try:
            # Its own end counts: a process that it started may hold the pipe open for longer.
            while child.process.poll() is None and not timed_out:
                left_s = timeout_s - (time.perf_counter_ns() - start_ns) / 1e9
                self._pump(max(0.0, left_s))
                timed_out = left_s <= 0 or len(said) > MOST_ANSWER_BYTES
            elapsed_ns = time.perf_counter_ns() - start_ns
            while open_[0] and not timed_out and (piece := child.read()):
                said.extend(piece)
        finally:
            if open_[0]:
                self._selector.unregister(child.out)
            child.end()
            self._children.remove(child)
        return {
            "code": child.process.returncode,
            "timed_out": timed_out,
            "elapsed_ns": elapsed_ns,
            "stdout": said.decode("utf-8", "replace"),
            "stderr": child.tail(),
        }

    def _telemetry(self, store: Store, request: dict[str, Any]) -> dict[str, Any]:
        """Stop the program that samples the machine if it runs, and start it if one is named."""
        ran = self._watcher is not None
        self._stop_watcher()
        if request.get("program"):
            program, arguments = store.checked(request["program"]), [str(one) for one in request["arguments"]]
            self._watcher = Child(self._python(program, *arguments), mark=self._mark, stdin=None)
            self._children.append(self._watcher)
            self._row = b""
            self._selector.register(self._watcher.out, selectors.EVENT_READ, self._on_sample)
        return {"ran": ran}

    def _stop_watcher(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._selector.unregister(watcher.out)
            self._children.remove(watcher)
            watcher.end()

    def _on_sample(self) -> None:
        piece = self._watcher.read() if self._watcher else b""
        if piece is None:
            self._stop_watcher()
            return
        *lines, self._row = (self._row + piece).split(b"\n")
        self._rows.extend(line.decode("utf-8", "replace") for line in lines)


def boot_id() -> str:
    """Return what changes at every start of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def wall_s(folder: str) -> float:
    """Return the time of day, as the file system writes it."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime

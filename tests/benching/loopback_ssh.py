"""A device over ssh without another machine: sshd on loopback with keys of its own, and a proxy that does harm.

Used by the tests and by `benchmarks/ssh_faults.py`.
"""

import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

REQUIRED = "EDGEKD_TEST_SSHD"
HOST = "target"
# Reads a plan and answers like a worker, in a few milliseconds; the answer depends on the plan alone. Two at a time are found.
FAST_WORKER = """
import fcntl, json, os, sys, time
plan = json.load(sys.stdin)
with open(os.path.join(os.path.dirname(__file__), "..", "one-at-a-time"), "w") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    content = open(os.path.join(plan["folder"], plan["files"][0]), "rb").read()
    time.sleep(plan.get("sleep_s", 0))
    print("chatter before the answer")
    print(json.dumps({"protocol": "1", "value": 7919 * plan["nonce"] + len(content), "alone": alone}))
"""
# Tells like the probe, and costs nothing.
FAST_PROBE = b"""
import json, sys, time
if sys.argv[1] == "fingerprint":
    print(json.dumps({"fields": {"usable_cores": 1}}))
else:
    while True:
        print(json.dumps({"at_ns": time.perf_counter_ns()}), flush=True)
        time.sleep(0.02)
"""


def find_sshd() -> str | None:
    """Return where sshd is; it wants to be called by its whole path."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    return shutil.which("sshd", path=folders)


class Loopback:
    """sshd on a free port of loopback, run by this account, with its own keys; what is trusted stands in `config_folder`."""

    def __init__(self, folder: Path, sshd: str) -> None:
        self.folder = folder
        for name in ("host_key", "client_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
        self.config_folder = folder / "config"
        self.config_folder.mkdir()
        kind, key = (folder / "host_key.pub").read_text().split()[:2]
        (self.config_folder / "known_hosts").write_text(f"{HOST} {kind} {key}\n")
        self.port = free_port()
        self._write_config()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what its package makes at the start of the system
        with (folder / "sshd.log").open("wb") as log:
            command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until_s = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until_s:
                self.close()
                raise RuntimeError(f"sshd does not start: {(folder / 'sshd.log').read_text()}")
            time.sleep(0.02)
        self.ssh_config = self.config_for(self.port, "ssh_config")

    def _write_config(self) -> None:
        lines = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host_key",
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "UseDNS": "no",
            "LogLevel": "ERROR",
            "MaxStartups": "100",
        }
        (self.folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in lines.items()))

    def config_for(self, port: int, name: str) -> Path:
        """Return an ssh_config in which `target` is this sshd, reached through `port`."""
        path = self.folder / name
        path.write_text(
            f"Host {HOST}\n  HostName 127.0.0.1\n  HostKeyAlias {HOST}\n  Port {port}\n"
            f"  IdentityFile {self.folder / 'client_key'}\n  IdentitiesOnly yes\n"
        )
        return path

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asker:
                return asker.recv(4) == b"SSH-"
        except OSError:
            return False

    def close(self) -> None:
        """End sshd."""
        self._process.terminate()
        self._process.wait()


def target_environment(root: Path, packages: Sequence[str]) -> None:
    """Make what `edgekd device setup` leaves below `root`: its own Python, with these packages of ours and nothing else."""
    place = root / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(place)
    site = next((place / "lib").glob("python*/site-packages"))
    for base in map(Path, sys.path):
        for name in packages:
            for found in (base / name, base / f"{name}.libs"):
                if found.is_dir() and not (site / found.name).exists():
                    (site / found.name).symlink_to(found)
    (place / "edgekd.json").write_text("{}")
    root.chmod(0o700)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def marked(lease: str) -> list[int]:
    """Return the processes that an agent with this lease has started and that still live."""
    wanted, found = f"EDGEKD_LEASE={lease}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def leased(lease: str) -> bool:
    """Return whether an agent holds this lease."""
    return any(line.endswith(f"@edgekd-lease.{lease}") for line in Path("/proc/net/unix").read_text().splitlines())


def wait_until(condition: Callable[[], bool], *, within_s: float) -> bool:
    """Return whether a condition came true in time."""
    until_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


# ------------------------------------------------------------------------------------------------------------------ proxy
class _Pair:
    """One connection through the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket, limit: "tuple[int, str] | None") -> None:
        self.near, self.far = near, far
        self.limit = limit
        self.passed_bytes = 0
        self.frozen = False
        self.held_until_s = 0.0


class FaultyProxy:
    """Carries TCP from `port` to another port of loopback, and does harm when told to.

    cut: both ends are closed; reset: both ends are reset; half-open: nothing passes any more and nobody is told; delay: nothing
    passes for a while; refuse: the next connection is closed at once.
    """

    KINDS = ("cut", "reset", "half-open", "delay", "refuse")

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[_Pair] = []
        self._refuse = 0
        self._limits: list[tuple[int, str]] = []
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def after(self, passed_bytes: int, kind: str) -> None:
        """Do harm to the next new connection once so many bytes have passed."""
        with self._lock:
            self._limits.append((passed_bytes, kind))

    def harm(self, kind: str, *, delay_s: float = 0.3) -> None:
        """Do harm now."""
        with self._lock:
            if kind == "refuse":
                self._refuse += 1
                kind = "cut"
            for pair in list(self._pairs):
                self._hurt(pair, kind, delay_s)

    def _hurt(self, pair: _Pair, kind: str, delay_s: float = 0.3) -> None:
        if kind == "delay":
            pair.held_until_s = time.monotonic() + delay_s
        elif kind == "half-open":
            pair.frozen = True
        else:
            self._drop(pair, reset=kind == "reset")

    def _drop(self, pair: _Pair, *, reset: bool = False) -> None:
        for end in (pair.near, pair.far):
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
        if pair in self._pairs:
            self._pairs.remove(pair)

    def _run(self) -> None:
        while not self._ended:
            now_s = time.monotonic()
            with self._lock:
                moving = [pair for pair in self._pairs if not pair.frozen and pair.held_until_s <= now_s]
            ends = {end: pair for pair in moving for end in (pair.near, pair.far)}
            try:
                ready, _, _ = select.select([self._listener, *ends], [], [], 0.02)
            except (OSError, ValueError):
                continue  # one was closed meanwhile
            with self._lock:
                for end in ready:
                    if end is self._listener:
                        self._accept()
                    elif ends[end] in self._pairs and not ends[end].frozen:
                        self._carry(end, ends[end])

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._refuse:
            self._refuse -= 1
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._to_port), timeout=5)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(_Pair(near, far, self._limits.pop(0) if self._limits else None))

    def _carry(self, end: socket.socket, pair: _Pair) -> None:
        other = pair.far if end is pair.near else pair.near
        try:
            data = end.recv(1 << 16)
            if not data:
                self._drop(pair)
                return
            other.sendall(data)
        except OSError:
            self._drop(pair)
            return
        pair.passed_bytes += len(data)
        if pair.limit is not None and pair.passed_bytes >= pair.limit[0]:
            kind, pair.limit = pair.limit[1], None
            self._hurt(pair, kind)

    def close(self) -> None:
        """Close everything."""
        self._ended = True
        self._thread.join()
        with self._lock:
            for pair in list(self._pairs):
                self._drop(pair)
        self._listener.close()

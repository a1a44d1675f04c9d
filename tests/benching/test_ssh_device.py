"""A device over ssh, against a real sshd on loopback: files, workers, facts, the lease, and what it refuses."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekd.benching import worker
from edgekd.benching.answers import samples_of
from edgekd.benching.devices.ssh import Ssh
from edgekd.benching.remote.address import Address
from edgekd.benching.remote.bench import Manner, RemoteBench
from edgekd.benching.remote.connection import Connection
from edgekd.core import host
from edgekd.core.errors import EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.records import DeviceFacts

Open = Callable[..., RemoteBench]
COMPLAINT = {"exit_code": 3, "message": "cannot be timed here", "mend": "elsewhere"}


INSTANT_RUNNER = """
import os, numpy
class Refusal(Exception): pass
def load_runtime(): pass
class Session:
    executed_on, executed_precision, host_readable = "CPU", "fp32", True
    def __init__(self, name): self.runtime = "instant " + name
    def run(self, batch): return [numpy.zeros((len(batch), 3), numpy.float32)]
    def close(self): pass
def open(folder, files, *, threads, options):
    with io_open(os.path.join(folder, files[0])) as file:
        return Session(file.read())
""".replace("def open(", "io_open = open\ndef open(")


@pytest.fixture
def lease(tmp_path: Path) -> str:
    return f"test-{os.getpid()}-{tmp_path.name}"[:64]


@pytest.fixture
def manner(trusted: Any, ssh_world: ModuleType, lease: str, tmp_path: Path) -> Callable[..., Manner]:
    worker = tmp_path / "worker.py"
    worker.write_text(ssh_world.FAST_WORKER)

    def make(**more: Any) -> Manner:
        told: dict[str, Any] = {
            "address": Address(host=ssh_world.HOST, config=trusted.ssh_config),
            "python": sys.executable,
            "root": str(tmp_path / "root"),
            "heartbeat_s": 20.0,
            "reconnect_s": 10.0,
            "lease": lease,
            "worker": worker,
        }
        return Manner(**(told | more))

    return make


@pytest.fixture
def bench(manner: Callable[..., Manner]) -> Iterator[RemoteBench]:
    with RemoteBench(manner()) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"0123456789" * 100)
    return path


def plan(folder: str, **more: Any) -> dict[str, Any]:
    return {"runner": "runner.py", "folder": folder, "files": ["model.bin"], "nonce": 1, **more}


def brought(bench: RemoteBench, model: Path) -> str:
    return bench.bring({"model.bin": model, "runner.py": bench.manner.worker})


def says(bench: RemoteBench, model: Path, source: str) -> dict[str, Any]:
    """Have a worker of this source work."""
    bench.manner.worker.write_text(source)
    return bench.work(plan(brought(bench, model)), timeout_s=20)


# --------------------------------------------------------------------------------------------------------------- workbench
def test_files_are_brought_once_and_a_worker_reads_them(bench: RemoteBench, model: Path, tmp_path: Path) -> None:
    """The folder's path is the same for the same files; what is there already is not sent again; a file may be empty."""
    (tmp_path / "empty").touch()
    assert Path(bench.bring({"empty": tmp_path / "empty"}), "empty").read_bytes() == b""
    folder = brought(bench, model)
    assert folder == brought(bench, model)
    assert Path(folder).is_relative_to(tmp_path / "root")
    assert bench.work(plan(folder), timeout_s=20) == {"protocol": "1", "value": 7919 + 1000, "alone": True}
    assert bench.losses == 0


def test_fingerprint_and_facts_are_the_devices(trusted: Any, ssh_world: ModuleType, lease: str, tmp_path: Path) -> None:
    """On loopback they are this machine's, under the name of the device; asking while it is open needs no second lease."""
    device = Ssh(
        host=ssh_world.HOST, config=trusted.ssh_config, python=sys.executable, root=str(tmp_path / "root"), lease=lease
    )
    here = host.device_facts(ssh_world.HOST)
    with device.ready() as opened:
        fields = opened.fingerprint().fields
        facts = device.facts()
    ours = {"logical_cores", "physical_cores", "affinity_cores", "usable_cores", "cgroup_quota_cores", "machine", "cpu", "name"}
    assert facts.model_dump(include=ours) == here.model_dump(include=ours)
    assert facts.python == f"CPython {platform.python_version()}"
    assert len(fields) >= 40
    assert DeviceFacts.model_validate_json(facts.model_dump_json()) == facts
    assert device.default_threads() == facts.usable_cores


def test_samples_of_the_machine_come_with_the_answers(bench: RemoteBench, model: Path) -> None:
    """In order of time, also across a lost connection, and the log says whether the probe ran to the end."""
    folder = brought(bench, model)
    with bench.telemetry() as log:
        bench.work(plan(folder, sleep_s=0.7), timeout_s=20)
        before = len(log.rows)
        assert bench._connection is not None
        bench._connection.kill()
        bench.work(plan(folder, sleep_s=0.7), timeout_s=20)
    assert 0 < before < len(log.rows)
    assert [row.at_ns for row in log.rows] == sorted({row.at_ns for row in log.rows})
    assert not log.ended_early
    assert bench.losses == 1


def test_workers_take_turns_there_too(manner: Callable[..., Manner], tmp_path: Path) -> None:
    """Two models from two folders, each by a process of its own; one that is not installed there ends the round by its name."""
    runner, absent, images = (tmp_path / name for name in ("runner.py", "absent.py", "images.npy"))
    runner.write_text(INSTANT_RUNNER)
    absent.write_text(INSTANT_RUNNER.replace("def load_runtime(): pass", "import no_such_runtime as load_runtime"))
    np.save(images, np.zeros((4, 3, 2, 2), np.float32))
    plans = []
    with RemoteBench(manner(worker=Path(worker.__file__))) as bench:
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
            folder = bench.bring({"model.bin": tmp_path / name, "runner.py": runner, "absent.py": absent, "images.npy": images})
            common = {
                "protocol": "1",
                "runner": "runner.py",
                "threads": 1,
                "inputs": "images.npy",
                "batch": 1,
                "mode": "single",
            }
            plans.append(common | {"whose": name, "folder": folder, "files": ["model.bin"], "warmup": 1, "iterations": 25})
        answers = bench.work({"whose": "a round", "turns": plans}, timeout_s=60)["answers"]
        assert [answer["runtime"] for answer in answers] == ["instant a", "instant b"]
        assert [len(samples_of(answer, whose="")["infer"]) for answer in answers] == [25, 25]
        with pytest.raises(MachineError, match="ModuleNotFoundError: No module named 'no_such_runtime'"):
            bench.work({"whose": "a round", "turns": [plans[0], plans[1] | {"runner": "absent.py"}]}, timeout_s=60)


def test_what_a_worker_says_is_read_as_that_of_a_local_one(bench: RemoteBench, model: Path) -> None:
    """A complaint keeps its kind, a crash and a signal are told with the last words, nonsense is no measurement."""
    with pytest.raises(EvidenceError, match="cannot be timed here"):
        says(bench, model, f"print({json.dumps(json.dumps({'protocol': '1', 'complaint': COMPLAINT}))})")
    with pytest.raises(MachineError, match=r"crashed with exit code 5(.|\n)*last words"):
        says(bench, model, "import sys; sys.stderr.write('last words\\n'); sys.exit(5)")
    with pytest.raises(MachineError, match="SIGKILL"):
        says(bench, model, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(MachineError, match="not a measurement"):
        says(bench, model, "print('hello')")
    assert bench.losses == 0


def test_a_worker_that_hangs_is_ended_with_all_it_started(
    bench: RemoteBench, model: Path, ssh_world: ModuleType, lease: str
) -> None:
    """After its time, on the device, also a process of a process that keeps its pipe open."""
    bench.manner.worker.write_text(
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\ntime.sleep(99)"
    )
    with pytest.raises(MachineError, match=r"did not end within 0\.5 s"):
        bench.work(plan(brought(bench, model)), timeout_s=0.5)
    assert ssh_world.wait_until(lambda: ssh_world.marked(lease) == [], within_s=5)


def test_a_process_that_a_worker_leaves_running_ends_with_it(
    bench: RemoteBench, model: Path, ssh_world: ModuleType, lease: str
) -> None:
    """The answer is taken when the worker itself ends, though another process holds its stdout open."""
    started = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
    assert says(bench, model, started + """print('{"protocol": "1", "value": 5}')""")["value"] == 5
    assert ssh_world.wait_until(lambda: ssh_world.marked(lease) == [], within_s=5)


def test_leaving_does_not_wait_for_a_worker(
    manner: Callable[..., Manner], model: Path, ssh_world: ModuleType, lease: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is interrupted says goodbye, and the worker is ended at once."""
    closed: list[bool] = []
    with pytest.raises(KeyboardInterrupt), RemoteBench(manner()) as opened:
        folder = brought(opened, model)
        assert opened._connection is not None
        get = opened._connection._answers.get

        def interrupted(timeout: float) -> Any:
            if ssh_world.wait_until(lambda: bool(ssh_world.marked(lease)), within_s=5) and not closed:
                closed.append(True)
                raise KeyboardInterrupt
            return get(timeout=timeout)

        monkeypatch.setattr(opened._connection._answers, "get", interrupted)
        opened.work(plan(folder, sleep_s=60), timeout_s=90)
    assert ssh_world.wait_until(lambda: not ssh_world.leased(lease) and not ssh_world.marked(lease), within_s=5)


def test_a_backend_without_a_runner_file_is_for_this_machine_only(bench: RemoteBench, model: Path) -> None:
    """edgekd is not on the device; said before anything is sent."""
    folder = brought(bench, model)
    with pytest.raises(UsageError, match="needs edgekd itself"):
        bench.work({**plan(folder), "runner": None}, timeout_s=20)
    with pytest.raises(UsageError, match="was not brought"):
        bench.work(plan("/etc"), timeout_s=20)


def test_a_file_changed_on_the_device_is_not_measured(bench: RemoteBench, model: Path) -> None:
    """Neither one that a worker reads nor a program that is run."""
    folder = brought(bench, model)
    bench.work(plan(folder), timeout_s=20)
    held = Path(folder, "model.bin")
    held.unlink()
    held.write_bytes(b"x" * 1000)
    with pytest.raises(IntegrityError, match="changed on the device"):
        bench.work(plan(folder), timeout_s=20)


def test_a_changed_program_is_not_run(bench: RemoteBench, model: Path) -> None:
    """Its digest is checked at every start."""
    folder = brought(bench, model)
    bench.work(plan(folder), timeout_s=20)
    for kept in (Path(bench.told["root"]) / "files").iterdir():
        if b"nonce" in kept.read_bytes():
            kept.write_bytes(kept.read_bytes() + b"\nprint('evil')")
    with pytest.raises(IntegrityError, match="changed on the device"):
        bench.work(plan(folder), timeout_s=20)


def test_a_full_disk_on_the_device_is_said(bench: RemoteBench, model: Path) -> None:
    """Exit code 4, with the folder, and what to do."""
    import hashlib

    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    (Path(bench.told["root"]) / "partial" / digest).symlink_to("/dev/full")
    with pytest.raises(MachineError, match="disk is full") as error:
        bench.bring({"model.bin": model})
    assert "free some space on the device" in error.value.mend


# -------------------------------------------------------------------------------------------------------------- connection
def test_a_second_user_is_told_who_has_the_device(bench: RemoteBench, manner: Callable[..., Manner]) -> None:
    """Who, for what, since when, and when the lease runs out; exit code 4, and the first one goes on."""
    with pytest.raises(MachineError, match=r"in use by \S+@\S+ for \d+ s \(bench\)") as error, RemoteBench(manner()):
        pass
    assert "runs out in 11 h 59 min" in error.value.mend
    assert bench.run(b"print('still here')")["stdout"] == "still here\n"


def test_a_lease_runs_out(manner: Callable[..., Manner], model: Path, ssh_world: ModuleType, lease: str) -> None:
    """Whatever its owner is doing; the next one gets the device."""
    with RemoteBench(manner(lease_s=2.0)) as opened:
        folder = brought(opened, model)
        with pytest.raises(MachineError, match=r"the lease of 2 s has run out"):
            opened.work(plan(folder, sleep_s=5), timeout_s=20)
    assert ssh_world.wait_until(lambda: not ssh_world.leased(lease) and not ssh_world.marked(lease), within_s=5)


def test_a_device_that_was_started_anew_ends_the_session(bench: RemoteBench, model: Path) -> None:
    """Before and after a reboot cannot be compared; exit code 4."""
    folder = brought(bench, model)
    bench.told["boot"] = "another boot"
    assert bench._connection is not None
    bench._connection.kill()
    with pytest.raises(MachineError, match="was started anew while it was measured"):
        bench.work(plan(folder), timeout_s=20)


def test_a_device_whose_clock_is_wrong_measures_nothing(bench: RemoteBench, model: Path) -> None:
    """The monotonic clock is what measures; the time of day may be anything."""
    folder = brought(bench, model)
    assert bench._connection is not None
    bench._connection._wrong_clock = "by the device's clock 60 s have passed, by this machine's 50 s"
    with pytest.raises(MachineError, match="by the device's clock 60 s"):
        bench.work(plan(folder), timeout_s=20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_nobody_is_left_behind_when_the_agent_or_the_controller_dies(
    number: int, manner: Callable[..., Manner], model: Path, ssh_world: ModuleType, lease: str
) -> None:
    """Killed, asked to end, or merely silent: the worker ends with its agent, the lease is free, and the next one works."""
    with RemoteBench(manner(heartbeat_s=1.0)) as opened:
        folder = brought(opened, model)
        assert opened._connection is not None
        victim = agents(lease) if number != signal.SIGSTOP else opened._connection._ssh.pid
        killer = threading.Timer(0.5, os.kill, [victim, number])
        killer.start()
        answer = opened.work(plan(folder, sleep_s=1.0), timeout_s=20)
        killer.join()
        assert answer == {"protocol": "1", "value": 8919, "alone": True}
        assert opened.losses == 1
    assert ssh_world.wait_until(lambda: not ssh_world.leased(lease) and not ssh_world.marked(lease), within_s=5)


def agents(lease: str) -> int:
    """Return the process of the agent that holds a lease: the one that has no mark itself and started one that has."""
    inode = next(line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(f".{lease}"))
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(one.readlink()) == f"socket:[{inode}]" for one in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no agent")


def test_processes_of_an_agent_that_was_killed_are_ended_by_the_next(manner: Callable[..., Manner], lease: str) -> None:
    """Should one have outlived it, it carries the mark of the lease."""
    with subprocess.Popen(["sleep", "99"], env={**os.environ, "EDGEKD_LEASE": lease}) as left:
        with RemoteBench(manner()) as opened:
            assert opened.told["ended"] == 1
        assert left.wait(5) == -signal.SIGKILL


# ----------------------------------------------------------------------------------------------------------------- refused
def test_a_host_that_is_not_trusted_is_refused(
    manner: Callable[..., Manner], loopback: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unknown, or with another key than the pinned one: exit code 5, and how to trust it."""
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path / "nobody"))
    with pytest.raises(IntegrityError, match="not trusted yet") as error, RemoteBench(manner()):
        pass
    assert "edgekd device trust target" in error.value.mend
    (tmp_path / "nobody").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    (tmp_path / "nobody" / "known_hosts").write_text(f"target {kind} {key}\n")
    with pytest.raises(IntegrityError, match="another host key than the trusted one"), RemoteBench(manner()):
        pass


def test_hostile_names_and_values_run_nothing(
    bench: RemoteBench, model: Path, load_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 strings as names of files and in plans: they stay names and values, or are refused; nothing is executed."""
    hostile = load_module("benching/test_ssh_address.py")
    names = {text: model for text in hostile.HOSTILE if "\0" not in text and not text.startswith("../")}
    folder = bench.bring({**names, "model.bin": model, "runner.py": bench.manner.worker})
    assert all(Path(folder, os.fsencode(name).decode("utf-8", "surrogateescape")).is_file() for name in names)
    for name in ("../x", "\0; touch x"):
        with pytest.raises(UsageError, match="not a name"):
            bench.bring({name: model})
    bench.work(
        {**plan(folder), "note": list(hostile.HOSTILE), "environment": dict.fromkeys(hostile.HOSTILE, "x")}, timeout_s=20
    )
    told = bench.run(b"import sys, json; print(json.dumps(sys.argv[1:]))", *names)
    assert json.loads(told["stdout"]) == list(names)
    for place in (tmp_path, Path.home(), Path.cwd(), Path(bench.told["root"])):
        assert [path for path in place.glob(f"{hostile.CANARY}*") if path.is_file()] == []


def test_a_root_with_a_hostile_name_is_a_folder(manner: Callable[..., Manner], tmp_path: Path) -> None:
    """It goes through the connection as JSON, and no shell sees it."""
    root = tmp_path / "$(touch edgekd-canary); `touch edgekd-canary` 'é"
    with RemoteBench(manner(root=str(root))) as opened:
        assert opened.told["root"] == str(root)
    assert root.is_dir()
    assert not (Path.home() / "edgekd-canary").exists()


# ------------------------------------------------------------------------------------------------------ without any device
@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a shell script in ssh's place; the last argument is the line for the device."""
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path / "config"))

    def put(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "ssh").write_text("#!/bin/sh\n" + script)
        (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    ("said", "code", "kind", "words"),
    [
        ("No ED25519 host key is known for pi5\nHost key verification failed.", 255, IntegrityError, "not trusted yet"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", 255, IntegrityError, "another host key"),
        ("pi@pi5: Permission denied (publickey).", 255, MachineError, "cannot log in"),
        ("ssh: Could not resolve hostname pi5", 255, MachineError, "Could not resolve"),
        ("ssh: connect to host pi5 port 22: Connection refused", 255, MachineError, "cannot be reached: .*refused"),
        ("sh: python3: not found", 127, MachineError, "python3: not found"),
        ("", 98, MachineError, "older than 3.9"),
        ("Unknown option: -I", 2, MachineError, "older than 3.9"),
        ("SyntaxError: invalid syntax", 1, MachineError, "cannot be started there: SyntaxError"),
        ("", 0, MachineError, "cannot be reached"),
        ("\x1b[31mred", 255, MachineError, r"\\x1b\[31mred"),
    ],
)
def test_why_a_device_cannot_be_reached_is_one_message(
    fake_ssh: Callable[[str], None], said: str, code: int, kind: type[Exception], words: str
) -> None:
    """From what ssh says and its exit code; what it says cannot steer the terminal."""
    fake_ssh(f"cat >/dev/null <<'END'\nEND\nprintf '%s\\n' '{said}' >&2\nexit {code}\n")
    with pytest.raises(kind, match=words), RemoteBench(Manner(address=Address(host="pi5"))):
        pass


def test_what_a_login_prints_is_passed_over(fake_ssh: Callable[[str], None], lease: str, tmp_path: Path) -> None:
    """Before the agent speaks; a login that prints without end is given up."""
    fake_ssh('echo "Welcome to pi5"; echo; for line; do :; done; exec sh -c "$line"\n')
    manner = Manner(address=Address(host="pi5"), python=sys.executable, root=str(tmp_path / "root"), lease=lease)
    with RemoteBench(manner) as opened:
        assert opened.run(b"print(5)")["stdout"] == "5\n"
    fake_ssh("yes hello\n")
    with pytest.raises(MachineError, match="prints without end"), RemoteBench(manner):
        pass


def test_a_connection_that_speaks_nonsense_is_a_lost_one(fake_ssh: Callable[[str], None]) -> None:
    """It ends in one message, soon."""
    fake_ssh("echo edgekd-agent 1\nread line\necho '{nonsense'\nsleep 9\n")
    connection = Connection(Address(host="pi5"), python="python3", heartbeat_s=1.0)
    connection.start(wait_s=10)
    with pytest.raises(Exception, match="connection was lost"):
        connection.request("hello", {}, wait_s=10)
    connection.kill()


def test_a_machine_without_ssh_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 4, and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path))
    with pytest.raises(MachineError, match="ssh is not installed"), RemoteBench(Manner(address=Address(host="pi5"))):
        pass

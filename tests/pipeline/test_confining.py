"""Files of strangers: what a runtime does to its process, the command line survives; what it may use has limits."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from edgekd.cli import confining
from edgekd.core.machine import files, fingerprint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and parent-death signals are Linux's")
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(experiment: Path, tmp_path: Path) -> Start:
    """Return a function that imports a model with a runtime of this source, as a person would on the command line."""
    fed = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 16, 16])
    answer = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "g", [fed], [answer])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "model.onnx")
    (tmp_path / "contract.yaml").write_text("resize: 18\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n")

    def begin(source: str) -> "subprocess.Popen[str]":
        (tmp_path / "fake").mkdir()
        (tmp_path / "fake" / "onnxruntime.py").write_text(source)
        given = ["import-onnx", "model.onnx", "--data", str(experiment.parent / "images"), "--contract", "contract.yaml"]
        return subprocess.Popen(
            [sys.executable, "-P", "-c", "from edgekd.cli import main; main()", *given, "--out", "run"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "fake"), *sys.path[1:]])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def test_a_crash_is_an_answer(start: Start) -> None:
    """A runtime that ends with a segmentation fault is said to be the file's doing, with exit code 5 and no traceback."""
    _, told = (process := start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")).communicate(timeout=120)
    assert process.returncode == 5
    assert "model.onnx: the process that read and ran it crashed (SIGSEGV)" in told
    assert "Traceback" not in told


def test_memory_has_an_end(start: Start) -> None:
    """What asks for twice the machine's memory gets none of it, and the command says so."""
    size = fingerprint.memory_bytes(files.REAL_ROOT)
    assert size is not None
    _, told = (process := start(f"held = bytearray({2 * size})")).communicate(timeout=120)
    assert process.returncode == 5
    assert "more memory than this machine has" in told


def test_limits_hold_and_nobody_is_reached(start: Start, tmp_path: Path) -> None:
    """The child has limits that it cannot raise, and where the system allows it, no network: not even this machine's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"""
import json, resource, socket, sys
kinds = {{name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CPU", "FSIZE", "NOFILE", "CORE", "DATA")}}
try:
    socket.create_connection({server.getsockname()!r}, timeout=5)
    reached = True
except OSError:
    reached = False
json.dump([kinds, reached], open("seen.json", "w"))
sys.exit(7)
"""
        process = start(source)
        process.communicate(timeout=120)
    assert process.returncode == 7
    kinds, reached = json.loads((tmp_path / "seen.json").read_text())
    assert all(soft == hard for soft, hard in kinds.values())
    assert kinds["CORE"] == [0, 0]
    assert 0 < kinds["DATA"][0] <= (fingerprint.memory_bytes(files.REAL_ROOT) or 0)
    assert 0 < kinds["NOFILE"][0] <= confining.OPEN_FILES
    assert 0 < kinds["CPU"][0] <= confining.CPU_S
    assert reached == (not may_leave_the_network())


def may_leave_the_network() -> bool:
    unshare = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x40000000) and ctypes.CDLL(None).unshare(0x50000000))"
    return subprocess.run([sys.executable, "-c", unshare], check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """A command that is stopped, or killed, leaves nothing running."""
    process = start("import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(300)")
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    assert child != process.pid
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    while Path(f"/proc/{child}").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_edgekd_trained_is_not_confined(tmp_path: Path) -> None:
    """Only an ONNX file, or a run whose student came as one, goes to a child."""
    assert not confining.is_foreign(tmp_path)
    assert confining.is_foreign(tmp_path / "model.onnx")

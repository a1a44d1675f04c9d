"""Nothing in the benching room reads a wall clock, and controlling a measurement loads no runtime."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd.benching

ROOM = Path(edgekd.benching.__file__).parent
FILES = sorted(ROOM.rglob("*.py"))
RUNTIMES = ("torch", "onnxruntime", "openvino", "timm", "onnx")


CLOCKS = ("perf_counter_ns", "process_time_ns", "sleep")  # the monotonic one, this process's CPU time, and no clock at all


def wall_clocks(source: str) -> list[str]:
    """Return every use of the time of day: `time.time`, `from time import time`, `datetime`, `ctime`, ..."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "datetime" or (alias.name == "time" and alias.asname)]
        elif isinstance(node, ast.ImportFrom):
            if node.module == "datetime":
                found.append("datetime")
            elif node.module == "time":
                found += [f"time.{alias.name}" for alias in node.names if alias.name != "perf_counter_ns"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            found += [f"time.{node.attr}"] if node.attr not in CLOCKS else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import time\nstart = time.time()",
        "from time import time",
        "import time as t",
        "from time import monotonic",
        "from datetime import datetime",
        "import datetime",
        "import time\nclock = time.time_ns",
    ],
)
def test_the_lint_finds_wall_clocks(source: str) -> None:
    """The lint below would see each way of reading the time of day."""
    assert wall_clocks(source)


def test_the_room_is_looked_at() -> None:
    """The lint runs over the files that measure."""
    assert {"worker.py", "clock.py", "stage.py", "protocol.py", "local.py"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOM).as_posix())
def test_no_wall_clock(path: Path) -> None:
    """Only `time.perf_counter_ns` and the process's own CPU time are read in the room."""
    assert wall_clocks(path.read_text(encoding="utf-8")) == []


def test_controller_and_worker_import_no_runtime() -> None:
    """The controller loads no runtime, and the worker only that of the backend it is asked for."""
    code = (
        "import sys, edgekd.benching.stage, edgekd.benching.worker, edgekd.benching.devices.local\n"
        f"print(sorted(set({RUNTIMES!r}) & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"

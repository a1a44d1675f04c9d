"""What every test relies on: no network, no influence of the caller's environment, and no part left behind by another test."""

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Read when modules are imported, so they are settled before any of them is.
for _name in (
    "GITHUB_ACTIONS",
    "GITHUB_STEP_SUMMARY",
    "EDGEKD_STORE",
    "EDGEKD_HISTORY",
    "FORCE_COLOR",
    "PY_COLORS",
    "NO_COLOR",
    "COLUMNS",
):
    os.environ.pop(_name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from a second thread, and lose much on a busy machine

# A shell that starts the tests in the background has them ignore Ctrl-C; tests that interrupt themselves would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's, which a shell that is tested could not trap

import hypothesis
import pytest

import edgekd  # noqa: F401 - first, so that timm and torchvision can be imported by the tests
from edgekd.core import parts

hypothesis.settings.register_profile("edgekd", deadline=None, derandomize=True, max_examples=100, print_blob=False)
hypothesis.settings.load_profile("edgekd")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail any test that connects to another machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def tensorrt_fake() -> ModuleType:
    """Return the module that pretends to be TensorRT and the CUDA driver; `installed()` puts them in place."""
    return _module("edgekd_test_tensorrt_fake", "exporting/tensorrt_fake.py")


@pytest.fixture(scope="session")
def machines() -> ModuleType:
    """Return the module that writes recorded trees of /proc and /sys."""
    return _module("edgekd_test_recorded_machines", "core/recorded_machines.py")


def _module(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ssh_world() -> ModuleType:
    """Return the module with sshd on loopback, a proxy that does harm, and who is left behind."""
    return _loaded("benching/loopback_ssh.py")


@pytest.fixture(scope="session")
def loopback(ssh_world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a running sshd on loopback; without sshd the test is skipped, and fails where CI says that it must be there."""
    sshd = ssh_world.find_sshd()
    if sshd is None:
        because = "sshd is not installed (Debian: apt-get install openssh-server)"
        pytest.fail(because) if os.environ.get(ssh_world.REQUIRED) else pytest.skip(because)
    found = ssh_world.Loopback(tmp_path_factory.mktemp("loopback"), sshd)
    yield found
    found.close()


@pytest.fixture(scope="session")
def load_module() -> Callable[[str], ModuleType]:
    """Return what loads a file of the tests that others share."""
    return _loaded


@pytest.fixture
def trusted(loopback: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a running sshd on loopback whose host key edgekd trusts."""
    monkeypatch.setenv("EDGEKD_CONFIG", str(loopback.config_folder))
    return loopback


def _loaded(name: str) -> ModuleType:
    path = Path(__file__).parent / name
    spec = importlib.util.spec_from_file_location(f"edgekd_test_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def _own_lease() -> Iterator[None]:
    """Tests that run side by side measure side by side; their figures are not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_LOCAL_LEASE", f"test-{os.getpid()}")
        yield


@pytest.fixture(autouse=True)
def _unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands called in this process do what they do here, where a test can look; `test_confining` starts real ones."""
    monkeypatch.setattr("edgekd.cli.confining.held", True)


@pytest.fixture
def fresh_register() -> Iterator[None]:
    """Let a test add parts, and forget them afterwards."""
    parts.forget()
    yield
    parts.forget()


@pytest.fixture(scope="session")
def finished_run() -> Callable[..., Path]:
    """Return the maker of run folders that were judged: records by hand, report and verdict by the real stage."""
    path = Path(__file__).parent / "judging" / "conftest.py"
    spec = importlib.util.spec_from_file_location("edgekd_test_runs_on_disk", path)
    assert spec is not None
    assert spec.loader is not None
    runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runs)

    def make(root: Path, *, correct: int = 30, max_size: str = "10MB", recipe: str = "quickstart", at: str = "") -> Path:
        from edgekd.core.records import MadeBy
        from edgekd.core.store import MARKER, write_text
        from edgekd.judging import stage
        from edgekd.judging.budgets.size import Size

        run = runs.RunOnDisk(root)
        run.write_student(right=runs.answers(correct))
        run.write_student("baseline")
        run.write_artifact()
        run.write_measurement()
        write_text(root / MARKER, "{}\n")
        write_text(root / "recipe.yaml", f"name: {recipe}\n")
        made_by = MadeBy(version="1", command="edgekd run", at=at or "2026-03-02T10:15:00+00:00")
        report = stage.make_report(recipe_name=recipe, run=run.folder, artifacts=None, made_by=made_by)
        stage.write(run.folder, report, stage.judge(report, [Size(max=max_size)], made_by), ())
        return root

    return make

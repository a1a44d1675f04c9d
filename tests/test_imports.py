"""What importing costs and what it brings: public names, no torch by accident, and torchvision beside a CPU torch."""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd
from edgekd import _torchvision
from edgekd.core import parts

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "openvino", "accelerate", "matplotlib"}


def fresh(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(code: str) -> set[str]:
    return {
        name.partition(".")[0] for name in json.loads(fresh(f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"))
    }


# ---------------------------------------------------------------------------------------------------------- what comes in
@pytest.mark.parametrize(
    "code",
    [
        "import edgekd",
        "import edgekd.cli",
        "import edgekd.core.store, edgekd.core.config, edgekd.core.contracts, edgekd.core.host, edgekd.core.stats",
        "from edgekd import load_recipe",
        "from edgekd import run, gate, report",
        "import edgekd.testing",
        "import edgekd.inspection; edgekd.inspection.list_parts()",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    """A box that judges a run needs neither torch nor a runtime, and `edgekd list` answers at once."""
    assert modules_after(code) & HEAVY == set()


@pytest.mark.parametrize("kind", ["backend", "device", "budget", "format"])
def test_loading_a_part_that_judges_or_deploys_imports_nothing_heavy(kind: str) -> None:
    """A recipe's backends can be checked where their runtimes are not installed."""
    code = f"from edgekd.core import parts\n[parts.load({kind!r}, name) for name in parts.names({kind!r})]"
    assert parts.names(kind)
    assert modules_after(code) & HEAVY == set()


# ------------------------------------------------------------------------------------------------------------ public names
def test_the_public_names_are_sorted_and_all_there() -> None:
    """Every name in `__all__` can be had, and is a function or the version."""
    assert edgekd.__all__ == ["__version__", *sorted(set(edgekd.__all__) - {"__version__"})]
    for name in edgekd.__all__:
        value = getattr(edgekd, name)
        assert callable(value) or name == "__version__"
        assert name in dir(edgekd)


def test_nothing_else_is_public() -> None:
    """What is not in `__all__` is a module, or private, or stems from elsewhere."""
    own = {
        name
        for name, value in vars(edgekd).items()
        if not name.startswith("_") and type(value).__name__ != "module" and value is not importlib.import_module("typing").Any
    }
    assert own <= set(edgekd.__all__)


def test_every_public_name_has_a_docstring_at_its_home() -> None:
    """`help(edgekd.run)` says something."""
    assert all(getattr(edgekd, name).__doc__ for name in edgekd.__all__ if name != "__version__")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As from any module, so that `hasattr` works."""
    with pytest.raises(AttributeError, match="module 'edgekd' has no attribute 'nonsense'"):
        _ = edgekd.nonsense


# ------------------------------------------------------------------------------------------------------------- torchvision
def test_timm_can_be_imported_after_edgekd() -> None:
    """The one guard is enough, also beside a CPU torch whose torchvision cannot load its operators."""
    assert fresh("import edgekd, timm; print(len(timm.list_models()) > 100)").strip() == "True"


def test_the_guard_waits_until_torchvision_is_asked_for() -> None:
    """It stands in the import system once, and has imported nothing."""
    code = """
import sys, edgekd
from edgekd import _torchvision
_torchvision.install()
finders = [finder for finder in sys.meta_path if type(finder).__module__ == "edgekd._torchvision"]
print(len(finders), "torch" in sys.modules, len(_torchvision._kept))
"""
    assert fresh(code).split() == ["1", "False", "0"]


GUARDED = """
import sys, types
import edgekd
from edgekd import _torchvision
import torch

has_ops = {has_ops}
{declare}
package = types.ModuleType("torchvision"); package.__path__ = [{folder!r}]
extension = types.ModuleType("torchvision.extension"); extension._has_ops = lambda: has_ops
sys.modules |= {{"torchvision": package, "torchvision.extension": extension}}
import torchvision._meta_registrations as registrations
print(registrations.nms, len(_torchvision._kept))
"""
REGISTRATIONS = "import torch\nnms = hasattr(torch.ops.torchvision, 'nms')\n"
DECLARED = "kept = torch.library.Library('torchvision', 'DEF'); kept.define('nms(Tensor a) -> Tensor')"


@pytest.mark.parametrize(
    ("has_ops", "declare", "expected"),
    [(False, "", "True 1"), (True, "", "False 0"), (False, DECLARED, "True 0")],
    ids=["operators do not load", "operators load", "somebody declared them before"],
)
def test_the_guard_declares_the_operators_only_where_they_are_missing(
    tmp_path: Path, has_ops: bool, declare: str, expected: str
) -> None:
    """A stand-in torchvision says whether its operators loaded; where they did, the guard changes nothing."""
    (tmp_path / "_meta_registrations.py").write_text(REGISTRATIONS)
    assert fresh(GUARDED.format(has_ops=has_ops, declare=declare, folder=str(tmp_path))).strip() == expected


def test_the_guard_leaves_every_other_module_alone() -> None:
    """It answers for one name, and not at all where that module does not exist."""
    finder = _torchvision._Finder()
    assert finder.find_spec("torchvision", None) is None
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("torchvision._meta_registrations", ["/nonexistent"]) is None


# --------------------------------------------------------------------------------------------------------------- telemetry
def test_openvino_tells_nobody_that_it_was_imported(tmp_path: Path) -> None:
    """Left alone it looks up its maker's counter and leaves a client id in the home folder."""
    code = """
import socket, sys, threading
asked = []
socket.getaddrinfo = lambda *where, **_: asked.append(where[0])
import edgekd, openvino
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
print(asked)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()


# -------------------------------------------------------------------------------------------------------------- cold start
def cpu_seconds(arguments: list[str]) -> float:
    """Return user and system CPU time of one fresh process, which a busy machine changes less than the time on the wall."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_costs_at_most_twice_what_typer_alone_costs() -> None:
    """The medians of interleaved runs are compared, so that whatever slows the machine slows both."""
    ask_help, ask_typer = ["-c", "from edgekd.cli import main; main(['--help'])"], ["-c", "import typer"]
    cpu_seconds(ask_help)
    help_runs, typer_runs = [], []
    for _ in range(7):
        typer_runs.append(cpu_seconds(ask_typer))
        help_runs.append(cpu_seconds(ask_help))
    assert statistics.median(help_runs) <= 2 * statistics.median(typer_runs)

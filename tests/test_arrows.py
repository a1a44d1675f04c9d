"""The house's arrows: who may import whom, and what nobody may do. Sources are read, never imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgekd

PACKAGE = Path(edgekd.__file__).parent
ROOMS = ("searching", "distilling", "exporting", "benching", "judging")
HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "openvino", "tensorrt", "accelerate"}

# Unit -> the units whose modules it may import. A unit is a room, core, or one file at the top of the package.
ARROWS: dict[str, set[str]] = {
    "": {"_torchvision"},
    "_torchvision": set(),
    "core": set(),
    **{room: {"core"} for room in ROOMS},
    "recipe": {"core"},
    "testing": {"core"},
    "doctor": {"core"},
    "inspection": {"core", "recipe", "judging", "summaries"},
    "summaries": {"core", "judging"},
    # Neighbours of the rooms: they take finished runs as records, and words and tables for people from judging.
    "rendering": {"core"},
    "baselines": {"core", "inspection"},
    "history": {"core", "judging"},
    "work": {"core", "recipe", *ROOMS},
    "pilot": {"core", "recipe", "work", *ROOMS},
    "finetuning": {"core", "recipe", "work", *ROOMS},
    "importing": {"core", "recipe", "work", *ROOMS},
    "block_timing": {"core", "benching"},
    "student_search": {"core", "recipe", "work", "block_timing", *ROOMS},
    "measuring": {"core", "recipe", "work", *ROOMS},
    "devices": {"core", "benching"},
    "runs": {"core", "recipe", "work"},
    "verdicts": {"core", "work", "runs", "judging", "baselines", "history"},
    "choosing": {"core", "recipe", "work", "runs", "pilot", "student_search", "distilling"},
    "students": {"core", "work", "runs", "finetuning", "distilling", "exporting"},
    "pipeline": {"core", "recipe", "work", "runs", "measuring", "verdicts", "exporting"},
    "cli": {
        *("", "core", "recipe", "devices", "doctor", "inspection", "summaries", "rendering", "baselines", "history"),
        *("pipeline", "verdicts", "choosing", "students", "finetuning", "importing"),
    },
}
VERSION = "edgekd.__version__"  # the one name that everybody may take from the top
# A CI box without torch can do all of this; core may name torch's types, for type checkers only.
LIGHT = {"", "core", "judging", "recipe", "doctor", "inspection", "summaries", "rendering", "baselines", "history", "cli"}


@dataclass(frozen=True)
class Import:
    """One imported module; `for_types` if it stands under `if TYPE_CHECKING:`."""

    target: str
    line: int
    for_types: bool


def imports_of(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Yield everything that a module imports, at any depth: statements, and import_module with a literal name."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(ast.Module(body=node.body, type_ignores=[]))
    }
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        for target in _targets(node, here):
            yield Import(target, getattr(node, "lineno", 0), id(node) in for_types)


def _targets(node: ast.AST, here: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = here[: len(here) - node.level + 1] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{origin}.{alias.name}" for alias in node.names] if origin.startswith("edgekd") else [origin]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


def unit_of(module: str) -> str:
    """Return the unit that a module of edgekd belongs to; '' is the package's own `__init__` and its attributes."""
    name = module.split(".")[1] if "." in module else ""
    return name if name in ARROWS else ""


def wrong_arrows(module: str, found: Iterator[Import]) -> list[str]:
    """Return the imports that the house does not allow, as `module:line -> target`."""
    unit = unit_of(module)
    wrong = []
    for one in found:
        top = one.target.partition(".")[0]
        if top == "edgekd":
            allowed = one.target == VERSION or unit_of(one.target) in ARROWS[unit] | {unit}
        else:
            allowed = top not in HEAVY or unit not in LIGHT or (unit == "core" and one.for_types)
        if not allowed:
            wrong.append(f"{module}:{one.line} -> {one.target}")
    return wrong


NEVER = {"eval", "exec", "os.system", "time.time"}
SAFE_ONLY_WITH = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False"}


def forbidden_calls(source: str, *, may_print: bool = False) -> list[str]:
    """Return the constructs that nobody in the house uses: pickles, eval, wall clocks, prints, catch-alls."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
            unpickles = name in SAFE_ONLY_WITH and SAFE_ONLY_WITH[name] not in options
            unpacks = name.rpartition(".")[2] == "extractall" or name.startswith("torch.hub.")
            if name in NEVER or unpickles or unpacks or (name == "print" and not may_print):
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
            found.append(f"{node.lineno}: catches everything")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: imports {n}" for n in names if n in ("pickle", "cPickle", "dill", "marshal", "shelve")]
    return found


def modules() -> dict[str, Path]:
    """Return every module of the package with its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("edgekd", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


# ----------------------------------------------------------------------------------------------------- over the real house
@pytest.mark.parametrize("module", modules())
def test_no_module_imports_against_the_arrows(module: str) -> None:
    """Rooms know core and themselves; core knows itself; core, judging and the command line know no torch."""
    path = modules()[module]
    found = imports_of(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")
    assert wrong_arrows(module, found) == []


@pytest.mark.parametrize("module", modules())
def test_no_module_does_what_nobody_may_do(module: str) -> None:
    """No pickle, no eval, no wall clock for measuring, no print outside of the command line, no catch-all."""
    source = modules()[module].read_text(encoding="utf-8")
    assert forbidden_calls(source, may_print=module.split(".")[:2] == ["edgekd", "cli"]) == []


def test_every_file_has_a_unit_and_a_telling_name() -> None:
    """A new file at the top needs an arrow here, and there is no drawer called utils."""
    tops = {module.split(".")[1] for module in modules() if "." in module}
    assert tops <= set(ARROWS), "say in ARROWS what the new unit may import"
    assert not [module for module in modules() if module.rpartition(".")[2] in ("utils", "helpers", "util", "misc", "common")]


# -------------------------------------------------------------------------------------------------------- over planted ones
@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgekd.distilling.loop", "from edgekd.exporting import graph"),
        ("edgekd.distilling.loop", "from ..exporting import graph"),
        ("edgekd.distilling.methods.kd", "from ...judging import stage"),
        ("edgekd.exporting.stage", "import edgekd.benching.stage"),
        ("edgekd.benching.worker", "def f():\n    from edgekd.distilling import models"),
        ("edgekd.benching.worker", "import importlib\nimportlib.import_module('edgekd.exporting.backends.torch')"),
        ("edgekd.judging.stage", "from edgekd.pipeline import run"),
        ("edgekd.judging.stage", "from edgekd.recipe import Recipe"),
        ("edgekd.judging.stage", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edgekd.benching import stage"),
        ("edgekd.core.store", "from edgekd.judging import stage"),
        ("edgekd.core.store", "from edgekd import pipeline"),
        ("edgekd.core.store", "from .. import recipe"),
        ("edgekd.core.store", "import edgekd"),
        ("edgekd.recipe", "from edgekd.distilling.stage import Job"),
        ("edgekd.testing", "from edgekd.exporting import graph"),
        ("edgekd.inspection", "from edgekd.distilling import stage"),
        ("edgekd.cli", "def f():\n    from edgekd.judging import stage"),
        ("edgekd.pipeline", "from edgekd.cli import app"),
        ("edgekd.work", "from edgekd.pipeline import run"),
        ("edgekd.recipe", "from edgekd.work import Work"),
        ("edgekd.distilling.stage", "from edgekd.work import Work"),
        ("edgekd.core.host", "def f():\n    import torch"),
        ("edgekd.core.host", "import torch.nn.functional as functional"),
        ("edgekd.judging.compare", "def f():\n    from onnxruntime import InferenceSession"),
        ("edgekd.judging.compare", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("edgekd.core.host", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\nelse:\n    import torch"),
        ("edgekd.cli", "def f():\n    __import__('openvino')"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    """At the top of a file, inside a function, relative, for types only, or by name: each is one finding."""
    assert len(wrong_arrows(module, imports_of(module, source))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgekd.distilling.loop", "import torch\nfrom edgekd.core.store import write_text\nfrom edgekd.distilling import v"),
        ("edgekd.distilling.methods.kd", "from ..losses import kl_divergence\nfrom . import feature"),
        ("edgekd.core.contracts", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import nn"),
        ("edgekd.core.contracts", "import typing\nif typing.TYPE_CHECKING:\n    import torch"),
        ("edgekd.core.stats", "def f():\n    import numpy\n    from scipy import stats"),
        ("edgekd.core.host", "def f():\n    from edgekd import __version__"),
        ("edgekd.verdicts", "def f():\n    from edgekd.judging import stage\n    from edgekd import __version__"),
        ("edgekd.cli", "def f():\n    from edgekd import pipeline, __version__"),
        ("edgekd.judging.formats._plots", "import matplotlib\nimport torchless"),
    ],
)
def test_a_right_arrow_is_left_alone(module: str, source: str) -> None:
    """The check does not cry wolf."""
    assert wrong_arrows(module, imports_of(module, source)) == []


def test_a_package_counts_its_dots_from_itself() -> None:
    """`from . import x` in an `__init__` is the package itself, one level above what it is in a module."""
    (package,) = imports_of("edgekd.judging", "from . import stage", is_package=True)
    (module,) = imports_of("edgekd.judging", "from . import core")
    assert (package.target, module.target) == ("edgekd.judging.stage", "edgekd.core")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f(x):\n    import dill",
        "eval('1')",
        "exec('1')",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "t = time.time()",
        "print('x')",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "os.system('ls')",
        "tar.extractall('.')",
        "torch.hub.load('a/b', 'c')",
    ],
)
def test_what_nobody_may_do_is_found(source: str) -> None:
    """Each is one finding, with its line."""
    assert len(forbidden_calls(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "np.load('x', allow_pickle=False)",
        "torch.load('x', weights_only=True)",
        "time.perf_counter_ns()",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "from pickles import gherkin",
    ],
)
def test_what_everybody_may_do_is_left_alone(source: str) -> None:
    """A model in evaluation mode is not `eval`."""
    assert forbidden_calls(source) == []

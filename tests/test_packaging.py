"""The package as others get it: what the wheel holds, what it depends on, and the exact set that is tested."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import edgekd

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in [*DEPENDENCIES, *(line for extra in EXTRAS.values() for line in extra)]]
OTHERS = [requirement for requirement in REQUIREMENTS if requirement.name != "edgekd"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build the wheel with the build backend itself, which needs no network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as file:
        yield file


def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every source, template and starter file, the licence, what a bundle takes along, and neither tests nor recipes."""
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package, programs = ROOT / "edgekd", ROOT / "deploy" / "runtime"
    wanted = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted_names = {str(path.relative_to(ROOT)) for path in wanted}
    taken = {f"edgekd/{path.relative_to(ROOT)}" for path in programs.rglob("*.*") if "__pycache__" not in path.parts}
    assert inside == {*wanted_names, *taken, "edgekd/LICENSE"}
    assert {"edgekd/py.typed", "edgekd/deploy/runtime/python/classify.py", "edgekd/deploy/runtime/cpp/decode.cpp"} <= inside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_an_installed_edgekd_finds_what_a_bundle_takes_along(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Without the repository around it: the programs and their licence come out of the package."""
    wheel.extractall(tmp_path)
    ask = "from edgekd.exporting import bundle; print(*sorted(name for name, _ in bundle.programs()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert {"LICENSE-programs", "python/classify.py", "cpp/CMakeLists.txt"} <= set(done.stdout.split())


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Licence as SPDX, the Python it needs, the command it brings, and the version that the package tells."""
    said = metadata(wheel)
    assert said["Version"] == edgekd.__version__
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    scripts = next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "edgekd = edgekd.cli:main" in wheel.read(scripts).decode()


def test_the_changelog_knows_the_version() -> None:
    """What is about to be released is being written down."""
    assert edgekd.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("requirement", OTHERS, ids=str)
def test_every_dependency_has_a_lower_and_an_upper_bound(requirement: Requirement) -> None:
    """An open end takes whatever comes tomorrow."""
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert "<" in operators


@pytest.mark.parametrize(
    ("name", "unsafe"), [("pillow", "12.2"), ("pillow", "13.0.0"), ("onnx", "1.20.1"), ("torch", "2.9.1"), ("torch", "2.14.0")]
)
def test_versions_that_are_known_to_harm_are_out_of_bounds(name: str, unsafe: str) -> None:
    """Security floors, pillow 13's clash with timm's augmentation, and torch versions that pip would take with CUDA."""
    (requirement,) = [requirement for requirement in OTHERS if requirement.name == name]
    assert Version(unsafe) not in requirement.specifier


def test_all_brings_every_extra_that_can_be_installed_from_the_public_index() -> None:
    """TensorRT's libraries come from their vendor's own index alone."""
    (everything,) = [Requirement(line) for line in EXTRAS["all"]]
    assert everything.extras == set(EXTRAS) - {"all", "dev", "tensorrt"}
    assert not [pin for pin in PINS if "tensorrt" in pin.name]


@pytest.mark.parametrize("requirement", [r for r in OTHERS if "tensorrt" not in r.name], ids=str)
def test_the_tested_set_pins_every_dependency_within_its_bounds(requirement: Requirement) -> None:
    """What is tested is what is allowed."""
    (pin,) = [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    (version,) = [specifier.version for specifier in pin.specifier]
    assert Version(version) in requirement.specifier


def test_the_tested_set_is_exact_and_portable() -> None:
    """One version each, without local tags, paths, addresses or options; each name once."""
    assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)) and not pin.url for pin in PINS)
    assert len({canonicalize_name(pin.name) for pin in PINS}) == len(PINS) > 40


def test_the_classifiers_agree_with_the_python_that_is_asked_for() -> None:
    """The oldest Python that is named is the oldest that is accepted, and ruff checks for it."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + named[0].replace(".", "")

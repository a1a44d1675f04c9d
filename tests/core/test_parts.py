"""The register of parts: built-ins and third parties through one door, listed without importing any of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from edgekd.core import contracts, parts
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.parts import FOLDERS, Part, PartRef

HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "accelerate", "matplotlib")

STRANGER = '''
"""A part from somebody else's package."""
import typing

from edgekd.core import contracts


class Helper:
    """Not the part."""


class Smallest(contracts.Budget):
    """Refuse anything larger than nothing.

    More words.
    """

    limit: int = 0
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_register: None) -> Install:
    """Put a distribution with one module and one entry point on sys.path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(entry: str, source: str = STRANGER, *, group: str = "edgekd.budgets", dist: str = "edgekd-stranger") -> None:
        module = entry.partition("=")[2].partition(":")[0].strip()
        file = tmp_path / (module.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        parts.forget()

    return put


# --------------------------------------------------------------------------------------------------------------- listing
LISTING = """
import json, sys
import edgekd
from edgekd.core import parts
seen = {kind: {name: parts.help_line(kind, name) for name in parts.names(kind)} for kind in parts.FOLDERS}
print(json.dumps({"parts": seen, "modules": sorted(sys.modules)}))
"""


def test_listing_every_part_with_its_help_imports_none_of_them() -> None:
    """A fresh process knows all names and all first lines, and neither a part nor a heavy package was loaded for it."""
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    modules = set(found["modules"])
    assert modules.isdisjoint(HEAVY)
    for kind, names in found["parts"].items():
        assert names, f"there is no {kind} at all"
        assert modules.isdisjoint(f"{FOLDERS[kind]}.{name}" for name in names)


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_built_in_part_loads_and_has_a_line_of_help(kind: str) -> None:
    """Each file in the folder of a kind is a part of that kind, and says in one line what it does."""
    names = parts.names(kind)
    assert all(issubclass(parts.load(kind, name), contracts.CONTRACTS[kind]) for name in names)
    lines = {name: parts.help_line(kind, name) for name in names}
    assert {name: line for name, line in lines.items() if not 10 <= len(line) <= 100} == {}


def test_every_kind_has_a_folder_and_a_contract() -> None:
    """A new kind cannot be half added."""
    assert set(FOLDERS) == set(contracts.CONTRACTS)


def test_files_that_begin_with_an_underscore_are_no_parts() -> None:
    """What several parts share can stand beside them."""
    assert not [name for kind in FOLDERS for name in parts.names(kind) if name.startswith("_")]


def test_an_unknown_kind_lists_the_kinds() -> None:
    """The asker's mistake, exit code 2."""
    with pytest.raises(UsageError, match="no kind of part is called 'metod'; the kinds are method, teacher"):
        parts.names("metod")


def test_an_unknown_name_lists_the_nearest_and_all(install: Install) -> None:
    """A typing mistake is answered with the right word first."""
    install("smallest = stranger:Smallest")
    with pytest.raises(UsageError) as caught:
        parts.load("budget", "smalest")
    assert caught.value.message.startswith("no budget is called 'smalest'. Did you mean smallest")
    assert all(name in caught.value.message.partition("Known: ")[2] for name in parts.names("budget"))


# --------------------------------------------------------------------------------------------------------- third parties
def test_a_third_partys_part_is_listed_helped_and_loaded_like_our_own(install: Install) -> None:
    """One entry point is all it takes, and it is imported only when it is asked for."""
    install("smallest = stranger_pkg.parts:Smallest")
    assert "smallest" in parts.names("budget")
    assert parts.help_line("budget", "smallest") == "Refuse anything larger than nothing."
    assert "stranger_pkg.parts" not in sys.modules
    loaded = parts.load("budget", "smallest")
    assert issubclass(loaded, contracts.Budget)
    assert loaded.model_validate({"limit": 3}).model_dump() == {"limit": 3}


def test_a_third_partys_part_keeps_the_name_it_was_loaded_by(install: Install) -> None:
    """What a record says can be asked for again, though the module is called otherwise."""
    install("tiny = stranger_module:Smallest")
    part = parts.load("budget", "tiny")(limit=2)
    assert part.ref() == PartRef(use="tiny", options={"limit": 2})
    assert parts.load("budget", part.ref().use) is type(part)


def test_an_entry_point_may_name_the_module_alone(install: Install) -> None:
    """Then the module holds exactly one public part, as our own files do."""
    install("alone = stranger_alone")
    assert parts.load("budget", "alone").__name__ == "Smallest"
    assert parts.help_line("budget", "alone") == "Refuse anything larger than nothing."


@pytest.mark.parametrize("extra", ["", "class Second(contracts.Budget):\n    '''Another.'''\n"])
def test_a_module_with_no_or_two_parts_must_name_the_class(install: Install, extra: str) -> None:
    """It is said how many were found and what to do."""
    source = STRANGER + extra if extra else "import typing\n"
    install("several = stranger_several", source)
    with pytest.raises(MachineError, match=rf"stranger_several defines {2 if extra else 0} public parts") as caught:
        parts.load("budget", "several")
    assert "module:Class" in caught.value.mend


def test_a_part_that_cannot_be_imported_names_its_package(install: Install) -> None:
    """The user sees whose package is broken, not a traceback."""
    install("broken = stranger_broken:Broken", "import a_package_that_nobody_has\n")
    with pytest.raises(MachineError, match="budget 'broken' cannot be imported: No module named 'a_package_that") as caught:
        parts.load("budget", "broken")
    assert "stranger_broken:Broken from edgekd-stranger" in caught.value.mend


@pytest.mark.parametrize("name", ["Helper", "Missing", "contracts"])
def test_a_class_that_breaks_the_contract_is_refused(install: Install, name: str) -> None:
    """A class of another kind, a missing one and something that is no class: each is told what to inherit from."""
    install(f"wrong = stranger_wrong:{name}")
    with pytest.raises(MachineError, match="budget 'wrong' is not a Budget") as caught:
        parts.load("budget", "wrong")
    assert "edgekd.core.contracts.Budget" in caught.value.mend


def test_a_part_of_another_kind_is_refused(install: Install) -> None:
    """A budget does not become a format by its entry point."""
    install("smallest = stranger_kind:Smallest", group="edgekd.formats")
    with pytest.raises(MachineError, match="format 'smallest' is not a Format"):
        parts.load("format", "smallest")


def test_two_parts_of_one_name_are_refused(install: Install) -> None:
    """Neither silently wins; both packages are named. The other kinds still work."""
    taken = parts.names("budget")[0]
    install(f"{taken} = stranger_clash:Smallest")
    with pytest.raises(UsageError, match=rf"two parts are called budget '{taken}': .* from edgekd and .*edgekd-stranger"):
        parts.names("budget")
    assert parts.names("format")


def test_two_third_parties_of_one_name_are_refused(install: Install) -> None:
    """Not only ours are guarded."""
    install("same = stranger_a:Smallest", dist="edgekd-a")
    install("same = stranger_b:Smallest", dist="edgekd-b")
    with pytest.raises(UsageError, match="two parts are called budget 'same'") as caught:
        parts.names("budget")
    assert {"edgekd-a", "edgekd-b"} <= set(caught.value.message.replace(",", " ").split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class Smallest:\n    pass\n", ""),
        ("x = 1\n", ""),
        ("class _Hidden:\n    '''No.'''\nclass Other:\n    '''Yes.'''\n", "Yes."),
        ("class Other:\n    '''No.'''\nclass Small(contracts.Budget):\n    '''Yes.'''\n", "Yes."),
        ("class Small(Budget):\n    '''No.'''\nclass Smallest(Small):\n    '''Yes.'''\n", "Yes."),
    ],
)
def test_the_help_is_that_of_the_class_the_entry_point_names(install: Install, source: str, expected: str) -> None:
    """Else of the class that inherits from the contract, else of the first public one; it is never a crash."""
    install("smallest = stranger_help:Smallest", source)
    assert parts.help_line("budget", "smallest") == expected


def test_a_part_whose_source_cannot_be_found_has_no_help(install: Install, tmp_path: Path) -> None:
    """A zipped or compiled package is still listed."""
    install("smallest = stranger_gone:Smallest")
    (tmp_path / "stranger_gone.py").unlink()
    assert parts.help_line("budget", "smallest") == ""


# ------------------------------------------------------------------------------------------------------------ references
class Sample(Part):
    """A part for the tests."""

    size: int = 1
    rate: float = 0.5
    file: Path | None = None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("kd", PartRef(use="kd")),
        ({"use": "kd"}, PartRef(use="kd")),
        ({"use": "kd", "T": 1.5, "taps": ("a",)}, PartRef(use="kd", options={"T": 1.5, "taps": ("a",)})),
        ({"use": "kd", "options": {"T": 1}}, PartRef(use="kd", options={"T": 1})),
        (PartRef(use="kd"), PartRef(use="kd")),
    ],
)
def test_a_reference_is_a_name_or_a_mapping_with_use(written: Any, expected: PartRef) -> None:
    """As a recipe writes it, and as a record does."""
    assert TypeAdapter(PartRef).validate_python(written) == expected


@pytest.mark.parametrize("written", [{}, {"T": 1}, {"use": 3}, {"use": None}, 3, ["kd"], None])
def test_what_names_no_part_is_refused(written: Any) -> None:
    """There is no guessing."""
    with pytest.raises(ValidationError):
        TypeAdapter(PartRef).validate_python(written)


def test_a_part_refers_to_itself_with_every_option() -> None:
    """Defaults are written out, so that a later version's defaults do not change what a record says."""
    ref = Sample(size=3, file=Path("a/b")).ref()
    assert ref == PartRef(use="test_parts", options={"size": 3, "rate": 0.5, "file": "a/b"})
    assert Sample.model_validate({**ref.options, "file": Path("a/b")}) == Sample(size=3, file=Path("a/b"))


def test_a_part_is_the_same_when_its_file_only_moved(tmp_path: Path) -> None:
    """What was made with it need not be made again; another content or another option is another part."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    identity = Sample(file=one).identity()
    assert Sample(file=two).identity() == identity
    assert Sample(file=one, size=2).identity() != identity
    two.write_bytes(b"abd")
    assert Sample(file=two).identity() != identity
    assert Sample(file=tmp_path / "missing").identity() != Sample(file=tmp_path / "absent").identity()


@pytest.mark.parametrize("options", [{"size": "3"}, {"size": True}, {"rate": float("inf")}, {"sise": 3}])
def test_a_parts_options_are_strict(options: dict[str, Any]) -> None:
    """No conversion, no infinity, no unknown name."""
    with pytest.raises(ValidationError):
        Sample.model_validate(options)


# -------------------------------------------------------------------------------------------------------------- packages
class Needy(Part):
    """A part that needs packages."""

    requires = ("json", "a_package_that_nobody_has")


class NeedyExtra(Needy):
    """A part whose packages come with an extra."""

    extra = "openvino"


@pytest.mark.parametrize(
    ("part", "mend"), [(Needy(), "pip install a_package_that_nobody_has"), (NeedyExtra(), "pip install 'edgekd[openvino]'")]
)
def test_a_missing_package_is_named_with_what_to_install(part: Part, mend: str) -> None:
    """Only what is missing is named; the extra if there is one."""
    with pytest.raises(MachineError, match="needs the package a_package_that_nobody_has, which is not installed") as caught:
        parts.need_packages(part)
    assert caught.value.mend == mend


def test_a_part_with_all_its_packages_is_content() -> None:
    """Nothing is raised, and nothing imported."""
    parts.need_packages(Sample())


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("optimizer", ("optimiser", "lr"), " Did you mean optimiser?"),
        ("feature", ("features", "featured", "x"), " Did you mean features or featured?"),
        ("onnx", ("torch", "onnxruntime"), " Did you mean onnxruntime?"),
        ("on", ("onnxruntime",), ""),
        ("mobilenet", ("mobilenet_a", "mobilenet_b", "mobilenet_c", "mobilenet_d"), None),
        ("zzz", ("optimiser",), ""),
        ("kd", (), ""),
    ],
)
def test_the_nearest_words_are_offered_and_no_far_ones(word: str, known: tuple[str, ...], expected: str | None) -> None:
    """A suggestion that is not close is worse than none, and more than three are no help."""
    found = parts.nearest(word, known)
    assert found == expected if expected is not None else found.count(" or ") == 2

"""Strict configuration: positions, `--set`, overlays, and messages that say where, what and what is allowed."""

from pathlib import Path
from typing import Annotated, Literal

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from edgekd.core import config
from edgekd.core.config import Document, FilePath, read_yaml, validate
from edgekd.core.errors import UsageError
from edgekd.core.parts import PartRef


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    rate: Annotated[float, Field(gt=0)] = 1.0
    workers: int = 0
    mode: Literal["slow", "fast"] = "slow"


class Empty(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    name: str
    flag: bool = False
    inner: Inner = Inner()
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    folder: FilePath | None = None
    part: PartRef | None = None
    tree: dict[str, Inner] = {}
    empty: Empty = Empty()


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def build(folder: Path, text: str, *assignments: str) -> Outer:
    document = read_yaml(written(folder, text))
    for assignment in assignments:
        document.set(assignment)
    return validate(Outer, document.data, document)


def refusal(folder: Path, text: str, *assignments: str) -> str:
    with pytest.raises(UsageError) as caught:
        build(folder, text, *assignments)
    return str(caught.value).replace(str(folder / "recipe.yaml"), "FILE")


# --------------------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE: expected keys and values at the top level"),
        ("# nothing\n", "FILE: expected keys and values at the top level"),
        ("- a\n", "FILE: expected keys and values at the top level"),
        ("name: a\nname: b\n", "FILE:2:1: the key `name` stands twice; first at FILE:1:1"),
        ("name: [1,\n", "FILE:2:1: not valid YAML: "),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Empty files, lists and broken YAML say so, with the line where there is one."""
    assert refusal(tmp_path, text).startswith(message)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    """The line of the first wrong byte is told."""
    with pytest.raises(UsageError, match=r"recipe\.yaml:2: not UTF-8 text \(byte 12\)"):
        read_yaml(written(tmp_path, b"name: a\nb: c\xff\n"))


def test_the_largest_file_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    """The limit is on bytes, inclusive."""
    text = b"name: a\n#"
    most = text + b"x" * (config.MAX_BYTES - len(text))
    assert read_yaml(written(tmp_path, most)).data == {"name": "a"}
    with pytest.raises(UsageError, match="is larger than 1048576 bytes"):
        read_yaml(written(tmp_path, most + b"x"))


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """A missing file and a folder are the asker's mistake, not a traceback."""
    with pytest.raises(UsageError, match=f"cannot be read: {reason}"):
        read_yaml(tmp_path / name)


# ------------------------------------------------------------------------------------------------------------ validation
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "inner: {workres: 1}",
            "FILE:2:9: unknown key `inner.workres`. Did you mean workers? Known here: rate, workers, mode.",
        ),
        (
            "maybe: {workres: 1}",
            "FILE:2:9: unknown key `maybe.workres`. Did you mean workers? Known here: rate, workers, mode.",
        ),
        ("several: [{}, {modus: fast}]", "FILE:2:16: unknown key `several.1.modus`. Did you mean mode? Known here: rate,"),
        ("empty: {a: 1}", "FILE:2:9: unknown key `empty.a`. None is known here."),
        ("tree: {x: {modus: fast}}", "FILE:2:12: unknown key `tree.x.modus`. Did you mean mode? Known here: rate,"),
        ("folders: x", "FILE:2:1: unknown key `folders`. Did you mean folder? Known here: name, flag, inner,"),
        ("inner: {mode: medium}", "FILE:2:9: `inner.mode`: should be 'slow' or 'fast' (found 'medium')."),
        ("inner: {workers: '4'}", "FILE:2:9: `inner.workers`: should be a whole number (found '4')."),
        ("inner: {workers: 4.0}", "FILE:2:9: `inner.workers`: should be a whole number (found 4.0)."),
        ("inner: {workers: true}", "FILE:2:9: `inner.workers`: should be a whole number (found True)."),
        ("inner: {workers: 1_000}", "FILE:2:9: `inner.workers`: should be a whole number (found '1_000')."),
        ("inner: {rate: .inf}", "FILE:2:9: `inner.rate`: should be a finite number (found inf)."),
        ("inner: {rate: .nan}", "FILE:2:9: `inner.rate`: should be a finite number (found nan)."),
        ("inner: {rate: 1e999}", "FILE:2:9: `inner.rate`: should be a finite number (found inf)."),
        ("inner: {rate: 0}", "FILE:2:9: `inner.rate`: should be greater than 0 (found 0)."),
        ("inner: {rate: }", "FILE:2:9: `inner.rate`: should be a number (found None)."),
        ("flag: on", "FILE:2:1: `flag`: should be true or false (found 'on')."),
        ("flag: 1", "FILE:2:1: `flag`: should be true or false (found 1)."),
        ("several: fast", "FILE:2:1: `several`: should be a list, as in [a, b] (found 'fast')."),
        ("several: {mode: fast}", "FILE:2:1: `several`: should be a list, as in [a, b] (found a mapping)."),
        ("inner: [1]", "FILE:2:1: `inner`: should be a mapping of keys and values (found a list)."),
        ("part: 3", "FILE:2:1: `part`: should be a part's name, or a mapping with `use: NAME` (found 3)."),
        ("part: {size: 3}", "FILE:2:1: `part`: say which part with `use: NAME`; found only size."),
        ("part: {}", "FILE:2:1: `part`: say which part with `use: NAME`; found only nothing."),
    ],
)
def test_a_wrong_value_says_line_key_what_is_allowed_and_what_was_found(tmp_path: Path, line: str, message: str) -> None:
    """Nothing is converted silently, and the message can be acted on."""
    assert refusal(tmp_path, f"name: a\n{line}\n").startswith(message)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """One run shows every wrong line, a missing key included."""
    assert refusal(tmp_path, "flag: 3\ninner:\n  rate: -1\n  workers: no\n").splitlines() == [
        "FILE: `name` is missing.",
        "FILE:1:1: `flag`: should be true or false (found 3).",
        "FILE:3:3: `inner.rate`: should be greater than 0 (found -1).",
        "FILE:4:3: `inner.workers`: should be a whole number (found 'no').",
    ]


def test_good_values_arrive_as_written(tmp_path: Path) -> None:
    """Numbers in any YAML 1.2 spelling, lists as tuples, whole numbers where a fraction is allowed."""
    built = build(tmp_path, "name: on\ninner: {rate: 1e-3, workers: 0x10}\nseveral: [{rate: 2}]\nmaybe: null\n")
    assert built == Outer(name="on", inner=Inner(rate=0.001, workers=16), several=(Inner(rate=2.0),), maybe=None)


# -------------------------------------------------------------------------------------------------------------- paths
def test_a_path_starts_at_the_file_and_with_set_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe can be moved together with its data; a path typed on the command line means what it says there."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert build(tmp_path, "name: a\nfolder: ../data//x\n").folder == tmp_path.parent / "data" / "x"
    assert build(tmp_path, "name: a\nfolder: x\n", "folder=data").folder == here / "data"
    assert build(tmp_path, f"name: a\nfolder: {here}/y\n").folder == here / "y"


def test_a_home_folder_is_expanded_and_an_unknown_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the user's home; `~stranger` is a mistake with a line, not a traceback."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build(tmp_path, "name: a\nfolder: ~/photos\n").folder == tmp_path / "home" / "photos"
    assert refusal(tmp_path, "name: a\nfolder: ~no-such-user-here/photos\n").startswith(
        "FILE:2:1: `folder`: no home folder is known for the part that begins with ~ (found '~no-such-user-here/photos')."
    )


def test_a_path_must_be_text(tmp_path: Path) -> None:
    """A number is not taken for a folder's name."""
    assert "FILE:2:1: `folder`: " in refusal(tmp_path, "name: a\nfolder: 3\n")


# ----------------------------------------------------------------------------------------------------------------- --set
@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("name=b", Outer(name="b")),
        ("name=a=b", Outer(name="a=b")),
        (" name =b", Outer(name="b")),
        ("inner.rate=1e-3", Outer(name="a", inner=Inner(rate=0.001))),
        ("inner={rate: 2, mode: fast}", Outer(name="a", inner=Inner(rate=2.0, mode="fast"))),
        ("maybe.workers=3", Outer(name="a", maybe=Inner(workers=3))),
        ("several=[{workers: 1}]", Outer(name="a", several=(Inner(workers=1),))),
        ("part.size=3", Outer(name="a", part=PartRef(use="old", options={"size": 3}))),
    ],
)
def test_set_replaces_one_value(tmp_path: Path, assignment: str, expected: Outer) -> None:
    """Values are read as YAML; mappings on the way are made; a part given by name gains options."""
    old = "part: old\n" if assignment.startswith("part") else ""
    assert build(tmp_path, f"name: a\n{old}", assignment) == expected


def test_set_reaches_into_a_list(tmp_path: Path) -> None:
    """Entries are counted from 0, and the others stay."""
    built = build(tmp_path, "name: a\nseveral: [{workers: 1}, {workers: 2}]\n", "several.1.workers=5")
    assert [inner.workers for inner in built.several] == [1, 5]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("name", "--set 'name': expected KEY=VALUE, for example --set train.lr=1e-3"),
        ("=b", "--set '=b': expected KEY=VALUE"),
        ("flagg=b", "--set flagg: unknown key `flagg`. Did you mean flag?"),
        ("inner.wokers=b", "--set inner.wokers: unknown key `inner.wokers`. Did you mean workers?"),
        ("inner.workers=b", "--set inner.workers: `inner.workers`: should be a whole number (found 'b')."),
        ("inner={workers: b}", "--set inner: `inner.workers`: should be a whole number (found 'b')."),
        ("inner=[1", "--set inner:1:3: not valid YAML: "),
        ("inner=!x 1", "--set inner:1:1: the tag !x is not allowed"),
        ("name.first=b", "--set name.first: `name`: should be text (found a mapping)."),
        ("flag.first=b", "--set flag.first: there is nothing below this key to set"),
        ("several.2.mode=fast", "--set several.2.mode: 2 is not one of the 2 entries, counted from 0"),
        ("several.x.mode=fast", "--set several.x.mode: 'x' is not one of the 2 entries, counted from 0"),
        ("several.-1.mode=fast", "--set several.-1.mode: '-1' is not one of the 2 entries, counted from 0"),
        ("several.².mode=fast", "--set several.².mode: '²' is not one of the 2 entries, counted from 0"),
        ("other.0.mode=fast", "--set other.0.mode: there is no list here to count in"),
        ("=", "--set '=': expected KEY=VALUE"),
    ],
)
def test_a_wrong_set_names_the_option(tmp_path: Path, assignment: str, message: str) -> None:
    """The user is pointed at what was typed, not at a line of the file."""
    text = "name: a\nflag: true\nseveral: [{}, {}]\n"
    assert refusal(tmp_path, text, assignment).startswith(message)


def test_a_later_set_wins_and_an_older_line_is_no_longer_named(tmp_path: Path) -> None:
    """Positions follow the values."""
    assert refusal(tmp_path, "name: a\ninner: {rate: -1}\n", "inner={rate: -2}").startswith("--set inner: `inner.rate`")
    assert build(tmp_path, "name: a\n", "name=b", "name=c").name == "c"


# --------------------------------------------------------------------------------------------------------------- overlay
def overlaid(folder: Path, text: str) -> Document:
    document = read_yaml(written(folder, text))
    document.overlay("quick")
    return document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nquick: {b: 2}", {"a": 1, "b": 2}),
        ("a: {x: 1, y: 2}\nquick: {a: {y: 3}}", {"a": {"x": 1, "y": 3}}),
        ("a: [1, 2]\nquick: {a: [3]}", {"a": (3,)}),
        ("a: {x: 1}\nquick: {a: null}", {"a": None}),
        ("a: 1\nquick:", {"a": 1}),
        ("a: {use: kd, T: 1}\nquick: {a: {T: 2}}", {"a": {"use": "kd", "T": 2}}),
        ("a: {use: kd, T: 1}\nquick: {a: {use: kd, T: 2}}", {"a": {"use": "kd", "T": 2}}),
        ("a: {use: kd, T: 1}\nquick: {a: {use: feature}}", {"a": {"use": "feature"}}),
        ("a: kd\nquick: {a: {use: feature}}", {"a": {"use": "feature"}}),
    ],
)
def test_an_overlay_merges_mappings_and_replaces_everything_else(tmp_path: Path, text: str, expected: object) -> None:
    """The options of one part are never laid over another part's."""
    assert overlaid(tmp_path, text).data == expected


def test_where_one_entry_stands_for_all_another_takes_its_place(tmp_path: Path) -> None:
    """A duration in steps replaces one in epochs, from an overlay and from the command line; elsewhere entries add up."""
    path = written(tmp_path, "t: {d: {a: 1}, e: {a: 1}}\nquick: {t: {d: {b: 2}, e: {b: 2}}}\n")
    document = read_yaml(path, one_of=frozenset({"d"}))
    document.overlay("quick")
    assert document.data == {"t": {"d": {"b": 2}, "e": {"a": 1, "b": 2}}}
    document.set("t.d.c=3")
    document.set("t.e.c=3")
    assert document.data == {"t": {"d": {"c": 3}, "e": {"a": 1, "b": 2, "c": 3}}}


def test_mistakes_in_an_overlay_point_at_its_own_lines(tmp_path: Path) -> None:
    """Lines of what was laid over win over the lines below; what was not touched keeps its own."""
    document = overlaid(tmp_path, "name: 3\ninner:\n  rate: 1\n  workers: x\nquick:\n  inner:\n    rate: y\n")
    with pytest.raises(UsageError) as caught:
        validate(Outer, document.data, document)
    places = [line.partition(": ")[0].rpartition("recipe.yaml:")[2] for line in str(caught.value).splitlines()]
    assert places == ["1:1", "7:5", "4:3"]


def test_an_overlay_must_be_a_mapping(tmp_path: Path) -> None:
    """Its line is told."""
    with pytest.raises(UsageError, match=r"recipe\.yaml:2:1: `quick` must be a mapping of keys to replace"):
        overlaid(tmp_path, "a: 1\nquick: 3\n")


# ------------------------------------------------------------------------------------------------------------- positions
def test_the_nearest_enclosing_key_stands_for_one_without_a_position() -> None:
    """A key that is not in the file is placed at what holds it, at last at the file."""
    document = Document(Path("F"), {}, {("a",): "F:1:1", ("a", 0): "F:1:5"})
    assert [document.where(at) for at in [("a", 0, "b"), ("a", 1), ("b",), ()]] == ["F:1:5", "F:1:1", "F", "F"]


def test_frozen_makes_every_list_a_tuple() -> None:
    """Strict models take tuples; text and bytes are left alone."""
    assert config.frozen({"a": [1, [2, {"b": []}]], "c": "text", "d": b"12"}) == {
        "a": (1, (2, {"b": ()})),
        "c": "text",
        "d": b"12",
    }


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.text(max_size=30), st.text(max_size=20))
def test_whatever_is_typed_after_set_is_taken_or_refused_but_never_crashes(tmp_path: Path, key: str, value: str) -> None:
    """Only `UsageError` may come out, and a message always does."""
    document = read_yaml(written(tmp_path, "name: a\nseveral: [{}]\n"))
    try:
        document.set(f"{key}={value}")
        validate(Outer, document.data, document)
    except UsageError as error:
        assert str(error).startswith("--set")

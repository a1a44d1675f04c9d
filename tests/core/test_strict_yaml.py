"""YAML 1.2 and nothing more: which value each spelling has, what is refused and where."""

import json
import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from edgekd.core.errors import UsageError
from edgekd.core.strict_yaml import MAX_DEPTH, MAX_NODES, parse


def value(text: str) -> Any:
    return parse(f"a: {text}", "F")[0]["a"]


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(text, "F")
    return str(caught.value)


# The table of YAML 1.2.2, section 10.3.2 (core schema), and what YAML 1.1 or Python would have made of the same text.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-5.", -5.0),
        ("+.5e1", 5.0),
        ("12", 12),
        ("-0", 0),
        ("+7", 7),
        ("017", 17),
        ("08", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("0o8", "0o8"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1_0.5", "1_0.5"),
        ("1:30", "1:30"),
        ("1e", "1e"),
        (".", "."),
        ("-", None),
        ("٣", "٣"),
        (".inf", math.inf),
        ("+.Inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("", None),
        ("~", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("=", "="),
        ("<<", "<<"),
        ("'on'", "on"),
        ('"1"', "1"),
        ("'1e-3'", "1e-3"),
        ("''", ""),
        ("|\n  1", "1"),
        (">-\n  two\n  words", "two words"),
        ("[]", ()),
        ("{}", {}),
        ("[1, [x, null]]", (1, ("x", None))),
        ("{b, c: 1}", {"b": None, "c": 1}),
        ("&x true", True),
        ("😀 é", "😀 é"),
    ],
)
def test_each_spelling_has_the_value_of_the_core_schema(text: str, expected: Any) -> None:
    """Type and value both count: 1 is neither 1.0 nor True."""
    if text == "-":
        text = "\n- "
        expected = (None,)
    found = value(text)
    assert (type(found), found) == (type(expected), expected)


def test_not_a_number_is_read_as_such() -> None:
    """Reading is not judging: who takes the value refuses what is not finite."""
    assert math.isnan(value(".NaN"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "F:3:1: the key `a` stands twice; first at F:1:1"),
        ("x:\n  a: 1\n  'a': 2", "F:3:3: the key `a` stands twice; first at F:2:3"),
        ("a: !foo 1", "F:1:4: the tag !foo is not allowed"),
        ("a: !!str 5", "F:1:4: the tag !!str is not allowed"),
        ("a: !!binary aGk=", "F:1:4: the tag !!binary is not allowed"),
        ("a: !!set {x}", "F:1:4: the tag !!set is not allowed"),
        ("a: !!omap [x: 1]", "F:1:4: the tag !!omap is not allowed"),
        ("a: !!python/object/apply:os.system [id]", "F:1:4: the tag !!python/object/apply:os.system is not allowed"),
        ("a: &x !!python/name:os.system", "F:1:4: the tag !!python/name:os.system is not allowed"),
        ("!foo\na: 1", "F:1:1: the tag !foo is not allowed"),
        ("? !foo a\n: 1", "F:1:3: the tag !foo is not allowed"),
        ("1: a", "F:1:1: keys must be text, found 1"),
        ("a:\n  true: 1", "F:2:3: keys must be text, found True"),
        ("~: a", "F:1:1: keys must be text, found None"),
        ("[a]: b", "F:1:1: keys must be text, found a list or a mapping"),
        ("? {a: b}\n: c", "F:1:3: keys must be text, found a list or a mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "F:3:3: merge keys (<<) are not part of YAML 1.2; write the keys out"),
        ("a: &x [*x]", "F:1:8: the alias *x stands before the end of its anchor, or has none"),
        ("a: *x", "F:1:4: the alias *x stands before the end of its anchor, or has none"),
        ("a: 1\n---\nb: 2", "F:2:1: a second document begins here"),
        ("%YAML 1.1\n---\na: on", "F:2:1: only YAML 1.2 is read here"),
        ("a: [1", "F:1:6: not valid YAML: "),
        ("a: 'x", "F:1:6: not valid YAML: "),
        ("a: 1\n b: 2", "F:2:3: not valid YAML: mapping values are not allowed here"),
        ("a: @x", "F:1:4: not valid YAML: "),
        ("\ta: 1", "F:1:1: not valid YAML: "),
        ("a: 1\nb: \x01", "F:2: not valid YAML: unacceptable character #x0001"),
        ('a: "\\0"', "F:1:4: this text holds a character that no file name or report can hold"),
        ('a: "\\ud800"', "F:1:4: this text holds a character that no file name or report can hold"),
        ("a: " + "9" * 5000, "F:1:4: a number of 5000 digits is not read here"),
        ("a: " + "[" * 5000, f"F:1:{4 + MAX_DEPTH}: nested deeper than {MAX_DEPTH} levels"),
        ("{" * 5000, "F:1:2: keys must be text, found a list or a mapping"),
    ],
)
def test_what_is_not_plain_data_is_refused_at_its_place(text: str, message: str) -> None:
    """Line and column point at the offending key, tag or alias."""
    assert refusal(text).startswith(message)


def test_the_deepest_nesting_is_read_and_one_more_is_refused() -> None:
    """The limit counts keys and entries on the way down."""
    parse("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, "F")
    assert "nested deeper" in refusal("a: " + "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)


def test_aliases_share_a_value() -> None:
    """Anchors work for values and for keys; a later anchor of the same name takes over."""
    assert parse("a: &x {b: [1]}\nc: *x\nd: &x 2\ne: *x\nf: &k g\n*k : 3", "F")[0] == {
        "a": {"b": (1,)},
        "c": {"b": (1,)},
        "d": 2,
        "e": 2,
        "f": "g",
        "g": 3,
    }


def test_aliases_that_would_write_out_to_a_bomb_are_refused() -> None:
    """Nine lines of ten aliases each stand for a billion values; a plain file of the same limit is read."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert f"more than {MAX_NODES} values, aliases written out" in refusal("\n".join(lines))
    assert len(parse(f"a: [{'1,' * (MAX_NODES - 4)}]", "F")[0]["a"]) == MAX_NODES - 4
    assert f"more than {MAX_NODES} values" in refusal(f"a: [{'1,' * MAX_NODES}]")


def test_every_key_and_entry_has_its_place() -> None:
    """Lines and columns count from 1; an entry stands where its value begins."""
    _, positions = parse("a:\n  b: 1\n  c: [x,\n    {d: 2}]\n", "F")
    assert positions == {
        ("a",): "F:1:1",
        ("a", "b"): "F:2:3",
        ("a", "c"): "F:3:3",
        ("a", "c", 0): "F:3:7",
        ("a", "c", 1): "F:4:5",
        ("a", "c", 1, "d"): "F:4:6",
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_nothing_is_read_as_nothing(text: str) -> None:
    """An empty document is None, which the caller refuses in its own words."""
    assert parse(text, "F") == (None, {})


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"))
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXT.filter("<<".__ne__), inner, max_size=3),
    max_leaves=10,
)


@hypothesis.given(st.dictionaries(TEXT.filter("<<".__ne__), DATA, max_size=3))
def test_json_is_yaml_and_is_read_as_json_reads_it(data: dict[str, Any]) -> None:
    """YAML 1.2 contains JSON, whose own writer is the other program here; every value comes back with its type."""
    assert repr(parse(json.dumps(data, ensure_ascii=False), "F")[0]) == repr(data)


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.text(st.sampled_from("ab:- \n\t[]{}&*!|>'\"#%@`,?<~01.e\\\0\ud800é"), max_size=40))
def test_any_text_is_read_or_refused_but_never_crashes(text: str) -> None:
    """Only `UsageError` comes out, and its message is one line that names the file."""
    try:
        parse(text, "F")
    except UsageError as error:
        assert str(error).startswith("F")

"""Records of an earlier edgekd are read by a later one that knows more."""

from typing import ClassVar

from edgekd.core.growing import later
from edgekd.core.records import MadeBy, Record


class Early(Record):
    """A record as it was at first."""

    kind: ClassVar[str] = "example"
    value: int


class Late(Early):
    """The same with fields that came later."""

    name: str = later("")
    parts: tuple[int, ...] = later(())
    share: float | None = later(None)


def test_a_record_from_before_the_field_keeps_its_digest() -> None:
    """The earlier text is read, digest and all, and written again to the byte."""
    text = Early(value=3, made_by=MadeBy(version="1")).to_json()
    assert Late.from_json(text).to_json() == text


def test_what_a_later_field_says_is_written_and_counts() -> None:
    """Another value than the default is in the JSON, read back, and part of the digest; 0.0 is a value, not nothing."""
    bare = Late(value=3, made_by=MadeBy(version="1"))
    for said in ({"name": "a"}, {"parts": (1,)}, {"share": 0.0}):
        full = bare.model_copy(update=said)
        assert Late.from_json(full.to_json()) == full
        assert full.digest() != bare.digest()

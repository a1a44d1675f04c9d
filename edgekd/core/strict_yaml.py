"""YAML 1.2 as plain data: the core schema and nothing more, with the place of every key.

`1e-3` is a number; `on`, `no`, `1_000` and `2026-01-01` are text; `017` is seventeen. Sequences become tuples. Refused: tags,
duplicate keys, keys that are not text, merge keys (`<<`), other YAML versions, several documents, more than `MAX_DEPTH`
levels, and more than `MAX_NODES` values once every alias is written out. The events come from ruamel.yaml; its constructors,
which know YAML 1.1 and Python, are not used.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

from edgekd.core.errors import UsageError

MAX_DEPTH = 32
MAX_NODES = 10_000

Key = str | int
KeyPath = tuple[Key, ...]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)


def parse(text: str, where: str) -> tuple[Any, dict[KeyPath, str]]:
    """Return the one document in `text` as plain data, and `where:line:column` of each key and list entry.

    Raises `UsageError` at the first mistake.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = _Reader(YAML(typ="safe", pure=True).parse(text), where)
    try:
        return reader.document(), reader.positions
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UsageError(f"{_place(where, mark)}: not valid YAML: {error.problem}") from error
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise UsageError(f"{where}:{line}: not valid YAML: {str(error).partition(':')[0]}") from error


class _Reader:
    def __init__(self, events: Iterator[Any], where: str) -> None:
        self.positions: dict[KeyPath, str] = {}
        self._events = events
        self._where = where
        self._nodes = 0
        self._anchors: dict[str, tuple[Any, int]] = {}

    def document(self) -> Any:
        value = None
        for event in self._events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                if event.version not in (None, (1, 2)):
                    self._refuse(event, "only YAML 1.2 is read here; remove the %YAML line")
                value = self._value(next(self._events), ())
                self._expect_end()
        return value

    def _expect_end(self) -> None:
        next(self._events)  # the document's end
        following = next(self._events)
        if type(following).__name__ != "StreamEndEvent":
            self._refuse(following, "a second document begins here; a file holds one")

    def _value(self, event: Any, at: KeyPath) -> Any:
        if len(at) > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        self._count(event, 1)
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._aliased(event)
        if event.tag is not None:
            self._refuse(event, f"the tag {_shown(event.tag)} is not allowed: this file holds plain data only")
        before = self._nodes
        if kind == "ScalarEvent":
            value = self._scalar(event)
        elif kind == "SequenceStartEvent":
            value = self._sequence(at)
        else:
            value = self._mapping(at)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _aliased(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            self._refuse(event, f"the alias *{event.anchor} stands before the end of its anchor, or has none")
        value, size = self._anchors[event.anchor]
        self._count(event, size)
        return value

    def _sequence(self, at: KeyPath) -> tuple[Any, ...]:
        values: list[Any] = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            here = (*at, len(values))
            self.positions[here] = _place(self._where, event.start_mark)
            values.append(self._value(event, here))
        return tuple(values)

    def _mapping(self, at: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            key = self._key(event)
            if key in values:
                self._refuse(event, f"the key `{key}` stands twice; first at {self.positions[(*at, key)]}")
            here = (*at, key)
            self.positions[here] = _place(self._where, event.start_mark)
            values[key] = self._value(next(self._events), here)
        return values

    def _key(self, event: Any) -> str:
        if type(event).__name__ not in ("ScalarEvent", "AliasEvent"):
            self._refuse(event, "keys must be text, found a list or a mapping")
        key = self._value(event, ())
        if not isinstance(key, str):
            self._refuse(event, f"keys must be text, found {key!r}")
        if key == "<<":
            self._refuse(event, "merge keys (<<) are not part of YAML 1.2; write the keys out")
        return key

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self._refuse(event, "this text holds a character that no file name or report can hold")
        if not event.implicit[0]:
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        try:
            return _number(text)
        except ValueError:
            self._refuse(event, f"a number of {len(text)} digits is not read here")

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values, aliases written out")

    def _refuse(self, event: Any, message: str) -> NoReturn:
        raise UsageError(f"{_place(self._where, event.start_mark)}: {message}")


def _number(text: str) -> int | float | str:
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _place(where: str, mark: Any) -> str:
    return f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where


def _shown(tag: Any) -> str:
    return str(tag).replace("tag:yaml.org,2002:", "!!")

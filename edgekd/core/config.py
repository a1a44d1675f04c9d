"""Strict configuration: every error says file, line, key, what is allowed, and the nearest match.

Files are read by `strict_yaml`; unknown keys are refused. Values from `--set KEY=VALUE` go through the same checks; their
errors name the option instead of a line.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest
from edgekd.core.strict_yaml import KeyPath, parse
from edgekd.core.urls import check_history, is_url

MAX_BYTES = 1 << 20

Model = TypeVar("Model", bound=BaseModel)


class _CommandLineStr(str):
    """A string given with --set: a relative path in it starts at the current folder, not at the recipe."""


def _anchor(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base = Path.cwd() if isinstance(value, _CommandLineStr) else Path((info.context or {}).get("base", "."))
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("no home folder is known for the part that begins with ~") from error
    # Absolute, because what is written into a run folder is read from another place.
    return Path(os.path.normpath(Path.cwd() / base / path))


FilePath = Annotated[Path, BeforeValidator(_anchor)]
"""A path in a recipe: relative to the recipe's folder (with --set: to the current folder), `~` expanded; absolute once read."""


def _history_place(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    check_history(value)
    return value if is_url(value) else str(_anchor(value, info))


HistoryPlace = Annotated[str, BeforeValidator(_history_place)]
"""A SQLite file, its path as `FilePath`, or the URL of a PostgreSQL database."""


@dataclass
class Document:
    """A parsed YAML file: plain values (sequences are tuples) and where each key stands.

    `one_of` names keys whose mapping holds one entry or another: changing it by another entry takes the first away.
    """

    path: Path
    data: Any
    positions: dict[KeyPath, str] = field(default_factory=dict)
    one_of: frozenset[str] = frozenset()

    def where(self, key_path: KeyPath) -> str:
        """Return `file:line:column` (or `--set KEY`) of the nearest enclosing key that has a position."""
        for known, place in self.positions.items():
            if place.startswith("--set") and known[: len(key_path)] == key_path:
                return place
        for end in range(len(key_path), -1, -1):
            if key_path[:end] in self.positions:
                return self.positions[key_path[:end]]
        return str(self.path)

    def set(self, assignment: str) -> None:
        """Apply one `KEY=VALUE`; KEY is dotted (`teachers.0.size`), VALUE is read as YAML."""
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {assignment!r}: expected KEY=VALUE, for example --set train.lr=1e-3")
        steps: KeyPath = tuple(int(s) if s.isdecimal() else s for s in key.strip().split("."))
        value = _mark(parse(text, f"--set {key}")[0])
        self.data = self._replaced(self.data, steps, value, f"--set {key}")
        for known in [k for k in self.positions if k[: len(steps)] == steps]:
            del self.positions[known]
        self.positions[steps] = f"--set {key}"

    def overlay(self, key: str) -> None:
        """Merge the mapping under `key` over the rest of the document.

        Mappings merge, unless `use` names another part; everything else is replaced. `null` takes a value away.
        """
        changes = self.data.pop(key, None)
        if changes is not None and not isinstance(changes, dict):
            raise UsageError(f"{self.where((key,))}: `{key}` must be a mapping of keys to replace")
        self.positions = {k: v for k, v in self.positions.items() if k[:1] != (key,)} | {
            k[1:]: v for k, v in self.positions.items() if k[:1] == (key,) and len(k) > 1
        }
        self.data = self._merged(self.data, changes or {})

    def _replaced(self, data: Any, steps: KeyPath, value: Any, where: str) -> Any:
        if not steps:
            return value
        head, rest = steps[0], steps[1:]
        if isinstance(data, tuple):
            if not isinstance(head, int) or head >= len(data):
                raise UsageError(f"{where}: {head!r} is not one of the {len(data)} entries, counted from 0")
            return (*data[:head], self._replaced(data[head], rest, value, where), *data[head + 1 :])
        if isinstance(data, str) and rest == () and isinstance(head, str):
            data = {"use": data}
        if data is None and isinstance(head, int):
            raise UsageError(f"{where}: there is no list here to count in", mend="give the whole list: --set KEY=[...]")
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise UsageError(f"{where}: there is nothing below this key to set")
        below = None if head in self.one_of and rest else data.get(str(head))
        return {**data, str(head): self._replaced(below, rest, value, where)}

    def _merged(self, below: Any, above: Any) -> Any:
        if not isinstance(below, dict) or not isinstance(above, dict):
            return above
        if above.get("use", below.get("use")) != below.get("use"):
            return above
        return below | {k: v if k in self.one_of else self._merged(below.get(k), v) for k, v in above.items()}


def read_yaml(path: Path, *, one_of: frozenset[str] = frozenset()) -> Document:
    """Read one YAML file whose top level is a mapping; raise `UsageError` with the line of the first mistake."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: is larger than {MAX_BYTES} bytes, the most that is read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text (byte {error.start})", mend="save it as UTF-8") from error
    data, positions = parse(text, str(path))
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected keys and values at the top level")
    return Document(path, data, positions, one_of)


def validate(model: type[Model], data: Any, document: Document, *, at: KeyPath = (), base: Path | None = None) -> Model:
    """Build `model` from plain data standing at `at` in the document; all mistakes are reported in one `UsageError`."""
    try:
        return model.model_validate(data, context={"base": base or document.path.parent})
    except ValidationError as error:
        lines = [_explain(model, problem, document, at) for problem in error.errors()]
        raise UsageError("\n".join(dict.fromkeys(lines))) from error


def frozen(value: Any) -> Any:
    """Return plain JSON-like data with every list as a tuple, which is what strict models take."""
    if isinstance(value, Mapping):
        return {k: frozen(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(frozen(v) for v in value)
    return value


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return _CommandLineStr(value)
    if isinstance(value, dict):
        return {k: _mark(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_mark(v) for v in value)
    return value


# ---------------------------------------------------------------------------------------------------- pydantic's messages
_PLAIN_WORDS = {
    r"^(Tuple|String) should": "should",
    r"a valid tuple": "a list, as in [a, b]",
    r"a valid dictionary or instance of PartRef": "a part's name, or a mapping with `use: NAME`",
    r"a valid dictionary( or instance of \w+)?": "a mapping of keys and values",
    r"a valid string": "text",
    r"a valid boolean": "true or false",
    r"a valid integer": "a whole number",
    r"a valid number": "a number",
}


def _explain(model: type[BaseModel], problem: Any, document: Document, at: KeyPath) -> str:
    loc: KeyPath = tuple(problem["loc"])
    shown = ".".join(str(step) for step in (*at, *loc))
    where = document.where((*at, *loc))
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        known = tuple(field.alias or name for name, field in owner.model_fields.items()) if owner else ()
        allowed = f" Known here: {', '.join(known)}." if known else " None is known here."
        return f"{where}: unknown key `{shown}`.{nearest(str(loc[-1]), known)}{allowed}"
    if problem["type"] == "missing":
        return f"{where}: `{shown}` is missing."
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    for python, plain in _PLAIN_WORDS.items():
        message = re.sub(python, plain, message)
    value = problem.get("input")
    if isinstance(value, str | int | float | bool) or value is None:
        found = f" (found {value!r})"
    elif problem["type"] == "value_error":
        found = ""
    else:
        found = " (found a mapping)" if isinstance(value, dict) else " (found a list)"
    return f"{where}: `{shown}`: {message}{found}."


def _model_at(model: type[BaseModel] | None, loc: KeyPath) -> type[BaseModel] | None:
    for step in loc:
        # A step that is no field is an index, or the key of a mapping whose values the model describes.
        if model and step in model.model_fields:
            model = _model_in(model.model_fields[str(step)].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)

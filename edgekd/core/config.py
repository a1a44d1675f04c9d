"""Strict reading of YAML 1.2: every error says file, line, key, what is allowed, and the nearest match.

`1e-3` is a number, `on` and `no` are strings, duplicate and unknown keys are refused, tags are refused. Values from
`--set KEY=VALUE` go through the same checks; their errors name the option instead of a line.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

Key = str | int
KeyPath = tuple[Key, ...]
Model = TypeVar("Model", bound=BaseModel)


class _CommandLineStr(str):
    """A string given with --set: a relative path in it starts at the current folder, not at the recipe."""


def _anchor(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base = Path.cwd() if isinstance(value, _CommandLineStr) else Path((info.context or {}).get("base", "."))
    return Path(os.path.normpath(base / Path(value).expanduser()))


FilePath = Annotated[Path, BeforeValidator(_anchor)]
"""A path in a recipe: relative to the recipe's folder (with --set: to the current folder), `~` expanded."""


@dataclass
class Document:
    """A parsed YAML file: plain values (sequences are tuples) and where each key stands."""

    path: Path
    data: Any
    positions: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, key_path: KeyPath) -> str:
        """Return `file:line:column` (or `--set KEY`) of the nearest enclosing key that has a position."""
        for end in range(len(key_path), -1, -1):
            if key_path[:end] in self.positions:
                return self.positions[key_path[:end]]
        return str(self.path)

    def set(self, assignment: str) -> None:
        """Apply one `KEY=VALUE`; KEY is dotted (`teachers.0.size`), VALUE is read as YAML."""
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {assignment!r}: expected KEY=VALUE, for example --set train.epochs=5")
        steps: KeyPath = tuple(int(s) if s.isdigit() else s for s in key.strip().split("."))
        value = _mark(_parse(text, f"--set {key}")[0])
        self.data = _replaced(self.data, steps, value, f"--set {key}")
        for known in [k for k in self.positions if k[: len(steps)] == steps]:
            del self.positions[known]
        self.positions[steps] = f"--set {key}"

    def overlay(self, key: str) -> None:
        """Merge the mapping under `key` over the rest of the document: mappings merge, everything else is replaced."""
        changes = self.data.pop(key, None)
        self.positions = {k: v for k, v in self.positions.items() if k[:1] != (key,)} | {
            k[1:]: v for k, v in self.positions.items() if k[:1] == (key,) and len(k) > 1
        }
        if changes is not None and not isinstance(changes, dict):
            raise UsageError(f"{self.where((key,))}: `{key}` must be a mapping of keys to replace")
        self.data = _merged(self.data, changes or {})


def read_yaml(path: Path) -> Document:
    """Read one YAML file whose top level is a mapping; raise `UsageError` with the line of the first mistake."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: {len(raw)} bytes; a recipe may have at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    data, positions = _parse(text, str(path))
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected keys and values at the top level")
    return Document(path, data, positions)


def validate(
    model: type[Model], data: Any, document: Document, *, at: KeyPath = (), base: Path | None = None
) -> Model:
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


# ------------------------------------------------------------------------------------------------------------ the parser
def _parse(text: str, where: str) -> tuple[Any, dict[KeyPath, str]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="rt", pure=True)
    yaml.version = (1, 2)
    try:
        node = yaml.load(text)
    except DuplicateKeyError as error:
        raise UsageError(f"{_mark_of(error, where)}: {str(error.problem).partition(' with value')[0]}") from error
    except MarkedYAMLError as error:
        raise UsageError(f"{_mark_of(error, where)}: not valid YAML: {error.problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid YAML: {error}") from error
    positions: dict[KeyPath, str] = {}
    return _plain(node, where, (), positions), positions


def _plain(node: Any, where: str, at: KeyPath, positions: dict[KeyPath, str]) -> Any:
    if len(at) > MAX_DEPTH:
        raise UsageError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag is not None and not str(tag).startswith("tag:yaml.org,2002:"):
        raise UsageError(f"{where}: the tag {tag} is not allowed: a recipe holds data only")
    if isinstance(node, Mapping):
        for key in node:
            line, column = node.lc.key(key)
            positions[(*at, key)] = f"{where}:{line + 1}:{column + 1}"
            if not isinstance(key, str):
                raise UsageError(f"{positions[(*at, key)]}: keys must be text, found {key!r}")
        return {str(k): _plain(v, where, (*at, str(k)), positions) for k, v in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index in range(len(node)):
            line, column = node.lc.item(index)
            positions[(*at, index)] = f"{where}:{line + 1}:{column + 1}"
        return tuple(_plain(v, where, (*at, i), positions) for i, v in enumerate(node))
    return _scalar(node)


def _scalar(node: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    if node is None:
        return None
    return str(node)


def _mark_of(error: Any, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return _CommandLineStr(value)
    if isinstance(value, dict):
        return {k: _mark(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_mark(v) for v in value)
    return value


def _replaced(data: Any, steps: KeyPath, value: Any, where: str) -> Any:
    if not steps:
        return value
    head, rest = steps[0], steps[1:]
    if isinstance(data, tuple):
        if not isinstance(head, int) or head >= len(data):
            raise UsageError(f"{where}: {head!r} is not one of the {len(data)} entries, counted from 0")
        return (*data[:head], _replaced(data[head], rest, value, where), *data[head + 1 :])
    if isinstance(data, str) and rest == () and isinstance(head, str):
        data = {"use": data}
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UsageError(f"{where}: there is nothing below this key to set")
    return {**data, str(head): _replaced(data.get(str(head)), rest, value, where)}


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {k: _merged(below.get(k), v) for k, v in above.items()}
    return above


# ---------------------------------------------------------------------------------------------------- pydantic's messages
def _explain(model: type[BaseModel], problem: Any, document: Document, at: KeyPath) -> str:
    loc: KeyPath = tuple(problem["loc"])
    shown = ".".join(str(step) for step in (*at, *loc))
    where = document.where((*at, *loc))
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        known = tuple(owner.model_fields) if owner else ()
        return f"{where}: unknown key `{shown}`.{nearest(str(loc[-1]), known)} Known here: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{where}: `{shown}` is missing."
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    value = problem.get("input")
    found = f" (found {value!r})" if isinstance(value, str | int | float | bool) or value is None else ""
    return f"{where}: `{shown}`: {message}{found}."


def _model_at(model: type[BaseModel] | None, loc: KeyPath) -> type[BaseModel] | None:
    for step in loc:
        if model is None or not isinstance(step, str) or step not in model.model_fields:
            if isinstance(step, int):
                continue
            return None
        model = _model_in(model.model_fields[step].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (Union, tuple, Annotated) or hasattr(annotation, "__args__"):
        return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
    return None

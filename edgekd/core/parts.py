"""One register for everything that can be added: methods, teachers, backends, budgets, ...

A part is one file whose name is the part's name in a recipe. Built-in parts are found by looking into their folder, third
parties' through the entry-point group `edgekd.<kind>s`; both become `importlib.metadata.EntryPoint`s and load the same way.
Listing parts reads files and imports none of them.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from edgekd.core.errors import MachineError, UsageError

FOLDERS = {
    "method": "edgekd.distilling.methods",
    "teacher": "edgekd.distilling.teachers",
    "student": "edgekd.distilling.students",
    "source": "edgekd.distilling.sources",
    "space": "edgekd.searching.spaces",
    "scorer": "edgekd.searching.scorers",
    "backend": "edgekd.exporting.backends",
    "device": "edgekd.benching.devices",
    "budget": "edgekd.judging.budgets",
    "format": "edgekd.judging.formats",
}

# The name under which each class was loaded; a third party's entry point need not be called like its module.
_loaded: dict[type["Part"], str] = {}


class Part(BaseModel):
    """A part's fields are its options in a recipe; its methods are its behaviour.

    `requires` names the import packages it cannot work without, `extra` the edgekd extra that installs them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    def packages(self) -> tuple[str, ...]:
        """Return the import packages that it needs with these options; `requires`, unless an option does without."""
        return self.requires

    def ref(self) -> "PartRef":
        """Return the reference that a recipe would use for this part, with every option written out."""
        options = self.model_dump(mode="json", by_alias=True)
        return PartRef(use=_loaded.get(type(self)) or type(self).__module__.rpartition(".")[2], options=options)

    def identity(self) -> dict[str, Any]:
        """Return what the part's results depend on: its name and options, files by their content, not by their path."""
        options = {
            name: {"sha256": _sha256(value)} if isinstance(value, Path) and value.is_file() else shown
            for (_, value), (name, shown) in zip(self, self.ref().options.items(), strict=True)
        }
        return {"use": self.ref().use, "options": options}


class PartRef(BaseModel):
    """A part as a recipe names it: `use: NAME` plus the part's own options, or just `NAME`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    use: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"use": value}
        if isinstance(value, dict) and set(value) != {"use", "options"}:
            if "use" not in value:
                raise ValueError(f"say which part with `use: NAME`; found only {', '.join(map(str, value)) or 'nothing'}")
            return {"use": value["use"], "options": {k: v for k, v in value.items() if k != "use"}}
        return value


def names(kind: str) -> tuple[str, ...]:
    """Return the names of every registered part of a kind, sorted."""
    return tuple(sorted(_register(kind)))


def help_line(kind: str, name: str) -> str:
    """Return the first line of a part's docstring without importing the part."""
    entry = _entry(kind, name)
    source = _source_file(entry)
    if source is None:
        return ""
    body = ast.parse(source.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    named = [node for node in classes if node.name == entry.attr]
    contracted = [node for node in classes if kind.capitalize() in map(_last_name, node.bases)]
    return next(((ast.get_docstring(node) or "").partition("\n")[0] for node in (*named, *contracted, *classes)), "")


def load(kind: str, name: str) -> type[Part]:
    """Import a part and return its class; an unknown name lists the nearest ones."""
    entry = _entry(kind, name)
    try:
        module = importlib.import_module(entry.module)
    except ImportError as error:
        raise MachineError(
            f"{kind} {name!r} cannot be imported: {error}",
            mend=f"reinstall the package that provides it ({_origin(entry)})",
        ) from error
    if entry.attr:
        return _checked(kind, name, getattr(module, entry.attr, None))
    classes = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not key.startswith("_")
        if issubclass(value, Part)
    ]
    if len(classes) != 1:
        raise MachineError(
            f"{kind} {name!r}: {module.__name__} defines {len(classes)} public parts",
            mend="it must define exactly one, or its entry point must name the class (module:Class)",
        )
    return _checked(kind, name, classes[0])


def need_packages(part: Part) -> None:
    """Raise `MachineError` naming what to install if a package that the part requires is not there."""
    missing = [name for name in part.packages() if importlib.util.find_spec(name) is None]
    if missing:
        what = f"'edgekd[{part.extra}]'" if part.extra else " ".join(missing)
        raise MachineError(
            f"{part.ref().use} needs the package {', '.join(missing)}, which is not installed",
            mend=f"pip install {what}",
        )


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ' Did you mean X?' for the closest known words and those that begin with it, at most three, or ''."""
    longer = [name for name in known if len(word) > 2 and name.startswith(word)]
    close = list(dict.fromkeys([*get_close_matches(word, known, n=3, cutoff=0.6), *longer]))[:3]
    return f" Did you mean {' or '.join(close)}?" if close else ""


@cache
def _installed() -> Any:
    """Return what every installed package registers, whatever the kind: reading them all is what takes time."""
    return entry_points()


def forget() -> None:
    """Look at what is installed anew when next asked for a part."""
    _installed.cache_clear()
    _register.cache_clear()


@cache
def _register(kind: str) -> dict[str, EntryPoint]:
    if kind not in FOLDERS:
        raise UsageError(f"no kind of part is called {kind!r}; the kinds are {', '.join(FOLDERS)}")
    group = f"edgekd.{kind}s"
    spec = importlib.util.find_spec(FOLDERS[kind])
    folders = (spec.submodule_search_locations or []) if spec else []
    found = {
        file.stem: EntryPoint(file.stem, f"{FOLDERS[kind]}.{file.stem}", group)
        for folder in folders
        for file in sorted(Path(folder).glob("*.py"))
        if not file.stem.startswith("_")
    }
    for entry in _installed().select(group=group):
        if entry.name in found:
            raise UsageError(
                f"two parts are called {kind} {entry.name!r}: {_origin(found[entry.name])} and {_origin(entry)}",
                mend="uninstall one of the two packages",
            )
        found[entry.name] = entry
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(kind: str, name: str) -> EntryPoint:
    register = _register(kind)
    if name not in register:
        raise UsageError(
            f"no {kind} is called {name!r}.{nearest(name, names(kind))} Known: {', '.join(names(kind)) or 'none'}."
        )
    return register[name]


def _last_name(base: ast.expr) -> str:
    return ast.unparse(base).rpartition(".")[2]


def _origin(entry: EntryPoint) -> str:
    return f"{entry.value} from {entry.dist.name if entry.dist else 'edgekd'}"


def _source_file(entry: EntryPoint) -> Path | None:
    if entry.dist is None:
        spec = importlib.util.find_spec(entry.module)
        return Path(spec.origin) if spec and spec.origin else None
    located = Path(str(entry.dist.locate_file(entry.module.replace(".", "/") + ".py")))
    return located if located.is_file() else None


def _checked(kind: str, name: str, value: Any) -> type[Part]:
    from edgekd.core import contracts

    contract = contracts.CONTRACTS[kind]
    if not (inspect.isclass(value) and issubclass(value, contract)):
        raise MachineError(
            f"{kind} {name!r} is not a {contract.__name__}",
            mend=f"its class must inherit from edgekd.core.contracts.{contract.__name__}",
        )
    _loaded[value] = name
    return value

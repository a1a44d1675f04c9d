"""The recipe: one experiment, from the images to the budgets, read from its file; `core.sections` says what stands in it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from edgekd.core import contracts, parts
from edgekd.core.budgets import Budgets, resolve
from edgekd.core.config import Document, frozen, read_yaml, validate
from edgekd.core.errors import UsageError
from edgekd.core.parts import Part, PartRef
from edgekd.core.records import IMPORTED, digest_of
from edgekd.core.search_plan import Search
from edgekd.core.sections import Baseline, Recipe
from edgekd.core.strict_yaml import KeyPath


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A recipe and the document it stands in, which knows the lines."""

    recipe: Recipe
    document: Document

    def part(self, kind: str, ref: PartRef, at: KeyPath) -> Part:
        """Return the part that a reference names, its options checked; mistakes carry the line."""
        return part_at(self.document, kind, ref, at)

    @property
    def source(self) -> contracts.Source:
        """Return where the images come from."""
        return cast(contracts.Source, self.part("source", self.recipe.data, ("data",)))

    @property
    def student(self) -> contracts.Student:
        """Return the student; raise `UsageError` for an imported model, which is none."""
        if self.recipe.student.use == IMPORTED:
            raise UsageError(
                f"{self.document.path}: is about an imported ONNX model, which cannot be trained",
                mend="edgekd export RUN, edgekd bench RUN and edgekd report RUN take it",
            )
        return cast(contracts.Student, self.part("student", self.recipe.student, ("student",)))

    @property
    def peers(self) -> dict[str, contracts.Student]:
        """Return the students that learn with the first one: those of the recipe, or the method's further branches."""
        given = {name: self.part("student", ref, ("peers", name)) for name, ref in self.recipe.peers.items()}
        branches = self.method.needs().branches
        given |= {f"branch_{number}": self.student for number in range(2, branches + 1)}
        return cast(dict[str, contracts.Student], given)

    def of_peer(self, name: str) -> "Loaded":
        """Return the recipe of one of the peers' folders: the same, with that student in the first one's place."""
        student = self.recipe.peers.get(name, self.recipe.student)
        changes = {"name": f"{self.recipe.name[:31]}-{name}", "student": student, "peers": {}, "finetune": None}
        return replace(self, recipe=self.recipe.model_copy(update=changes))

    @property
    def method(self) -> contracts.Method:
        """Return the method."""
        return cast(contracts.Method, self.part("method", self.recipe.method, ("method",)))

    @property
    def baseline_method(self) -> contracts.Method:
        """Return the baseline's method."""
        baseline = self.recipe.baseline or Baseline()
        return cast(contracts.Method, self.part("method", baseline.method, ("baseline", "method")))

    @property
    def start_method(self) -> contracts.Method | None:
        """Return the method of the start, if there is one."""
        if self.recipe.start is None:
            return None
        return cast(contracts.Method, self.part("method", self.recipe.start.method, ("start", "method")))

    @property
    def pilot_methods(self) -> tuple[contracts.Method, ...]:
        """Return the methods that the pilot is asked to compare; none if it shall choose."""
        refs = self.recipe.pilot.methods or ()
        found = [self.part("method", ref, ("pilot", "methods", i)) for i, ref in enumerate(refs)]
        return cast(tuple[contracts.Method, ...], tuple(found))

    @property
    def teachers(self) -> tuple[contracts.Teacher, ...]:
        """Return the teachers in the recipe's order."""
        return cast(tuple[contracts.Teacher, ...], self._several("teacher", self.recipe.teachers, "teachers"))

    @property
    def backends(self) -> tuple[contracts.Backend, ...]:
        """Return the backends to export to."""
        return cast(tuple[contracts.Backend, ...], self._several("backend", self.recipe.export, "export"))

    @property
    def devices(self) -> tuple[contracts.Device, ...]:
        """Return the devices to measure on."""
        refs = self.recipe.bench.devices if self.recipe.bench else ()
        found = [self.part("device", ref, ("bench", "devices", i)) for i, ref in enumerate(refs)]
        return cast(tuple[contracts.Device, ...], tuple(found))

    @property
    def budgets(self) -> Budgets:
        """Return the budgets, checked."""
        listed = isinstance(self.document.data.get("budgets"), tuple)
        return resolve(self.recipe.budgets, self.document, at=("budgets",), listed=listed)

    @property
    def space(self) -> contracts.Space:
        """Return the space to search; raise `UsageError` if the recipe has no `search` section."""
        return cast(contracts.Space, self.part("space", self._search.space, ("search", "space")))

    @property
    def scorers(self) -> tuple[contracts.Scorer, ...]:
        """Return what students are scored by before training."""
        refs = self._search.scorers
        found = [self.part("scorer", ref, ("search", "scorers", i)) for i, ref in enumerate(refs)]
        return cast(tuple[contracts.Scorer, ...], tuple(found))

    @property
    def search_backend(self) -> contracts.Backend | None:
        """Return the backend whose latency a search minds, if it minds any."""
        latency = self._search.latency
        if latency is None:
            return None
        return cast(contracts.Backend, self.part("backend", latency.backend, ("search", "latency", "backend")))

    @property
    def search_device(self) -> contracts.Device | None:
        """Return the device whose latency a search minds; None for this process."""
        latency = self._search.latency
        if latency is None or latency.device is None:
            return None
        return cast(contracts.Device, self.part("device", latency.device, ("search", "latency", "device")))

    @property
    def _search(self) -> Search:
        if self.recipe.search is None:
            raise UsageError(
                f"{self.document.path}: has no `search` section", mend="add one: search: {space: mobile}; see the README"
            )
        return self.recipe.search

    @property
    def formats(self) -> tuple[contracts.Format, ...]:
        """Return the formats to write the report in."""
        return cast(tuple[contracts.Format, ...], self._several("format", self.recipe.formats, "formats"))

    def check(self) -> None:
        """Resolve every part, so that a mistake anywhere is told before anything starts."""
        _ = (self.source, self.student, self.method, self.baseline_method, self.start_method, self.teachers)
        _ = (self.devices, self.budgets, self.formats, self.pilot_methods)
        self._check_peers()
        if self.recipe.search is not None:
            _ = (self.space, self.scorers, self.search_backend, self.search_device)
        seen = dict[str, int]()
        for index, backend in enumerate(self.backends):
            first = seen.setdefault(backend.artifact_name, index)
            if first != index:
                raise UsageError(
                    f"{self.document.where(('export', index))}: {backend.artifact_name} is exported twice"
                    f" (also as export.{first}); a run holds one artifact of a name",
                    mend=f"give one of them a name of its own, for example `name: {backend.artifact_name}-b`",
                )

    def _check_peers(self) -> None:
        needs, method, given = self.method.needs(), self.recipe.method.use, self.recipe.peers
        _ = self.peers
        if given and not needs.peers:
            raise UsageError(
                f"{self.document.where(('peers',))}: method {method} has one student and no peers",
                mend="leave `peers` out, or use a method whose students teach one another: mutual, fusion",
            )
        if len(given) < needs.peers:
            raise UsageError(
                f"{self.document.where(('method',))}: method {method} needs at least {needs.peers} peer, and there is none",
                mend="name further students: `peers: {large: {use: timm, model: ...}}`",
            )
        if (needs.peers or needs.branches) and self.recipe.teachers and not needs.teachers:
            raise UsageError(
                f"{self.document.where(('teachers',))}: method {method} with `teacher_weight: 0` listens to no teacher",
                mend="set `teacher_weight: 1.0` under `method`, or leave `teachers` out",
            )
        if (needs.peers or needs.branches) and self.recipe.finetune is not None:
            raise UsageError(
                f"{self.document.where(('finetune',))}: students that learnt together are not trained on together",
                mend="leave `finetune` out; `edgekd finetune` trains one of them on, from its folder in the run",
            )

    def resolved(self) -> str:
        """Return the recipe as YAML with every default and every path written out; reading it gives the same recipe."""
        from ruamel.yaml import YAML

        imported = self.recipe.student.use == IMPORTED  # then student and method are no parts, only facts to keep
        single: dict[str, Part | PartRef] = {
            "data": self.source,
            "student": self.recipe.student if imported else self.student,
            "method": self.recipe.method if imported else self.method,
        }
        several = {
            "teachers": self.teachers,
            "export": self.backends,
            "formats": self.formats,
        }
        data = self.recipe.model_dump(mode="json")
        data |= {key: _written(part) for key, part in single.items()}
        data |= {key: [_written(part) for part in found] for key, found in several.items()}
        data["budgets"] = {**data["budgets"], "budgets": [_plain(entry) for entry in self.recipe.budgets.budgets]}
        data["peers"] = {name: _written(self.peers[name]) for name in self.recipe.peers}
        if data["bench"] is not None:
            data["bench"]["devices"] = [_written(device) for device in self.devices]
        if data["baseline"] is not None:
            data["baseline"]["method"] = _written(self.baseline_method)
        if data["start"] is not None and self.start_method is not None:
            data["start"]["method"] = _written(self.start_method)
        if data["pilot"]["methods"] is not None:
            data["pilot"]["methods"] = [_written(method) for method in self.pilot_methods]
        if data["search"] is not None:
            data["search"]["space"] = _written(self.space)
            data["search"]["scorers"] = [_written(scorer) for scorer in self.scorers]
            if self.search_backend is not None:
                data["search"]["latency"]["backend"] = _written(self.search_backend)
            if self.search_device is not None:
                data["search"]["latency"]["device"] = _written(self.search_device)
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        text = io.StringIO()
        yaml.dump(data, text)
        return text.getvalue()

    def _several(self, kind: str, refs: Sequence[PartRef], key: str) -> tuple[Part, ...]:
        return tuple(self.part(kind, ref, (key, i)) for i, ref in enumerate(refs))


def load_recipe(path: Path, *, quick: bool = False, assignments: Sequence[str] = ()) -> Loaded:
    """Read a recipe, lay its `quick:` section over it if asked, apply `--set` assignments, and check it.

    Parts are checked when they are asked for (or by `Loaded.check`), so that judging imports no torch.
    """
    document = read_yaml(path, one_of=frozenset({"duration"}))
    if quick and "quick" not in document.data:
        raise UsageError(f"{path}: has no `quick:` section, so --quick means nothing here")
    if quick:
        document.overlay("quick")
    else:
        document.data.pop("quick", None)
    for assignment in assignments:
        document.set(assignment)
    return Loaded(recipe=validate(Recipe, document.data, document), document=document)


def part_at(document: Document, kind: str, ref: PartRef, at: KeyPath) -> Part:
    """Return the part named at a place of a document, its options checked; mistakes carry the line."""
    try:
        cls = parts.load(kind, ref.use)
    except UsageError as error:
        raise UsageError(f"{document.where(at)}: {error.message}", mend=error.mend) from error
    return validate(cls, frozen(ref.options), document, at=at)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return str(value)  # what --set gave is marked by a type of its own, which YAML does not know
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _written(part: Part | PartRef) -> dict[str, Any]:
    ref = part if isinstance(part, PartRef) else part.ref()
    return {"use": ref.use, **ref.options}


def digest_of_section(*sections: Any) -> str:
    """Return the digest of what a stage depends on: recipe sections, parts, numbers."""
    return digest_of([s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections])

"""The recipe: one experiment, from the images to the budgets, as strict data."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, field_validator, model_validator

from edgekd.core import contracts, parts
from edgekd.core.budgets import Budgets, BudgetsSection, resolve
from edgekd.core.config import Document, FilePath, HistoryPlace, frozen, read_yaml, validate
from edgekd.core.errors import UsageError
from edgekd.core.parts import Part, PartRef
from edgekd.core.plan import Cache, Duration, Positive, Section, Train
from edgekd.core.records import IMPORTED, Mode, digest_of
from edgekd.core.search_plan import Search
from edgekd.core.strict_yaml import KeyPath


class Baseline(Section):
    """The student without the teacher: same start, same labels, same number of images seen; own learning rate if given."""

    method: PartRef = PartRef(use="supervised")
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the baseline's training changes in the recipe's `train` section."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        return {key: value for key, value in given.items() if value is not None}


class Start(Section):
    """Where the student begins: trained by a method of its own first, or taken over from the checkpoint of an earlier run.

    Student and baseline share it. With `head: fresh` the last layer is not taken over, and the classes may be others.
    """

    checkpoint: FilePath | None = None
    head: Literal["kept", "fresh"] = "kept"
    method: PartRef = PartRef(use="supervised")
    duration: Duration | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the start's training changes in the recipe's `train` section."""
        given = {
            "duration": self.duration,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "labelled_share": self.labelled_share,
        }
        return {"freeze": None, **{key: value for key, value in given.items() if value is not None}}

    @model_validator(mode="after")
    def _one_way(self) -> "Start":
        if (self.checkpoint is None) == (self.duration is None):
            raise ValueError("give exactly one of `checkpoint` (a checkpoint.json) and `duration` (how long to train first)")
        if self.head == "fresh" and self.checkpoint is None:
            raise ValueError("`head: fresh` needs `checkpoint`, whose head is to be left behind")
        return self


class Finetune(Section):
    """Training on with int8 in view, after the student and before its int8 artifacts: same method, teachers and kept answers.

    `lr` is by default a tenth of `train.lr`.
    """

    precision: Literal["int8"] = "int8"
    duration: Duration = Duration(epochs=2.0)
    lr: Annotated[float, Field(gt=0)] | None = None

    def changes(self, train: Train) -> dict[str, Any]:
        """Return what this training changes in the recipe's `train` section."""
        return {"duration": self.duration, "lr": self.lr or train.lr / 10, "ema": None, "freeze": None, "fake_quantise": True}


class Pilot(Section):
    """How `edgekd pilot` finds a method: which ones, at which learning rates, and how budgets grow while the losers drop out.

    Without `methods` they are chosen by what the recipe's own method learns from, and that one is among them. `lrs` are factors
    of `train.lr`. `images` is how many images each arm sees on the first rung; by default as many as let the last rung see what
    `train.duration` says, but at most four epochs. On each next rung it is 1 / `keep` times as many, for the best `keep` of
    the arms. `seeds` counts up from the recipe's seed.
    """

    methods: Annotated[tuple[PartRef, ...], Field(min_length=1)] | None = None
    lrs: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    images: Positive | None = None
    rungs: Annotated[int, Field(ge=1, le=10)] = 3
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seeds: Positive = 1

    @field_validator("lrs")
    @classmethod
    def _each_once(cls, lrs: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(lrs)) < len(lrs):
            raise ValueError(f"each factor once (found {', '.join(f'{lr:g}' for lr in lrs)})")
        return lrs


class Bench(Section):
    """How to time the artifacts.

    `profile` says how much work it is: `quick` for a look, `gate` for a decision, `publish` for a figure that others rely on.
    `mode: paced` asks `rate_hz` queries a second and times them from when they were due; `offline` measures throughput.
    `spin: false` has idle threads sleep. `against` is another run, whose artifacts of the same names are measured in turns with
    this one's. `rounds`, `warmup` and `iterations` replace what the protocol finds by itself, for a test or a trial;
    `reference: false` leaves out the model that sessions of different days are compared through.
    """

    devices: tuple[PartRef, ...] = (PartRef(use="local"),)
    profile: Literal["quick", "gate", "publish"] = "gate"
    mode: Mode = "single"
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    batch: Positive = 1
    threads: Positive | None = None
    spin: bool = True
    images: Positive = 32
    rounds: Positive | None = None
    warmup: Annotated[int, Field(ge=0)] | None = None
    iterations: Positive | None = None
    reference: bool | None = None
    against: FilePath | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 900.0


PeerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]


class Recipe(Section):
    """One experiment.

    `peers` are further students, by name, for the methods whose students teach one another. `pictures: false` keeps no small
    pictures of images for the report, where these must not leave the machine.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    about: str = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    data: PartRef
    teachers: tuple[PartRef, ...] = ()
    student: PartRef
    peers: dict[PeerName, PartRef] = Field(default={})
    method: PartRef
    cache: Cache = Cache()
    start: Start | None = None
    train: Train
    finetune: Finetune | Literal["int8"] | None = None
    baseline: Baseline | None = Baseline()
    pilot: Pilot = Pilot()
    search: Search | None = None
    export: tuple[PartRef, ...] = ()
    pictures: bool = True
    bench: Bench | None = Bench()
    budgets: BudgetsSection = BudgetsSection()
    history: HistoryPlace | None = None
    formats: tuple[PartRef, ...] = (
        PartRef(use="json"),
        PartRef(use="markdown"),
        PartRef(use="html"),
        PartRef(use="junit"),
    )


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

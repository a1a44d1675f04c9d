"""The recipe: one experiment, from the images to the budgets, as strict data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekd.core import contracts, parts
from edgekd.core.config import Document, KeyPath, frozen, read_yaml, validate
from edgekd.core.parts import Part, PartRef
from edgekd.core.records import digest_of

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the recipe; unknown keys are refused, nothing is converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Duration(Section):
    """How long to train, in exactly one unit."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    images: Positive | None = None

    def in_steps(self, *, batch: int, images_per_epoch: int) -> int:
        """Return the number of optimiser steps (at least 1) for an effective batch size and an epoch of so many images."""
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else cast(float, self.epochs) * images_per_epoch
        return max(1, round(images / batch))

    @model_validator(mode="after")
    def _exactly_one(self) -> "Duration":
        given = [name for name in ("epochs", "steps", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of epochs, steps, images (found {', '.join(given) or 'none'})")
        return self


class Augment(Section):
    """What happens to a training image before it is cut to the models' sizes; geometry first, then colour."""

    crop_area: tuple[Share, Share] = (0.35, 1.0)
    flip: Share = 0.5
    colour_jitter: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0


class Train(Section):
    """How to optimise."""

    duration: Duration
    batch: Positive = 64
    accumulate: Positive = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9
    warmup: Share = 0.05
    label_smoothing: Share = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    workers: Annotated[int, Field(ge=0)] | None = None
    evaluate_every: Share = 0.1
    augment: Augment = Augment()


class Baseline(Section):
    """The student without the teacher: same start, same labels, same number of images seen; own learning rate if given."""

    method: PartRef = PartRef(use="supervised")
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Bench(Section):
    """How to time the artifacts."""

    devices: tuple[PartRef, ...] = (PartRef(use="local"),)
    batch: Positive = 1
    threads: Positive | None = None
    workers: Positive = 3
    warmup: Positive = 20
    iterations: Positive = 200
    images: Positive = 32


class Recipe(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    about: str = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    data: PartRef
    teachers: tuple[PartRef, ...] = ()
    student: PartRef
    method: PartRef
    train: Train
    baseline: Baseline | None = Baseline()
    export: tuple[PartRef, ...] = ()
    bench: Bench | None = Bench()
    budgets: tuple[PartRef, ...] = ()
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
        where = self.document.where(at)
        try:
            cls = parts.load(kind, ref.use)
        except parts.UsageError as error:
            raise type(error)(f"{where}: {error.message}", mend=error.mend) from error
        return validate(cls, frozen(ref.options), self.document, at=at)

    @property
    def source(self) -> contracts.Source:
        """Return where the images come from."""
        return cast(contracts.Source, self.part("source", self.recipe.data, ("data",)))

    @property
    def student(self) -> contracts.Student:
        """Return the student."""
        return cast(contracts.Student, self.part("student", self.recipe.student, ("student",)))

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
    def budgets(self) -> tuple[contracts.Budget, ...]:
        """Return the budgets."""
        return cast(tuple[contracts.Budget, ...], self._several("budget", self.recipe.budgets, "budgets"))

    @property
    def formats(self) -> tuple[contracts.Format, ...]:
        """Return the formats to write the report in."""
        return cast(tuple[contracts.Format, ...], self._several("format", self.recipe.formats, "formats"))

    def check(self) -> None:
        """Resolve every part, so that a mistake anywhere is told before anything starts."""
        _ = (self.source, self.student, self.method, self.baseline_method, self.teachers)
        _ = (self.backends, self.devices, self.budgets, self.formats)

    def _several(self, kind: str, refs: Sequence[PartRef], key: str) -> tuple[Part, ...]:
        return tuple(self.part(kind, ref, (key, i)) for i, ref in enumerate(refs))


def load_recipe(path: Path, *, quick: bool = False, assignments: Sequence[str] = ()) -> Loaded:
    """Read a recipe, lay its `quick:` section over it if asked, apply `--set` assignments, and check it.

    Parts are checked when they are asked for (or by `Loaded.check`), so that judging imports no torch.
    """
    document = read_yaml(path)
    if quick and "quick" not in document.data:
        raise parts.UsageError(f"{path}: has no `quick:` section, so --quick means nothing here")
    if quick:
        document.overlay("quick")
    else:
        document.data.pop("quick", None)
    for assignment in assignments:
        document.set(assignment)
    return Loaded(recipe=validate(Recipe, document.data, document), document=document)


def digest_of_section(*sections: Any) -> str:
    """Return the digest of what a stage depends on: recipe sections, parts, numbers."""
    return digest_of([s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections])

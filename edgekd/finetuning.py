"""From a checkpoint to a recipe that trains it further on labelled images. Imports no torch.

The rates and durations that are not given are ours: AdamW with a cosine towards 0; all weights at 1e-3 with decay 0.05, the
last layer alone at 5e-3 without; 30 epochs, and as many more as it takes to make 200 steps.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from edgekd.core.config import Document, frozen, validate
from edgekd.core.contracts import Source
from edgekd.core.errors import UsageError
from edgekd.core.records import Checkpoint, digest_of
from edgekd.core.sections import Recipe
from edgekd.core.side_records import Probes
from edgekd.core.store import RunFolder, checked_file, find_done, read_record, write_record
from edgekd.recipe import Loaded, load_recipe
from edgekd.work import Work

Mode = Literal["full", "head", "probe"]
MODES: tuple[Mode, ...] = ("full", "head", "probe")
EPOCHS, LEAST_STEPS = 30, 200
VAL_FRACTION = 0.2
WHERE = Path("edgekd finetune")
PROBES = "probes.json"
_FREEZE = {"full": None, "head": "backbone", "probe": "all"}
_SCHEDULE = {
    "full": {"lr": 1e-3, "weight_decay": 0.05},
    "head": {"lr": 5e-3, "weight_decay": 0.0},
    "probe": {"lr": 1e-3, "weight_decay": 0.0},  # no step is taken
}


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Where the labelled images are, and how many of their labels to use.

    A folder of classes (`data`; with `train` and `val` inside, or `val`, or a share of it held out), the `data` section of a
    recipe, or neither: the images that the checkpoint was made from.
    """

    data: Path | None = None
    val: Path | None = None
    val_fraction: float | None = None
    recipe: Path | None = None
    labels_per_class: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.recipe is not None:
            raise UsageError("give the images by --data or by --recipe, not both")
        if self.data is None and (self.val is not None or self.val_fraction is not None):
            raise UsageError("--val and --val-fraction belong to --data")
        if self.val is not None and self.val_fraction is not None:
            raise UsageError("give at most one of --val and --val-fraction")
        if self.labels_per_class is not None and self.fraction is not None:
            raise UsageError("give at most one of --labels-per-class and --fraction")

    def section(self, checkpoint: Checkpoint, *, seed: int) -> dict[str, Any]:
        """Return the recipe's `data` section; a share of the labels is drawn by the seed."""
        section = self._images(checkpoint)
        if self.labels_per_class is not None:
            section |= {"labels_per_class": self.labels_per_class, "label_fraction": None, "label_seed": seed}
        if self.fraction is not None:
            section |= {"labels_per_class": None, "label_fraction": self.fraction, "label_seed": seed}
        return section

    def _images(self, checkpoint: Checkpoint) -> dict[str, Any]:
        if self.recipe is not None:
            ref = load_recipe(self.recipe).source.ref()
            return {"use": ref.use, **ref.options}
        if self.data is None:
            return {"use": checkpoint.data.source.use, **checkpoint.data.source.options}
        folder = self.data.resolve()
        if self.val is not None:
            return {"use": "folder", "train": str(folder), "val": str(self.val.resolve())}
        if self.val_fraction is None and all((folder / name).is_dir() for name in ("train", "val")):
            return {"use": "folder", "train": str(folder / "train"), "val": str(folder / "val")}
        share = VAL_FRACTION if self.val_fraction is None else self.val_fraction
        return {"use": "folder", "train": str(folder), "val_fraction": share}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to train: all weights (`full`), the last layer (`head`), or a linear probe in its place (`probe`)."""

    mode: Mode = "full"
    lr: float | None = None
    epochs: float | None = None
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        mode_of(self.mode)
        if self.mode == "probe" and (self.lr is not None or self.epochs is not None):
            raise UsageError("a probe is fitted, not trained: it has neither --lr nor --epochs")

    def section(self) -> dict[str, Any]:
        """Return the recipe's `train` section; the duration may still be lengthened by `settled`."""
        train: dict[str, Any] = {"batch": self.batch, "duration": {"epochs": self.epochs or EPOCHS}, **_SCHEDULE[self.mode]}
        if self.lr is not None:
            train["lr"] = self.lr
        if self.mode == "probe":
            train["duration"] = {"steps": 1}
        return {**train, "freeze": _FREEZE[self.mode]}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask of frozen features: shares of the labels, the seeds that draw them, and the tap."""

    fractions: tuple[float, ...]
    draws: tuple[int, ...]
    tap: str

    def __post_init__(self) -> None:
        wrong = [f"{fraction:g}" for fraction in self.fractions if not 0 < fraction <= 1]
        if wrong or not self.fractions:
            raise UsageError(f"fractions are above 0 and at most 1 (found {', '.join(wrong) or 'none'})")
        if not self.draws:
            raise UsageError("labels have to be drawn at least once")


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A checkpoint of an earlier run, and where it stands."""

    path: Path
    record: Checkpoint


def mode_of(text: str) -> Mode:
    """Return the mode of a name; raise `UsageError` if there is none."""
    for mode in MODES:
        if mode == text:
            return mode
    raise UsageError(f"no mode is called {text!r}; there are {', '.join(MODES)}")


def fractions_of(text: str, *, mode: Mode) -> tuple[float, ...]:
    """Return the numbers of `0.01,0.1,1`; raise `UsageError` for anything else, and where nothing is probed."""
    if mode != "probe":
        raise UsageError("--fractions belongs to --mode probe", mend="to train on a share of the labels use --fraction")
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--fractions {text!r}: expected shares between commas, as in 0.01,0.1,1") from error


def find_checkpoint(path: Path) -> Earlier:
    """Return the checkpoint of a run folder, or the one that a checkpoint.json is."""
    if path.is_dir():
        inside = RunFolder(path).checkpoint()
        path = inside if inside.is_file() else path / "checkpoint.json"
    if not path.is_file():
        raise UsageError(f"{path}: there is no checkpoint here", mend="give a run folder, or the checkpoint.json in it")
    path = path.resolve()
    return Earlier(path=path, record=read_record(Checkpoint, path))


def compose(earlier: Earlier, labelled: Labelled, tuning: Tuning, *, assignments: Sequence[str] = ()) -> Loaded:
    """Return the recipe that trains a checkpoint further; `settled` finishes it once the images are known."""
    found = earlier.record
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{found.student_name}-{tuning.mode}")[:64]
    data: dict[str, Any] = {
        "name": name,
        "about": f"{found.student_name} of checkpoint {found.digest()[:12]}, mode {tuning.mode}",
        "seed": tuning.seed,
        "data": labelled.section(found, seed=tuning.seed),
        "student": {"use": found.student.use, **found.student.options},
        "method": "supervised",
        "start": {"checkpoint": str(earlier.path)},
        "train": tuning.section(),
        "baseline": None,
        "export": _exports(earlier.path.parent.parent),
    }
    document = Document(WHERE, frozen(data), one_of=frozenset({"duration"}))
    for assignment in assignments:
        document.set(assignment)
    return Loaded(recipe=validate(Recipe, document.data, document), document=document)


def settled(loaded: Loaded, earlier: Earlier, source: Source, tuning: Tuning, *, assignments: Sequence[str] = ()) -> Loaded:
    """Return the recipe with what depends on the images: a fresh head for other classes, and enough steps for few images.

    What was given, by option or by assignment, stays as it is.
    """
    document = loaded.document
    given = {assignment.partition("=")[0].strip() for assignment in assignments}
    if source.classes != earlier.record.classes and "start.head" not in given:
        document.data["start"] = {**document.data["start"], "head": "fresh"}
    if tuning.mode != "probe" and tuning.epochs is None and not any(key.startswith("train.duration") for key in given):
        labels = max(1, len(source.train()))
        effective = loaded.recipe.train.batch * loaded.recipe.train.accumulate
        epochs = max(EPOCHS, ceil(LEAST_STEPS * effective / labels))
        document.data["train"] = {**document.data["train"], "duration": {"epochs": epochs}}
    return Loaded(recipe=validate(Recipe, document.data, document), document=document)


def schedule(loaded: Loaded) -> str:
    """Return in words how a recipe trains."""
    train = loaded.recipe.train
    if train.freeze == "all":
        return "the last layer is fitted as a linear probe; nothing else changes"
    what = "the last layer" if train.freeze == "backbone" else "all weights"
    value, unit = next((value, unit) for unit, value in train.duration if value is not None)
    head = "a fresh head" if loaded.recipe.start is not None and loaded.recipe.start.head == "fresh" else "its own head"
    return (
        f"{what}, with {head}: {train.optimiser}, learning rate {train.lr:g} with a cosine,"
        f" weight decay {train.weight_decay:g}, batch {train.batch}, {value:g} {unit}"
    )


def probe(work: Work, earlier: Earlier, question: Question) -> Probes:
    """Answer the question into `probes.json` of the work's folder, or keep what is there if it answers the same."""
    found = earlier.record
    settings = digest_of([list(question.fractions), list(question.draws), question.tap])
    from_ = {"checkpoint": found.digest(), "data": work.source.digest(), "settings": settings}
    path = work.folder.root / PROBES
    if (done := find_done(Probes, path, from_)) is not None:
        work.console.say(f"{path.name}: kept")
        return done
    from edgekd.distilling import downstream

    width, shares = downstream.probe(
        found,
        checked_file(found.weights, folder=earlier.path.parent),
        student=work.loaded.student,
        source=work.source,
        tap=question.tap,
        fractions=question.fractions,
        draws=question.draws,
        console=work.console,
    )
    made = Probes(
        made_by=work.made_by,
        from_=from_,
        student_name=found.student_name,
        tap=question.tap,
        width=width,
        data=work.source.facts(),
        shares=shares,
    )
    write_record(path, made)
    return made


def _exports(run: Path) -> list[dict[str, Any]]:
    """Return what the earlier run was exported to, so that the new one is as well; ONNX if that is not known."""
    recipe = RunFolder(run).recipe
    refs = [part.ref() for part in load_recipe(recipe).backends] if recipe.is_file() else []
    return [{"use": ref.use, **ref.options} for ref in refs] or [{"use": "onnxruntime"}]

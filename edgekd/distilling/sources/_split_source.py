"""What every built-in source has in common: splitting, hiding labels, refusing what cannot be learned from, facts, digest."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from edgekd.core.contracts import UNKNOWN_LABEL, Sample, Source
from edgekd.core.errors import DataError
from edgekd.core.records import DataFacts, Quarantined
from edgekd.distilling import splits
from edgekd.distilling.scan import Picture, Progress
from edgekd.distilling.sources._images import Images, Reader
from edgekd.distilling.splits import Found


@dataclass(kw_only=True)
class Gathered:
    """What a source found: classes in index order, images by split (`val` None: to be split off), and unusable images.

    `where` is the place to name in a message about the training images.
    """

    where: str
    classes: tuple[str, ...] = ()
    train: list[Found] = field(default_factory=list)
    unlabelled: list[Found] = field(default_factory=list)
    val: list[Found] | None = None
    bad: list[Quarantined] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    train: Images
    unlabelled: Images
    val: Images
    facts: DataFacts


class SplitSource(Source):
    """A source that knows its images once `_gather` has listed them; the rest is the same for all."""

    train_at: Any = Field(alias="train")
    val_at: Any = Field(default=None, alias="val")
    unlabelled_at: Any = Field(default=(), alias="unlabelled")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    labels_per_class: Annotated[int, Field(ge=1)] | None = None
    label_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    label_seed: int | None = None
    class_names: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(default=None, alias="classes")
    bad_images: Literal["error", "quarantine"] = "error"
    allow_leaks: bool = False
    seed: int = 0
    _progress: Progress | None = PrivateAttr(default=None)
    _memo: _Prepared | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.val_at is None) == (self.val_fraction is None):
            raise ValueError("give exactly one of `val` (a set of its own) and `val_fraction` (a share of the training images)")
        if self.class_names is not None and len(set(self.class_names)) < len(self.class_names):
            raise ValueError("`classes` names a class twice")
        if self.labels_per_class is not None and self.label_fraction is not None:
            raise ValueError("give at most one of `labels_per_class` and `label_fraction`")
        return self

    def _gather(self) -> Gathered:
        raise NotImplementedError

    def _reader(self) -> Reader:
        raise NotImplementedError

    def on_progress(self, progress: Progress) -> None:
        """Have `progress(done, total)` called while images are read for the first time."""
        self._progress = progress

    def train(self) -> Images:
        """Return the labelled training images."""
        return self._prepared.train

    def unlabelled(self) -> Images:
        """Return the training images whose labels are unknown or were hidden."""
        return self._prepared.unlabelled

    def val(self) -> Images:
        """Return the labelled images that no training step ever sees."""
        return self._prepared.val

    def calibration(self, n: int) -> Images:
        """Return `n` training images, the same for the same seed; those for a smaller `n` are among those for a larger."""
        samples = [*self._prepared.train.samples, *self._prepared.unlabelled.samples]
        if n > len(samples):
            raise DataError(f"{n} calibration images were asked for; there are {len(samples)} training images")
        order = nsmallest(n, range(len(samples)), key=lambda at: splits.rank(self.seed, "calibration", samples[at].id))
        return Images([_found_again(samples[at]) for at in sorted(order)], self._reader())

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in index order."""
        return self._prepared.facts.classes

    def digest(self) -> str:
        """Return the sha256 over classes, ids, labels, splits and image bytes."""
        return self._prepared.facts.digest

    def facts(self) -> DataFacts:
        """Return the record of what this source holds."""
        return self._prepared.facts

    @property
    def _prepared(self) -> _Prepared:
        if self._memo is None:
            self._memo = self._prepare()
        return self._memo

    def _prepare(self) -> _Prepared:
        found = self._gather()
        if self.bad_images == "error":
            _refuse_bad(found)
        splits.refuse_duplicates([*found.train, *found.unlabelled, *(found.val or ())])
        _refuse_too_little(found)
        train, val = found.train, found.val
        if val is None:
            assert self.val_fraction is not None
            train, val = splits.hold_out(train, fraction=self.val_fraction, seed=self.seed, classes=found.classes)
        unlabelled = found.unlabelled
        train, hidden = self._with_hidden_labels(train, found.classes)
        unlabelled = [*(replace(image, label=UNKNOWN_LABEL) for image in hidden), *unlabelled]
        if not self.allow_leaks:
            splits.refuse_leaks([*train, *unlabelled], val)
        sets = {"train": train, "unlabelled": unlabelled, "val": val}
        facts = DataFacts(
            source=self.ref(),
            digest=splits.digest(sets, found.classes),
            classes=found.classes,
            train_images=len(train) + len(unlabelled),
            labelled_images=len(train),
            validation_images=len(val),
            quarantined=tuple(found.bad),
        )
        reader = self._reader()
        return _Prepared(
            train=Images(train, reader), unlabelled=Images(unlabelled, reader), val=Images(val, reader), facts=facts
        )

    def _with_hidden_labels(self, train: list[Found], classes: tuple[str, ...]) -> tuple[list[Found], list[Found]]:
        """Return the images that keep their label and those that lose it; `label_seed` draws them, by default `seed`."""
        seed = self.seed if self.label_seed is None else self.label_seed
        if self.labels_per_class is not None:
            return splits.hide_labels(train, per_class=self.labels_per_class, seed=seed, classes=classes)
        if self.label_fraction is None:
            return train, []
        kept = splits.draw(train, count=splits.share_of(self.label_fraction), seed=seed)
        return [image for image in train if image.id in kept], [image for image in train if image.id not in kept]


def keep(found: Gathered, into: list[Found], image: Found, picture: Picture) -> None:
    """Put an image into a split, or among the unusable ones if it has a problem."""
    if picture.problem:
        found.bad.append(Quarantined(image=image.id, reason=picture.problem))
    else:
        into.append(image)


def refuse(problems: Mapping[str, str], *, of: str, mend: str) -> None:
    """Raise one `DataError` that lists every problem by the name of what has it, if there are any."""
    if problems:
        told = [f"{name}: {why}" for name, why in problems.items()]
        raise DataError(f"{of}: {len(told)} cannot be used:{splits.lines(told)}", mend=mend)


def index_of(classes: tuple[str, ...]) -> dict[str, int]:
    """Return class name -> index."""
    return {name: index for index, name in enumerate(classes)}


def _found_again(sample: Sample) -> Found:
    place = sample.locator
    return Found(
        id=sample.id,
        label=UNKNOWN_LABEL,
        sha256=sample.sha256,
        file=place.file,
        offset=place.offset,
        size_bytes=place.size_bytes,
    )


def _refuse_bad(found: Gathered) -> None:
    if found.bad:
        images = len(found.bad) + len(found.train) + len(found.unlabelled) + len(found.val or ())
        told = [f"{bad.image}: {bad.reason}" for bad in found.bad]
        raise DataError(
            f"{len(told)} of {images} images cannot be used:{splits.lines(told)}",
            mend="repair or remove them, or set `bad_images: quarantine` to leave them out",
        )


def _refuse_too_little(found: Gathered) -> None:
    per_class = [0] * len(found.classes)
    for image in found.train:
        per_class[image.label] += 1
    total = sum(per_class)
    left_out = f" ({len(found.bad)} were left out)" if found.bad else ""
    if total < 2:
        raise DataError(f"{found.where}: {total or 'no'} labelled training image{left_out}; nothing can be learned from that")
    empty = [name for name, count in zip(found.classes, per_class, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"{found.where}: no training image in class {splits.listed(empty)}{left_out}",
            mend="add images, or leave these classes out with `classes`",
        )
    if len(found.classes) < 2:
        raise DataError(f"{found.where}: only one class, {found.classes[0]}; a classifier needs at least two")
    if found.val is not None and not found.val:
        raise DataError(f"`val` holds no image{left_out}", mend="check the path, or use `val_fraction`")

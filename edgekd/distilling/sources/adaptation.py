"""Two sources as one: labels from one domain, images and the test from another."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Annotated, Any, overload

import numpy as np
from pydantic import BeforeValidator, PlainSerializer, PrivateAttr, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from edgekd.core import parts
from edgekd.core.config import frozen
from edgekd.core.contracts import UNKNOWN_LABEL, ImageSet, Sample, Source
from edgekd.core.errors import DataError, UsageError
from edgekd.core.parts import PartRef, nearest
from edgekd.core.records import DataFacts, digest_of
from edgekd.distilling import splits
from edgekd.distilling.imagesets import concat

SOURCE, TARGET = "source", "target"


def _nested(value: Any, info: ValidationInfo) -> Any:
    """Make the source that a mapping with `use` names; its relative paths start where the recipe's do."""
    if isinstance(value, Source):
        return value
    ref = PartRef.model_validate(value)
    try:
        cls = parts.load("source", ref.use)
    except UsageError as error:
        raise ValueError(error.message.rstrip(".")) from error
    known = tuple(field.alias or name for name, field in cls.model_fields.items())
    unknown = [key for key in ref.options if key not in known and key not in cls.model_fields]
    if unknown:
        problems = [InitErrorDetails(type=_unknown(key, known), loc=(key,), input=ref.options) for key in unknown]
        raise ValidationError.from_exception_data(cls.__name__, problems)
    return cls.model_validate(frozen(ref.options), context=info.context)


def _unknown(key: str, known: tuple[str, ...]) -> PydanticCustomError:
    told = {"nearest": nearest(key, known), "known": ", ".join(known)}
    return PydanticCustomError("value_error", "unknown key.{nearest} Known here: {known}", told)


def _as_recipe(part: Source) -> dict[str, Any]:
    ref = part.ref()
    return {"use": ref.use, **ref.options}


NestedSource = Annotated[Source, BeforeValidator(_nested), PlainSerializer(_as_recipe)]


class Adaptation(Source):
    """Labelled images of one domain, unlabelled ones of another, and the test in the other.

    `source` and `target` are sources of their own, written in full: `{use: folder, train: ..., val: ...}`. Learned from are
    the training images of both, those of `target` without their labels; the test is on `target`'s validation images, whose
    labels serve for judging alone. The validation images of `source` are not used.
    """

    source: NestedSource
    target: NestedSource
    allow_leaks: bool = False
    _memo: "_Prepared | None" = PrivateAttr(default=None)

    def on_progress(self, progress: Callable[[int, int], None]) -> None:
        """Have `progress(done, total)` called while the images of either domain are read for the first time."""
        self.source.on_progress(progress)
        self.target.on_progress(progress)

    def identity(self) -> dict[str, Any]:
        """Return name and options, with the identities of the two sources."""
        options = {SOURCE: self.source.identity(), TARGET: self.target.identity(), "allow_leaks": self.allow_leaks}
        return {"use": self.ref().use, "options": options}

    def train(self) -> ImageSet:
        """Return the labelled training images of the source domain."""
        return self._prepared.train

    def unlabelled(self) -> ImageSet:
        """Return all training images of the target domain, labels hidden, then those of the source domain that have none."""
        return self._prepared.unlabelled

    def val(self) -> ImageSet:
        """Return the validation images of the target domain."""
        return self._prepared.val

    def calibration(self, n: int) -> ImageSet:
        """Return `n` training images of both domains; those for a smaller `n` are among those for a larger."""
        images = concat(self._prepared.train, self._prepared.unlabelled)
        if n > len(images):
            raise DataError(f"{n} calibration images were asked for; there are {len(images)} training images")
        order = nsmallest(n, range(len(images)), key=lambda at: splits.rank(0, "calibration", images.samples[at].id))
        return _Chosen(images, sorted(order))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in index order."""
        return self._prepared.facts.classes

    def digest(self) -> str:
        """Return the sha256 over the digests of both domains and which of them is which."""
        return self._prepared.facts.digest

    def facts(self) -> DataFacts:
        """Return the record of what both domains hold."""
        return self._prepared.facts

    @property
    def _prepared(self) -> "_Prepared":
        if self._memo is None:
            self._memo = self._prepare()
        return self._memo

    def _prepare(self) -> "_Prepared":
        parts.need_packages(self.source)
        parts.need_packages(self.target)
        source, target = self.source.facts(), self.target.facts()
        _refuse_other_classes(source.classes, target.classes)
        train: ImageSet = _Domain(self.source.train(), SOURCE)
        val: ImageSet = _Domain(self.target.val(), TARGET)
        hidden = concat(
            _Domain(self.target.train(), TARGET, hide_labels=True),
            _Domain(self.target.unlabelled(), TARGET, hide_labels=True),
        )
        unlabelled = concat(hidden, _Domain(self.source.unlabelled(), SOURCE, hide_labels=True))
        if not self.allow_leaks:
            _refuse_leaks(concat(train, _Domain(self.source.unlabelled(), SOURCE)), val)
        quarantined = [
            bad.model_copy(update={"image": f"{domain}/{bad.image}"})
            for domain, facts in ((SOURCE, source), (TARGET, target))
            for bad in facts.quarantined
        ]
        facts = DataFacts(
            source=self.ref(),
            digest=digest_of({SOURCE: source.digest, TARGET: target.digest}),
            classes=source.classes,
            train_images=len(train) + len(unlabelled),
            labelled_images=len(train),
            validation_images=len(val),
            quarantined=tuple(quarantined),
        )
        return _Prepared(train=train, unlabelled=unlabelled, val=val, facts=facts)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    train: ImageSet
    unlabelled: ImageSet
    val: ImageSet
    facts: DataFacts


class _Picked(Sequence[Sample]):
    """Samples of a sequence, some or all, each changed on the way out."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def _at(self, index: int) -> Sample:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])


class _DomainSamples(_Picked):
    def __init__(self, samples: Sequence[Sample], domain: str, *, hide_labels: bool) -> None:
        super().__init__(samples)
        self._domain = domain
        self._hide_labels = hide_labels

    def __len__(self) -> int:
        return len(self._samples)

    def _at(self, index: int) -> Sample:
        sample = self._samples[index]
        label = UNKNOWN_LABEL if self._hide_labels else sample.label
        return replace(sample, id=f"{self._domain}/{sample.id}", label=label)


class _Domain:
    """The images of one domain under ids that say so."""

    def __init__(self, images: ImageSet, domain: str, *, hide_labels: bool = False) -> None:
        self.samples: Sequence[Sample] = _DomainSamples(images.samples, domain, hide_labels=hide_labels)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        return self._images.load(index)


class _ChosenSamples(_Picked):
    def __init__(self, samples: Sequence[Sample], indices: "np.ndarray[Any, Any]") -> None:
        super().__init__(samples)
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def _at(self, index: int) -> Sample:
        return replace(self._samples[int(self._indices[index])], label=UNKNOWN_LABEL)


class _Chosen:
    """Some images of a set, labels unused."""

    def __init__(self, images: ImageSet, indices: Iterable[int]) -> None:
        self._indices = np.array(list(indices), dtype=np.int64)
        self.samples: Sequence[Sample] = _ChosenSamples(images.samples, self._indices)
        self._images = images

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        return self._images.load(int(self._indices[range(len(self))[index]]))


def _refuse_other_classes(source: tuple[str, ...], target: tuple[str, ...]) -> None:
    if source == target:
        return
    only = [
        (SOURCE, [name for name in source if name not in target]),
        (TARGET, [name for name in target if name not in source]),
    ]
    told = [f"only in `{domain}`: {splits.listed(names)}" for domain, names in only if names]
    differs = "; ".join(told) or f"the same names in another order: {splits.listed(source)} against {splits.listed(target)}"
    raise DataError(
        f"`source` has {len(source)} classes and `target` {len(target)}, and they are not the same: {differs}",
        mend="give both the same `classes`, in the same order",
    )


def _refuse_leaks(train: ImageSet, val: ImageSet) -> None:
    """Raise `DataError` if the bytes of a target validation image are also those of a source training image."""
    in_train = {sample.sha256: sample.id for sample in train.samples if sample.sha256}
    pairs = [f"{in_train[s.sha256]} = {s.id}" for s in val.samples if s.sha256 in in_train]
    if pairs:
        raise DataError(
            f"{len(pairs)} of {len(val)} validation images of `target` are also training images of `source`, byte for byte:"
            f"{splits.lines(pairs)}",
            mend="take them out of one of the two, or set `allow_leaks: true` and trust the accuracy less",
        )

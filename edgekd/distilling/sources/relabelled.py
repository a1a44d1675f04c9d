"""Another source's images, labelled in a model's own classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from pydantic import Field, PrivateAttr

from edgekd.core import parts
from edgekd.core.class_names import ClassNames, read_class_names
from edgekd.core.config import FilePath
from edgekd.core.contracts import UNKNOWN_LABEL, ImageSet, Sample, Source
from edgekd.core.errors import DataError
from edgekd.core.parts import nearest
from edgekd.core.records import DataFacts, digest_of
from edgekd.distilling.sources.adaptation import NestedSource
from edgekd.distilling.splits import listed


class Relabelled(Source):
    """Another source's images under a model's own classes: ten folders among a thousand answers.

    `classes` is a text file with one class a line, in the order of the model's outputs. A line may hold several names between
    tabs, as in `index, wnid, name`; a class of `source` is found by any of them that no other line has.
    """

    source: NestedSource
    classes_file: FilePath = Field(alias="classes")
    _memo: "_Prepared | None" = PrivateAttr(default=None)

    def on_progress(self, progress: Callable[[int, int], None]) -> None:
        """Have `progress(done, total)` called while images are read for the first time."""
        self.source.on_progress(progress)

    def identity(self) -> dict[str, Any]:
        """Return name and options, with the identity of the source within."""
        known = super().identity()
        return {**known, "options": {**known["options"], "source": self.source.identity()}}

    def train(self) -> ImageSet:
        """Return the labelled training images."""
        return _Images(self.source.train(), self._prepared.label)

    def unlabelled(self) -> ImageSet:
        """Return the training images without a label."""
        return _Images(self.source.unlabelled(), self._prepared.label)

    def val(self) -> ImageSet:
        """Return the validation images."""
        return _Images(self.source.val(), self._prepared.label)

    def calibration(self, n: int) -> ImageSet:
        """Return `n` training images, those that the source within gives."""
        return _Images(self.source.calibration(n), self._prepared.label)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the model's classes in the order of its outputs."""
        return self._prepared.facts.classes

    def digest(self) -> str:
        """Return the sha256 over the digest of the source within, the classes, and which is which."""
        return self._prepared.facts.digest

    def facts(self) -> DataFacts:
        """Return the record of what the source within holds, under the model's classes."""
        return self._prepared.facts

    @property
    def _prepared(self) -> "_Prepared":
        if self._memo is None:
            self._memo = self._prepare()
        return self._memo

    def _prepare(self) -> "_Prepared":
        parts.need_packages(self.source)
        model = read_class_names(self.classes_file)
        within = self.source.facts()
        label = {UNKNOWN_LABEL: UNKNOWN_LABEL} | dict(enumerate(_matched(within.classes, model, str(self.classes_file))))
        facts = within.model_copy(
            update={
                "source": self.ref(),
                "classes": model.names,
                "digest": digest_of({"source": within.digest, "classes": list(model.names), "label": sorted(label.items())}),
            }
        )
        return _Prepared(facts=facts, label=label)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    facts: DataFacts
    label: dict[int, int]


def _matched(classes: tuple[str, ...], model: ClassNames, where: str) -> list[int]:
    unknown = [name for name in classes if name not in model.index]
    if unknown:
        hint = nearest(unknown[0], list(model.index))
        raise DataError(
            f"{where}: none of its lines is called {listed(unknown)}, as the images' classes are.{hint}",
            mend="give each line the name of the images' folder, too, behind a tab",
        )
    found = [model.index[name] for name in classes]
    if len(set(found)) < len(found):
        raise DataError(f"{where}: two of the images' classes are the same line: {listed(classes)}")
    return found


class _Samples(Sequence[Sample]):
    def __init__(self, samples: Sequence[Sample], label: dict[int, int]) -> None:
        self._samples, self._label = samples, label

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        sample = self._samples[index]
        return replace(sample, label=self._label[sample.label])


class _Images:
    def __init__(self, images: ImageSet, label: dict[int, int]) -> None:
        self.samples: Sequence[Sample] = _Samples(images.samples, label)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        return self._images.load(index)

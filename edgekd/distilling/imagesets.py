"""Image sets made of other image sets: two in a row, or one held in memory."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from edgekd.core.contracts import ImageSet, Sample
from edgekd.distilling.scan import in_threads

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def concat(first: ImageSet, second: ImageSet) -> ImageSet:
    """Return the images of both sets, those of `first` first."""
    if len(second) == 0:
        return first
    return second if len(first) == 0 else _Concat(first, second)


class Picked:
    """Some images of a set, in the order given."""

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = list(indices)
        self.samples: Sequence[Sample] = [images.samples[index] for index in indices]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._indices)

    def load(self, index: int) -> Pixels:
        """Return image `index` of these as uint8 RGB HWC."""
        return self._images.load(self._indices[index])


class InMemory:
    """A set of images decoded once: as many as fit into `limit_bytes` stay in memory, the others are read each time.

    Make it before the data workers are forked, and they share it.
    """

    def __init__(self, images: ImageSet, *, limit_bytes: int) -> None:
        self.samples = images.samples
        self._images = images
        self._held: list[Pixels] = []
        self.held_bytes = 0
        for image_HWC in in_threads(images.load, range(len(images))):
            if self.held_bytes + image_HWC.nbytes > limit_bytes:
                break
            image_HWC.flags.writeable = False
            self._held.append(image_HWC)
            self.held_bytes += image_HWC.nbytes

    @property
    def complete(self) -> bool:
        """Say whether every image is held."""
        return len(self._held) == len(self._images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def load(self, index: int) -> Pixels:
        """Return image `index` as uint8 RGB HWC, read-only if it is held in memory."""
        at = range(len(self))[index]
        return self._held[at] if at < len(self._held) else self._images.load(at)


class _Concat:
    def __init__(self, first: ImageSet, second: ImageSet) -> None:
        self.samples: Sequence[Sample] = _ConcatSamples(first.samples, second.samples)
        self._sets = (first, second)

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Pixels:
        at = range(len(self))[index]
        first, second = self._sets
        return first.load(at) if at < len(first) else second.load(at - len(first))


class _ConcatSamples(Sequence[Sample]):
    def __init__(self, first: Sequence[Sample], second: Sequence[Sample]) -> None:
        self._parts = (first, second)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        first, second = self._parts
        return first[at] if at < len(first) else second[at - len(first)]

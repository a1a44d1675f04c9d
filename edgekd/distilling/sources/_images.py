"""The images of a source in a fixed order, kept in a few flat buffers.

A list of a million Python objects costs hundreds of megabytes, and forked data workers copy it page by page as they count
references. Flat buffers cost what they hold and stay shared.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from edgekd.core.contracts import Sample
from edgekd.core.errors import DataError
from edgekd.core.images import DecodeError
from edgekd.distilling.splits import Found


class Place(NamedTuple):
    """Where an image's bytes are: a file, the image's id below its split, and a range in the file."""

    file: str
    name: str
    offset: int
    size_bytes: int


Reader = Callable[[Place], "np.ndarray[Any, Any]"]
"""Returns an image as uint8 RGB HWC or raises `DecodeError`; picklable: a function of a module, or a partial of one."""


class Samples(Sequence[Sample]):
    """Samples made on demand."""

    def __init__(self, images: Sequence[Found]) -> None:
        encoded = [image.id.encode("utf-8") for image in images]
        self._ids = b"".join(encoded)
        self._ends = np.fromiter(itertools.accumulate(map(len, encoded)), dtype=np.int64, count=len(encoded))
        self._labels = np.array([image.label for image in images], dtype=np.int32)
        self._sha256s = b"".join(bytes.fromhex(image.sha256) if image.sha256 else bytes(32) for image in images)
        self._files = tuple(dict.fromkeys(image.file for image in images))
        position = {file: index for index, file in enumerate(self._files)}
        places = [(position[image.file], image.offset, image.size_bytes) for image in images]
        self._places = np.array(places, dtype=np.int64).reshape(len(places), 3)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start = int(self._ends[at - 1]) if at else 0
        name = self._ids[start : int(self._ends[at])].decode("utf-8")
        file, offset, size_bytes = (int(number) for number in self._places[at])
        place = Place(self._files[file], name.partition("/")[2], offset, size_bytes)
        sha256 = self._sha256s[32 * at : 32 * at + 32]
        return Sample(id=name, label=int(self._labels[at]), locator=place, sha256=sha256.hex() if any(sha256) else "")


class Images:
    """Images in a fixed order, each read when it is asked for."""

    def __init__(self, images: Iterable[Found], reader: Reader) -> None:
        self.samples: Sequence[Sample] = Samples(tuple(images))
        self._reader = reader

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        """Return image `index` as uint8 RGB HWC; raise `DataError` if its bytes changed since they were checked."""
        sample = self.samples[index]
        try:
            return self._reader(sample.locator)
        except DecodeError as error:
            raise DataError(
                f"{sample.id} (in {sample.locator.file}) could be read when the images were checked and now cannot:"
                f" {error.reason}",
                mend="leave the images as they are during a run; run the same command again",
            ) from error

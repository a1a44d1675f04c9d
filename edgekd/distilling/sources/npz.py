"""Small images in NumPy archives."""

import hashlib
import zipfile
import zlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from edgekd.core.config import FilePath
from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError
from edgekd.core.images import DecodeError
from edgekd.core.parts import nearest
from edgekd.distilling.sources._images import Place, Reader
from edgekd.distilling.sources._split_source import Gathered, SplitSource
from edgekd.distilling.splits import Found, lines, listed

Array = np.ndarray[Any, Any]


class Npz(SplitSource):
    """Images and labels as arrays in .npz files (uint8, N x H x W x 3 or N x H x W); nothing is unpickled.

    Labels are indices into the class names, with -1 for an unknown label in `train`, or the class names themselves. The names
    come from the array `names_key` or from `classes`; without either, indices are their own names. `unlabelled` files need
    images only. The archives are held in memory.
    """

    train_at: FilePath = Field(alias="train")
    val_at: FilePath | None = Field(default=None, alias="val")
    unlabelled_at: tuple[FilePath, ...] = Field(default=(), alias="unlabelled")
    images_key: str = "images"
    labels_key: str = "labels"
    names_key: str | None = None

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if self.names_key is not None and self.class_names is not None:
            raise ValueError("give the class names by `names_key` or by `classes`, not both")
        return self

    def _reader(self) -> Reader:
        return partial(_read, key=self.images_key)

    def _gather(self) -> Gathered:
        found = Gathered(where=str(self.train_at))
        labels = _labels(self.train_at, self.labels_key)
        found.classes = self._class_names(labels)
        for image in self._found(self.train_at, "train", _indices(self.train_at, labels, found.classes, unknown=True)):
            (found.unlabelled if image.label == UNKNOWN_LABEL else found.train).append(image)
        if self.val_at is not None:
            self._refuse_other_names(self.val_at, found.classes)
            val_labels = _labels(self.val_at, self.labels_key)
            found.val = self._found(self.val_at, "val", _indices(self.val_at, val_labels, found.classes, unknown=False))
        for number, path in enumerate(self.unlabelled_at):
            found.unlabelled += self._found(path, f"unlabelled-{number}", None)
        return found

    def _class_names(self, labels: Array) -> tuple[str, ...]:
        if self.class_names is not None:
            return self.class_names
        if self.names_key is not None:
            return _names(self.train_at, self.names_key)
        if labels.dtype.kind == "U":
            return tuple(sorted(set(labels.tolist())))
        present = sorted(set(labels.tolist()) - {UNKNOWN_LABEL})
        if present != list(range(len(present))):
            raise DataError(
                f"{self.train_at}: the labels are not 0, 1, 2, ... without gaps: {listed([str(p) for p in present])}",
                mend="name the classes with `classes` or `names_key`",
            )
        return tuple(str(index) for index in present)

    def _refuse_other_names(self, path: Path, classes: tuple[str, ...]) -> None:
        if self.names_key is not None and (names := _names(path, self.names_key)) != classes:
            raise DataError(
                f"{path}: {self.names_key} is {listed(names)}, but in {self.train_at} it is {listed(classes)}",
                mend="both files must number the same classes in the same order",
            )

    def _found(self, path: Path, split: str, labels: list[int] | None) -> list[Found]:
        images = _images(path, self.images_key)
        if labels is not None and len(labels) != len(images):
            raise DataError(
                f"{path}: {len(images)} {self.images_key} but {len(labels)} {self.labels_key}",
                mend="there must be one label for each image",
            )
        return [
            Found(
                id=f"{split}/{row:08d}",
                label=UNKNOWN_LABEL if labels is None else labels[row],
                sha256=hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
                file=str(path),
                offset=row,
            )
            for row, image in enumerate(images)
        ]


def _read(place: Place, *, key: str) -> Array:
    try:
        images = _images(Path(place.file), key)
    except DataError as error:
        raise DecodeError(error.message) from error
    if place.offset >= len(images):
        raise DecodeError(f"there are only {len(images)} images left")
    image: Array = images[place.offset]
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image.copy()


def _images(path: Path, key: str) -> Array:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _checked_images(path, key, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=4)
def _checked_images(path: Path, key: str, stamp: tuple[int, int, int]) -> Array:  # noqa: ARG001 - part of the cache's key
    images = _array(path, key)
    grey = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape[1:]:
        raise DataError(
            f"{path}: {key} is {images.dtype} of shape {images.shape}",
            mend="images must be uint8 of shape (N, height, width, 3) or, for grey ones, (N, height, width)",
        )
    return images


def _labels(path: Path, key: str) -> Array:
    labels = _array(path, key)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: {key} is {labels.dtype} of shape {labels.shape}",
            mend="labels must be one-dimensional: integers or class names",
        )
    return labels


def _names(path: Path, key: str) -> tuple[str, ...]:
    names = _array(path, key)
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise DataError(
            f"{path}: {key} must be a one-dimensional array of different strings; it is {names.dtype} {names.shape}"
        )
    return tuple(names.tolist())


def _indices(path: Path, labels: Array, classes: tuple[str, ...], *, unknown: bool) -> list[int]:
    if labels.dtype.kind == "U":
        index: dict[Any, int] = {name: number for number, name in enumerate(classes)}
    else:
        index = {number: number for number in range(len(classes))} | ({UNKNOWN_LABEL: UNKNOWN_LABEL} if unknown else {})
    values = labels.tolist()
    wrong = [f"image {row}: {value}" for row, value in enumerate(values) if value not in index]
    if wrong:
        raise DataError(f"{path}: {len(wrong)} labels are of no class:{lines(wrong)}", mend=f"classes: {listed(classes)}")
    return [index[value] for value in values]


def _array(path: Path, key: str) -> Array:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array, not an .npz archive", mend="write it with numpy.savez")
            if key not in archive.files:
                known = archive.files
                raise DataError(f"{path}: holds no array {key!r}.{nearest(key, known)} It has {listed(known) or 'none'}")
            array: Array = archive[key]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError) as error:
        pickled = "pickle" in str(error)
        why = "it holds Python objects, which are never unpickled" if pickled else str(error) or type(error).__name__
        raise DataError(f"{path}: not a readable .npz archive: {why}") from error
    return array

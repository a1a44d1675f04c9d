"""Images in folders."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from edgekd.core.config import FilePath
from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError
from edgekd.core.images import SUFFIXES, decode
from edgekd.core.parts import nearest
from edgekd.distilling.scan import Picture, scan
from edgekd.distilling.sources._images import Place, Reader
from edgekd.distilling.sources._labels_csv import read_labels
from edgekd.distilling.sources._split_source import Gathered, SplitSource, index_of, keep
from edgekd.distilling.splits import Found, lines, listed


class Folder(SplitSource):
    """Image files in one folder for each class, or in any folder with a CSV of labels.

    `train` and `val` hold one folder for each class or, with `labels_csv` and `val_labels_csv`, images in any arrangement.
    Training images that the CSV does not list, and whatever is below the `unlabelled` folders, have no label. `classes` fixes
    the order of the classes; folders of other classes are then left out.
    """

    train_at: FilePath = Field(alias="train")
    val_at: FilePath | None = Field(default=None, alias="val")
    unlabelled_at: tuple[FilePath, ...] = Field(default=(), alias="unlabelled")
    labels_csv: FilePath | None = None
    val_labels_csv: FilePath | None = None

    @model_validator(mode="after")
    def _labels_have_images(self) -> Self:
        if self.val_labels_csv is not None and self.val_at is None:
            raise ValueError("`val_labels_csv` needs `val`, the folder that its files are in")
        return self

    def _reader(self) -> Reader:
        return _read

    def _gather(self) -> Gathered:
        found = Gathered(where=str(self.train_at))
        train = self._scanned(self.train_at, "train")
        class_of = self._labels(self.train_at, train, self.labels_csv)
        there = set(class_of.values())
        found.classes = self.class_names or tuple(sorted(there))
        self._refuse_unknown(found.classes, known=there, where="`classes`")
        index = index_of(found.classes)
        for name, picture in train.items():
            if name not in class_of:
                keep(found, found.unlabelled, _found("train", self.train_at, name, picture), picture)
            elif class_of[name] in index:
                image = _found("train", self.train_at, name, picture, label=index[class_of[name]])
                keep(found, found.train, image, picture)
        if self.val_at is not None:
            self._gather_val(found, self.val_at, there)
        for number, folder in enumerate(self.unlabelled_at):
            for name, picture in self._scanned(folder, "unlabelled").items():
                keep(found, found.unlabelled, _found(f"unlabelled-{number}", folder, name, picture), picture)
        return found

    def _gather_val(self, found: Gathered, folder: Path, known: set[str]) -> None:
        pictures = self._scanned(folder, "val")
        class_of = self._labels(folder, pictures, self.val_labels_csv)
        without = sorted(set(pictures) - set(class_of))
        if without:
            raise DataError(
                f"{self.val_labels_csv}: no label for {len(without)} images of {folder}:{lines(without)}",
                mend="give every validation image a label, or move these out of the folder",
            )
        self._refuse_unknown(sorted(set(class_of.values())), known=known, where=str(folder))
        index = index_of(found.classes)
        found.val = []
        for name, picture in pictures.items():
            if class_of[name] in index:
                keep(found, found.val, _found("val", folder, name, picture, label=index[class_of[name]]), picture)

    def _scanned(self, folder: Path, option: str) -> dict[str, Picture]:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "no such folder"
            raise DataError(
                f"`{option}`: {folder}: {what}",
                mend="check the path; in a recipe it is relative to the recipe's folder",
            )
        pictures = scan(folder, self._progress)
        if "." in pictures:
            raise DataError(f"`{option}`: {folder}: {pictures['.'].problem}")
        if not pictures:
            raise DataError(f"`{option}`: {folder}: no image files there ({', '.join(sorted(SUFFIXES))})")
        return pictures

    def _labels(self, folder: Path, pictures: dict[str, Picture], labels_csv: Path | None) -> dict[str, str]:
        if labels_csv is not None:
            return read_labels(labels_csv, folder=folder, names=pictures.keys(), classes=self.class_names)
        return _class_folders(folder, pictures)

    def _refuse_unknown(self, names: tuple[str, ...] | list[str], *, known: set[str], where: str) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            hints = "".join(dict.fromkeys(nearest(name, sorted(known)) for name in unknown))
            raise DataError(
                f"{where}: class {listed(unknown)} is not among the training classes.{hints}"
                f" Training classes in {self.labels_csv or self.train_at}: {listed(sorted(known))}"
            )


def _class_folders(folder: Path, pictures: dict[str, Picture]) -> dict[str, str]:
    class_of = {name: name.partition("/")[0] for name in pictures}
    loose = [name for name in pictures if "/" not in name and not (folder / name).is_dir()]
    if loose:
        raise DataError(
            f"{folder}: {len(loose)} images are in no class folder:{lines(loose)}",
            mend="put each in the folder of its class, give their labels with `labels_csv`, or list the folder in `unlabelled`",
        )
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    empty = [name for name in folders if name not in set(class_of.values())]
    if empty:
        raise DataError(f"{folder}: no image in class folder {listed(empty)}", mend="add images to it, or remove the folder")
    return class_of


def _found(split: str, folder: Path, name: str, picture: Picture, label: int = UNKNOWN_LABEL) -> Found:
    return Found(id=f"{split}/{name}", label=label, sha256=picture.sha256, file=str(folder))


def _read(place: Place) -> "np.ndarray[Any, Any]":
    return decode(Path(place.file, place.name))

"""Images in WebDataset tar shards."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from edgekd.core.config import FilePath
from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError
from edgekd.core.images import DecodeError, decode
from edgekd.core.parts import nearest
from edgekd.distilling.scan import Picture
from edgekd.distilling.sources import _shards
from edgekd.distilling.sources._images import Place, Reader
from edgekd.distilling.sources._shards import Member
from edgekd.distilling.sources._split_source import Gathered, SplitSource, index_of, keep
from edgekd.distilling.splits import Found, lines, listed


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


ShardPatterns = Annotated[tuple[FilePath, ...], BeforeValidator(_several)]


class WebDataset(SplitSource):
    """Images in WebDataset tar shards, each with its class in `.cls` (index) or `.txt` (name).

    `train`, `val` and `unlabelled` are shards or patterns (`{000..009}`, `*`), one or a list. The class names come from
    `classes` or from the lines of `class_file`; without either, from the training labels.
    """

    requires: ClassVar[tuple[str, ...]] = ("webdataset",)

    train_at: ShardPatterns = Field(alias="train")
    val_at: ShardPatterns | None = Field(default=None, alias="val")
    unlabelled_at: ShardPatterns = Field(default=(), alias="unlabelled")
    class_file: FilePath | None = None

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if self.class_file is not None and self.class_names is not None:
            raise ValueError("give the class names by `class_file` or by `classes`, not both")
        return self

    def _reader(self) -> Reader:
        return _read

    def _gather(self) -> Gathered:
        found = Gathered(where=listed([str(pattern) for pattern in self.train_at]))
        train = self._members(self.train_at, "train")
        found.classes = self._class_names(train)
        self._sort_in(found, found.train, train, split="train")
        if self.val_at is not None:
            found.val = []
            self._sort_in(found, found.val, self._members(self.val_at, "val"), split="val")
        for shard, member in self._members(self.unlabelled_at, "unlabelled"):
            keep(found, found.unlabelled, _found(shard, member, "unlabelled", UNKNOWN_LABEL), _picture(member))
        return found

    def _members(self, patterns: tuple[Path, ...], option: str) -> list[tuple[Path, Member]]:
        shards = [shard for pattern in patterns for shard in _shards.expand(pattern, option=option)]
        members: list[tuple[Path, Member]] = []
        for done, shard in enumerate(shards, start=1):
            in_shard = _shards.members(shard)
            if not in_shard:
                raise DataError(f"`{option}`: {shard}: no samples in this shard")
            members += [(shard, member) for member in in_shard]
            if self._progress is not None:
                self._progress(done, len(shards))
        return members

    def _class_names(self, train: list[tuple[Path, Member]]) -> tuple[str, ...]:
        if self.class_names is not None:
            return self.class_names
        if self.class_file is not None:
            return _lines_of(self.class_file)
        indices = {member.cls for _, member in train} - {None}
        if not indices:
            return tuple(sorted({member.txt for _, member in train if member.txt}))
        names = tuple(str(index) for index in range(len(indices)))
        if indices != set(names):
            raise DataError(
                f"the .cls labels are not 0, 1, 2, ... without gaps: {listed(sorted(map(str, indices)))}",
                mend="name the classes with `classes` or `class_file`",
            )
        return names

    def _sort_in(self, found: Gathered, into: list[Found], members: list[tuple[Path, Member]], *, split: str) -> None:
        index = index_of(found.classes)
        wrong: list[str] = []
        for shard, member in members:
            label, problem = _label(member, found.classes, index)
            if problem:
                wrong.append(f"{shard.name}: {member.key}: {problem}")
            keep(found, into, _found(shard, member, split, label), _picture(member))
        if wrong:
            raise DataError(
                f"`{split}`: {len(wrong)} samples cannot be used:{lines(wrong)}",
                mend=f"every sample needs a .cls (index) or .txt (name) of one of the classes: {listed(found.classes)}",
            )


def _label(member: Member, classes: tuple[str, ...], index: dict[str, int]) -> tuple[int, str]:
    if member.cls is not None:
        if not (member.cls.isascii() and member.cls.isdecimal()):
            return UNKNOWN_LABEL, f".cls is {member.cls!r}, not an index"
        if int(member.cls) >= len(classes):
            return UNKNOWN_LABEL, f".cls is {member.cls}, but there are {len(classes)} classes, counted from 0"
        return int(member.cls), ""
    if member.txt is None:
        return UNKNOWN_LABEL, "no label"
    if member.txt not in index:
        return UNKNOWN_LABEL, f"no class is called {member.txt!r}.{nearest(member.txt, classes)}"
    return index[member.txt], ""


def _lines_of(path: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`class_file`: {path}: cannot be read ({error})") from error
    if not names or len(set(names)) < len(names):
        raise DataError(f"`class_file`: {path}: must name each class once, one on a line; found {listed(names) or 'nothing'}")
    return tuple(names)


def _picture(member: Member) -> Picture:
    return Picture(sha256=member.sha256, problem=member.problem)


def _found(shard: Path, member: Member, split: str, label: int) -> Found:
    return Found(
        id=f"{split}/{member.key}.{member.suffix}" if member.suffix else f"{split}/{member.key}",
        label=label,
        sha256=member.sha256,
        file=str(shard),
        offset=member.offset,
        size_bytes=member.size_bytes,
    )


def _read(place: Place) -> "np.ndarray[Any, Any]":
    try:
        with Path(place.file).open("rb") as shard:
            shard.seek(place.offset)
            content = shard.read(place.size_bytes)
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror or error})") from error
    return decode(content)

"""Reading a teacher's stored answers: any rows, mapped from disk, as float32.

Axes: B batch, N rows, D numbers in a row.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.distilling.feature_files import DTYPES, INDEX, checked, open_shard, unsound

Integers = np.ndarray[Any, np.dtype[np.int64]]


class FeatureStore:
    """The stored answers to all views of a set of images; opening it compares every file with its digest.

    `order_N` holds, row by row, the index of the row's image in the set that the caller goes by. Raises `IntegrityError` for
    a file that was changed.
    """

    def __init__(self, folder: Path, *, taps: tuple[str, ...], order_N: Sequence[int], views: int) -> None:
        self.key = folder.name
        self.taps = taps
        self.images = len(order_N)
        self.views = views
        self._row_of_image_N = np.argsort(np.asarray(order_N, dtype=np.int64))
        self._tables = {tap: _Table(folder / tap, images=self.images, views=views) for tap in parts_of(taps)}
        self.size_bytes = sum(table.size_bytes for table in self._tables.values())
        for tap in taps:
            if "+" in tap and any(len(self._tables[part].shape) != 1 for part in tap.split("+")):
                raise ValueError(f"{tap}: only vectors can be joined")

    def features(
        self, index_B: Tensor | Integers | Sequence[int], view_B: Tensor | Integers | Sequence[int]
    ) -> dict[str, Tensor]:
        """Return the features (float32, on the CPU) of views `view_B` of images `index_B`, tap by tap.

        Raises `IndexError` for an image or a view that is not stored.
        """
        images_B, views_B = np.asarray(index_B, dtype=np.int64), np.asarray(view_B, dtype=np.int64)
        _check_range(images_B, self.images, "images")
        _check_range(views_B, self.views, "views")
        row_B = self._row_of_image_N[images_B]
        found = {tap: table.gather(row_B, views_B) for tap, table in self._tables.items()}
        joined = {tap: [found[part] for part in tap.split("+")] for tap in self.taps}
        return {tap: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for tap, parts in joined.items()}

    def mean(self, index_B: Tensor | Integers | Sequence[int]) -> dict[str, Tensor]:
        """Return the features of these images averaged over all views; raise `IndexError` for an image that is not stored."""
        images_B = np.asarray(index_B, dtype=np.int64)
        found = self.features(np.repeat(images_B, self.views), np.tile(np.arange(self.views), len(images_B)))
        return {tap: value.unflatten(0, (len(images_B), self.views)).mean(dim=1) for tap, value in found.items()}


class _Table:
    """All rows of one tap, mapped into memory."""

    def __init__(self, folder: Path, *, images: int, views: int) -> None:
        index = checked(folder)
        if (index.images, index.views) != (images, views):
            raise unsound(folder / INDEX, f"it is of {index.images} images x {index.views} views")
        self.shape = index.shape
        self.size_bytes = sum(shard.file.size_bytes for shard in index.shards)
        self._dtype = DTYPES[index.dtype]
        shards = sorted(index.shards, key=lambda shard: (shard.view, shard.first_row))
        self._step = shards[0].rows if shards else 1
        self._per_view = -(-images // self._step)
        expected = [(view, first) for view in range(views) for first in range(0, images, self._step)]
        if [(shard.view, shard.first_row) for shard in shards] != expected:
            raise unsound(folder / INDEX, "it does not name every shard")
        self._shards = [
            open_shard(folder / shard.file.path, rows=shard.rows, shape=index.shape, dtype=index.dtype) for shard in shards
        ]

    def gather(self, row_B: Integers, view_B: Integers) -> Tensor:
        """Return float32 rows."""
        half_BD = np.empty((len(row_B), prod(self.shape)), dtype=np.uint16)
        number_B = view_B * self._per_view + row_B // self._step
        for at, (number, row) in enumerate(zip(number_B.tolist(), (row_B % self._step).tolist(), strict=True)):
            half_BD[at] = self._shards[number][row]
        return torch.from_numpy(half_BD).view(self._dtype).float().reshape(len(row_B), *self.shape)


def parts_of(taps: Sequence[str]) -> tuple[str, ...]:
    """Return the taps that are stored for these: a joined tap `a+b` is stored as `a` and `b`, each once."""
    return tuple(dict.fromkeys(part for tap in taps for part in tap.split("+")))


def _check_range(value_B: Integers, count: int, what: str) -> None:
    if value_B.size and not (value_B.min() >= 0 and value_B.max() < count):
        raise IndexError(f"the cache holds {count} {what}, asked for {value_B.min()}..{value_B.max()}")

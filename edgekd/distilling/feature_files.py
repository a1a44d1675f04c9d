"""The files of a teacher's stored answers: their names, what is in them, and whether they are sound.

    <root>/<key>/ids.json                                 the images' ids, in row order
    <root>/<key>/<tap>/index.json                         what is stored, made from what, and the shards with their digests
    <root>/<key>/<tap>/view-<v>_<first row>.safetensors   tensor `features`: rows of view v, from `first row` on

Row r of view v is the teacher's answer to view v of the image whose id is entry r of `ids.json`.

Axes: N rows, D numbers in a row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from edgekd.core.errors import IntegrityError
from edgekd.core.host import usable_cores
from edgekd.core.records import Fact, FileRef, digest_of
from edgekd.core.store import file_ref, sha256_of

Dtype = Literal["fp16", "bf16"]
DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

FORMAT_VERSION = 1
INDEX = "index.json"
IDS = "ids.json"
TENSOR = "features"
SHARD_BYTES = 8 << 20
MIN_ROWS, MAX_ROWS = 256, 2048  # powers of two, so that every shard begins where a teacher's batch begins

Half = np.ndarray[Any, np.dtype[np.uint16]]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of one view that one file holds."""

    view: int
    first_row: int
    rows: int

    @property
    def name(self) -> str:
        """Return the file's name."""
        return f"view-{self.view}_{self.first_row}.safetensors"


class ShardFile(Fact):
    """A shard as it was written."""

    view: int
    first_row: int
    rows: int
    file: FileRef


class TapIndex(Fact):
    """What stands in a tap's folder; `made_from` holds what the key is the digest of, `shape` is one row's."""

    kind: Literal["edgekd teacher features"] = "edgekd teacher features"
    format_version: Literal[1] = 1
    tap: str
    tensor: str = TENSOR
    shape: tuple[int, ...]
    dtype: Dtype
    images: int
    views: int
    row_order: str = f"row r of a view: the answer for the image whose id is entry r of {IDS}, in the folder above"
    made_from: dict[str, Any]
    ids: FileRef
    shards: tuple[ShardFile, ...]


def rows_per_shard(shape: Sequence[int]) -> int:
    """Return how many rows of 16-bit numbers of this shape one file holds: a power of two, decided by nothing else."""
    fitting = max(1, SHARD_BYTES // max(1, 2 * prod(shape)))
    return min(MAX_ROWS, max(MIN_ROWS, 1 << (fitting.bit_length() - 1)))


def shards_of(*, views: Sequence[int], rows: range, shape: Sequence[int]) -> Iterator[Shard]:
    """Yield the files of these rows of each view; `rows` begins where a file begins."""
    step = rows_per_shard(shape)
    for view in views:
        for first in range(rows.start, rows.stop, step):
            yield Shard(view=view, first_row=first, rows=min(step, rows.stop - first))


def shard_bytes(shard: Shard, *, shape: Sequence[int], dtype: Dtype) -> int:
    """Return the exact size of a file: the safetensors header, padded to eight bytes, and two bytes for each number."""
    data_bytes = 2 * shard.rows * prod(shape)
    stored = {"fp16": "F16", "bf16": "BF16"}[dtype]
    entry = {"dtype": stored, "shape": [shard.rows, *shape], "data_offsets": [0, data_bytes]}
    header_bytes = len(json.dumps({TENSOR: entry}, separators=(",", ":")))
    return 8 + (header_bytes + 7) // 8 * 8 + data_bytes


def index_of(folder: Path, shards: Sequence[Shard], *, shape: tuple[int, ...], facts: Mapping[str, Any]) -> TapIndex:
    """Return the index of a tap whose files are all there; each is opened and hashed."""

    def written(shard: Shard) -> ShardFile:
        path = folder / shard.name
        open_shard(path, rows=shard.rows, shape=shape, dtype=facts["dtype"])
        file = file_ref(path, folder=folder)
        return ShardFile(view=shard.view, first_row=shard.first_row, rows=shard.rows, file=file)

    with ThreadPoolExecutor(usable_cores()) as pool:
        files = tuple(pool.map(written, shards))
    return TapIndex(
        tap=folder.name,
        shape=shape,
        dtype=facts["dtype"],
        images=facts["images"]["count"],
        views=facts["views"],
        made_from=dict(facts),
        ids=file_ref(folder.parent / IDS, folder=folder.parent),
        shards=files,
    )


def is_complete(folder: Path) -> bool:
    """Say whether a tap has an index and every file that it names; a file that someone deleted is to be made again."""
    if not (folder / INDEX).is_file():
        return False
    index = read_index(folder)
    return (folder.parent / IDS).is_file() and all((folder / shard.file.path).is_file() for shard in index.shards)


def read_index(folder: Path) -> TapIndex:
    """Return a tap's index; raise `IntegrityError` if it is not one, or not the one of this folder."""
    path = folder / INDEX
    try:
        index = TapIndex.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error.error_count()} of its entries are wrong or missing"
        raise unsound(path, f"not a readable index ({reason})") from error
    named = all(shard.file.path == _shard(shard).name for shard in index.shards) and index.ids.path == IDS
    if (index.tap, digest_of(index.made_from)) != (folder.name, folder.parent.name) or not named:
        raise unsound(path, "it was changed, or is not the index of this folder")
    return index


def checked(folder: Path) -> TapIndex:
    """Return a tap's index after comparing every file that it names with its digest; raise `IntegrityError` if one differs."""
    index = read_index(folder)
    files = [(folder.parent / IDS, index.ids), *((folder / shard.file.path, shard.file) for shard in index.shards)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(_check, files):
            pass
    return index


def open_shard(path: Path, *, rows: int, shape: Sequence[int], dtype: Dtype) -> Half:
    """Map a file into memory and return half_ND, the 16 bits of each number; raise `IntegrityError` if it holds else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # A view of the mapped file: nothing is read before a row is asked for, and no file handle stays open.
            stored = file.get_tensor(TENSOR)
    except (SafetensorError, OSError) as error:
        raise unsound(path, f"not a readable safetensors file ({str(error).splitlines()[0]})") from error
    if tuple(stored.shape) != (rows, *shape) or stored.dtype != DTYPES[dtype]:
        raise unsound(path, f"it holds {tuple(stored.shape)} of {stored.dtype}, not {(rows, *shape)} of {DTYPES[dtype]}")
    half_ND: Half = stored.reshape(rows, prod(shape)).view(torch.uint16).numpy()
    half_ND.flags.writeable = False
    return half_ND


def unsound(path: Path, why: str) -> IntegrityError:
    """Return the error for a file that must not be trusted."""
    return IntegrityError(f"{path}: {why}", mend="delete it and run again: what is missing is computed anew, the rest is kept")


def _shard(entry: ShardFile) -> Shard:
    return Shard(view=entry.view, first_row=entry.first_row, rows=entry.rows)


def _check(named: tuple[Path, FileRef]) -> None:
    path, ref = named
    if not path.is_file():
        raise unsound(path, f"named by {INDEX} but missing")
    if path.stat().st_size != ref.size_bytes or sha256_of(path) != ref.sha256:
        raise unsound(path, f"its bytes are not those that {INDEX} was written for")

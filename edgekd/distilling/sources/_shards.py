"""Tar shards in the WebDataset layout: what is in them and at which byte, so that any image can be read at any time.

The webdataset library reads shards front to back, as a stream. Views are drawn in seeded random order and drawn again when a
teacher's answers were cached, so images must be reachable one by one. Hence the library says, once, what the samples of a
shard are (its rules for keys and grouping), the standard library's tar listing says at which byte each member starts, and from
then on an image is a seek and a read. The result is kept in the scan's index for as long as the shard does not change.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError
from edgekd.core.images import SUFFIXES
from edgekd.distilling.scan import Index, Picture, in_threads, look_at, shown

_CHUNK_BYTES = 64 << 20
_LABEL_CHARACTERS = 200
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One sample of a shard: its key, its image's suffix, byte range and digest or problem, its labels as text (None: none)."""

    key: str
    suffix: str
    offset: int
    size_bytes: int
    sha256: str
    problem: str
    cls: str | None
    txt: str | None


def expand(pattern: Path, *, option: str) -> list[Path]:
    """Return the shards that a pattern stands for: webdataset's `{000..009}` and `{a,b}`, and `*` in the last part."""
    from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]

    text = str(pattern)
    if "::" in text or "${" in text:
        raise DataError(f"`{option}`: {text}: `::` and `${{...}}` mean nothing here", mend="list the shards one by one")
    try:
        paths = [Path(path) for path in expand_urls(text)]
    except ValueError as error:
        raise DataError(f"`{option}`: {text}: {error}") from error
    shards: list[Path] = []
    for path in paths:
        matches = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else [path]
        if not matches or not matches[0].is_file():
            raise DataError(
                f"`{option}`: {path}: no such shard", mend="check the path; in a recipe it is relative to its folder"
            )
        shards += matches
    return shards


def members(shard: Path) -> list[Member]:
    """Return the samples of a shard in its order; raise `DataError` if it is not a whole, uncompressed tar."""
    index = Index(shard)
    status = shard.stat()
    known = _from_index(index.get("", status))
    if known is None:
        known = list(_read(shard))
        index.put("", status, [astuple(member) for member in known])
        index.save()
    return known


def _from_index(rows: Any) -> list[Member] | None:
    if not isinstance(rows, list):
        return None
    known = []
    for row in rows:
        match row:
            case [str(key), str(suffix), int(offset), int(size), str(sha256), str(problem), str() | None, str() | None]:
                member = Member(
                    key=key,
                    suffix=suffix,
                    offset=offset,
                    size_bytes=size,
                    sha256=sha256,
                    problem=problem,
                    cls=row[6],
                    txt=row[7],
                )
                known.append(member)
            case _:
                return None
    return known


def _read(shard: Path) -> Iterator[Member]:
    try:
        places = _places(shard)
        chunk: list[dict[str, Any]] = []
        waiting_bytes = 0
        for sample in _samples(shard):
            chunk.append(sample)
            waiting_bytes += sum(len(value) for value in sample.values() if isinstance(value, bytes))
            if waiting_bytes > _CHUNK_BYTES:
                yield from _looked_at(chunk, places)
                chunk, waiting_bytes = [], 0
        yield from _looked_at(chunk, places)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{shard}: not a whole tar archive: {error.args[0] if error.args else error}") from error


def _places(shard: Path) -> dict[str, tuple[int, int]]:
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and member.name in places:
                    raise DataError(f"{shard}: holds {member.name} twice", mend="write the shard again with unique names")
                if member.isreg() and not member.issparse():
                    places[member.name] = (member.offset_data, member.size)
            end = archive.offset
    except tarfile.ReadError as error:
        raise DataError(
            f"{shard}: not a whole, uncompressed tar archive: {error}",
            mend="decompress it first; JPEG and PNG inside do not get smaller by compressing them again",
        ) from error
    # The listing stops without a word at a header that it cannot read.
    with shard.open("rb") as file:
        file.seek(end)
        tail = file.read(_TAIL_BYTES)
    if len(tail) < tarfile.BLOCKSIZE or any(tail):
        raise DataError(f"{shard}: ends in the middle (after byte {end})", mend="copy or write the shard again")
    return places


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys, tar_file_expander  # type: ignore[import-untyped]

    with shard.open("rb") as stream:
        yield from group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}]), lcase=False)


def _looked_at(samples: list[dict[str, Any]], places: dict[str, tuple[int, int]]) -> Iterator[Member]:
    images = [_image_suffixes(sample) for sample in samples]
    contents = [sample[suffixes[0]] if suffixes else b"" for sample, suffixes in zip(samples, images, strict=True)]
    for sample, suffixes, picture in zip(samples, images, in_threads(look_at, contents), strict=True):
        suffix = suffixes[0] if suffixes else ""
        offset, size_bytes = places.get(f"{sample['__key__']}.{suffix}", (-1, 0))
        yield Member(
            key=shown(sample["__key__"]),
            suffix=suffix,
            offset=offset,
            size_bytes=size_bytes,
            sha256=picture.sha256,
            problem=_problem(sample["__key__"], suffixes, offset=offset, picture=picture),
            cls=_text(sample.get("cls")),
            txt=_text(sample.get("txt")),
        )


def _image_suffixes(sample: dict[str, Any]) -> list[str]:
    names = [name for name in sample if not name.startswith("__")]
    return [name for name in names if Path(f"x.{name}").suffix.lower() in SUFFIXES]


def _problem(key: str, suffixes: list[str], *, offset: int, picture: Picture) -> str:
    if shown(key) != key:
        return "its name is not UTF-8"
    if not suffixes:
        return "the sample has no image"
    if len(suffixes) > 1:
        return f"the sample has more than one image ({', '.join(suffixes)})"
    return picture.problem or ("stored in a way that cannot be read at random" if offset < 0 else "")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[: 4 * _LABEL_CHARACTERS].decode("utf-8", "replace").strip()[:_LABEL_CHARACTERS]

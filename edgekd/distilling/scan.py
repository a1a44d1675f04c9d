"""What image files are there, and can each one be decoded? Every file is read once; a second run only asks for its status.

What was found out is kept in `$EDGEKD_CACHE`, else `$XDG_CACHE_HOME/edgekd`, else `~/.cache/edgekd`, one index for each root.
An entry holds as long as the file's size, modification and change time stay as they were. The index is a convenience: where
it cannot be read or written, everything is read again.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgekd.core import store
from edgekd.core.errors import MachineError
from edgekd.core.host import cache_folder, usable_cores
from edgekd.core.images import SUFFIXES, DecodeError, decode, read_file

Progress = Callable[[int, int], None]
"""Called with (files done, files in all), from the thread that asked for the scan."""

Item = TypeVar("Item")
Result = TypeVar("Result")
_SCHEMA = 1
_CHUNK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image file as it was read: sha256 of its bytes, its size, or the problem with it ('' if there is none)."""

    sha256: str = ""
    width_px: int = 0
    height_px: int = 0
    problem: str = ""


@dataclass(kw_only=True)
class Listing:
    """The names of the image files below a folder, `/` between parts, sorted; and the names that cannot be used, with why."""

    names: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def look_at(content: bytes) -> Picture:
    """Return what an image's bytes are, decoding all of it."""
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        height_px, width_px, _ = decode(content).shape
    except DecodeError as error:
        return Picture(sha256=sha256, problem=error.reason)
    return Picture(sha256=sha256, width_px=width_px, height_px=height_px)


def list_images(root: Path) -> Listing:
    """List the image files below a folder by suffix (any case); hidden files and folders are left out, links are followed.

    Whatever has an image's name but cannot be one is a problem: a FIFO, a link to nothing, a name that is not UTF-8, a folder
    that cannot be read. A folder named like an image is a folder. A link back to a folder that is being walked is not followed.
    """
    listing = Listing()
    _walk(root, "", (), listing)
    listing.names.sort()
    return listing


def scan(root: Path, progress: Progress | None = None) -> dict[str, Picture]:
    """Return every image file below a folder with what it is, sorted by name; files that the index knows are not read."""
    listing = list_images(root)
    index = Index(root)
    found = {name: Picture(problem=problem) for name, problem in listing.problems.items()}
    unseen: list[tuple[str, os.stat_result]] = []
    for name in listing.names:
        try:
            status = (root / name).stat()
        except OSError as error:
            found[name] = Picture(problem=_cannot_be_read(error))
            continue
        known = _picture(index.get(name, status))
        if known is None:
            unseen.append((name, status))
        else:
            found[name] = known
    try:
        _read_all(root, unseen, found=found, index=index, progress=progress)
    finally:
        # Also after Ctrl-C: what was read need not be read again.
        index.save()
    return dict(sorted(found.items()))


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None) -> Iterator[Result]:
    """Yield `work(item)` in the order of the items, on as many threads as there are usable cores (Pillow releases the GIL)."""
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            yield from pool.map(work, chunk)
            if progress is not None:
                progress(start + len(chunk), len(items))


def shown(name: str) -> str:
    """Return a file name as text, bytes that are not UTF-8 as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# ----------------------------------------------------------------------------------------------------------------- index
class Index:
    """What earlier runs found out about the files of one root: JSON values by file name, each tied to the file's status."""

    def __init__(self, root: Path) -> None:
        import PIL

        self._file = _index_file(root)
        # A newer Pillow may decode what an older one refused, and the reverse.
        self._head = {"schema": _SCHEMA, "pillow": PIL.__version__, "root": os.fsencode(root.resolve()).hex()}
        self._entries = self._load()
        self._asked: set[str] = set()
        self._changed = False

    def get(self, name: str, status: os.stat_result) -> Any | None:
        """Return what is known of a file, or None if nothing is or the file is no longer the same."""
        self._asked.add(name)
        entry = self._entries.get(name)
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] != _stamp(status):
            return None
        return entry[1]

    def put(self, name: str, status: os.stat_result, value: Any) -> None:
        """Remember what was found out about a file whose status was `status` before it was read."""
        self._entries[name] = [_stamp(status), value]
        self._changed = True

    def save(self) -> None:
        """Write the index, without the files that are no longer there."""
        entries = {name: entry for name, entry in self._entries.items() if name in self._asked}
        if self._file is None or not (self._changed or len(entries) < len(self._entries)):
            return
        text = json.dumps({**self._head, "entries": entries}, separators=(",", ":"))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            store.write_text(self._file, text)
        except (OSError, MachineError):
            return

    def _load(self) -> dict[str, Any]:
        try:
            data = json.loads(self._file.read_bytes()) if self._file is not None else None
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(data, dict) or {key: data.get(key) for key in self._head} != self._head:
            return {}
        entries = data.get("entries")
        return entries if isinstance(entries, dict) else {}


def _index_file(root: Path) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return folder / "index" / f"{name}.json" if folder is not None else None


def _stamp(status: os.stat_result) -> list[int]:
    # The change time catches an edit that keeps the size and puts the modification time back.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


# --------------------------------------------------------------------------------------------------------------- reading
def _read_all(
    root: Path,
    unseen: list[tuple[str, os.stat_result]],
    *,
    found: dict[str, Picture],
    index: Index,
    progress: Progress | None,
) -> None:
    def read(item: tuple[str, os.stat_result]) -> Picture:
        try:
            return look_at(read_file(root / item[0]))
        except DecodeError as error:
            return Picture(problem=error.reason)

    for (name, status), picture in zip(unseen, in_threads(read, unseen, progress), strict=True):
        found[name] = picture
        # Without a digest the bytes were never seen, and whatever kept them away may be gone next time.
        if picture.sha256:
            index.put(name, status, [picture.sha256, picture.width_px, picture.height_px, picture.problem])


def _picture(known: Any) -> Picture | None:
    match known:
        case [str(sha256), int(width_px), int(height_px), str(problem)]:
            return Picture(sha256=sha256, width_px=width_px, height_px=height_px, problem=problem)
    return None


def _walk(folder: Path, prefix: str, inside: tuple[tuple[int, int], ...], listing: Listing) -> None:
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            ordered = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        listing.problems[shown(prefix.rstrip("/") or ".")] = f"the folder {_cannot_be_read(error)}"
        return
    here = (status.st_dev, status.st_ino)
    if here in inside:
        return
    for name in ordered:
        path = folder / name
        has_suffix = path.suffix.lower() in SUFFIXES
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if has_suffix:
                broken_link = path.is_symlink()
                listing.problems[shown(prefix + name)] = "a link to nothing" if broken_link else _cannot_be_read(error)
            continue
        if stat.S_ISDIR(mode):
            _walk(path, f"{prefix}{name}/", (*inside, here), listing)
        elif has_suffix:
            _judge(prefix + name, mode, listing)


def _judge(name: str, mode: int, listing: Listing) -> None:
    if shown(name) != name:
        listing.problems[shown(name)] = "its name is not UTF-8"
    elif not stat.S_ISREG(mode):
        listing.problems[name] = "not a regular file"
    else:
        listing.names.append(name)


def _cannot_be_read(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"

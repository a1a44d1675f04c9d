"""Archives: one way to write them, with the same bytes for the same files, and one way to read them that trusts nothing.

Read are plain tar, tar.gz and zip, told apart by their bytes. An archive may hold regular files only, with plain relative
names, and one of them lists the sha256 of all others (as `sha256sum` writes it). Everything is checked in a first pass; only
then is a file written, hashed again on its way, and the folder appears at once, whole.
"""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self, cast

from edgekd.core.archive_formats import MAX_ENTRIES, chunks, entries, opened
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.store import disk_errors, sync_folder

MANIFEST = "SHA256SUMS"
MAX_NAME_BYTES = 240  # what the plainest tar header holds, with room
MAX_MANIFEST_BYTES = 4 << 20

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


# --------------------------------------------------------------------------------------------------------------- writing
def write_archive(folder: Path, target: Path) -> None:
    """Write the files below `folder` as `target` (.tar.gz), names relative to it; the same files give the same bytes.

    Raises `UsageError` for an empty folder, and for links, special files and names that `read_archive` would refuse.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    if target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{target}: would be an archive inside of the folder that it holds", mend="write it beside the folder")
    files = _files_below(folder)
    with (
        disk_errors(target),
        _whole_or_not(target) as file,
        _StoredGzip(file) as packed,
        tarfile.open(fileobj=cast(IO[bytes], packed), mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for header, path in files:  # nobody's name and no time in tar's headers
            with path.open("rb") as content:
                header.size = os.fstat(content.fileno()).st_size
                tar.addfile(header, content)


class _StoredGzip:
    """Gzip that only wraps: weights hardly shrink, and each zlib packs them into other bytes than the next one.

    So there is exactly one way to write an archive, on every machine. No name and no time in gzip's header.
    """

    _MOST = 65535

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._waiting = file, bytearray()
        self._crc = self._size_bytes = 0
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")

    def write(self, content: bytes) -> int:
        self._crc, self._size_bytes = zlib.crc32(content, self._crc), self._size_bytes + len(content)
        self._waiting += content
        while len(self._waiting) > self._MOST:
            self._block(last=False)
        return len(content)

    def tell(self) -> int:
        return self._size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._block(last=True)
            self._file.write(self._crc.to_bytes(4, "little") + (self._size_bytes % 2**32).to_bytes(4, "little"))

    def _block(self, *, last: bool) -> None:
        content = bytes(self._waiting[: self._MOST])
        del self._waiting[: self._MOST]
        size = len(content).to_bytes(2, "little")
        self._file.write(bytes([last]) + size + bytes(255 - byte for byte in size) + content)


def _files_below(folder: Path) -> list[tuple[tarfile.TarInfo, Path]]:
    found, names = [], _Names()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path}: is a link or a special file, which an archive must not hold")
        if path.is_file():
            header = tarfile.TarInfo(path.relative_to(folder).as_posix())
            header.mode = 0o644
            try:
                names.add(header.name)
                header.tobuf(tarfile.USTAR_FORMAT)
            except (IntegrityError, ValueError) as error:
                raise UsageError(f"{folder}: {error}", mend="rename it") from error
            found.append((header, path))
    if not found:
        raise UsageError(f"{folder}: holds no files to put into an archive")
    return found


@contextmanager
def _whole_or_not(target: Path) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


# --------------------------------------------------------------------------------------------------------------- reading
def read_archive(source: Path, folder: Path, *, manifest: str = MANIFEST) -> tuple[str, ...]:
    """Unpack an archive into `folder`, which must not exist yet or be empty; return the names of its files, sorted.

    `manifest` names the file inside that lists the sha256 of every other one. Raises `IntegrityError` for anything that is
    not a plain archive of exactly those files, and then nothing was written; `UsageError` for a missing archive or a folder
    that holds something.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UsageError(f"{folder}: is already there and not empty; nothing was written", mend="choose another folder")
    with opened(source) as file:
        try:
            digests = _checked(file, manifest)
            with disk_errors(folder):
                _unpack(file, digests, folder)
        except IntegrityError as error:
            raise IntegrityError(f"{source}: {error.message}", mend=error.mend or "fetch the archive again") from error
    return tuple(sorted(digests))


def _checked(file: BinaryIO, manifest: str) -> dict[str, str]:
    """Read every byte of an archive once, writing nothing; return the sha256 of each file, all as its manifest says."""
    digests, listing, names = dict[str, str](), None, _Names()
    for name, size_bytes, read in entries(file):
        names.add(name)
        if name == manifest and size_bytes > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"{manifest} is larger than {MAX_MANIFEST_BYTES} bytes")
        digest, kept = hashlib.sha256(), bytearray()
        for chunk in chunks(read, size_bytes):
            digest.update(chunk)
            if name == manifest:
                kept += chunk
        digests[name] = digest.hexdigest()
        if name == manifest:
            listing = _listed(bytes(kept), manifest)
    if listing is None:
        raise IntegrityError(f"holds no {manifest}, so nothing in it can be checked")
    for name in sorted((digests.keys() | listing.keys()) - {manifest}):
        if name not in digests:
            raise IntegrityError(f"{manifest} lists {name!r}, which is not inside")
        if name not in listing:
            raise IntegrityError(f"{name!r} is inside, but {manifest} does not list it")
        if digests[name] != listing[name]:
            raise IntegrityError(f"{name!r} is not the file that {manifest} lists: its sha256 is {digests[name]}")
    return digests


def _unpack(file: BinaryIO, digests: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for name, size_bytes, read in entries(file):
            if name not in digests:
                raise IntegrityError("it changed while it was read")
            digest, path = hashlib.sha256(), temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for chunk in chunks(read, size_bytes):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digests[name] != digest.hexdigest():
                raise IntegrityError("it changed while it was read")
        temporary.chmod(0o755)
        temporary.rename(folder)  # takes the place of an empty folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _listed(content: bytes, manifest: str) -> dict[str, str]:
    listed = dict[str, str]()
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{manifest} is not UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            continue
        matched = _LINE.fullmatch(line)
        if matched is None or matched[2] in listed or matched[2] == manifest:
            raise IntegrityError(f"line {number} of {manifest} is not `<sha256>  <name>`, or names a file again, or itself")
        listed[matched[2]] = matched[1]
    return listed


# ----------------------------------------------------------------------------------------------------------------- names
def unsafe_name(name: str) -> str:
    """Return why a name must not be used for a file inside a folder, or '' for a plain relative one with `/` between parts."""
    try:
        size_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "not UTF-8"
    parts = name.split("/")
    if not 0 < size_bytes <= MAX_NAME_BYTES:
        return f"empty, or longer than {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in name):
        return "control characters"
    if any(character in name for character in '\\:*?"<>|'):
        return 'one of \\ : * ? " < > |'
    if any(part in ("", ".", "..") for part in parts):
        return "absolute, or a part that is empty, . or .."
    if any(part[-1] in ". " or part[0] == " " for part in parts):
        return "a part that begins with a space, or ends with a dot or a space"
    if any(part.partition(".")[0].casefold() in _RESERVED for part in parts):
        return "a device's name on some systems"
    return ""


class _Names:
    """The names seen so far; refuses what could leave the folder, meet another file, or mean another file elsewhere."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, name: str) -> None:
        if len(self._files) == MAX_ENTRIES:
            raise IntegrityError(f"more than {MAX_ENTRIES} files")
        if reason := unsafe_name(name):
            raise IntegrityError(f"{name!r} is not a name for a file in an archive: {reason}")
        # As file systems that ignore case or compose accents would see it.
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        above = {key[:end] for end, character in enumerate(key) if character == "/"}
        if key in self._files or key in self._folders or above & self._files:
            raise IntegrityError(f"{name!r} clashes with another file of the same name (upper and lower case are the same)")
        self._files.add(key)
        self._folders |= above

"""The formats of archives, read as untrusted input: tar, tar.gz and zip become a sequence of names and contents.

The reader for tar is our own: it knows none of the extensions (links, sparse files, long names, vendor headers) that
libraries have stumbled over. Limits hold while bytes come out, not after.
"""

import gzip
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from edgekd.core.errors import IntegrityError, UsageError

MAX_ENTRIES = 10_000
MAX_BYTES = 8 << 30
MAX_RATIO = 100

_FREE_BYTES = 1 << 20  # so much may come out of any archive, however small: a tar of a few short texts is mostly padding
_BLOCK = 512
_CHUNK = 1 << 20
# What the standard library's gzip and zip readers raise on broken files.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
)

Reader = Callable[[int], bytes]
Entry = tuple[str, int, Reader]
"""A file inside an archive: its name, its size in bytes as the archive states it, and what reads on in its content."""


@contextmanager
def opened(source: Path) -> Iterator[BinaryIO]:
    """Open an archive; raise `UsageError` unless it is a regular file, `IntegrityError` if it is too large."""
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer for ever
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror or error}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UsageError(f"{source}: is not a regular file")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > MAX_BYTES:
            raise IntegrityError(f"{source}: is larger than {MAX_BYTES} bytes")
        yield file


def entries(file: BinaryIO) -> Iterator[Entry]:
    """Yield the files of an archive in their order; each must be read to its end before the next is asked for.

    Raises `IntegrityError`, whose message does not say where, for anything that is not a plain archive of regular files.
    """
    file.seek(0)
    head = file.read(_BLOCK)
    file.seek(0)
    with _told():
        if head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file, mode="rb") as packed:
                yield from _tar_entries(cast(BinaryIO, packed), _limit_bytes(file))
        elif head[257:262] == b"ustar":
            yield from _tar_entries(file, _limit_bytes(file))
        elif head.startswith(b"PK\x03\x04"):
            yield from _zip_entries(file, _limit_bytes(file))
        else:
            raise IntegrityError("is not a tar, tar.gz or zip archive")


def chunks(read: Reader, size_bytes: int) -> Iterator[bytes]:
    """Yield exactly so many bytes of an entry; raise `IntegrityError` if there are fewer."""
    while size_bytes:
        with _told():
            chunk = read(min(size_bytes, _CHUNK))
        if not chunk:
            raise IntegrityError("ends in the middle of a file")
        size_bytes -= len(chunk)
        yield chunk


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise IntegrityError(f"is broken: {str(error)[:200] or type(error).__name__}") from error


def _limit_bytes(file: BinaryIO) -> int:
    return min(MAX_BYTES, max(_FREE_BYTES, MAX_RATIO * os.fstat(file.fileno()).st_size))


def _bomb() -> IntegrityError:
    return IntegrityError(f"unpacks to more than {MAX_BYTES} bytes, or {MAX_RATIO} times its own size")


# ------------------------------------------------------------------------------------------------------------------- tar
class _Counted:
    """Reads on in a stream, and refuses to read more than what an honest archive of this size could hold."""

    def __init__(self, stream: BinaryIO, limit_bytes: int) -> None:
        self._stream, self._left = stream, limit_bytes

    def read(self, count: int) -> bytes:
        content = self._stream.read(count)
        self._left -= len(content)
        if self._left < 0:
            raise _bomb()
        return content


def _tar_entries(stream: BinaryIO, limit_bytes: int) -> Iterator[Entry]:
    read = _Counted(stream, limit_bytes).read
    while any(header := b"".join(chunks(read, _BLOCK))):
        name, size_bytes = _tar_header(header)
        yield name, size_bytes, read
        if any(b"".join(chunks(read, -size_bytes % _BLOCK))):
            raise IntegrityError(f"{name!r} is followed by bytes that belong to no file")
    while rest := read(_CHUNK):
        if any(rest):
            raise IntegrityError("goes on after the end of the tar archive")


def _tar_header(header: bytes) -> tuple[str, int]:
    """Return name and size of a tar header of the plainest kind (POSIX ustar); anything more than that is refused."""
    blank = header[:148] + b" " * 8 + header[156:]
    if _octal(header[148:156]) != sum(blank):
        raise IntegrityError("a tar header's checksum is wrong")
    parts = [field.partition(b"\0")[0] for field in (header[345:500], header[:100])]
    name = b"/".join(part for part in parts if part).decode("utf-8", "surrogateescape")
    if header[257:265] != b"ustar\x0000" or header[156:157] not in (b"0", b"\0") or any(header[157:257]):
        raise IntegrityError(
            f"{name!r} is not a regular file of a plain tar archive (type {chr(header[156])!r}); nothing else may be inside",
            mend="pack it with `tar --format=ustar`, naming the files",
        )
    return name, _octal(header[124:136])


def _octal(field: bytes) -> int:
    digits = field.rstrip(b" \0").lstrip(b" ")
    if not digits or any(digit not in b"01234567" for digit in digits):
        raise IntegrityError("a number in a tar header is not one")
    return int(digits, 8)


# ------------------------------------------------------------------------------------------------------------------- zip
def _zip_entries(file: BinaryIO, limit_bytes: int) -> Iterator[Entry]:
    _check_zip_end(file)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise IntegrityError(f"{info.filename!r} shares its bytes with another file")
            end = info.header_offset + info.compress_size
        for info in infos:
            if reason := _odd_in_zip(info):
                raise IntegrityError(f"{info.filename!r} {reason}")
            limit_bytes -= info.file_size
            if limit_bytes < 0 or info.file_size > max(_FREE_BYTES, MAX_RATIO * info.compress_size):
                raise _bomb()
            with archive.open(info) as content:
                yield info.filename, info.file_size, content.read
                if content.read(1):
                    raise IntegrityError(f"{info.filename!r} is longer than the archive says")


def _odd_in_zip(info: zipfile.ZipInfo) -> str:
    if info.is_dir() or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is not a regular file; nothing else may be inside"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in another way than deflate"
    # zipfile cuts a name at a NUL; another reader may not.
    return "has a name that zip readers see differently" if info.orig_filename != info.filename else ""


def _check_zip_end(file: BinaryIO) -> None:
    """Check what stands at the end before zipfile reads a directory of any size that it names into memory."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - 22))
    end = file.read(22)
    count, directory_bytes = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if len(end) != 22 or not end.startswith(b"PK\x05\x06") or end[20:22] != b"\0\0":
        raise IntegrityError("the zip archive is cut off, or something stands behind it")
    if count > MAX_ENTRIES or directory_bytes > MAX_ENTRIES * 1024:
        raise IntegrityError(f"holds more than {MAX_ENTRIES} files, or is a zip archive of more than 4 GiB")
    file.seek(0)

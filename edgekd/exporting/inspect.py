"""Reading an ONNX file before any runtime does: what could harm, mislead or exhaust is refused with the reason (exit code 5).

A runtime's loader was written for files that its user trusts. This reader parses the file as plain protobuf and looks at
everything in it: sizes, names, types, shapes, operators, functions, graphs inside of graphs, and files beside it. It says
nothing about what a model computes: a sound file can still be a bad model.

It checks what is there when it looks. Whoever may write to the model's folder can change it afterwards.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_FILE_BYTES = (2 << 30) - 1  # protobuf's own limit
SUFFIX = ".onnx"

_DISGUISES = {
    b"PK\x03\x04": "a zip archive (a torch checkpoint is one)",
    b"PK\x05\x06": "a zip archive",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x7fELF": "a program",
    b"ptrt": "a TensorRT engine",
    b"ftrt": "a TensorRT engine",
    b"<": "an XML or HTML page",
    b"version https://git-lfs": "a Git LFS pointer; the model itself was not fetched",
}
_Stamp = tuple[tuple[int, ...], ...]
_sound: dict[Path, tuple[tuple[str, ...], _Stamp]] = {}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A model that may be handed to a runtime: the file, parsed, and the files beside it that hold its weights."""

    model: "ModelProto"
    external_files: tuple[str, ...]
    weights_bytes: int


def read(path: Path) -> Sound:
    """Parse an ONNX file and check everything in it; its external data is checked and not loaded.

    Raises `IntegrityError` saying where and why it must not reach a runtime, `UsageError` if it cannot be read at all.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from edgekd.exporting.onnx_graphs import Model
    from edgekd.exporting.onnx_tensors import Tensors

    content = _content(path)
    tensors = Tensors(path.parent)
    try:
        model = onnx.ModelProto.FromString(content)
        del content
        size_bytes = model.ByteSize()
        model.DiscardUnknownFields()
        if model.ByteSize() != size_bytes:
            raise IntegrityError("holds fields that this edgekd's onnx does not know, and a runtime might")
        _check_texts(model)
        Model(model, tensors).check()
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", mend=error.mend) from error
    except (DecodeError, UnicodeError, RecursionError, OverflowError, ValueError) as error:
        raise IntegrityError(
            f"{path}: is not a whole ONNX model: {str(error)[:200]}", mend="fetch or export it again"
        ) from error
    return Sound(model=model, external_files=tuple(sorted(tensors.files)), weights_bytes=tensors.weights_bytes)


def check(path: Path) -> None:
    """Raise `IntegrityError` unless a runtime may open this file; one found sound and not touched since is not read again."""
    known = _sound.get(path.absolute())
    if known is None or known[1] != _stamp(path, known[0]):
        found = read(path)
        _remember(path, found.external_files)


def written_here(path: Path) -> None:
    """Remember that this process has just written the file, all weights inside, so that it need not be read to be trusted."""
    _remember(path, ())


def is_xml(path: Path) -> bool:
    """Say whether a file begins like XML, which no ONNX file does; a missing one is for the runtime to complain of."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(1) == b"<"


def _remember(path: Path, external_files: tuple[str, ...]) -> None:
    _sound[path.absolute()] = (external_files, _stamp(path, external_files))


def _stamp(path: Path, external_files: tuple[str, ...]) -> _Stamp:
    """Return what changes when a file is replaced or written to."""
    found: list[tuple[int, ...]] = []
    for file in (path, *(path.parent / name for name in external_files)):
        try:
            status = file.lstat()
            found.append(
                (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink)
            )
        except OSError:
            found.append(())
    return tuple(found)


def _check_texts(message: Any) -> None:
    """Refuse names that are not UTF-8, which protobuf lets through and every program reads differently."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                _check_texts(inner)
        elif field.type == field.TYPE_STRING:
            texts = (value,) if isinstance(value, str | bytes) else value
            if not all(isinstance(text, str) for text in texts):
                raise IntegrityError(f"holds a {field.name} that is not UTF-8 text")


def _content(path: Path) -> bytes:
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"{path}: is not called *{SUFFIX}", mend=f"runtimes choose a reader by the name; call it *{SUFFIX}")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer for ever
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise IntegrityError(f"{path}: is not a regular file")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > MAX_FILE_BYTES:
            raise IntegrityError(
                f"{path}: is {status.st_size} bytes long, an ONNX file has at most {MAX_FILE_BYTES}",
                mend="save the model with its weights in a file of external data beside it",
            )
        head = file.read(32)
        for magic, what in _DISGUISES.items():
            if head.startswith(magic):
                raise IntegrityError(f"{path}: is {what}, not an ONNX model")
        if not head or head[4:8] in (b"ORTM", b"TFL3"):
            raise IntegrityError(f"{path}: is {'a model in another format' if head else 'empty'}, not an ONNX model")
        file.seek(0)
        return file.read(MAX_FILE_BYTES + 1)

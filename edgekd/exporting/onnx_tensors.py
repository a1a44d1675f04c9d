"""What the tensors, shapes and types of an untrusted ONNX file may be, and which files beside it they may name.

Nothing here opens a runtime or reads weights; the sizes that a file states are held against the bytes that are there.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.archives import unsafe_name
from edgekd.core.errors import IntegrityError

if TYPE_CHECKING:
    from onnx import TensorProto, TypeProto

MAX_TENSOR_BYTES = 4 << 30
MAX_WEIGHTS_BYTES = 8 << 30
MAX_RANK = 32

_STRING = 8
# TensorProto.DataType -> bits of an element, and the field that holds it where raw_data does not.
_TYPES: dict[int, tuple[int, str]] = {
    1: (32, "float_data"),
    2: (8, "int32_data"),
    3: (8, "int32_data"),
    4: (16, "int32_data"),
    5: (16, "int32_data"),
    6: (32, "int32_data"),
    7: (64, "int64_data"),
    _STRING: (8, "string_data"),
    9: (8, "int32_data"),
    10: (16, "int32_data"),
    11: (64, "double_data"),
    12: (32, "uint64_data"),
    13: (64, "uint64_data"),
    14: (64, "float_data"),
    15: (128, "double_data"),
    **dict.fromkeys(range(16, 17), (16, "int32_data")),
    **dict.fromkeys(range(17, 21), (8, "int32_data")),
    **dict.fromkeys(range(21, 24), (4, "int32_data")),
    24: (8, "int32_data"),
    **dict.fromkeys(range(25, 27), (2, "int32_data")),
}
_COMPLEX = {14, 15}
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_MEMORY_MARKER = "_ORT_MEM_ADDR_"  # tells onnxruntime, and whoever shares its loader, to read from an address in memory
_KEYS = {"location", "offset", "length", "checksum"}


def refused(where: str, reason: str) -> IntegrityError:
    """Return the refusal of a part of a file."""
    return IntegrityError(f"{where}: {reason}")


@dataclass
class Tensors:
    """Checks tensors and adds up what they would take; `files` holds the names of the external files that they use."""

    folder: Path
    weights_bytes: int = 0
    files: dict[str, int] = field(default_factory=dict)

    def check(self, tensor: "TensorProto", where: str) -> None:
        """Raise `IntegrityError` unless the tensor's type, shape and bytes fit one another and stand where they may."""
        where = f"{where} {tensor.name!r}" if tensor.name else where
        size_bytes = self._size_bytes(tensor, where)
        self.weights_bytes += size_bytes
        if self.weights_bytes > MAX_WEIGHTS_BYTES:
            raise refused(where, f"the weights are more than {MAX_WEIGHTS_BYTES} bytes together")
        populated = [name for name in _FIELDS if len(getattr(tensor, name))]
        if tensor.HasField("segment"):
            raise refused(where, "is a segment of a tensor, which no runtime reads")
        if tensor.data_location == 1:
            if populated or tensor.HasField("raw_data"):
                raise refused(where, "its data is both inside and outside of the file")
            self._check_external(tensor, size_bytes, where)
        elif tensor.data_location != 0 or len(tensor.external_data):
            raise refused(where, "names external data, but says that its data is inside of the file")
        elif tensor.HasField("raw_data"):
            self._check_raw(tensor, size_bytes, populated, where)
        else:
            self._check_typed(tensor, populated, where)

    def _size_bytes(self, tensor: "TensorProto", where: str) -> int:
        if tensor.data_type not in _TYPES:
            raise refused(where, f"has the element type {tensor.data_type}, which is not known here")
        return (checked_shape(tensor.dims, tensor.data_type, where) * _TYPES[tensor.data_type][0] + 7) // 8

    def _check_raw(self, tensor: "TensorProto", size_bytes: int, populated: list[str], where: str) -> None:
        if populated or tensor.data_type == _STRING:
            raise refused(where, "its data is there twice, or text given as raw bytes")
        if len(tensor.raw_data) != size_bytes:
            raise refused(where, f"its shape needs {size_bytes} bytes, and {len(tensor.raw_data)} are there")

    def _check_typed(self, tensor: "TensorProto", populated: list[str], where: str) -> None:
        bits, expected = _TYPES[tensor.data_type]
        elements = checked_shape(tensor.dims, tensor.data_type, where)
        wanted = 2 * elements if tensor.data_type in _COMPLEX else -(-elements * bits // 8) if bits < 8 else elements
        if [name for name in populated if name != expected]:
            raise refused(where, f"its data stands in {', '.join(populated)}, its type needs {expected}")
        if len(getattr(tensor, expected)) != wanted:
            raise refused(where, f"its shape needs {wanted} entries, and {len(getattr(tensor, expected))} are there")

    # ---------------------------------------------------------------------------------------------------- external data
    def _check_external(self, tensor: "TensorProto", size_bytes: int, where: str) -> None:
        entries = dict[str, str]()
        for entry in tensor.external_data:
            if entry.key in entries or entry.key not in _KEYS:
                raise refused(
                    where, f"its external data has the key {entry.key!r} twice, or it is none of those that there are"
                )
            entries[entry.key] = entry.value
        name = _checked_location(entries.get("location", ""), where)
        offset = _number(entries.get("offset", "0"), where)
        length = _number(entries["length"], where) if "length" in entries else size_bytes
        if length != size_bytes:
            raise refused(where, f"its shape needs {size_bytes} bytes, and it takes {length} of {name!r}")
        if name not in self.files:
            self.files[name] = _size_of_regular_file(self.folder, name, where)
        if offset + length > self.files[name]:
            raise refused(where, f"needs bytes {offset} to {offset + length} of {name!r}, which has {self.files[name]}")


def checked_shape(dims: Iterable[int], data_type: int, where: str) -> int:
    """Return the number of elements of a shape; raise `IntegrityError` if it is negative or too large to be one."""
    elements, rank = 1, 0
    for side in dims:
        if side < 0:
            raise refused(where, f"a side of its shape is {side}")
        elements, rank = elements * side, rank + 1
        # A zero further on does not excuse it: runtimes multiply in 64 bits, from the left.
        if elements * _TYPES[data_type][0] > 8 * MAX_TENSOR_BYTES or side > MAX_TENSOR_BYTES or rank > MAX_RANK:
            raise refused(where, f"its shape has more than {MAX_TENSOR_BYTES} bytes, or more than {MAX_RANK} sides")
    return elements


def check_type(kind: "TypeProto", where: str, *, only_tensors: bool = False) -> None:
    """Raise `IntegrityError` unless a value's type is known and what is stated of its shape is sane."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        tensor: Any = kind.tensor_type
        if tensor.elem_type not in _TYPES and (only_tensors or tensor.elem_type != 0):
            raise refused(where, f"has the element type {tensor.elem_type}, which is not known here")
        sides = [side.dim_value for side in tensor.shape.dim if side.WhichOneof("value") == "dim_value"]
        checked_shape(sides, tensor.elem_type or 1, where)
    elif only_tensors or which not in (None, "sequence_type", "optional_type"):
        raise refused(where, f"is {which or 'of no type'}; images and logits are tensors")
    elif which is not None:
        check_type(getattr(kind, which).elem_type, where)


def _checked_location(name: str, where: str) -> str:
    if _MEMORY_MARKER in name.upper():
        raise refused(where, f"its external data is an address in memory ({name!r})")
    if reason := unsafe_name(name):
        raise refused(where, f"its external data {name!r} is not a file in the model's folder: {reason}")
    return name


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise refused(where, f"{text!r} is not an offset or a length of external data")
    return int(text)


def _size_of_regular_file(folder: Path, name: str, where: str) -> int:
    """Return the size of a file below a folder, reached through no link and known by no other name."""
    *above, last = name.split("/")
    # Each step is opened relative to the one before and follows no link, so that nothing can be swapped in between.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in above:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        status = os.stat(last, dir_fd=handle, follow_symlinks=False)
    except OSError as error:
        raise refused(where, f"its external data {name!r} is missing, or behind a link ({error.strerror})") from error
    finally:
        os.close(handle)
    if stat.S_ISLNK(status.st_mode) or not stat.S_ISREG(status.st_mode):
        raise refused(where, f"its external data {name!r} is a link or a special file, not a file in the model's folder")
    if status.st_nlink > 1:
        raise IntegrityError(
            f"{where}: its external data {name!r} is a hard link: the same file has another name elsewhere",
            mend="put a copy of the file beside the model",
        )
    return status.st_size

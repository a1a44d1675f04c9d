"""NVIDIA GPUs through the CUDA driver's own library, libcuda.so.1, by ctypes.

Of the ways to CUDA this is the lightest: wherever a GPU can be used the driver is there, and its functions are stable over all
versions of the toolkit. cuda-python and torch.cuda would each be a package bound to one of them, and a device with TensorRT has
often neither.
"""

import ctypes
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgekd.core.errors import MachineError

_LIBRARY = "libcuda.so.1"
_NAME_BYTES, _UUID_BYTES = 256, 16
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """One GPU; `uuid_sha256` tells it from others of its kind without giving its serial number away."""

    name: str
    compute_capability: str
    memory_bytes: int
    driver_cuda: str
    uuid_sha256: str

    def __str__(self) -> str:
        """Return the GPU as reports show it."""
        return f"{self.name} (compute capability {self.compute_capability})"


class Driver:
    """The driver's functions: `call("cuMemAlloc_v2", ...)` raises `MachineError` where the function reports an error."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function whose result is an error code."""
        code = getattr(self.library, function)(*arguments)
        if code:
            raise MachineError(f"the CUDA driver failed in {function}: {self._reason(code)}", mend=_MEND)

    def _reason(self, code: int) -> str:
        text = ctypes.c_char_p()
        self.library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        return f"error {code}, {(text.value or b'unknown').decode()}"


_MEND = "look at `nvidia-smi`; on a container, start it with access to the GPU"


@cache
def _library() -> Any:
    return ctypes.CDLL(_LIBRARY)


def driver() -> Driver:
    """Return the initialised driver; raise `MachineError` if there is none, or no GPU that it can use."""
    try:
        library = _library()
    except OSError as error:
        raise MachineError(f"there is no NVIDIA driver here ({_LIBRARY} cannot be loaded)", mend=_MEND) from error
    found = Driver(library)
    found.call("cuInit", ctypes.c_uint(0))
    count = ctypes.c_int()
    found.call("cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise MachineError("the NVIDIA driver knows no GPU here", mend=_MEND)
    return found


def unavailable() -> str:
    """Return why no NVIDIA GPU can be used here, or '' if one can."""
    try:
        driver()
    except MachineError as error:
        return error.message
    return ""


def facts(ordinal: int = 0) -> GpuFacts:
    """Return what is known of a GPU; raise `MachineError` if there is none."""
    cuda, device = driver(), ctypes.c_int()
    cuda.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
    name, uuid = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_UUID_BYTES)
    memory, version = ctypes.c_size_t(), ctypes.c_int()
    cuda.call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
    cuda.call("cuDeviceGetUuid", uuid, device)
    cuda.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    cuda.call("cuDriverGetVersion", ctypes.byref(version))
    major, minor = (_attribute(cuda, device, number) for number in (_MAJOR, _MINOR))
    return GpuFacts(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        driver_cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        uuid_sha256=hashlib.sha256(uuid.raw).hexdigest(),
    )


def _attribute(cuda: Driver, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    cuda.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
    return value.value

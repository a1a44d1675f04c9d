"""A GPU's stream and buffers: pinned memory on the host, memory on the device, copies between them in the stream's order.

Everything is enqueued and nothing waits until `synchronise`, after which the host's buffers may be read. A context belongs to
a thread in CUDA; whoever works with a stream calls `use` first, because sessions are opened and run by different threads.
"""

import ctypes
import math
from types import TracebackType
from typing import Any, Self

import numpy as np

from edgekd.core import gpu

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream


class Buffer:
    """Equally many bytes on the device (`address`) and in pinned memory, which `array` shows as float32 of a shape."""

    def __init__(self, cuda: gpu.Driver, shape: tuple[int, ...]) -> None:
        self.size_bytes = 4 * math.prod(shape)
        self._cuda = cuda
        self._device, self._host = ctypes.c_uint64(), ctypes.c_void_p()
        cuda.call("cuMemAlloc_v2", ctypes.byref(self._device), ctypes.c_size_t(self.size_bytes))
        try:
            cuda.call("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(self.size_bytes), ctypes.c_uint(0))
        except BaseException:
            cuda.call("cuMemFree_v2", self._device)
            raise
        numbers = (ctypes.c_float * (self.size_bytes // 4)).from_address(self._host.value or 0)
        self.array: np.ndarray[Any, Any] = np.ctypeslib.as_array(numbers).reshape(shape)

    @property
    def address(self) -> int:
        """Return where the buffer lies on the device."""
        return self._device.value

    def to_device(self, stream: "Stream", size_bytes: int) -> None:
        """Enqueue a copy of the first bytes from pinned memory to the device."""
        size = ctypes.c_size_t(size_bytes)
        self._cuda.call("cuMemcpyHtoDAsync_v2", self._device, self._host, size, stream.handle)

    def to_host(self, stream: "Stream", size_bytes: int) -> None:
        """Enqueue a copy of the first bytes from the device to pinned memory."""
        size = ctypes.c_size_t(size_bytes)
        self._cuda.call("cuMemcpyDtoHAsync_v2", self._host, self._device, size, stream.handle)

    def free(self) -> None:
        """Give both sides back; the array must not be touched afterwards."""
        self._cuda.call("cuMemFreeHost", self._host)
        self._cuda.call("cuMemFree_v2", self._device)


class Stream:
    """A queue of work on one GPU, in its primary context, which TensorRT's own calls share; frees its buffers when left."""

    def __init__(self, ordinal: int = 0) -> None:
        self._cuda = gpu.driver()
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self.handle = ctypes.c_void_p()
        self._buffers: list[Buffer] = []
        self._cuda.call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(ordinal))
        self._cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.use()
        self._cuda.call("cuStreamCreate", ctypes.byref(self.handle), ctypes.c_uint(_NON_BLOCKING))

    @property
    def number(self) -> int:
        """Return the stream's handle as the integer that TensorRT takes."""
        return self.handle.value or 0

    def use(self) -> None:
        """Make the GPU's context the calling thread's."""
        self._cuda.call("cuCtxSetCurrent", self._context)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Return a float32 buffer that lives as long as the stream."""
        self._buffers.append(Buffer(self._cuda, shape))
        return self._buffers[-1]

    def synchronise(self) -> None:
        """Wait until everything that was enqueued is done; an error of any of it is raised here."""
        self._cuda.call("cuStreamSynchronize", self.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.use()
        while self._buffers:
            self._buffers.pop().free()
        self._cuda.call("cuStreamDestroy_v2", self.handle)
        self._cuda.call("cuDevicePrimaryCtxRelease_v2", self._device)

"""Keeping memory between training steps.

glibc hands large blocks back to the kernel as soon as they are freed, and the next step faults every page in again. For a
MobileNet on CPU that is up to half of the time. Blocks that are kept cost a little more memory and nothing else.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_KEEP_BYTES = 2**31 - 1
_GROW_BYTES = 256 << 20
_CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Tell glibc to keep what this process frees; return whether it was told.

    Nothing is changed where another C library is in use, or where the user has chosen an allocator or its settings.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _CHOSEN_BY_USER):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP_BYTES), (_M_TOP_PAD, _GROW_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)

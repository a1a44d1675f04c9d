"""Locks that several processes share work by: places of one file, each held by one process and gone when that ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from edgekd.core.errors import MachineError
from edgekd.core.store import disk_errors

_ALL = 1 << 40
_POLL_S = 0.2


class Locks:
    """The locks of one file, numbered from 0. They work on network file systems too; a process opens the file only once."""

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            self._file = path.open("a+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def take(self, number: int) -> bool:
        """Take a lock and say so, unless another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise MachineError(
                f"{self._file.name}: cannot be locked: {error.strerror}",
                mend="choose a folder on a file system with locks",
            ) from error
        return True

    def release(self, number: int) -> None:
        """Give a lock back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def wait_for(self, number: int) -> None:
        """Return once no other process has the lock."""
        while not self.take(number):
            time.sleep(_POLL_S)
        self.release(number)

    @contextmanager
    def common(self) -> Iterator[None]:
        """Hold the lock on what all have in common; wait for it first."""
        while not self.take(_ALL):
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            self.release(_ALL)

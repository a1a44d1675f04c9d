"""Files that are kept on the device by their sha256, and folders in which they have names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Callable

from .refusals import Refusal

SPARE_BYTES = 32 << 20
_PIECE_BYTES = 1 << 20


class Store:
    """Files kept by their sha256, and folders in which they have names; everything below one folder of this account alone."""

    def __init__(self, root: str, lease: str, *, breathe: Callable[[], None] = lambda: None) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))
        self._below = os.path.join(self.root, "folders", lease)
        self._breathe = breathe
        self._brought: dict[str, dict[str, tuple[str, tuple[int, int, int]]]] = {}
        with disk_errors(self.root):
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            found = os.stat(self.root)
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                mend = f"chmod go-w {self.root}, or give another `root`"
                raise Refusal("integrity", f"{self.root}: others can write there", mend=mend)
            for name in ("files", "partial", "folders"):
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)

    def file(self, digest: Any) -> str:
        """Return where the file with this sha256 is kept, whether or not it is there."""
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise Refusal("usage", "not a sha256")
        return os.path.join(self.root, "files", digest)

    def holds(self, digest: Any) -> bool:
        """Return whether a file is here with exactly these bytes; one that was changed is forgotten."""
        path = self.file(digest)
        if not os.path.isfile(path):
            return False
        if self._sha256(path) == digest:
            return True
        os.unlink(path)
        return False

    def checked(self, digest: Any) -> str:
        """Return the path of a kept file; raise `Refusal` if it is not there or was changed."""
        if not self.holds(digest):
            raise Refusal("integrity", f"{self.file(digest)}: its bytes were changed on the device, or it was taken away")
        return self.file(digest)

    def begin(self, digest: Any, size_bytes: int) -> int | None:
        """Return from which byte on a file is wanted, None if it is here; raise `Refusal` if it does not fit."""
        if self.holds(digest):
            return None
        part = os.path.join(self.root, "partial", str(digest))
        held = os.path.getsize(part) if os.path.isfile(part) else 0
        if held >= size_bytes and os.path.exists(part):  # of another file, or whole and never checked
            os.unlink(part)
            held = 0
        free = free_bytes(self.root)
        if size_bytes - held + SPARE_BYTES > free:
            raise full(self.root, size_bytes - held, free)
        return held

    def add(self, digest: Any, offset: int, data: bytes, size_bytes: int) -> int:
        """Add a piece of a file and return its new length; the last piece makes it kept, if its sha256 is right."""
        kept = self.file(digest)
        part = os.path.join(self.root, "partial", str(digest))
        with disk_errors(self.root, len(data)):
            with open(part, "ab") as file:
                if file.tell() != offset or offset + len(data) > size_bytes:
                    raise Refusal("usage", f"a piece for byte {offset} of {size_bytes}, {file.tell()} are here")
                file.write(data)
                file.flush()
            if offset + len(data) == size_bytes:
                if self._sha256(part) != digest:
                    os.unlink(part)
                    raise Refusal("integrity", "what arrived is not what was sent")
                os.replace(part, kept)
        return offset + len(data)

    def folder(self, files: dict[str, str]) -> str:
        """Return a folder that holds exactly these kept files under these names."""
        names = {checked_name(name): self.checked(digest) for name, digest in files.items()}
        key = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()
        path = os.path.join(self._below, key)
        with disk_errors(path):
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path, mode=0o700)
            for name, source in names.items():
                target = os.path.join(path, name)
                os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:  # a file system without links
                    shutil.copyfile(source, target)
                os.utime(source)  # used now: the last to be forgotten
        self._brought[path] = {name: (files[name], stamp(os.path.join(path, name))) for name in names}
        return path

    def same_as_brought(self, path: Any) -> None:
        """Raise `Refusal` for a folder that was not made by this connection, or whose files were changed since."""
        if path not in self._brought:
            raise Refusal("usage", "the plan names a folder that was not brought")
        brought = self._brought[path]
        for name, (digest, when) in brought.items():
            held = os.path.join(path, name)
            now = stamp(held) if os.path.isfile(held) else None
            if now is None or (now != when and self._sha256(held) != digest):
                raise Refusal("integrity", f"{held}: its bytes were changed on the device, or it was taken away")
            brought[name] = (digest, now)

    def tidy(self, keep_bytes: int) -> None:
        """Take away the folders, and of the kept files those that were used longest ago until the rest is small enough."""
        shutil.rmtree(self._below, ignore_errors=True)
        with suppress(OSError):
            entries = [entry for name in ("files", "partial") for entry in os.scandir(os.path.join(self.root, name))]
            total_bytes = 0
            for entry in sorted(entries, key=lambda one: one.stat().st_mtime_ns, reverse=True):
                total_bytes += entry.stat().st_size
                if total_bytes > keep_bytes:
                    os.unlink(entry.path)

    def _sha256(self, path: str) -> str:
        found = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                found.update(piece)
                self._breathe()
        return found.hexdigest()


def checked_name(name: str) -> str:
    """Return a relative name that stays in its folder."""
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise Refusal("usage", f"not a name for a file in a folder: {name!r}")
    return name


def stamp(path: str) -> tuple[int, int, int]:
    """Return what changes when somebody writes into a file."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


def free_bytes(path: str) -> int:
    """Return how much space is left where a path is, or will be."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def full(path: str, size_bytes: int, free: int) -> Refusal:
    """Return the complaint about a full disk."""
    return Refusal(
        "disk",
        f"{path}: the device's disk is full ({size_bytes} bytes are needed, {free} free)",
        mend="free some space on the device, or give a `root` on another disk, and run the same command again",
    )


@contextmanager
def disk_errors(path: str, size_bytes: int = 0) -> Iterator[None]:
    """Turn the system's complaints about a disk into refusals."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(path, size_bytes, free_bytes(path)) from error
        raise Refusal("disk", f"{path}: cannot be written: {error.strerror or error}") from error

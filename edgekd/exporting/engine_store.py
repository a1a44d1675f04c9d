"""Engines and timing caches that this install built on this machine, and no others.

A TensorRT engine is native code, and TensorRT does not notice when one was tampered with. So what is kept here carries a
message authentication code (HMAC-SHA256) under a key that was drawn at random for this folder and never leaves it: a file
from elsewhere, or one with a single byte changed, is refused before TensorRT sees it. Folder and key are the user's alone.

File: a line `edgekd-engine-1`, the code (32 bytes), the header's length (8 bytes, big-endian), the header (JSON), the content.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from edgekd.core.errors import IntegrityError, MachineError
from edgekd.core.records import canonical_json, digest_of
from edgekd.core.store import disk_errors, write_bytes

_MAGIC = b"edgekd-engine-1\n"
_CODE_BYTES, _LENGTH_BYTES, _KEY_BYTES = 32, 8, 32
_KEY = "key"


class EngineStore:
    """A folder of authenticated files, each named by what it was built from.

    `of` is plain JSON and must say everything that the content depends on: model, settings, TensorRT's version, the GPU.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, of: Mapping[str, object]) -> Path:
        """Return where such a file stands, whether or not it is there."""
        return self.folder / f"{digest_of({'kind': kind, **of})[:32]}.{kind}"

    def read(self, kind: str, of: Mapping[str, object]) -> bytes | None:
        """Return what was kept, None if nothing was; raise `IntegrityError` if it is not what this install wrote."""
        path = self.path(kind, of)
        if not path.exists():
            return None
        content = _read_own(path)
        start = len(_MAGIC) + _CODE_BYTES
        told, signed = content[len(_MAGIC) : start], content[start:]
        wanted = hmac.digest(self._key(), signed, hashlib.sha256)
        if not content.startswith(_MAGIC) or not hmac.compare_digest(told, wanted):
            raise IntegrityError(
                f"{path}: was not built by this install on this machine, or was changed since; native code is not loaded then",
                mend=f"delete {path}; it will be built again",
            )
        length = int.from_bytes(signed[:_LENGTH_BYTES])
        header = json.loads(signed[_LENGTH_BYTES : _LENGTH_BYTES + length])
        if header != json.loads(canonical_json({"kind": kind, **of})):
            raise IntegrityError(f"{path}: was built from something else than its name says", mend=f"delete {path}")
        return signed[_LENGTH_BYTES + length :]

    def write(self, kind: str, of: Mapping[str, object], content: bytes) -> Path:
        """Keep a content that was just built here."""
        header = canonical_json({"kind": kind, **of})
        signed = len(header).to_bytes(_LENGTH_BYTES) + header + content
        path = self.path(kind, of)
        code = hmac.digest(self._key(), signed, hashlib.sha256)
        write_bytes(path, _MAGIC + code + signed)
        path.chmod(0o600)
        return path

    def _key(self) -> bytes:
        path = self.folder / _KEY
        with disk_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self.folder)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                handle = -1
            if handle >= 0:
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
        key = _read_own(path)
        if len(key) != _KEY_BYTES:
            raise IntegrityError(f"{path}: is not a key of edgekd", mend=f"delete {self.folder}; everything is built again")
        return key


def _read_own(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read as a plain file: {error.strerror}", mend=f"delete {path}") from error
    with os.fdopen(handle, "rb") as file:
        _check_private(path, os.fstat(file.fileno()))
        return file.read()


def _check_private(path: Path, status: os.stat_result | None = None) -> None:
    status = status or path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise IntegrityError(
            f"{path}: others can write to it or it is not this user's own, so nothing in it can be trusted",
            mend=f"delete {path}, or set EDGEKD_CACHE to a folder of your own",
        )


def default_folder(cache: Path | None) -> Path:
    """Return the folder for engines inside of edgekd's cache; raise `MachineError` if no cache is known."""
    if cache is None:
        raise MachineError("no folder is known to keep engines in", mend="set EDGEKD_CACHE to a folder of your own")
    return cache / "tensorrt"

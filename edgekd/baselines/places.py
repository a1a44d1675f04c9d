"""Where a store lies: a folder, or a URL that fsspec reaches. A place holds files by name and knows nothing of their meaning.

A folder is written as everything of edgekd is, whole or not at all. An object store puts an object whole; on other servers a
cut-off upload leaves an object of another length, which is written again, or one whose digest is found wrong when it is read.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.store import disk_errors, sync_folder
from edgekd.core.urls import is_url, without_secrets

STORE_VARIABLE = "EDGEKD_STORE"
_CHUNK_BYTES = 1 << 20


class Place(Protocol):
    """Files by name below one root; names are relative, with `/` between their parts."""

    shown: str

    def size_bytes(self, name: str) -> int | None:
        """Return the size of a file, None if it is not there."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the files directly in a folder, sorted, without the folder; none if it is not there."""
        ...

    def write(self, name: str, source: Path) -> None:
        """Put a copy of a file there; it replaces what was there."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file; raise `FileNotFoundError` if it is not there."""
        ...


def place_of(store: str) -> Place:
    """Return the place that a folder's path or a URL names; raise `UsageError` for a URL without a place in it."""
    if not is_url(store):
        return _Folder(Path(store).expanduser())
    if store.lower().startswith("file://"):
        return _Folder(Path(unquote(urlsplit(store).path)))
    return _Remote(store)


def fetch(place: Place, name: str, target: Path, *, sha256: str, most_bytes: int) -> None:
    """Copy a file of the place to `target`; raise `IntegrityError` unless it is there and has this digest."""
    found, taken = hashlib.sha256(), 0
    where = f"{place.shown}/{name}"
    try:
        with disk_errors(target), target.open("wb") as file:
            for chunk in place.chunks(name):
                taken += len(chunk)
                if taken > most_bytes:
                    raise IntegrityError(f"{where}: is longer than the {most_bytes} bytes that were kept")
                found.update(chunk)
                file.write(chunk)
    except FileNotFoundError as error:
        raise IntegrityError(f"{where}: is missing from the store", mend="keep the run again: edgekd baseline set") from error
    if found.hexdigest() != sha256:
        raise IntegrityError(
            f"{where}: its content is not what was kept; the store was changed by something else than edgekd",
            mend="restore the store, or delete this file and keep the run again: edgekd baseline set",
        )


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.shown = str(root)

    def size_bytes(self, name: str) -> int | None:
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    def names(self, folder: str) -> list[str]:
        found = (self._root / folder).glob("*") if (self._root / folder).is_dir() else ()
        return sorted(path.name for path in found if path.is_file() and not path.name.startswith("."))

    def write(self, name: str, source: Path) -> None:
        path = self._root / name
        with disk_errors(path, size_bytes=source.stat().st_size):
            if self._root.exists() and not self._root.is_dir():
                raise UsageError(f"{self._root}: is a file, not the folder of a store", mend="choose another --store")
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file, source.open("rb") as content:
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_folder(path.parent)

    def chunks(self, name: str) -> Iterator[bytes]:
        with (self._root / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


class _Remote:
    def __init__(self, url: str) -> None:
        self._url = url
        self.shown = without_secrets(url).rstrip("/")
        if find_spec("fsspec") is None:
            raise MachineError(f"{self.shown}: a store by URL needs the package fsspec", mend="pip install 'edgekd[store]'")
        import fsspec

        with self._errors():
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(url)
        self._root = self._root.rstrip("/")

    def size_bytes(self, name: str) -> int | None:
        with self._errors():
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        with self._errors():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        return sorted(one["name"].rpartition("/")[2] for one in found if one["type"] == "file")

    def write(self, name: str, source: Path) -> None:
        with self._errors():
            try:
                self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(source), self._path(name))
            except FileNotFoundError as error:
                raise MachineError(f"{self.shown}: cannot be written to: {self._told(error)}") from error

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._errors(), self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _told(self, error: Exception) -> str:
        return str(error).replace(self._url, self.shown)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except ImportError as error:
            raise MachineError(f"{self.shown}: {self._told(error)}", mend="install the package that it names") from error
        except ValueError as error:
            raise UsageError(f"{self.shown}: is no store that can be reached: {self._told(error)}") from error
        except _errors_of_the_world() as error:
            raise MachineError(f"{self.shown}: cannot be reached: {self._told(error)}") from error


def _errors_of_the_world() -> tuple[type[Exception], ...]:
    """Return what a place that cannot be reached raises: `OSError`, and what the libraries behind fsspec have of their own."""
    known = {
        "botocore.exceptions": "BotoCoreError",
        "google.auth.exceptions": "GoogleAuthError",
        "azure.core.exceptions": "AzureError",
        "aiohttp.client_exceptions": "ClientError",
        "paramiko.ssh_exception": "SSHException",
    }
    loaded = (getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules)
    return (OSError, RuntimeError, *loaded)

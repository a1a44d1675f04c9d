"""The run folder: files that are whole or not there, and stages that are done when their record says so.

A file is written to a temporary name in the same folder, flushed, fsynced and renamed; then the folder is fsynced. A stage
removes its old record first, writes its files, and writes its record last; so after a kill at any moment the record either
matches the files or is missing, and a missing record means that the stage is done again.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.records import FileRef, Record

MARKER = "edgekd.json"
CHECKPOINT = "checkpoint"
BASELINE = "baseline"
INT8 = "int8"
START = "start"
PEERS = "peers"
Kind = TypeVar("Kind", bound=Record)


class RunFolder:
    """Where everything of one run stands; knows names only, reads and makes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.report = root / "report.json"
        self.verdict = root / "verdict.json"
        self.pilot = root / "pilot.json"
        self.search = root / "search.json"

    def checkpoint(self, name: str = CHECKPOINT) -> Path:
        """Return the record of a student: `checkpoint`, `baseline` or `start`."""
        return self.root / name / "checkpoint.json"

    def arm(self, name: str) -> "RunFolder":
        """Return the folder of one training run of a pilot, which is a run folder itself."""
        return RunFolder(self.root / "arms" / name)

    def peer(self, name: str) -> "RunFolder":
        """Return the folder of a further student that learnt with this run's, which is a run folder itself."""
        return RunFolder(self.root / PEERS / name)

    def artifact(self, name: str) -> Path:
        """Return the record of the artifact `<backend>-<precision>`."""
        return self.root / "artifacts" / name / "artifact.json"

    def measurement(self, artifact: str, device: str) -> Path:
        """Return the record of an artifact's latency on a device."""
        return self.root / "measurements" / f"{artifact}@{device}.json"

    def bundle(self, artifact: str) -> Path:
        """Return the folder of an artifact's bundle; its archive stands beside it."""
        return self.root / "bundles" / artifact

    def artifacts(self) -> list[Path]:
        """Return the artifact records that are there, sorted by name."""
        return sorted((self.root / "artifacts").glob("*/artifact.json"))

    def measurements(self) -> list[Path]:
        """Return the measurement records that are there, sorted by name."""
        return sorted((self.root / "measurements").glob("*@*.json"))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_ref(path: Path, *, folder: Path) -> FileRef:
    """Return the reference of a file below `folder`, hashing it now."""
    return FileRef(path=path.relative_to(folder).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of(path))


def checked_file(ref: FileRef, *, folder: Path) -> Path:
    """Return the path of a referenced file; raise `IntegrityError` if it is missing, outside or was changed."""
    path = folder / ref.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"{folder}: the record names a file outside its folder: {ref.path}")
    if not path.is_file():
        raise IntegrityError(f"{path}: named by its record but missing", mend="run the stage again")
    if path.stat().st_size != ref.size_bytes or sha256_of(path) != ref.sha256:
        raise IntegrityError(
            f"{path}: its bytes are not those that its record was written for",
            mend=f"delete {folder} and run again, or restore the file",
        )
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably; on a full disk the old file stays and `MachineError` says what is missing."""
    with disk_errors(path, size_bytes=len(content)):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically and durably; bytes of odd file names that cannot be UTF-8 are written escaped."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def append_text(path: Path, content: str) -> None:
    """Add to a UTF-8 text file that is a log: what was there stays whole, what is added may be cut by a crash."""
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(content)


def write_record(path: Path, record: Record) -> None:
    """Write a record; it must be the last file of its stage."""
    write_text(path, record.to_json())


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Read a record that must be there; `UsageError` if it is not, `IntegrityError` if it is not sound."""
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no {kind.kind} record here") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error
    return kind.from_json(text, where=str(path))


def find_done(kind: type[Kind], path: Path, from_: dict[str, str]) -> Kind | None:
    """Return the record at `path` if its stage was done from exactly these inputs, else None."""
    if not path.is_file():
        return None
    record = read_record(kind, path)
    return record if record.from_ == from_ else None


def begin_stage(folder: Path, record: str) -> None:
    """Make the stage's folder, forget its old record and whatever else stood in it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / record).unlink(missing_ok=True)
        sync_folder(folder)
        for leftover in folder.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


def sync_files(folder: Path) -> None:
    """Fsync every file of a stage that a library wrote by itself, and the folder."""
    with disk_errors(folder):
        for path in folder.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, which makes the names in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path, *, size_bytes: int = 0) -> Iterator[None]:
    """Turn the operating system's complaints about a disk into `MachineError`s that say how to mend them."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            need = f"{size_bytes} bytes are needed, " if size_bytes else ""
            raise MachineError(
                f"{path}: the disk is full ({need}{free} free)",
                mend="free some space and run the same command again; finished stages are kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO):
            raise MachineError(f"{path}: cannot be written: {error.strerror}") from error
        raise


def open_run_folder(folder: Path, *, overwrite: bool = False) -> Path:
    """Create a run folder or take up an existing one; refuse a non-empty folder that is not edgekd's."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file", mend="choose another --out")
    marker = folder / MARKER
    if folder.is_dir() and not marker.is_file() and not overwrite and any(map(_is_foreign, folder.iterdir())):
        raise UsageError(
            f"{folder}: is not empty and was not made by edgekd; nothing was touched",
            mend="choose another --out, or add --overwrite to write among what is there",
        )
    if folder.is_dir() and not marker.is_file():
        _refuse_namesakes(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not marker.is_file():
        write_text(marker, json.dumps({"edgekd": "run folder", "schema": 1}) + "\n")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for one writer; a second one is told who has it."""
    with disk_errors(folder):
        file = (folder / ".lock").open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(
                f"{folder}: another edgekd (process {holder}) is writing here", mend="wait for it to end"
            ) from error
        except OSError as error:
            raise MachineError(
                f"{folder}: cannot be locked: {error.strerror}", mend="choose an --out on a file system with locks"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for leftover in folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        yield


def _refuse_namesakes(folder: Path) -> None:
    # Stages empty their folders before they write; with --overwrite these could be somebody's work.
    taken = [
        name
        for name in (CHECKPOINT, BASELINE, START, INT8, PEERS, "arms", "artifacts", "bundles", "measurements", "search")
        if (folder / name).exists()
    ]
    if taken:
        raise UsageError(
            f"{folder}: holds {', '.join(taken)}, which edgekd would empty and did not make; nothing was touched",
            mend="choose another --out, or move these away",
        )


def _is_foreign(path: Path) -> bool:
    # A run killed while it wrote its marker leaves only this behind, and the next one goes on from there.
    return not path.match(f".{MARKER}.*.tmp")


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

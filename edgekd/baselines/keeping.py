"""Runs kept under a name, and found again: which files, in which order they are written, and what is checked.

    objects/ab/abcd...     the files of runs, and the record that lists a run's files, each under its sha256
    names/main.json        which of those records a name stands for

Objects are written first, the name last; a store that was cut off in between stands as it did before.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekd import inspection
from edgekd.baselines.places import STORE_VARIABLE, Place, fetch, place_of
from edgekd.baselines.records import KeptRun, Named
from edgekd.core.console import Console
from edgekd.core.errors import EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.host import cache_folder
from edgekd.core.records import Artifact, Checkpoint, Fact, FileRef, MadeBy, Measurement, Record, Report, Verdict
from edgekd.core.store import (
    BASELINE,
    CHECKPOINT,
    INT8,
    MARKER,
    PEERS,
    RunFolder,
    checked_file,
    disk_errors,
    file_ref,
    read_record,
    sha256_of,
    write_text,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 10_000
_MOST_BYTES = 8 * 2**30
_MOST_RECORD_BYTES = 64 * 2**20
# What only training or a runtime needs; everything else that a record refers to is evidence.
_NOT_EVIDENCE: dict[type[Record], set[str]] = {Checkpoint: {"weights", "history", "criterion"}, Artifact: {"files"}}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name of a store and the run that it stands for; `sha256` finds that run also when the name stands for another one."""

    name: str
    sha256: str
    before: str
    named: MadeBy
    run: KeptRun


def keep(run: Path, store: str, *, name: str, models: bool, made_by: MadeBy, console: Console) -> Entry:
    """Put a run's records and evidence into a store and let `name` stand for it; `models` keeps the exported models too.

    Every digest of the run is checked first. Raises `UsageError` for a run without a verdict.
    """
    _check_name(name)
    if not (run / MARKER).is_file():
        raise UsageError(f"{run}: is not a run folder of edgekd", mend="make one with `edgekd run RECIPE --out DIR`")
    inspection.verify(run)
    kept = _listed(run, models=models, made_by=MadeBy(version=made_by.version))
    if kept.outcome != "pass":
        console.warn(f"{run}: its verdict is {kept.outcome}; it is kept all the same")
    place = place_of(store)
    with console.progress("keep", len(kept.files), "files") as progress:
        for done, ref in enumerate(kept.files, start=1):
            _put(place, _object(ref.sha256), run / ref.path)
            progress.update(done)
    before = _read_name(place, name)
    with _as_file(kept) as file:
        sha256 = sha256_of(file)
        if before is not None and before.kept == sha256:
            console.say(f"{name}: already stands for this run")
            return _entry(place, before)
        _put(place, _object(sha256), file)
    named = Named(made_by=made_by, name=name, kept=sha256, before=before.kept if before else "", from_={"report": kept.report})
    with _as_file(named) as file:
        place.write(_name(name), file)
    return _entry(place, named)


def entries(store: str) -> list[Entry]:
    """Return every name of a store with its run, sorted by name."""
    place = place_of(store)
    names = [name.removesuffix(".json") for name in place.names("names") if name.endswith(".json")]
    found = (_read_name(place, name) for name in names if NAME.fullmatch(name))
    return [_entry(place, named) for named in found if named is not None]


def shown(name: str, store: str) -> Entry:
    """Return what a name of a store stands for; raise `EvidenceError` if the store does not know it."""
    _check_name(name)
    place = place_of(store)
    named = _read_name(place, name)
    if named is None:
        raise _unknown(place, name)
    return _entry(place, named)


def resolve(name_or_run: str, store: str = "") -> Path:
    """Return the run folder of a baseline: the folder itself, or what a store keeps under a name or sha256.

    That is fetched into edgekd's cache folder, once; every file is checked against its digest, each time. Raises
    `EvidenceError` if there is no such baseline, and `IntegrityError` if the store does not hold what was put into it.
    """
    if (Path(name_or_run) / MARKER).is_file():
        return Path(name_or_run)
    if not NAME.fullmatch(name_or_run):
        raise UsageError(f"{name_or_run}: is neither a run folder of edgekd nor the name of a baseline")
    if not store:
        raise UsageError(
            f"{name_or_run}: is no run folder here, and no store was named to look it up in",
            mend=f"--store DIR_OR_URL, or the environment variable {STORE_VARIABLE}",
        )
    place = place_of(store)
    if _SHA256.fullmatch(name_or_run):
        return _fetched(place, name_or_run)
    named = _read_name(place, name_or_run)
    if named is None:
        raise _unknown(place, name_or_run)
    return _fetched(place, named.kept)


# --------------------------------------------------------------------------------------------------------------- writing
def _listed(run: Path, *, models: bool, made_by: MadeBy) -> KeptRun:
    """Return the record of a run's files, those of its peers included, each hashed now."""
    folder = RunFolder(run)
    report, verdict = read_record(Report, folder.report), read_record(Verdict, folder.verdict)
    peers = (RunFolder(marker.parent) for marker in sorted((run / PEERS).glob(f"*/{MARKER}")))
    paths = [path for one in (folder, *peers) for path in _evidence(one, models=models)]
    return KeptRun(
        made_by=made_by,
        from_={"report": report.digest(), "verdict": verdict.digest()},
        recipe=report.recipe,
        outcome=verdict.outcome,
        report=report.digest(),
        verdict=verdict.digest(),
        models=models,
        files=tuple(file_ref(path, folder=run) for path in dict.fromkeys(paths) if path.is_file()),
    )


def _evidence(folder: RunFolder, *, models: bool) -> Iterator[Path]:
    """Yield the records of one run folder and the files that they refer to, each checked; some need not be there."""
    yield from (folder.root / MARKER, folder.recipe, folder.report, folder.verdict)
    kinds: dict[type[Record], list[Path]] = {
        Checkpoint: [folder.checkpoint(name) for name in (CHECKPOINT, BASELINE, INT8)],
        Artifact: folder.artifacts(),
        Measurement: folder.measurements(),
    }
    for kind, records in kinds.items():
        left_out = _NOT_EVIDENCE.get(kind, set()) - ({"files"} if models else set())
        for path in (path for path in records if path.is_file()):
            record = read_record(kind, path)
            yield path
            refs = (ref for field in type(record).model_fields if field not in left_out for ref in _refs(record, field))
            yield from (checked_file(ref, folder=path.parent) for ref in refs)


def _refs(fact: Fact, field: str) -> Iterator[FileRef]:
    """Yield every file that a field of a fact refers to, however deep."""
    waiting = [getattr(fact, field)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, FileRef):
            yield value
        elif isinstance(value, Fact):
            waiting += [inner for _, inner in value]
        elif isinstance(value, tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _put(place: Place, name: str, source: Path) -> None:
    # An object of another length is what an interrupted upload left.
    if place.size_bytes(name) != source.stat().st_size:
        place.write(name, source)


@contextmanager
def _as_file(record: Record) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        path = Path(folder) / "record.json"
        write_text(path, record.to_json())
        yield path


# --------------------------------------------------------------------------------------------------------------- reading
def _read_name(place: Place, name: str) -> Named | None:
    where = f"{place.shown}/{_name(name)}"
    try:
        content = b"".join(place.chunks(_name(name)))
    except FileNotFoundError:
        return None
    named = Named.from_json(content, where=where)
    if named.name != name or not _SHA256.fullmatch(named.kept):
        raise IntegrityError(f"{where}: is the record of another name")
    return named


def _entry(place: Place, named: Named) -> Entry:
    run = _read_kept(place, named.kept)
    return Entry(name=named.name, sha256=named.kept, before=named.before, named=named.made_by, run=run)


def _read_kept(place: Place, sha256: str) -> KeptRun:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        path = Path(folder) / "kept.json"
        fetch(place, _object(sha256), path, sha256=sha256, most_bytes=_MOST_RECORD_BYTES)
        kept = read_record(KeptRun, path)
    _check_paths(kept, where=f"{place.shown}/{_object(sha256)}")
    return kept


def _check_paths(kept: KeptRun, *, where: str) -> None:
    """Raise `IntegrityError` unless the files can be written into a folder of their own and nowhere else."""
    paths = [ref.path for ref in kept.files]
    outside = [path for path in paths if PurePosixPath(path).is_absolute() or {"..", ".", ""} & set(path.split("/"))]
    if outside or any("\\" in path or "\0" in path for path in paths):
        raise IntegrityError(f"{where}: names a file outside of the run's folder")
    if len({path.casefold() for path in paths}) < len(paths):
        raise IntegrityError(f"{where}: names a file twice")
    if len(paths) > _MOST_FILES or sum(ref.size_bytes for ref in kept.files) > _MOST_BYTES:
        raise IntegrityError(f"{where}: names more than {_MOST_FILES} files or {_MOST_BYTES} bytes")
    if not all(_SHA256.fullmatch(ref.sha256) for ref in kept.files):
        raise IntegrityError(f"{where}: names a file by something that is no sha256")


def _fetched(place: Place, sha256: str) -> Path:
    """Return the folder in the cache that holds a kept run, filled now if it is not there or not whole."""
    cache = cache_folder()
    if cache is None:
        raise MachineError("no folder is known to fetch a baseline into", mend="set EDGEKD_CACHE")
    kept = _read_kept(place, sha256)
    folder = cache / "baselines" / sha256
    if _is_whole(folder, kept):
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as made:
            fresh = Path(made) / "run"
            for ref in kept.files:
                (fresh / ref.path).parent.mkdir(parents=True, exist_ok=True)
                fetch(place, _object(ref.sha256), fresh / ref.path, sha256=ref.sha256, most_bytes=ref.size_bytes)
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
    return folder


def _is_whole(folder: Path, kept: KeptRun) -> bool:
    def same(path: Path, ref: FileRef) -> bool:
        return path.is_file() and path.stat().st_size == ref.size_bytes and sha256_of(path) == ref.sha256

    return folder.is_dir() and all(same(folder / ref.path, ref) for ref in kept.files)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or _SHA256.fullmatch(name):
        raise UsageError(f"{name!r}: is no name for a baseline", mend="letters, digits, dot, dash and underscore, at most 64")


def _unknown(place: Place, name: str) -> EvidenceError:
    known = [one.removesuffix(".json") for one in place.names("names")]
    return EvidenceError(
        f"{place.shown}: keeps no baseline {name!r}; it keeps {', '.join(known) or 'none'}",
        mend=f"edgekd baseline set RUN --store {place.shown} --name {name}",
    )


def _object(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _name(name: str) -> str:
    return f"names/{name}.json"

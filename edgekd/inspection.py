"""Looking at what is there: parts, records, runs, the machine. Imports no torch."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from edgekd import summaries
from edgekd.core import bundles, parts
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.records import (
    CANDIDATE,
    Artifact,
    Candidates,
    Checkpoint,
    FileRef,
    Measurement,
    Record,
    Report,
    Verdict,
)
from edgekd.core.side_records import RECORDS
from edgekd.core.store import BASELINE, CHECKPOINT, INT8, MARKER, PEERS, START, RunFolder, checked_file, read_record


def list_parts(kind: str | None = None) -> list[str]:
    """Return the registered parts, kind by kind, each with its help; imports none of them."""
    lines = []
    for one in [kind] if kind else list(parts.FOLDERS):
        names = parts.names(one)
        width = max((len(name) for name in names), default=0)
        lines += [one, *(f"  {name:<{width}}  {parts.help_line(one, name)}" for name in names)]
    return lines


def show(path: Path, *, as_json: bool = False) -> list[str]:
    """Return what a record (or every record of a run folder) says."""
    if path.is_dir():
        records = [read_record(kind, found) for kind, found in _kept(RunFolder(path))]
        return [line for record in records for line in (*_shown(record, as_json), "")]
    return _shown(_read_any(path), as_json)


def verify(run: Path) -> list[str]:
    """Check every record, every file and every `from` of a run, or every byte of a bundle.

    Raises `IntegrityError` naming the first that is wrong.
    """
    if not run.exists():
        raise UsageError(f"{run}: there is no such file or folder")
    if bundles.is_bundle(run):
        contract = bundles.check(run)
        return [f"ok  {run}  {contract.runtime} {contract.precision}  {contract.digest()[:12]}"]
    folder = RunFolder(run)
    lines, digests = [], dict[str, str]()
    for kind, path in _kept(folder):
        record = read_record(kind, path)
        for ref in _files(record):
            checked_file(ref, folder=path.parent)
        digests[str(path.relative_to(run))] = record.digest()
        # A start from an earlier run stands elsewhere.
        own_start = ("start",) if folder.checkpoint(START).is_file() else ()
        links = ("checkpoint", "artifact", "report", "baseline", *own_start)
        if isinstance(record, Measurement) and record.arm != CANDIDATE:
            links = ()  # another run's artifact, or the reference model
        before = {key: value for key, value in record.from_.items() if key in links}
        unknown = [key for key, value in before.items() if value not in digests.values()]
        if unknown:
            raise IntegrityError(
                f"{path}: was made from another {', '.join(unknown)} than the one in this run",
                mend="run `edgekd run` again; it redoes what does not fit",
            )
        lines.append(f"ok  {path.relative_to(run)}  {record.digest()[:12]}")
    if not lines:
        raise UsageError(f"{run}: holds no records", mend="make a run with `edgekd run RECIPE --out DIR`")
    for marker in sorted((run / PEERS).glob(f"*/{MARKER}")):
        peer = marker.parent
        lines += [line.replace("ok  ", f"ok  {peer.relative_to(run)}/", 1) for line in verify(peer)]
    return lines


def init(data: Path, out: Path) -> list[str]:
    """Write a commented recipe for a folder of images with one sub-folder for each class."""
    if not data.is_dir():
        raise UsageError(f"{data}: there is no such folder")
    if out.exists():
        raise UsageError(f"{out}: is already there; nothing was written", mend="choose another --out")
    split = {name for name in ("train", "val") if (data / name).is_dir()}
    if split == {"train", "val"}:
        where = f"train: {data.resolve() / 'train'}\n  val: {data.resolve() / 'val'}"
    else:
        where = f"train: {data.resolve()}\n  val_fraction: 0.2        # no train/ and val/ inside: a seeded fifth is held out"
    text = (resources.files("edgekd") / "starter.yaml").read_text(encoding="utf-8")
    from edgekd.core.store import write_text

    write_text(out, text.replace("train: DATA/train\n  val: DATA/val", where))
    return [f"wrote {out}", f"next: edgekd run {out}"]


def compare(run_a: Path, run_b: Path) -> list[str]:
    """Return two runs side by side as lines of text."""
    from edgekd.judging import compare as judging

    folders = (RunFolder(run_a), RunFolder(run_b))
    a, b = (read_record(Report, folder.report) for folder in folders)
    return judging.compare(a, b, runs=folders).lines()


def explain(verdict: Verdict, budget: str) -> list[str]:
    """Say how one budget of a verdict was decided, and what would change that."""
    from edgekd.judging import explaining

    return explaining.explain(verdict, budget)


def _shown(record: Record, as_json: bool) -> list[str]:
    return record.to_json().splitlines() if as_json else summaries.summary(record)


def _kept(folder: RunFolder) -> Iterator[tuple[type[Record], Path]]:
    """Yield the records of a run that are there, each after those that it was made from."""
    kept: dict[type[Record], list[Path]] = {
        Checkpoint: [folder.checkpoint(name) for name in (START, CHECKPOINT, INT8, BASELINE)],
        Artifact: folder.artifacts(),
        Measurement: folder.measurements(),
        Report: [folder.report],
        Verdict: [folder.verdict],
        Candidates: [folder.search],
    }
    for kind, paths in kept.items():
        yield from ((kind, path) for path in paths if path.is_file())


def _read_any(path: Path) -> Record:
    import json

    try:
        kind = json.loads(path.read_bytes()).get("record")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: is not a record: {error}") from error
    if kind not in RECORDS:
        raise UsageError(f"{path}: is not a record; the kinds are {', '.join(RECORDS)}")
    return read_record(RECORDS[kind], path)


def _files(record: Record) -> list[FileRef]:
    if isinstance(record, Checkpoint):
        learned = [record.criterion] if record.criterion is not None else []
        taught = [teacher.accuracy.predictions for teacher in record.teachers if teacher.accuracy is not None]
        return [record.weights, record.history, *learned, record.accuracy.predictions, *taught]
    if isinstance(record, Artifact):
        kept = [record.flips, record.accuracy.predictions if record.accuracy is not None else None]
        return [*record.files, *filter(None, kept)]
    if isinstance(record, Candidates):
        return [record.latency.table] if record.latency is not None else []
    if isinstance(record, Measurement):
        return [record.samples, *filter(None, (record.telemetry,))]
    return []

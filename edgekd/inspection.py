"""Looking at what is there: parts, records, runs, the machine. Imports no torch."""

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from statistics import mean, stdev

from edgekd.core import bundles, parts
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.records import (
    CANDIDATE,
    IMPORTED,
    Artifact,
    Candidates,
    Checkpoint,
    FileRef,
    LatencyTable,
    Measurement,
    Record,
    Report,
    Verdict,
)
from edgekd.core.side_records import RECORDS, BackboneFiles, Bisection, Bundle, PilotResult, Probes, TeacherRanking
from edgekd.core.stats import wilson
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


def summary(record: Record) -> list[str]:
    """Return a record in a few lines for a person."""
    lines = _SUMMARIES[type(record)](record)
    return [f"{record.kind}  {record.digest()[:12]}", *(f"  {line}" for line in lines)]


def worth(record: Checkpoint) -> list[str]:
    """Return a checkpoint's accuracies, each with its Wilson 95 % interval over the validation images."""
    images = record.accuracy.images
    shares = {"top-1": record.accuracy.top1, "linear probe": record.probe_top1, "nearest neighbours": record.knn_top1}
    return [f"  {name:<18} {_share(round(share * images), images)}" for name, share in shares.items() if share is not None]


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
    return record.to_json().splitlines() if as_json else summary(record)


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
        return [record.samples, *([record.telemetry] if record.telemetry is not None else [])]
    return []


def _checkpoint(record: Checkpoint) -> list[str]:
    return [
        f"{record.name}: {record.student_name}, {record.parameters / 1e6:.2f} M parameters, method {record.method.use}",
        f"top-1 {record.accuracy.top1:.1%} on {record.accuracy.images} validation images",
        "not trained here"
        if record.student.use == IMPORTED
        else (
            f"{record.training.images_seen} images seen in {record.training.seconds:.0f} s,"
            f" {record.data.labelled_images} labelled of {record.data.train_images}"
        ),
    ]


def _artifact(record: Artifact) -> list[str]:
    parity, accuracy = record.parity, record.accuracy
    if parity is None or accuracy is None:
        return [f"{record.name}, {record.size_bytes / 1e6:.2f} MB", f"not executed: {record.not_executed}"]
    return [
        (
            f"{record.name} ({record.runtime}), executed as {record.executed_precision} on {record.executed_on},"
            f" {record.size_bytes / 1e6:.2f} MB"
        ),
        f"agrees with torch on {parity.top1_agreements} of {parity.images} images, largest difference {parity.max_abs:.2g}",
        *([f"parity {decision.outcome}: {decision.because}"] if (decision := parity.decision) is not None else []),
        f"top-1 {accuracy.top1:.1%} through its own runtime",
    ]


def _measurement(record: Measurement) -> list[str]:
    medians = [f"{worker.p50_ns / 1e6:.3f}" for worker in record.workers if worker.p50_ns is not None]
    return [
        (
            f"{record.device.name}: {record.runtime}, batch {record.batch}, {record.threads} threads, {record.arm},"
            f" {record.mode}, profile {record.profile}"
        ),
        f"p50 of each process: {', '.join(medians)} ms",
        "trusted" if record.trusted else f"not trusted: {'; '.join(record.untrusted_because)}",
    ]


def _report(record: Report) -> list[str]:
    return [f"recipe {record.recipe}: {len(record.artifacts)} artifacts, {len(record.latencies)} measurements"]


def _verdict(record: Verdict) -> list[str]:
    from edgekd.judging.console import verdict_lines

    return verdict_lines(record)


def _share(right: float, images: int) -> str:
    interval = wilson(round(right), images)
    return f"{right / images:6.1%}  [{interval.low:.1%}, {interval.high:.1%}]"


def _probes(record: Probes) -> list[str]:
    lines = [
        f"{record.student_name}, frozen, tap {record.tap} ({record.width} wide)",
        f"mean of the draws over {record.shares[0].images} images [Wilson's interval at that mean] sd over the draws",
        f"{'labels':>8}  {'share':>6}  {'draws':>5}  {'linear probe':<32}  nearest neighbours",
    ]
    for share in record.shares:
        cells = [f"{_draws(correct, share.images):<32}" for correct in (share.probe_correct, share.knn_correct)]
        lines.append(f"{share.labels:>8}  {share.fraction:>6.1%}  {len(share.draws):>5}  {'  '.join(cells).rstrip()}")
    return lines


def _draws(correct: tuple[int, ...], images: int) -> str:
    spread = f" sd {stdev(correct) / images:.1%}" if len(correct) > 1 else ""
    return f"{_share(mean(correct), images)}{spread}"


def _backbone(record: BackboneFiles) -> list[str]:
    lines = [f"{record.student_name} without its head, tap {record.tap}, {record.width} wide"]
    lines += [f"{name}: {file.path}, {file.size_bytes / 1e6:.2f} MB" for name, file in record.files.items()]
    if record.parity is not None:
        found = record.parity
        lines.append(
            f"agrees with torch on {found.images} {found.inputs}: largest difference {found.max_abs:.2g},"
            f" smallest cosine {found.cosine_min:.6f}"
        )
    return lines


def _bisection(record: Bisection) -> list[str]:
    first = record.first
    lines = [
        f"{record.artifact} ({record.runtime}) against the float32 graph on {len(record.images)} images",
        record.finding,
        f"{len(record.tensors)} tensors compared, {record.unmatched} without a counterpart",
    ]
    shown = [*([("first", first)] if first is not None else []), *(("worst", one) for one in record.worst)]
    width = max((len(one.tensor) for _, one in shown), default=0)
    for rank, one in shown:
        broken = f"  {one.non_finite:,} NaN or infinite" if one.non_finite else ""
        sqnr = "exact" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB"
        figures = f"SQNR {sqnr:>9}  lost {one.lost_db or 0:6.1f} dB"
        lines.append(f"{rank}  {one.tensor:<{width}}  {one.op:<12} {one.form:<9} {figures}{broken}")
    return lines


def _bundle(record: Bundle) -> list[str]:
    return [
        f"{record.runtime} {record.precision}, {len(record.classes)} classes: {', '.join(ref.path for ref in record.files)}",
        f"top-1 {record.top1_correct / record.images:.1%} on {record.images} validation images ({record.measured_with})",
    ]


def _teacher_ranking(record: TeacherRanking) -> list[str]:
    from edgekd.judging.selection import teacher_lines

    return teacher_lines(record)


def _pilot(record: PilotResult) -> list[str]:
    from edgekd.judging.selection import pilot_lines

    return pilot_lines(record)


def _search(record: Candidates) -> list[str]:
    from edgekd.judging.search_page import lines

    return lines(record)


def _latency_table(record: LatencyTable) -> list[str]:
    where = f"{record.runtime} on {record.device}, {record.threads} thread(s)"
    return [f"{len(record.blocks)} blocks and {len(record.networks)} whole networks, timed through {where}"]


_SUMMARIES: dict[type[Record], Callable[..., list[str]]] = {
    Checkpoint: _checkpoint,
    Artifact: _artifact,
    Measurement: _measurement,
    Report: _report,
    Verdict: _verdict,
    Probes: _probes,
    BackboneFiles: _backbone,
    Bundle: _bundle,
    TeacherRanking: _teacher_ranking,
    PilotResult: _pilot,
    Bisection: _bisection,
    Candidates: _search,
    LatencyTable: _latency_table,
}

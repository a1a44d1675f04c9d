"""What a record says, in a few lines for a person."""

from collections.abc import Callable
from statistics import mean, stdev
from typing import TYPE_CHECKING

from edgekd.core.records import IMPORTED, Artifact, Candidates, Checkpoint, LatencyTable, Measurement, Record, Report, Verdict
from edgekd.core.stats import wilson

if TYPE_CHECKING:
    from edgekd.core.side_records import BackboneFiles, Bisection, Bundle, PilotResult, Probes, TeacherRanking


def summary(record: Record) -> list[str]:
    """Return a record in a few lines for a person."""
    lines = _SUMMARIES[record.kind](record)
    return [f"{record.kind}  {record.digest()[:12]}", *(f"  {line}" for line in lines)]


def worth(record: Checkpoint) -> list[str]:
    """Return a checkpoint's accuracies, each with its Wilson 95 % interval over the validation images."""
    images = record.accuracy.images
    shares = {"top-1": record.accuracy.top1, "linear probe": record.probe_top1, "nearest neighbours": record.knn_top1}
    return [f"  {name:<18} {_share(round(share * images), images)}" for name, share in shares.items() if share is not None]


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


def _probes(record: "Probes") -> list[str]:
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


def _backbone(record: "BackboneFiles") -> list[str]:
    lines = [f"{record.student_name} without its head, tap {record.tap}, {record.width} wide"]
    lines += [f"{name}: {file.path}, {file.size_bytes / 1e6:.2f} MB" for name, file in record.files.items()]
    if record.parity is not None:
        found = record.parity
        lines.append(
            f"agrees with torch on {found.images} {found.inputs}: largest difference {found.max_abs:.2g},"
            f" smallest cosine {found.cosine_min:.6f}"
        )
    return lines


def _bisection(record: "Bisection") -> list[str]:
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


def _bundle(record: "Bundle") -> list[str]:
    return [
        f"{record.runtime} {record.precision}, {len(record.classes)} classes: {', '.join(ref.path for ref in record.files)}",
        f"top-1 {record.top1_correct / record.images:.1%} on {record.images} validation images ({record.measured_with})",
    ]


def _teacher_ranking(record: "TeacherRanking") -> list[str]:
    from edgekd.judging.selection import teacher_lines

    return teacher_lines(record)


def _pilot(record: "PilotResult") -> list[str]:
    from edgekd.judging.selection import pilot_lines

    return pilot_lines(record)


def _search(record: Candidates) -> list[str]:
    from edgekd.judging.search_page import lines

    return lines(record)


def _latency_table(record: LatencyTable) -> list[str]:
    where = f"{record.runtime} on {record.device}, {record.threads} thread(s)"
    return [f"{len(record.blocks)} blocks and {len(record.networks)} whole networks, timed through {where}"]


_SUMMARIES: dict[str, Callable[..., list[str]]] = {
    "checkpoint": _checkpoint,
    "artifact": _artifact,
    "measurement": _measurement,
    "report": _report,
    "verdict": _verdict,
    "probes": _probes,
    "backbone": _backbone,
    "bundle": _bundle,
    "teacher_ranking": _teacher_ranking,
    "pilot": _pilot,
    "bisection": _bisection,
    "search": _search,
    "latency_table": _latency_table,
}
"""By the kind that a record has on disk: a gate imports no record that it does not read."""

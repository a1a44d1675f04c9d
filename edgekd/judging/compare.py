"""Two runs side by side: what can be compared, and what cannot, with the reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd.core import stats
from edgekd.core.predictions import read_right
from edgekd.core.records import Accuracy, LatencySummary, Report
from edgekd.core.store import RunFolder
from edgekd.judging import console, evidence, wording

_SAME_DEVICE = ("name", "system", "machine", "cpu", "logical_cores", "usable_cores", "cgroup_quota_cores", "governor")
_SAME_PROTOCOL = ("protocol", "runtime", "executed_on", "executed_precision", "batch", "threads")
_ABSENT = "not there"
_ACCURACY_UNKNOWN = "not executed"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity in both runs, and what may be said of the difference."""

    what: str
    a: str
    b: str
    difference: str


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """The table of two runs."""

    a: str
    b: str
    rows: tuple[Row, ...]

    def lines(self) -> list[str]:
        """Return the table as aligned text lines."""
        head = ("", f"A: {self.a}", f"B: {self.b}", "B against A")
        return console.aligned([head, *((row.what, row.a, row.b, row.difference) for row in self.rows)])


def compare(a: Report, b: Report, *, runs: tuple[RunFolder, RunFolder] | None = None) -> RunComparison:
    """Put two reports side by side.

    With the run folders of a and b, accuracies on the same images are compared image by image; without them, or on other
    images, only each one's own interval is shown. Latencies are compared only where device, protocol and runtime are the same.
    """
    rows = [
        Row(what="student", a=a.student.student_name, b=b.student.student_name, difference=""),
        _accuracy_row("student top-1", a, b, _student(a, runs, 0), _student(b, runs, 1)),
        _number_row(
            "parameters", a.student.parameters, b.student.parameters, f"{a.student.parameters:,}", f"{b.student.parameters:,}"
        ),
    ]
    for name in dict.fromkeys([*(x.name for x in a.artifacts), *(x.name for x in b.artifacts)]):
        rows += _artifact_rows(name, a, b, runs)
    return RunComparison(a=a.recipe, b=b.recipe, rows=tuple(rows))


@dataclass(frozen=True, kw_only=True)
class _Answers:
    accuracy: Accuracy
    folder: Path | None


def _student(report: Report, runs: tuple[RunFolder, RunFolder] | None, side: int) -> _Answers:
    folder = runs[side].checkpoint().parent if runs else None
    return _Answers(accuracy=report.student.accuracy, folder=folder)


def _artifact_rows(name: str, a: Report, b: Report, runs: tuple[RunFolder, RunFolder] | None) -> Iterator[Row]:
    in_a = next((x for x in a.artifacts if x.name == name), None)
    in_b = next((x for x in b.artifacts if x.name == name), None)
    if in_a is None or in_b is None:
        there = "exported"
        yield Row(what=name, a=there if in_a else _ABSENT, b=there if in_b else _ABSENT, difference="not comparable")
        return
    folders = [run.artifact(name).parent for run in runs] if runs else [None, None]
    if in_a.accuracy is None or in_b.accuracy is None:
        shown = [_ACCURACY_UNKNOWN if x.accuracy is None else _alone(x.accuracy) for x in (in_a, in_b)]
        yield Row(what=f"{name} top-1", a=shown[0], b=shown[1], difference="not comparable")
        return
    answers = [_Answers(accuracy=x, folder=folder) for x, folder in zip((in_a.accuracy, in_b.accuracy), folders, strict=True)]
    yield _accuracy_row(f"{name} top-1", a, b, *answers)
    sizes = in_a.size_bytes, in_b.size_bytes
    yield _number_row(f"{name} size", *sizes, wording.size(sizes[0]), wording.size(sizes[1]))
    yield from _latency_rows(name, a, b)


def _accuracy_row(what: str, report_a: Report, report_b: Report, a: _Answers, b: _Answers) -> Row:
    shown = [_alone(x.accuracy) for x in (a, b)]
    if report_a.student.data.digest != report_b.student.data.digest:
        difference = "not comparable: other images"
    elif a.folder is None or b.folder is None:
        difference = "same images; not compared image by image"
    else:
        difference = _paired(a.accuracy, a.folder, b.accuracy, b.folder)
    return Row(what=what, a=shown[0], b=shown[1], difference=difference)


def _alone(accuracy: Accuracy) -> str:
    return wording.share_interval(stats.wilson(accuracy.top1_correct, accuracy.images))


def _paired(a: Accuracy, folder_a: Path, b: Accuracy, folder_b: Path) -> str:
    right_a = read_right(a, folder=folder_a)
    right_b = read_right(b, folder=folder_b)
    if right_a.keys() != right_b.keys():
        return "not comparable: other images"
    only_b, only_a = evidence.discordant(right_b, right_a)
    interval = stats.paired_difference(only_b, only_a, len(right_a))
    return f"{wording.points_interval(interval)}, McNemar p = {stats.mcnemar(only_b, only_a):.2g}"


def _number_row(what: str, a: float, b: float, shown_a: str, shown_b: str) -> Row:
    return Row(what=what, a=shown_a, b=shown_b, difference="the same" if a == b else f"x {b / a:.3f}")


def _latency_rows(name: str, a: Report, b: Report) -> Iterator[Row]:
    in_a = {x.device.name: x for x in a.latencies if x.artifact == name}
    in_b = {x.device.name: x for x in b.latencies if x.artifact == name}
    for device in dict.fromkeys([*in_a, *in_b]):
        yield _latency_row(f"{name} p50 on {device}", in_a.get(device), in_b.get(device))


def _latency_row(what: str, a: LatencySummary | None, b: LatencySummary | None) -> Row:
    if a is None or b is None:
        return Row(what=what, a=_p50(a), b=_p50(b), difference="not comparable: measured in one run only")
    reasons = _unlike(a, b)
    if reasons or a.p50_ms is None or b.p50_ms is None or not a.worker_p50_ms or not b.worker_p50_ms:
        difference = f"not comparable: {'; '.join(reasons) or 'too few samples'}"
    else:
        apart = max(a.worker_p50_ms) < min(b.worker_p50_ms) or max(b.worker_p50_ms) < min(a.worker_p50_ms)
        spread = "every process of one is faster than every process of the other" if apart else "the processes' ranges overlap"
        difference = f"x {b.p50_ms / a.p50_ms:.3f}, {spread}"
    return Row(what=what, a=_p50(a), b=_p50(b), difference=difference)


def _unlike(a: LatencySummary, b: LatencySummary) -> list[str]:
    pairs = [(f"device {key}", getattr(a.device, key), getattr(b.device, key)) for key in _SAME_DEVICE]
    pairs += [(key.replace("_", " "), getattr(a, key), getattr(b, key)) for key in _SAME_PROTOCOL]
    reasons = [f"{what} {in_a} and {in_b}" for what, in_a, in_b in pairs if in_a != in_b]
    reasons += [f"{side} is not trusted" for side, x in (("A", a), ("B", b)) if not x.trusted]
    return reasons


def _p50(summary: LatencySummary | None) -> str:
    if summary is None:
        return _ABSENT
    return wording.quantity(summary.p50_ms, "ms")

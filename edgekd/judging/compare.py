"""Two runs side by side: what can be compared, and what cannot, with the reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd.core import latency, stats
from edgekd.core.predictions import read_right
from edgekd.core.records import BASELINE_ARM, Accuracy, LatencySummary, Report
from edgekd.core.store import RunFolder
from edgekd.judging import console, evidence, latencies, wording

# The comparison key: what must be the same before two latencies are held against one another.
_COMPARED_BY = (
    *(
        "device_class",
        "protocol",
        "mode",
        "rate_hz",
        "runtime",
        "executed_on",
        "executed_precision",
        "batch",
        "threads",
        "spin",
    ),
    "synthetic_input",
)
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
    images, only each one's own interval is shown. Latencies are compared only where kind of device, protocol and runtime
    are the same: pair by pair if one run was measured in turns with the other, else through the reference model.
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
    in_a, in_b = ({x.device.name: x for x in wording.candidates(r) if x.artifact == name} for r in (a, b))
    for device in dict.fromkeys([*in_a, *in_b]):
        yield _latency_row(f"{name} p50 on {device}", in_a.get(device), in_b.get(device), a, b)


def _latency_row(what: str, a: LatencySummary | None, b: LatencySummary | None, in_a: Report, in_b: Report) -> Row:
    if a is None or b is None:
        return Row(what=what, a=_p50(a), b=_p50(b), difference="not comparable: measured in one run only")
    first, second = _in_turns(a, b, in_a, in_b) or (a, b)
    reasons = _unlike(first, second)
    if min(len(first.worker_p50_ms), len(second.worker_p50_ms)) < 2:
        reasons.append("too few samples, or workers")
    if reasons:
        difference = f"not comparable: {'; '.join(reasons)}"
    elif first.session == second.session:
        own = (first.worker_p50_ms, second.worker_p50_ms, first.worker_turns_ms, second.worker_turns_ms)
        difference = paired_words(latency.paired(*own))
    else:
        difference = _through_reference(a, b, in_a, in_b)
    return Row(what=what, a=_p50(first), b=_p50(second), difference=difference)


def _in_turns(a: LatencySummary, b: LatencySummary, in_a: Report, in_b: Report) -> tuple[LatencySummary, LatencySummary] | None:
    """Return both artifacts as one session measured them in turns: B's, held against A, or A's, held against B."""
    for x in in_b.latencies:
        if (x.arm, x.session, x.digest) == (BASELINE_ARM, b.session, a.digest):
            return x, b
    for x in in_a.latencies:
        if (x.arm, x.session, x.digest) == (BASELINE_ARM, a.session, b.digest):
            return a, x
    return None


def paired_words(found: latency.PairedRatio) -> str:
    """Return a ratio with its intervals, its number of pairs and their spread in one line."""
    return (
        f"x {found.ratio:.3f} [95 %: {found.low95:.3f} to {found.high95:.3f}; 99 %: {found.low99:.3f} to {found.high99:.3f}],"
        f" {found.pairs} pairs, sd {100 * found.pair_sd:.1f} %"
    )


def _through_reference(a: LatencySummary, b: LatencySummary, in_a: Report, in_b: Report) -> str:
    """Return the ratio of ratios through the reference model of each session, or why there is none."""
    beside = latencies.reference_of(a, in_a.latencies), latencies.reference_of(b, in_b.latencies)
    if beside[0] is None or beside[1] is None or not beside[0].worker_p50_ms or not beside[1].worker_p50_ms:
        return "not comparable: measured in two sessions, without the reference model in both (edgekd bench B --against A)"
    ratio, low, high = latency.ratio_of_ratios(
        a.worker_p50_ms, beside[0].worker_p50_ms, b.worker_p50_ms, beside[1].worker_p50_ms
    )
    return f"x {ratio:.3f} [95 %: {low:.3f} to {high:.3f}], of two sessions, through the reference model"


def _unlike(a: LatencySummary, b: LatencySummary) -> list[str]:
    pairs = [(key.replace("_", " "), getattr(a, key), getattr(b, key)) for key in _COMPARED_BY]
    reasons = [f"{what} {_short(in_a)} and {_short(in_b)}" for what, in_a, in_b in pairs if in_a != in_b]
    reasons += [f"{side} is not trusted" for side, x in (("A", a), ("B", b)) if not x.trusted]
    return reasons


def _short(value: object) -> str:
    """Return a value of the comparison key; of a digest, enough to tell two apart."""
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _p50(summary: LatencySummary | None) -> str:
    if summary is None:
        return _ABSENT
    return wording.quantity(summary.p50_ms, "ms")

"""What the HTML page shows beyond the records themselves: positions on scales, headline figures, short lists."""

import json
import math
from dataclasses import dataclass

from edgekd.core import stats
from edgekd.core.parts import PartRef
from edgekd.core.records import (
    Artifact,
    Finding,
    Flip,
    Interval,
    LatencySummary,
    Outcome,
    Quarantined,
    Record,
    Report,
    TeacherFacts,
    Verdict,
)
from edgekd.core.records.details import Change
from edgekd.judging import wording
from edgekd.judging.details import MOST_CLASSES
from edgekd.judging.formats import _plots

LONGEST_LIST = 100
_URGENCY: tuple[Outcome, ...] = ("error", "fail", "inconclusive", "pass")
SIGNS: dict[Outcome, str] = {"pass": "✓", "fail": "✕", "inconclusive": "?", "error": "!"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value and its limit on a track, in percent of its length."""

    start: float
    length: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """An estimate and its interval on a scale, in percent of its length; without an interval a dot alone."""

    label: str
    shown: str
    colour: str
    dot: float
    start: float | None = None
    length: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Whiskers over one axis; ticks are (position in percent, label), `zero` is where nothing differs."""

    whiskers: tuple[Whisker, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure."""

    label: str
    figure: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Link:
    """One record of the chain from the pixels to the verdict."""

    name: str
    digest: str
    made_by: str
    note: str


class Page:
    """What the template asks for."""

    signs = SIGNS

    def __init__(self, report: Report, verdict: Verdict) -> None:
        self.report = report
        self.verdict = verdict
        self.findings = sorted(verdict.findings, key=lambda finding: _URGENCY.index(finding.outcome))
        self.headline = wording.headline(report, verdict)
        self.verdict_note = f"{wording.tally(verdict).capitalize()}; exit code {verdict.exit_code}. Unknown is not passed."
        self.flips: tuple[tuple[str, Flip], ...] = tuple(
            (artifact.name, flip) for artifact in report.artifacts if artifact.parity for flip in artifact.parity.flips
        )
        self.quarantined: tuple[Quarantined, ...] = report.student.data.quarantined
        self.devices = wording.devices(report)
        self.longest = LONGEST_LIST

    def series(self, artifact: str) -> int:
        """Return the number of an artifact's colour."""
        return _plots.series(self.report, artifact)

    def top1(self, artifact: Artifact) -> Interval:
        """Return the top-1 of an artifact that ran, with its interval."""
        assert artifact.accuracy is not None
        return stats.wilson(artifact.accuracy.top1_correct, artifact.accuracy.images)

    def bar(self, finding: Finding) -> Bar | None:
        """Return where value and limit stand: percentages from 0 to 100, everything else from 0 to a little beyond both."""
        if finding.value is None:
            return None
        low = min(0.0, finding.value * 1.25, finding.limit * 1.25)
        high = 100.0 if finding.unit == "%" else max(finding.value, finding.limit) * 1.25
        if high <= low:
            return None
        zero, value, limit = (100 * (x - low) / (high - low) for x in (0.0, finding.value, finding.limit))
        return Bar(start=_rounded(min(zero, value)), length=_rounded(abs(value - zero)), limit=_rounded(limit))

    def tiles(self) -> list[Tile]:
        """Return the figures that a reader looks for first."""
        report = self.report
        accuracy = report.student.accuracy
        top1 = stats.wilson(accuracy.top1_correct, accuracy.images)
        tiles = [
            Tile(
                label="Student top-1", figure=wording.percent(top1.value), note=f"{_range(top1)} on {accuracy.images:,} images"
            )
        ]
        if report.comparison is not None:
            gain = report.comparison.difference
            note = f"{wording.points(gain.low)} to {wording.points(gain.high)}, p = {report.comparison.mcnemar_p:.2g}"
            tiles.append(Tile(label="Points over baseline", figure=wording.points(gain.value), note=note))
        fast = wording.fastest(report)
        if fast is not None and fast.p50_ms is not None:
            note = f"{fast.artifact} on {fast.device.name}{wording.unsteady(fast)}"
            tiles.append(Tile(label="Fastest p50", figure=wording.milliseconds(fast.p50_ms), note=note))
        ran = [artifact for artifact in report.artifacts if not artifact.not_executed]
        if ran:
            small = min(ran, key=lambda artifact: artifact.size_bytes)
            tiles.append(Tile(label="Smallest artifact", figure=wording.size(small.size_bytes), note=small.name))
            seen = [(a.parity.top1_agreement, a.name) for a in ran if a.parity and a.parity.images]
            if seen:
                lowest, name = min(seen, key=lambda one: one[0])
                tiles.append(Tile(label="Parity", figure=wording.percent(lowest), note=f"with torch, lowest: {name}"))
        return tiles

    def accuracy_scale(self) -> Scale | None:
        """Return student, baseline and the teachers' linear probes on one axis of percent."""
        comparison = self.report.comparison
        if comparison is None:
            return None
        rows = [("Student", comparison.student_top1, "student"), ("Baseline", comparison.baseline_top1, "baseline")]
        probes = [teacher for teacher in self.report.student.teachers if teacher.probe_top1 is not None]
        ends = [x for _, interval, _ in rows for x in (interval.low, interval.high)]
        ends += [teacher.probe_top1 for teacher in probes if teacher.probe_top1 is not None]
        low, high = math.floor(min(ends) * 10) / 10, math.ceil(max(ends) * 10) / 10
        whiskers = [
            _whisker(label, interval, wording.share_interval(interval), colour, low, high) for label, interval, colour in rows
        ]
        whiskers += [_probe(teacher, low, high) for teacher in probes]
        return Scale(whiskers=tuple(whiskers), ticks=_ticks(low, high, 0.1 if high - low <= 0.6 else 0.2, "{:.0f} %"))

    def difference_scale(self) -> Scale | None:
        """Return student minus baseline on an axis of points that shows zero."""
        comparison = self.report.comparison
        if comparison is None:
            return None
        gain = comparison.difference
        low, high = math.floor(min(0, gain.low) * 20) / 20, math.ceil(max(0, gain.high) * 20) / 20
        whisker = _whisker("Difference", gain, wording.points_interval(gain), "student", low, high)
        ticks = _ticks(low, high, 0.05 if high - low <= 0.3 else 0.1 if high - low <= 0.6 else 0.2, "{:+.0f}")
        return Scale(whiskers=(whisker,), ticks=ticks, zero=_rounded(-100 * low / (high - low)))

    def sections(self) -> list[tuple[str, str]]:
        """Return (id, title) of the sections that this page has."""
        details = self.report.details
        found = [("verdict", "Verdict"), ("learning", "Student")]
        found += [("representation", "Features")] if self.report.student.representation else []
        found += [("artifacts", "Artifacts")]
        found += [("classes", "Classes")] if details.changes else []
        found += [("flips", "Flips")] if details.shown else []
        return [*found, ("latency", "Latency"), ("circumstances", "Circumstances"), ("provenance", "How it was made")]

    def reach(self, change: Change) -> float:
        """Return how many points the bars of these classes reach on either side: the next of a few round numbers."""
        largest = 100 * max(abs(one.difference) for one in change.classes)
        return next(points for points in (2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if largest <= points or points == 100.0)

    def around_zero(self, difference: float, reach: float) -> tuple[float, float]:
        """Return (start, length) in percent of a bar that starts in the middle; a full half is `reach` points."""
        length = _rounded(50 * abs(100 * difference) / reach)
        return (_rounded(50 - length), length) if difference < 0 else (50.0, length)

    def some_left_out(self) -> bool:
        """Return whether a table of classes holds the most that are kept."""
        return any(len(change.classes) >= MOST_CLASSES for change in self.report.details.changes)

    def customised(self) -> bool:
        """Return whether features are shown that a method has put into the student's terms."""
        seen = self.report.student.representation
        return seen is not None and any(picture.of.endswith(", customised") for picture in seen.pictures)

    def classes_shown(self) -> list[tuple[str, str]]:
        """Return (name, colour) of each class in the pictures of the features; empty if there are too many to tell apart."""
        seen, classes = self.report.student.representation, self.report.student.classes
        if seen is None or len(classes) > len(_plots.CLASS_COLOURS):
            return []
        return [(name, _plots.class_colour(label)) for label, name in enumerate(classes) if label in set(seen.labels)]

    def spread(self, summary: LatencySummary) -> str:
        """Return the 95 % interval of p50 over the processes."""
        low_high = summary.intervals_ms.get("p50")
        return f"{wording.milliseconds(low_high[0])} to {wording.milliseconds(low_high[1])}" if low_high else ""

    def chain(self) -> list[Link]:
        """Return the records from the verdict back to the pixels."""
        report, student = self.report, self.report.student
        links = [
            Link(name="verdict", digest=self.verdict.digest(), made_by=f"edgekd {self.verdict.made_by.version}", note=""),
            _link("report", report, "judged by the verdict"),
        ]
        links += [
            Link(name=name, digest=digest, made_by="", note="timed from its artifact")
            for name, digest in report.from_.items()
            if name.startswith("measurements/")
        ]
        links += [_link(f"artifacts/{a.name}", a, "exported from the checkpoint") for a in report.artifacts]
        links.append(_link("checkpoint", student, "the student's weights, history and answers"))
        if report.baseline is not None:
            links.append(_link("baseline", report.baseline, "the same student without a teacher"))
        links += [
            Link(name=f"teacher {t.name}", digest=t.weights_sha256, made_by="", note="sha256 of its weights")
            for t in student.teachers
        ]
        links.append(
            Link(name="data", digest=student.data.digest, made_by="", note="sha256 over ids, labels, split and image bytes")
        )
        return links


def options(ref: PartRef) -> str:
    """Return the options that a part was given, or has by default, on one line; those that are empty are left out."""
    given = {key: value for key, value in ref.options.items() if value not in (None, [], ())}
    return ", ".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items())


def _link(name: str, record: Record, note: str) -> Link:
    made_by = record.made_by
    shown = ", ".join(filter(None, (f"edgekd {made_by.version}", made_by.git and f"git {made_by.git}", made_by.at)))
    return Link(name=name, digest=record.digest(), made_by=shown, note=note)


def _whisker(label: str, interval: Interval, shown: str, colour: str, low: float, high: float) -> Whisker:
    dot, start, end = (100 * (x - low) / (high - low) for x in (interval.value, interval.low, interval.high))
    return Whisker(
        label=label, shown=shown, colour=colour, dot=_rounded(dot), start=_rounded(start), length=_rounded(end - start)
    )


def _probe(teacher: TeacherFacts, low: float, high: float) -> Whisker:
    share = teacher.probe_top1 or 0.0
    dot = _rounded(100 * (share - low) / (high - low))
    return Whisker(label="Teacher (probe)", shown=wording.percent(share), colour="soft", dot=dot)


def _ticks(low: float, high: float, step: float, pattern: str) -> tuple[tuple[float, str], ...]:
    first, last = math.ceil(round(low / step, 6)), math.floor(round(high / step, 6))
    labels = {i: pattern.format(100 * i * step) if i else "0" for i in range(first, last + 1)}
    return tuple((_rounded(100 * (i * step - low) / (high - low)), label) for i, label in labels.items())


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _rounded(position: float) -> float:
    return round(min(100.0, max(0.0, position)), 2)

"""What is drawn of a report, for pages and as files. A plot without points is None."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgekd.core import stats
from edgekd.core.records import CurvePoint, Picture, Report
from edgekd.core.records.details import Timeline, TimelinePoint
from edgekd.judging import wording
from edgekd.judging.formats._drawing import (
    SERIES,
    Drawing,
    Inks,
    label,
    panel,
    plain_log,
    thousands,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of one lightness, so that they are told apart by day and by night; drawn as they are, unlike the page's own colours.
CLASS_COLOURS = (
    "#4f83cc",
    "#d9762e",
    "#3b9c74",
    "#c8504b",
    "#8f6cc0",
    "#96713f",
    "#d06fa8",
    "#7f8790",
    "#a0a12e",
    "#35a3b5",
)
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def all_of(report: Report) -> dict[str, Drawing]:
    """Return every plot that a report has points for, by name."""
    drawn = {
        "accuracy": accuracy_curves(report),
        "loss": loss_curves(report),
        "trade": accuracy_against_latency(report),
        "latency": latency_distribution(report),
        **{f"timeline-{i + 1}": timeline(report, one) for i, one in enumerate(report.details.timelines)},
        **{f"representation-{i + 1}": one for i, one in enumerate(representation(report))},
    }
    return {name: one for name, one in drawn.items() if one is not None}


# -------------------------------------------------------------------------------------------------------------- learning
def accuracy_curves(report: Report) -> Drawing | None:
    """Return top-1 over the images seen, student and baseline; None if neither was evaluated on the way."""
    curves = [(report.student_curve, "student"), (report.baseline_curve, "baseline")]
    evaluated = [([p for p in curve if p.top1 is not None], who) for curve, who in curves]
    if not any(points for points, _ in evaluated):
        return None

    def draw(axes: "Axes", inks: Inks) -> None:
        for points, who in evaluated:
            tops = [100 * p.top1 for p in points if p.top1 is not None]
            axes.plot([p.images_seen for p in points], tops, color=inks.of(who), marker="o", markersize=3.5)
        label(axes, "images seen", "top-1 on validation images (%)", inks=inks)
        axes.xaxis.set_major_formatter(thousands)
        axes.set_xlim(left=0)

    return Drawing(name="accuracy-curves", draw=panel(draw), legend=_learners(report))


def loss_curves(report: Report) -> Drawing | None:
    """Return each one's own training loss over the images seen; None without a history."""
    curves = [(report.student_curve, "student"), (report.baseline_curve, "baseline")]
    if not any(curve for curve, _ in curves):
        return None

    def draw(axes: "Axes", inks: Inks) -> None:
        for curve, who in curves:
            colour = inks.of(who)
            axes.plot([p.images_seen for p in curve], [p.loss for p in curve], color=colour, alpha=0.3, linewidth=1)
            axes.plot([p.images_seen for p in curve], _smooth(curve), color=colour)
        label(axes, "images seen", "training loss (each its own)", inks=inks)
        axes.xaxis.set_major_formatter(thousands)
        axes.set_xlim(left=0)
        if all(p.loss > 0 for curve, _ in curves for p in curve):
            axes.set_yscale("log")
            plain_log(axes.yaxis, max(p.loss for c, _ in curves for p in c) / min(p.loss for c, _ in curves for p in c))

    return Drawing(name="loss-curves", draw=panel(draw), legend=_learners(report))


def _learners(report: Report) -> tuple[tuple[str, str], ...]:
    return (("student", "student"), *((("baseline", "baseline"),) if report.baseline_curve else ()))


# --------------------------------------------------------------------------------------------------------------- latency
def accuracy_against_latency(report: Report) -> Drawing | None:
    """Return accuracy (with its Wilson interval) against p50 (with the processes' range), and the line of the best of both."""
    accuracies = {artifact.name: artifact.accuracy for artifact in report.artifacts if artifact.accuracy is not None}
    measured = [summary for summary in wording.candidates(report) if summary.artifact in accuracies]
    dots = [(summary, summary.p50_ms) for summary in measured if summary.p50_ms is not None]
    if not dots:
        return None

    def draw(axes: "Axes", inks: Inks) -> None:
        low_ms, high_ms = min(p50_ms for _, p50_ms in dots) / 1.25, max(p50_ms for _, p50_ms in dots) * 1.25
        points = [(p50_ms, accuracies[s.artifact].top1) for s, p50_ms in dots if s.trusted]
        best = front(points)
        if best:
            corners = [*best, (high_ms, best[-1][1])]
            xs, ys = [x for x, _ in corners], [100 * y for _, y in corners]
            axes.plot(xs, ys, color=inks.soft, linewidth=1, linestyle=(0, (4, 3)), drawstyle="steps-post", zorder=1)
        for summary, p50_ms in dots:
            accuracy = accuracies[summary.artifact]
            interval = stats.wilson(accuracy.top1_correct, accuracy.images)
            own_ms, colour = summary.worker_p50_ms or (p50_ms,), _colour(report, summary.artifact, inks)
            axes.plot([p50_ms] * 2, [100 * interval.low, 100 * interval.high], color=colour, alpha=0.45)
            axes.plot([min(own_ms), max(own_ms)], [100 * interval.value] * 2, color=colour, linewidth=1.2)
            face = colour if summary.trusted else "none"
            axes.plot([p50_ms], [100 * interval.value], "o", color=colour, markersize=8, markerfacecolor=face)
        label(axes, "p50 latency (ms)", "top-1 through the runtime (%)", inks=inks)
        time_axis(axes, low_ms, high_ms)

    return Drawing(name="accuracy-latency", draw=panel(draw), legend=_artifacts(report))


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (latency, accuracy) that no other beats in both, from the fastest to the most accurate."""
    best: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((latency, accuracy))
    return best


def latency_distribution(report: Report) -> Drawing | None:
    """Return the share of queries answered within a time, a line per measurement, above a dot for each process's own p50."""
    shown = [summary for summary in wording.candidates(report) if summary.curve_ms]
    if not shown:
        return None

    def draw(figure: "Figure", inks: Inks) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4.0, 0.5 + 0.25 * len(shown)))
        for i, summary in enumerate(shown):
            earlier = [other.artifact for other in shown[:i]].count(summary.artifact)
            style, colour = _DASHES[earlier % len(_DASHES)], _colour(report, summary.artifact, inks)
            above.plot(summary.curve_ms[:100], range(100), color=colour, linestyle=style)
            own_ms = summary.worker_p50_ms
            below.plot(own_ms, [-i] * len(own_ms), "o", color=colour, markersize=4.5, alpha=0.6, markeredgewidth=0)
        for rank in (50, 90):
            above.axhline(rank, color=inks.soft, linewidth=0.8, linestyle=(0, (2, 3)))
            above.text(
                1.0, rank + 1, f"p{rank}", color=inks.soft, ha="right", va="bottom", transform=above.get_yaxis_transform()
            )
        label(above, "", "share of queries within (%)", inks=inks)
        label(below, "latency (ms)", "p50 of each process", inks=inks)
        above.set_ylim(0, 100)
        below.set_ylim(0.6 - len(shown), 0.4)
        below.set_yticks([])
        time_axis(below, min(s.curve_ms[0] for s in shown), max(s.curve_ms[99] for s in shown))

    return Drawing(name="latency-distribution", draw=draw, size=(5.6, 3.9 + 0.12 * len(shown)), legend=_artifacts(report))


def timeline(report: Report, session: Timeline) -> Drawing | None:
    """Return the workers' medians as time goes by, above the clock, the temperature and the load of the machine."""
    tracks = [
        (title, [(p.at_s, value) for p in session.points if (value := _value(p, column)) is not None])
        for title, column in (
            ("clock of the fastest core (MHz)", "clock_mhz"),
            ("clock of the GPU (MHz)", "gpu_clock_mhz"),
            ("hottest zone (°C)", "temperature_c"),
            ("processors at work (%)", "busy"),
        )
    ]
    tracks = [(title, points) for title, points in tracks if len(points) > 1]
    if not tracks and not session.workers:
        return None

    def draw(figure: "Figure", inks: Inks) -> None:
        count = len(tracks) + bool(session.workers)
        panels = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
        if session.workers:
            first = panels.pop(0)
            for worker in session.workers:
                face = _colour(report, worker.artifact, inks) if worker.arm == "candidate" else "none"
                edge = inks.soft if worker.arm == "reference" else _colour(report, worker.artifact, inks)
                first.plot([worker.at_s], [worker.p50_ms], "o", color=edge, markerfacecolor=face, markersize=5)
            label(first, "", "p50 of each process (ms)", inks=inks)
            first.set_yscale("log")
            plain_log(first.yaxis, 10)
        for axes, (title, points) in zip(panels, tracks, strict=True):
            axes.plot([x for x, _ in points], [y for _, y in points], color=inks.ink, linewidth=1.1)
            label(axes, "", title, inks=inks)
            axes.margins(y=0.25)
        figure.axes[-1].set_xlabel("seconds since the session began")

    height = 0.6 + 1.25 * (len(tracks) + bool(session.workers))
    return Drawing(name=f"timeline-{session.session[:12]}", draw=draw, size=(5.6, height), legend=_artifacts(report))


def _value(point: TimelinePoint, column: str) -> float | None:
    value = getattr(point, column)
    return None if value is None else 100 * value if column == "busy" else float(value)


# -------------------------------------------------------------------------------------------------------------- features
def representation(report: Report) -> list[Drawing]:
    """Return a scatter of the validation images for each picture in the student's record, a colour a class."""
    seen = report.student.representation
    if seen is None:
        return []
    return [_scattered(picture, seen.labels, f"representation-{i}") for i, picture in enumerate(seen.pictures)]


def class_colour(label: int) -> str:
    """Return the colour of a class; after ten classes they begin again."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _scattered(picture: Picture, labels: Sequence[int], name: str) -> Drawing:
    def draw(axes: "Axes", _: Inks) -> None:
        for of in sorted(set(labels)):
            points = [point for point, own in zip(picture.points, labels, strict=False) if own == of]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, "o", color=class_colour(of), markersize=3.5, markeredgewidth=0, alpha=0.8)
        axes.set_aspect("equal")
        axes.set_xlim(-1.05, 1.05)
        axes.set_ylim(-1.05, 1.05)
        axes.set_axis_off()

    return Drawing(name=name, draw=panel(draw), size=(3.6, 3.6))


# ---------------------------------------------------------------------------------------------------------------- shared
def series(report: Report, artifact: str) -> int:
    """Return which of the page's series colours an artifact has."""
    return next((i for i, a in enumerate(report.artifacts) if a.name == artifact), 0) % SERIES


def _artifacts(report: Report) -> tuple[tuple[str, str], ...]:
    return tuple((artifact.name, f"s{series(report, artifact.name)}") for artifact in report.artifacts)


def _colour(report: Report, artifact: str, inks: Inks) -> str:
    return inks.of(f"s{series(report, artifact)}")


def _smooth(curve: Sequence[CurvePoint]) -> list[float]:
    """Return the running mean over a twentieth of the curve, which a reader can follow through the noise."""
    reach = max(1, len(curve) // 40)
    windows = (curve[max(0, i - reach) : i + reach + 1] for i in range(len(curve)))
    return [sum(p.loss for p in window) / len(window) for window in windows]

"""The plots of the HTML page: matplotlib SVGs in the page's own colours, the same bytes for the same report.

Every colour drawn here is a stand-in that becomes a CSS variable of the page, so that one drawing serves light, dark and print.
No name from a report is drawn: the page's own legends carry them, where they are escaped like all other text.
"""

import io
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgekd.core import stats
from edgekd.core.records import CurvePoint, Picture, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = 6
# Of one lightness, so that they are told apart by day and by night; drawn as they are, unlike the stand-ins below.
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
_INK, _SOFT, _LINE, _STUDENT, _BASELINE = "#010101", "#020202", "#030303", "#040404", "#050505"
_ARTIFACTS = tuple(f"#0606{i:02d}" for i in range(SERIES))
_VARIABLES = {_INK: "ink", _SOFT: "soft", _LINE: "line", _STUDENT: "student", _BASELINE: "baseline"}
_VARIABLES |= {colour: f"s{i}" for i, colour in enumerate(_ARTIFACTS)}
STAND_INS = {variable: colour for colour, variable in _VARIABLES.items()}
"""The colour to draw with for each of the page's variables."""
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "lines.solid_capstyle": "round",
    "lines.linewidth": 1.8,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def accuracy_curves(report: Report) -> str:
    """Return top-1 over the images seen, student and baseline; empty if neither was evaluated on the way."""
    curves = [(report.student_curve, _STUDENT), (report.baseline_curve, _BASELINE)]
    evaluated = [([p for p in curve if p.top1 is not None], colour) for curve, colour in curves]
    if not any(points for points, _ in evaluated):
        return ""

    def draw(axes: "Axes") -> None:
        for points, colour in evaluated:
            tops = [100 * p.top1 for p in points if p.top1 is not None]
            axes.plot([p.images_seen for p in points], tops, color=colour, marker="o", markersize=3.5)
        label(axes, "images seen", "top-1 on validation images (%)")
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlim(left=0)

    return drawing(draw, "accuracy-curves")


def loss_curves(report: Report) -> str:
    """Return each one's own training loss over the images seen; empty without a history."""
    curves = [(report.student_curve, _STUDENT), (report.baseline_curve, _BASELINE)]
    if not any(curve for curve, _ in curves):
        return ""

    def draw(axes: "Axes") -> None:
        for curve, colour in curves:
            axes.plot([p.images_seen for p in curve], [p.loss for p in curve], color=colour, alpha=0.3, linewidth=1)
            axes.plot([p.images_seen for p in curve], _smooth(curve), color=colour)
        label(axes, "images seen", "training loss (each its own)")
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlim(left=0)
        if all(p.loss > 0 for curve, _ in curves for p in curve):
            axes.set_yscale("log")
            _plain_log(axes.yaxis, max(p.loss for c, _ in curves for p in c) / min(p.loss for c, _ in curves for p in c))

    return drawing(draw, "loss-curves")


def accuracy_against_latency(report: Report) -> str:
    """Return accuracy (with its Wilson interval) against p50 (with the processes' range), a dot per measurement."""
    accuracies = {artifact.name: artifact.accuracy for artifact in report.artifacts if artifact.accuracy is not None}
    measured = [summary for summary in report.latencies if summary.artifact in accuracies]
    dots = [(summary, summary.p50_ms) for summary in measured if summary.p50_ms is not None]
    if not dots:
        return ""

    def draw(axes: "Axes") -> None:
        for summary, p50_ms in dots:
            accuracy = accuracies[summary.artifact]
            interval = stats.wilson(accuracy.top1_correct, accuracy.images)
            own_ms, colour = summary.worker_p50_ms or (p50_ms,), _colour(report, summary.artifact)
            axes.plot([p50_ms] * 2, [100 * interval.low, 100 * interval.high], color=colour, alpha=0.45)
            axes.plot([min(own_ms), max(own_ms)], [100 * interval.value] * 2, color=colour, linewidth=1.2)
            face = colour if summary.trusted else "none"
            axes.plot([p50_ms], [100 * interval.value], "o", color=colour, markersize=8, markerfacecolor=face)
        label(axes, "p50 latency (ms)", "top-1 through the runtime (%)")
        _time_axis(axes, min(p50_ms for _, p50_ms in dots) / 1.25, max(p50_ms for _, p50_ms in dots) * 1.25)

    return drawing(draw, "accuracy-latency")


def latency_distribution(report: Report) -> str:
    """Return the share of queries answered within a time, a line per measurement, up to the 99th percentile."""
    shown = [summary for summary in report.latencies if summary.curve_ms]
    if not shown:
        return ""

    def draw(axes: "Axes") -> None:
        for i, summary in enumerate(shown):
            earlier = [other.artifact for other in shown[:i]].count(summary.artifact)
            style = _DASHES[earlier % len(_DASHES)]
            axes.plot(summary.curve_ms[:100], range(100), color=_colour(report, summary.artifact), linestyle=style)
        for rank in (50, 90):
            axes.axhline(rank, color=_SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.text(1.0, rank + 1, f"p{rank}", color=_SOFT, ha="right", va="bottom", transform=axes.get_yaxis_transform())
        label(axes, "latency (ms)", "share of queries within (%)")
        axes.set_ylim(0, 100)
        _time_axis(axes, min(s.curve_ms[0] for s in shown), max(s.curve_ms[99] for s in shown))

    return drawing(draw, "latency-distribution")


def representation(report: Report) -> list[str]:
    """Return a scatter of the validation images for each picture in the student's record, a colour a class."""
    seen = report.student.representation
    if seen is None:
        return []
    return [_scattered(picture, seen.labels, f"representation-{i}") for i, picture in enumerate(seen.pictures)]


def class_colour(label: int) -> str:
    """Return the colour of a class; after ten classes they begin again."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _scattered(picture: Picture, labels: Sequence[int], name: str) -> str:
    def draw(axes: "Axes") -> None:
        for label in sorted(set(labels)):
            points = [point for point, of in zip(picture.points, labels, strict=False) if of == label]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, "o", color=class_colour(label), markersize=3.5, markeredgewidth=0, alpha=0.8)
        axes.set_aspect("equal")
        axes.set_xlim(-1.05, 1.05)
        axes.set_ylim(-1.05, 1.05)
        axes.set_axis_off()

    return drawing(draw, name, size=(3.6, 3.6))


def series(report: Report, artifact: str) -> int:
    """Return which of the page's series colours an artifact has."""
    return next((i for i, a in enumerate(report.artifacts) if a.name == artifact), 0) % SERIES


def _colour(report: Report, artifact: str) -> str:
    return _ARTIFACTS[series(report, artifact)]


def _smooth(curve: Sequence[CurvePoint]) -> list[float]:
    """Return the running mean over a twentieth of the curve, which a reader can follow through the noise."""
    reach = max(1, len(curve) // 40)
    windows = (curve[max(0, i - reach) : i + reach + 1] for i in range(len(curve)))
    return [sum(p.loss for p in window) / len(window) for window in windows]


def label(axes: "Axes", x: str, y: str) -> None:
    """Name the axes: x below, y above, where it can be read without turning the head."""
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", color=_SOFT, fontsize=10)
    axes.grid(visible=False, axis="x")
    axes.tick_params(length=0)


def _time_axis(axes: "Axes", low: float, high: float) -> None:
    if high > 4 * low:
        axes.set_xscale("log")
        _plain_log(axes.xaxis, high / low)
    axes.set_xlim(low, high)


def _plain_log(axis: Any, span: float) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2, 5 (or at powers of ten over a wide span)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 300 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _thousands(value: float, _: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def drawing(draw: "Callable[[Axes], None]", name: str, *, size: tuple[float, float] = (5.6, 3.6)) -> str:
    """Return one drawing as an SVG element to stand inside HTML: no header, no identifiers, no fixed colour or font."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = {**_SETTINGS, "svg.hashsalt": name}
        mpl.rcParams.update(settings)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_METADATA)
    return _adapted(text.getvalue())


def _adapted(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style .*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<g id=\"[^\"]*\"(/?)>", r"<g\1>", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()

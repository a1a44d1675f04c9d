"""The plot of a series: matplotlib's SVG in the page's own colours, without any name, the same bytes for the same figures."""

import io
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import MachineError
from edgekd.history.trends import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _LINE, _FAIL, _OPEN = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {_INK: "ink", _SOFT: "soft", _LINE: "line", _FAIL: "fail", _OPEN: "open"}
_COLOURS = {"pass": _INK, "fail": _FAIL, "error": _FAIL, "inconclusive": _OPEN, None: _INK}
_MARKERS = {"pass": "o", "fail": "X", "error": "X", "inconclusive": "s", None: "o"}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _LINE,
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
}


def need_matplotlib() -> None:
    """Raise `MachineError` saying what to install if matplotlib is not there."""
    if find_spec("matplotlib") is None:
        raise MachineError("the page's plots need the package matplotlib", mend="pip install 'edgekd[report]'")


def plot(series: Series, *, name: str) -> str:
    """Return a series over the numbers of its runs as an SVG element; failures are crosses, open questions squares."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = {**_SETTINGS, "svg.hashsalt": name}
        mpl.rcParams.update(settings)
        figure = Figure(figsize=(5.2, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), series)
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _adapted(text.getvalue())


def _draw(axes: "Axes", series: Series) -> None:
    from matplotlib.ticker import MaxNLocator

    scale, unit = (1e6, "MB") if series.unit == "bytes" else (1.0, series.unit)
    runs = [point.run + 1 for point in series.known]
    values = [point.value / scale for point in series.known if point.value is not None]
    axes.plot(runs, values, color=_SOFT, linewidth=1.4)
    for outcome, marker in _MARKERS.items():
        of = [(run, value) for run, value, p in zip(runs, values, series.known, strict=True) if p.outcome == outcome]
        if of:
            axes.plot(*zip(*of, strict=True), linestyle="", marker=marker, markersize=5, color=_COLOURS[outcome])
    limits = [(point.run + 1, point.limit / scale) for point in series.points if point.limit is not None]
    if limits:
        axes.plot(*zip(*limits, strict=True), color=_OPEN, linewidth=1.2, linestyle=(0, (4, 3)), drawstyle="steps-mid")
    axes.set_title(unit, loc="left", color=_SOFT, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.ticklabel_format(useOffset=False, axis="y")
    axes.grid(visible=False, axis="x")
    axes.tick_params(length=0)


def _adapted(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style .*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<g id=\"[^\"]*\"(/?)>", r"<g\1>", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()

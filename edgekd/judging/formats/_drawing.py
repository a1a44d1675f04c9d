"""One drawing by matplotlib, as an SVG in the page's own colours or as a PNG; the same bytes for the same report.

Every colour of an SVG is a stand-in that becomes a CSS variable of the page, so that one drawing serves light, dark and print.
No name from a report is drawn in an SVG: the page's own legends carry them, where they are escaped like all other text. A PNG
has a legend of its own; names stand in it letter by letter, never as mathematics.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgekd.judging import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 6
PNG_DPI = 160
_LONGEST_NAME = 48


@dataclass(frozen=True)
class Inks:
    """The colours that a drawing is made with."""

    ink: str
    soft: str
    line: str
    student: str
    baseline: str
    series: tuple[str, ...]
    back: str = "none"

    def of(self, name: str) -> str:
        """Return the colour called `student`, `baseline`, or `s0` to `s5`."""
        return self.series[int(name[1:])] if re.fullmatch(r"s\d", name) else str(getattr(self, name))


STAND_INS = Inks("#010101", "#020202", "#030303", "#040404", "#050505", tuple(f"#0606{i:02d}" for i in range(SERIES)))
PAPER = Inks(
    "#16191d",
    "#606872",
    "#d5d9de",
    "#2a62d0",
    "#8b919a",
    ("#2a62d0", "#c8621b", "#12857a", "#8d4bb8", "#b0304f", "#7a7410"),
    back="#ffffff",
)
_VARIABLES = {
    **{getattr(STAND_INS, name): name for name in ("ink", "soft", "line", "student", "baseline")},
    **{colour: f"s{i}" for i, colour in enumerate(STAND_INS.series)},
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What draws it, its size in inches, and a legend of (name, colour by its name in `Inks`) for where there is no page."""

    name: str
    draw: "Callable[[Figure, Inks], None]"
    size: tuple[float, float] = (5.6, 3.6)
    legend: tuple[tuple[str, str], ...] = field(default=())


def available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def svg(drawing: Drawing | None) -> str:
    """Return a drawing as an SVG element to stand inside HTML: no header, no identifiers, no fixed colour or font."""
    if drawing is None:
        return ""
    text = io.StringIO()
    _figure(drawing, STAND_INS, text, "svg")
    return _adapted(text.getvalue())


def png(drawing: Drawing) -> bytes:
    """Return a drawing as a PNG on white with its legend."""
    held = io.BytesIO()
    _figure(drawing, PAPER, held, "png")
    return held.getvalue()


def panel(draw: "Callable[[Axes, Inks], None]") -> "Callable[[Figure, Inks], None]":
    """Return a drawing's function from that of its only panel."""
    return lambda figure, inks: draw(figure.add_subplot(), inks)


def label(axes: "Axes", x: str, y: str, *, inks: Inks) -> None:
    """Name both axes: the upper one as a title on the left, which takes no width."""
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", color=inks.soft, fontsize=10)
    axes.grid(visible=False, axis="x")
    axes.tick_params(length=0)


def time_axis(axes: "Axes", low: float, high: float) -> None:
    """Let x run from low to high, logarithmic over a wide span."""
    if high > 4 * low:
        axes.set_xscale("log")
        plain_log(axes.xaxis, high / low)
    axes.set_xlim(low, high)


def plain_log(axis: Any, span: float) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2, 5 (or at powers of ten over a wide span)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 300 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def thousands(value: float, _: float) -> str:
    """Return a number of an axis, thousands as k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _figure(drawing: Drawing, inks: Inks, to: Any, kind: str) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_settings(drawing, inks))
        figure = Figure(figsize=drawing.size, layout="constrained")
        canvas = FigureCanvasSVG if kind == "svg" else FigureCanvasAgg
        canvas(figure)
        drawing.draw(figure, inks)
        if kind == "svg":
            figure.savefig(to, format="svg", transparent=True, metadata=_METADATA)
        else:
            _legend(figure, drawing, inks)
            figure.savefig(to, format="png", dpi=PNG_DPI, facecolor=inks.back, metadata={"Software": None})


def _settings(drawing: Drawing, inks: Inks) -> Any:
    return {
        "svg.hashsalt": drawing.name,
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.edgecolor": inks.line,
        "axes.labelcolor": inks.soft,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": inks.line,
        "grid.linewidth": 0.7,
        "xtick.color": inks.line,
        "ytick.color": inks.line,
        "xtick.labelcolor": inks.soft,
        "ytick.labelcolor": inks.soft,
        "lines.solid_capstyle": "round",
        "lines.linewidth": 1.8,
    }


def _legend(figure: "Figure", drawing: Drawing, inks: Inks) -> None:
    from matplotlib.lines import Line2D

    if not drawing.legend:
        return
    keys = [Line2D([], [], color=inks.of(colour), marker="s", linestyle="") for _, colour in drawing.legend]
    names = [_spelled(name) for name, _ in drawing.legend]
    found = figure.legend(keys, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=inks.soft)
    for text in found.get_texts():
        text.set_parse_math(False)


def _spelled(name: str) -> str:
    """Return a name in letters that every font has, and not too many of them."""
    text = wording.plain(name).encode("ascii", "backslashreplace").decode()
    # A name that begins with _ is left out of legends.
    text = f" {text}" if text.startswith("_") else text
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def _adapted(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style .*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<g id=\"[^\"]*\"(/?)>", r"<g\1>", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()

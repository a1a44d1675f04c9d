"""The plot of a search's page: every candidate, the front, the winner's line, and known networks beside them."""

from typing import TYPE_CHECKING

from edgekd.core.records import Candidates, ScoredStudent
from edgekd.judging.formats._drawing import Drawing, Inks, label, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def cost_of(one: ScoredStudent, found: Candidates) -> float | None:
    """Return what a student costs on the plot's axis: ms, measured if it was, else predicted; or million MACs."""
    if found.front_by == "macs":
        return one.macs / 1e6
    if one.measured is not None:
        return one.measured.p50_ms
    return one.estimate.value_ms if one.estimate is not None else None


def fitness_against_cost(found: Candidates) -> Drawing:
    """Return fitness against latency (or MACs), the front as steps, the winner's ancestors as a line."""
    placed = [(cost_of(one, found), one.fitness) for one in found.candidates]
    known = [(cost_of(one, found), one.fitness) for one in found.standards]

    def draw(axes: "Axes", inks: Inks) -> None:
        _dots(axes, placed, "o", inks.soft, size=3.0, alpha=0.35)
        front = [placed[number] for number in found.front]
        axes.step([cost or 0 for cost, _ in front], [fitness for _, fitness in front], where="post", color=inks.baseline)
        line = [placed[number] for number in found.lineage()]
        axes.plot([cost or 0 for cost, _ in line], [fitness for _, fitness in line], color=inks.of("s1"), linewidth=1)
        _dots(axes, line, "o", inks.of("s1"), size=3.0)
        _dots(axes, known, "s", inks.ink, size=6.0)
        _dots(axes, [placed[found.winner]], "o", inks.student, size=9.0)
        label(axes, "latency (ms)" if found.front_by == "latency" else "million multiply-accumulates", "fitness", inks=inks)

    return Drawing(name="search", draw=panel(draw))


def _dots(
    axes: "Axes", points: list[tuple[float | None, float]], marker: str, colour: str, *, size: float, alpha: float = 1.0
) -> None:
    shown = [(cost, fitness) for cost, fitness in points if cost is not None]
    xs, ys = [cost for cost, _ in shown], [fitness for _, fitness in shown]
    axes.plot(xs, ys, linestyle="none", marker=marker, color=colour, markersize=size, alpha=alpha)

"""The plot of a search's page: every candidate, the front, the winner's line, and known networks beside them."""

from typing import TYPE_CHECKING

from edgekd.core.records import Candidates, ScoredStudent
from edgekd.judging.formats import _plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def cost_of(one: ScoredStudent, found: Candidates) -> float | None:
    """Return what a student costs on the plot's axis: ms, measured if it was, else predicted; or million MACs."""
    if found.front_by == "macs":
        return one.macs / 1e6
    if one.measured is not None:
        return one.measured.p50_ms
    return one.estimate.value_ms if one.estimate is not None else None


def fitness_against_cost(found: Candidates) -> str:
    """Return fitness against latency (or MACs): filled dots were measured, hollow ones are estimates."""

    def draw(axes: "Axes") -> None:
        placed = [(number, cost_of(one, found), one) for number, one in enumerate(found.candidates)]
        dots = [(number, cost, one) for number, cost, one in placed if cost is not None]
        soft, ink = _plots.STAND_INS["soft"], _plots.STAND_INS["ink"]
        axes.plot([cost for _, cost, _ in dots], [one.fitness for *_, one in dots], "o", color=soft, markersize=3, alpha=0.35)
        by_number = {number: (cost, one.fitness) for number, cost, one in dots}
        front = [by_number[number] for number in found.front if number in by_number]
        axes.step([x for x, _ in front], [y for _, y in front], where="post", color=_plots.STAND_INS["baseline"])
        line = [by_number[number] for number in found.lineage() if number in by_number]
        axes.plot(
            [x for x, _ in line], [y for _, y in line], "-", color=_plots.STAND_INS["s1"], linewidth=1, marker="o", markersize=3
        )
        known = [(cost_of(one, found), one.fitness) for one in found.standards]
        axes.plot([x for x, _ in known if x], [y for x, y in known if x], "s", color=ink, markersize=6)
        axes.plot(*by_number[found.winner], "o", color=_plots.STAND_INS["student"], markersize=9)
        _plots.label(axes, "latency (ms)" if found.front_by == "latency" else "million multiply-accumulates", "fitness")

    return _plots.drawing(draw, "search")

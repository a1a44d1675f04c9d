"""A search in words, and as one self-contained page."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from edgekd.core.records import Candidates, Interval, ScoredStudent
from edgekd.judging import wording
from edgekd.judging.formats import _search_plots
from edgekd.judging.formats._drawing import available, svg

if TYPE_CHECKING:
    from jinja2 import Template

_UNIT_SPACE = re.compile(r"(?<=\d) (?=(?:%|ms)(?!\w))")
CAUTION = (
    "Nothing was trained. On the 64 networks whose distilled accuracy is published, no such score ranks better than the number"
    " of weights does; whether one says more than size and latency on this space is known only after some of its students"
    " were trained."
)


def lines(found: Candidates) -> list[str]:
    """Return a search in a few lines for a person."""
    winner = found.candidates[found.winner]
    said = [
        f"{found.name}: {len(found.candidates):,} of {found.networks_in_space:,} students scored, by {found.strategy}",
        f"found {winner.genome}",
        f"because {found.why}",
        f"{winner.parameters:,} parameters, {winner.macs / 1e6:,.1f} million multiply-accumulates, {latency(winner)}",
    ]
    said += [f"beside  {one.genome}: fitness {one.fitness:.2f}, {latency(one)}" for one in found.standards]
    for agreement in found.agreements:
        if agreement.a == "fitness":
            said.append(f"fitness ranks as {agreement.b}: Spearman {interval(agreement.spearman)}")
    return [*said, CAUTION]


def latency(one: ScoredStudent) -> str:
    """Return a student's latency, and which kind of figure it is."""
    if one.measured is not None:
        return f"{one.measured.p50_ms:.2f} ms measured"
    if one.estimate is not None:
        return f"{one.estimate.value_ms:.2f} ms estimated ({one.estimate.low_ms:.2f} to {one.estimate.high_ms:.2f})"
    return "latency not asked for"


def interval(found: Interval | None) -> str:
    """Return an estimate with its interval."""
    return "not defined" if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def render(found: Candidates) -> str:
    """Return the page; the same record gives the same bytes."""
    from markupsafe import Markup

    plot: Any = None
    if available():
        plot = Markup(svg(_search_plots.fitness_against_cost(found)))  # noqa: S704 - matplotlib's own drawing, free of names
    lineage = [(number, found.candidates[number]) for number in found.lineage()]
    return _template().render(
        found=found,
        winner=found.candidates[found.winner],
        lineage=lineage,
        front=[(number, found.candidates[number]) for number in found.front],
        plot=plot,
        latency=latency,
        interval=interval,
        caution=CAUTION,
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgekd.judging.formats", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    return environment.get_template("search.html.j2")


def _harmless(value: Any) -> Any:
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNIT_SPACE.sub("\N{NO-BREAK SPACE}", wording.plain(value))

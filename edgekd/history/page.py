"""The history as one self-contained page: the runs, and a plot of every figure."""

from functools import cache
from typing import TYPE_CHECKING, Any

from edgekd.history import drawing
from edgekd.history.database import Database
from edgekd.history.table import change, headline
from edgekd.history.trends import History, read
from edgekd.judging import wording

if TYPE_CHECKING:
    from jinja2 import Template

MOST_PLOTS = 60


def page(target: str, *, recipe: str | None = None, last: int = 100) -> str:
    """Return a web page with the last runs of a history and a plot of every figure; no script, no network."""
    drawing.need_matplotlib()
    with Database(target, make=False) as database, database.reading() as session:
        found = read(session, recipe=recipe, last=last)
    return rendered(found)


def rendered(found: History) -> str:
    """Return the page of a history; the same history gives the same bytes."""
    from markupsafe import Markup

    shown = [series for series in found.series if series.known]
    plots = [
        (series, Markup(drawing.plot(series, name=f"series-{i}")))  # noqa: S704 - matplotlib's own drawing, free of names
        for i, series in enumerate(shown[:MOST_PLOTS])
    ]
    return _template().render(
        headline=headline(found) if found.runs else "",
        runs=list(enumerate(found.runs, start=1))[::-1],
        plots=plots,
        left_out=max(0, len(shown) - MOST_PLOTS),
        words=wording,
        change=change,
        several=len({run.recipe for run in found.runs}) > 1,
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgekd.history", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    return environment.get_template("history.html.j2")


def _harmless(value: Any) -> Any:
    """Spell out control characters of what is text and not markup."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return wording.plain(value)

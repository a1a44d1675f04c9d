"""One self-contained page: no script, no network, readable by day, by night and on paper."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import heads, quantisation, wording
from edgekd.judging.formats import _page, _plots

if TYPE_CHECKING:
    from jinja2 import Template

_UNIT_SPACE = re.compile(r"(?<=\d) (?=(?:%|ms|[kMG]?B|s|px|points|images|bytes)(?!\w))|(?<=\bp) (?== )|(?<=\bp =) ")


class Html(Format):
    """One self-contained web page with tables and plots; plots need matplotlib (the `report` extra)."""

    file_name: ClassVar[str] = "report.html"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the page; the same report and verdict give the same bytes."""
        return _template().render(
            report=report,
            verdict=verdict,
            page=_page.Page(report, verdict),
            plots=_drawn(report),
            words=wording,
            int8=quantisation,
            heads=heads,
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
    environment.filters |= {
        "percent": wording.percent,
        "size": wording.size,
        "options": _page.options,
    }
    return environment.get_template("report.html.j2")


def _drawn(report: Report) -> dict[str, Any] | None:
    """Return the plots by name as markup that is already safe (it holds no name from the report); None without matplotlib."""
    from markupsafe import Markup

    if not _plots.available():
        return None
    drawn = {
        "accuracy": _plots.accuracy_curves(report),
        "loss": _plots.loss_curves(report),
        "trade": _plots.accuracy_against_latency(report),
        "latency": _plots.latency_distribution(report),
    }
    safe: dict[str, Any] = {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib's own drawing, free of names
    safe["representation"] = [Markup(svg) for svg in _plots.representation(report)]  # noqa: S704 - as above
    return safe


def _harmless(value: Any) -> Any:
    """Spell out control characters and keep a number and its unit on one line."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNIT_SPACE.sub("\N{NO-BREAK SPACE}", wording.plain(value))

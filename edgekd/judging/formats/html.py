"""One self-contained page: no script, no network, readable by day, by night and on paper."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import heads, quantisation, wording
from edgekd.judging.formats import _page, _plots
from edgekd.judging.formats._drawing import available, svg

if TYPE_CHECKING:
    from jinja2 import Template

_UNIT_SPACE = re.compile(r"(?<=\d) (?=(?:%|ms|[kMG]?B|s|px|points|images|bytes)(?!\w))|(?<=\bp) (?== )|(?<=\bp =) ")


class Html(Format):
    """One self-contained web page with tables and plots; plots need matplotlib (the `report` extra)."""

    file_name: ClassVar[str] = "report.html"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the page; the same report and verdict give the same bytes."""
        return _template().render(
            style=_style(),
            policy=_policy(),
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


@cache
def _style() -> Any:
    from markupsafe import Markup

    text = (resources.files("edgekd.judging.formats") / "templates" / "report.css").read_text(encoding="utf-8")
    return Markup(f"\n{text}")  # noqa: S704 - our own file


@cache
def _policy() -> str:
    """Return what the page may do: show itself. Nothing is loaded or run; only our own style element counts.

    Style attributes place bars and colour drawings. `style-src` is for browsers that do not know the other two yet.
    """
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"style-src-elem 'sha256-{digest}'; style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


def _drawn(report: Report) -> dict[str, Any] | None:
    """Return the plots by name as markup that is already safe (it holds no name from the report); None without matplotlib."""
    from markupsafe import Markup

    if not available():
        return None
    safe = {name: Markup(svg(one)) for name, one in _plots.all_of(report).items()}  # noqa: S704 - matplotlib's own, free of names
    scattered = [safe[name] for name in safe if name.startswith("representation-")]
    return {**dict.fromkeys(("accuracy", "loss", "trade", "latency"), ""), **safe, "representation": scattered}


def _harmless(value: Any) -> Any:
    """Spell out control characters and keep a number and its unit on one line."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNIT_SPACE.sub("\N{NO-BREAK SPACE}", wording.plain(value))

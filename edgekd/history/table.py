"""The history as aligned text: the last runs, and the trend of every figure."""

from collections.abc import Sequence

from edgekd.history.database import Database
from edgekd.history.trends import History, Series, read
from edgekd.judging import wording
from edgekd.judging.console import aligned

MOST_SERIES = 200
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 20


def show(target: str, *, recipe: str | None = None, last: int = 20) -> list[str]:
    """Return the last runs of a history and the trend of every figure over them, as lines for a terminal."""
    with Database(target, make=False) as database, database.reading() as session:
        found = read(session, recipe=recipe, last=last)
    if not found.runs:
        return ["the history is empty"]
    return [headline(found), "", *aligned(_runs(found)), "", *aligned(_trends(found)), *_more(found)]


def headline(found: History) -> str:
    """Return how much there is, and of when."""
    first, latest = found.runs[0].when, found.runs[-1].when
    counts = [(len(found.runs), "run"), (found.verdicts, "verdict"), (found.measurements, "measurement")]
    counted = ", ".join(wording.counted(number, noun) for number, noun in counts)
    return f"{counted}, {first:%Y-%m-%d} to {latest:%Y-%m-%d}"


def change(series: Series) -> str:
    """Return how the last value differs from the one before it: in points for percentages, else in percent."""
    values = [point.value for point in series.known if point.value is not None]
    if len(values) < 2:
        return wording.MISSING
    before, latest = values[-2:]
    if series.unit in ("%", "points"):
        return f"{latest - before:+.1f} points"
    return f"{100 * (latest / before - 1):+.1f} %" if before else wording.MISSING


def sparkline(values: Sequence[float]) -> str:
    """Return the last twenty values as bars from the least to the greatest of them."""
    shown = values[-_WIDTH:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high <= low:
        return _BARS[3] * len(shown)
    return "".join(_BARS[min(7, int(8 * (value - low) / (high - low)))] for value in shown)


def _runs(found: History) -> list[tuple[str, ...]]:
    head = ("when (UTC)", "recipe", "result", "top-1", "checks", "report", "git")
    return [
        head,
        *(
            (
                f"{run.when:%Y-%m-%d %H:%M}",
                run.recipe,
                wording.OUTCOMES[run.outcome] if run.outcome else wording.MISSING,
                wording.percent(run.top1),
                run.told,
                run.report[:12],
                run.git[:12],
            )
            for run in found.runs
        ),
    ]


def _trends(found: History) -> list[tuple[str, ...]]:
    several = len({run.recipe for run in found.runs}) > 1
    lines: list[tuple[str, ...]] = [("figure", "of", "runs", "first", "latest", "change", "limit", "result", "trend")]
    for series in found.series[:MOST_SERIES]:
        latest = series.points[-1]
        values = [point.value for point in series.known if point.value is not None]
        lines.append(
            (
                f"{series.recipe}: {series.what}" if several else series.what,
                series.subject,
                str(len(series.points)),
                wording.quantity(values[0] if values else None, series.unit),
                wording.quantity(latest.value, series.unit),
                change(series),
                "" if latest.limit is None else wording.quantity(latest.limit, series.unit),
                wording.OUTCOMES[latest.outcome] if latest.outcome else "",
                sparkline(values),
            )
        )
    return lines


def _more(found: History) -> list[str]:
    left = len(found.series) - MOST_SERIES
    return [f"and {left:,} more figures; name a recipe with --recipe to see fewer"] if left > 0 else []

"""What the search benchmarks share: a table of scores against a truth, with intervals, and once size is known."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.core import ranks
from edgekd.core.records import Interval

Column = Sequence[float]


def agreement(scores: Mapping[str, Column], truth: Column, *, given: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Return, for each score, Spearman and Kendall with the truth, and Spearman once each of `given` is known."""
    rows = []
    for name, values in scores.items():
        row: dict[str, Any] = {
            "score": name,
            "spearman": _shown(ranks.with_interval(ranks.spearman, values, truth)),
            "kendall": _shown(ranks.with_interval(ranks.kendall, values, truth)),
        }
        for known, third in given.items():
            partial = None
            if name != known:
                partial = ranks.with_interval(ranks.partial_rank_correlation, values, truth, third)
            row[f"spearman given {known}"] = _shown(partial)
        rows.append(row)
    return rows


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as Markdown."""
    columns = list(rows[0])
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_text(row[column]) for column in columns)} |", flush=True)


def standardised(values: Column) -> list[float]:
    """Return z-scores; zeros where nothing varies."""
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


def _shown(found: Interval | None) -> list[float] | None:
    return None if found is None else [round(found.value, 3), round(found.low, 3), round(found.high, 3)]


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell[0]:.3f} ({cell[1]:.2f} to {cell[2]:.2f})" if isinstance(cell, list) else str(cell)

"""How long one query may take. The replicate is the process, not the iteration."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import model_validator

from edgekd.core.records import LatencySummary
from edgekd.judging import units
from edgekd.judging.budgets._deciding import Quantity
from edgekd.judging.budgets._processes import ProcessLimit
from edgekd.judging.budgets._subjects import exactly_one

Metric = Literal[
    "latency.p50", "latency.p90", "latency.p95", "latency.p99", "latency.e2e.p50", "latency.first_infer", "latency.load"
]

_Point = Callable[[LatencySummary], float | None]
_Own = Callable[[LatencySummary], tuple[float, ...]]


def _middle(values: tuple[float, ...]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


_QUANTITIES: dict[str, tuple[str, _Point, _Own]] = {
    "latency.p50": ("latency p50", lambda one: one.p50_ms, lambda one: one.worker_p50_ms),
    "latency.p90": ("latency p90", lambda one: one.p90_ms, lambda one: one.worker_p90_ms),
    "latency.p95": ("latency p95", lambda one: one.p95_ms, lambda one: one.worker_p95_ms),
    "latency.p99": ("latency p99", lambda one: one.p99_ms, lambda one: one.worker_p99_ms),
    "latency.e2e.p50": (
        "latency from photograph to classes, p50",
        lambda one: one.whole.e2e_p50_ms if one.whole else None,
        lambda one: one.whole.worker_e2e_p50_ms if one.whole else (),
    ),
    "latency.first_infer": ("first inference", lambda one: _middle(one.first_ms), lambda one: one.first_ms),
    "latency.load": ("loading", lambda one: _middle(one.load_ms), lambda one: one.load_ms),
}


class Latency(ProcessLimit):
    """A query takes at most `max` (20ms), or `max_ratio` times the baseline's or the reference's.

    p50, p90, p95 and p99 of a query, p50 of the way from photograph to classes (e2e), first inference, and loading. Bounds are
    one-sided with error `alpha`; where several of these budgets are judged at once, their fails share that error (Holm).
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(_QUANTITIES)
    metric: Metric = "latency.p50"
    max: units.TimeText | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Latency":
        exactly_one(self, "max", "max_ratio")
        return self

    def quantity(self) -> Quantity:
        """Return the figure that the metric names."""
        words, point, own = _QUANTITIES[self.metric]
        quantity = Quantity(words=words, unit="ms", point=point, own=own, tail=self.metric.endswith("p99"))
        return replace(quantity, turns=lambda one: one.worker_turns_ms) if self.metric == "latency.p50" else quantity

    def limit(self) -> tuple[float, str] | None:
        """Return the limit in ms, and as it was written."""
        return None if self.max is None else (float(units.milliseconds(self.max)), self.max)

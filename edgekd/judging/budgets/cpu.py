"""How much computing one query may cost."""

from typing import ClassVar, Literal

from pydantic import model_validator

from edgekd.judging import units
from edgekd.judging.budgets._deciding import Quantity
from edgekd.judging.budgets._processes import ProcessLimit
from edgekd.judging.budgets._subjects import exactly_one


class Cpu(ProcessLimit):
    """A query takes at most `max` (40ms) of processor time, or `max_ratio` times the other's.

    Over all threads. The processes' own figures are decided as those of `latency` are.
    """

    metrics: ClassVar[tuple[str, ...]] = ("cpu.seconds",)
    metric: Literal["cpu.seconds"] = "cpu.seconds"
    max: units.TimeText | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Cpu":
        exactly_one(self, "max", "max_ratio")
        return self

    def quantity(self) -> Quantity:
        """Return the processor time of a query."""
        return Quantity(
            words="processor time of a query",
            unit="ms",
            point=lambda one: sum(one.cpu_ms) / len(one.cpu_ms) if one.cpu_ms else None,
            own=lambda one: one.cpu_ms,
        )

    def limit(self) -> tuple[float, str] | None:
        """Return the limit in ms, and as it was written."""
        return None if self.max is None else (float(units.milliseconds(self.max)), self.max)

"""How much memory a process that runs the model may take."""

from typing import ClassVar, Literal

from pydantic import model_validator

from edgekd.judging import units
from edgekd.judging.budgets._deciding import Quantity
from edgekd.judging.budgets._processes import ProcessLimit
from edgekd.judging.budgets._subjects import exactly_one


class Memory(ProcessLimit):
    """A process takes at most `max` (300MB) of memory, or `max_ratio` times the other's.

    At its peak; interpreter and runtime are part of it. The processes' own figures are decided as those of `latency` are.
    """

    metrics: ClassVar[tuple[str, ...]] = ("memory.peak_rss",)
    metric: Literal["memory.peak_rss"] = "memory.peak_rss"
    max: units.SizeText | None = None

    @model_validator(mode="after")
    def _one_claim(self) -> "Memory":
        exactly_one(self, "max", "max_ratio")
        return self

    def quantity(self) -> Quantity:
        """Return the largest resident set of a process."""
        return Quantity(
            words="peak memory",
            unit="bytes",
            point=lambda one: float(max(one.peak_rss_bytes)) if one.peak_rss_bytes else None,
            own=lambda one: tuple(map(float, one.peak_rss_bytes)),
        )

    def limit(self) -> tuple[float, str] | None:
        """Return the limit in bytes, and as it was written."""
        return None if self.max is None else (float(units.size_bytes(self.max)), self.max)

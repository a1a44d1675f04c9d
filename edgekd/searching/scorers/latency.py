"""How long it takes."""

from typing import ClassVar

from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Look, Scorer


class Latency(Scorer):
    """The plain baseline: the student's latency, predicted from measured blocks; slower counts as better.

    A negative `weight` prefers the faster of two.
    """

    initialised: ClassVar[bool] = False

    def value(self, look: Look) -> float:
        """Return the latency in ms; raise `UsageError` if the search measures none."""
        if look.latency_ms is None:
            raise UsageError("the scorer latency needs latencies", mend="add `search.latency` to the recipe")
        return look.latency_ms

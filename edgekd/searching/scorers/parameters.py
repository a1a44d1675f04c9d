"""How many weights."""

from typing import ClassVar

from edgekd.core.search_contracts import Look, Scorer


class Parameters(Scorer):
    """The plain baseline: how many weights the student has."""

    initialised: ClassVar[bool] = False

    def value(self, look: Look) -> float:
        """Return the number of weights."""
        return float(look.parameters)

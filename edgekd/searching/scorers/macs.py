"""How much is computed."""

from typing import ClassVar

from edgekd.core.search_contracts import Look, Scorer


class Macs(Scorer):
    """The plain baseline: multiply-accumulates of one image in convolutions and linear layers."""

    initialised: ClassVar[bool] = False

    def value(self, look: Look) -> float:
        """Return the number of multiply-accumulates."""
        return float(look.macs)

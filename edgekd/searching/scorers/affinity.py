"""Which places of an image resemble one another."""

from typing import Annotated, ClassVar

from pydantic import Field

from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import taught
from edgekd.searching.similarity import affinity


class Affinity(Scorer):
    """Do the same places of an image look alike to student and teacher, on a common grid? For any widths.

    A transformer's places are its patch tokens.
    """

    needs_teacher: ClassVar[bool] = True
    grid: Annotated[int, Field(ge=2, le=32)] = 7

    def value(self, look: Look) -> float:
        """Return the negated mean squared difference of the cosines between places."""
        return -float(affinity(look.student.map_BCHW, taught(look).map_BCHW, grid=self.grid))

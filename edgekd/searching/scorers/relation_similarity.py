"""Which images of the batch resemble one another."""

from typing import ClassVar, Literal

from torch import Tensor

from edgekd.core.search_contracts import Look, Scorer, Sight
from edgekd.searching.sight import taught
from edgekd.searching.similarity import relation


class RelationSimilarity(Scorer):
    """Do the same images look alike to student and teacher? DisWOT's -M_r; the widths may differ.

    `of: map` compares the whole feature maps as published, `of: vector` what the heads are given. `centre` takes the mean over
    the batch away first, which a trained transformer's features need: they share a large mean.
    """

    needs_teacher: ClassVar[bool] = True
    of: Literal["map", "vector"] = "map"
    centre: bool = False

    def value(self, look: Look) -> float:
        """Return -M_r."""
        return -float(relation(self._features(look.student), self._features(taught(look))))

    def _features(self, sight: Sight) -> Tensor:
        found_BX = (sight.map_BCHW if self.of == "map" else sight.vector_BD).double().flatten(1)
        return found_BX - found_BX.mean(dim=0) if self.centre else found_BX

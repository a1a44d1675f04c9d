"""Similarities within the batch."""

from torch import Tensor

from edgekd.core.contracts import FeatureSpec
from edgekd.distilling.losses import similarity_preserving
from edgekd.distilling.methods._features import FeatureMethod, Match
from edgekd.distilling.methods._logits import Weight


class SimilarityPreserving(FeatureMethod):
    """Which images of a batch resemble one another, as the teacher has it (SP, 2019).

    No projector: only B x B similarities are compared, row by row normalised. The weight is that of the authors' image
    classification runs; the loss itself is a mean over B squared entries and therefore small.
    """

    weight: Weight = 3000.0

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match, which has no weights."""
        return _Similarities()


class _Similarities(Match):
    term = "similarity"

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        return similarity_preserving(student_BD, teacher_BD)

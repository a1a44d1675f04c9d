"""Distances and angles within the batch."""

from torch import Tensor

from edgekd.core.contracts import FeatureSpec
from edgekd.distilling.losses import rkd
from edgekd.distilling.methods._features import FeatureMethod, Match
from edgekd.distilling.methods._logits import Weight


class Rkd(FeatureMethod):
    """Distances and angles between the images of a batch, as the teacher has them (RKD, 2019).

    No projector. `distance_weight` and `angle_weight` are those of the authors' CIFAR-100 runs. Angles cost B x B x D and
    B x B x B numbers of memory: 150 MB and 67 MB for a batch of 256 and 576 channels.
    """

    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match, which has no weights."""
        return _Relations(distance_weight=self.distance_weight, angle_weight=self.angle_weight)


class _Relations(Match):
    term = "relation"

    def __init__(self, *, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        return rkd(student_BD, teacher_BD, distance_weight=self.distance_weight, angle_weight=self.angle_weight)

"""Matching features through a projector."""

from typing import Literal

from torch import Tensor, nn

from edgekd.core.contracts import FeatureSpec
from edgekd.distilling.methods._features import (
    Distance,
    DroppingMethod,
    FittedMatch,
    Match,
    Standardise,
    distance,
    distance_each,
)


class Feature(DroppingMethod):
    """Distance of projected features to the teacher's, standardised per channel (FitNets, 2015).

    The projector is a linear layer, or with `mlp` Linear, LayerNorm, GELU, Linear at the teacher's width. `distance` is the
    squared error, smooth L1, or 1 - cosine.
    """

    distance: Distance = "mse"
    projector: Literal["linear", "mlp"] = "linear"

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match with its projector."""
        return _Projected(self, *self.widths(student, teacher, tap))


class _Projected(FittedMatch):
    def __init__(self, method: Feature, width_s: int, width_t: int) -> None:
        super().__init__()
        self.term = self.kind = method.distance
        self.projector: nn.Module = nn.Linear(width_s, width_t)
        if method.projector == "mlp":
            norm, last = nn.LayerNorm(width_t), nn.Linear(width_t, width_t)
            self.projector = nn.Sequential(self.projector, norm, nn.GELU(), last)
        self.target = Standardise(width_t)

    def fit(self, feature_ND: Tensor) -> None:
        self.target.fit(feature_ND)

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        return distance(self.kind, self.projector(student_BD), self.target(teacher_BD))

    def each(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        return distance_each(self.kind, self.projector(student_BD), self.target(teacher_BD))

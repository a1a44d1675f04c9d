"""Similarities within the batch, as several teachers have them, by a distance of matrices.

Axes: B batch, N images of one matrix, D feature width, V voices.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec
from edgekd.distilling import losses
from edgekd.distilling.methods._features import FeatureCriterion, FeatureMethod, Match
from edgekd.distilling.methods._voices import Voice

Answers = tuple[Mapping[str, Tensor], ...]
Labelled = Callable[[], Iterator[tuple[Answers, Tensor]]]


class LogEuclidean(FeatureMethod):
    """Which images resemble one another, as several teachers have it; log-Euclidean (Wu et al. 2019).

    sum_i alpha_i |log A_S - log A_Ti|_F^2 with A the inner products of non-negative unit-length features; no projector, and
    the widths may differ. `alpha`: by `weights` (equal without them), or `labels`: the authors learn alpha on a few labelled
    images, by a rule that we could not verify; ours is 1 / the distance of each teacher's matrix from that of the labels (1
    where two images share one), over the labelled images, found before the first epoch.

    Ours: `images` of a batch make one matrix (more than there are channels would make it singular), `eps` is added to its
    diagonal, and the loss is divided by the number of images.
    """

    alpha: Literal["weights", "labels"] = "weights"
    eps: Annotated[float, Field(gt=0)] = 1e-2
    images: Annotated[int, Field(ge=2)] = 32

    @model_validator(mode="after")
    def _one_alpha(self) -> "LogEuclidean":
        if self.alpha == "labels" and self.weights is not None:
            raise ValueError("give `weights`, or have them found by `alpha: labels`, not both")
        return self

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match, which has no weights."""
        return _Similarities(eps=self.eps, images=self.images)

    def criterion(self, matches: list[Match], spoken: tuple[Voice, ...]) -> FeatureCriterion:
        """Return the criterion that finds alpha, where it is to be found."""
        return _Aggregated(self, matches, spoken) if self.alpha == "labels" else FeatureCriterion(self, matches, spoken)


class _Similarities(Match):
    term = "log_euclidean"

    def __init__(self, *, eps: float, images: int) -> None:
        super().__init__()
        self.eps, self.images = eps, images

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        pairs = zip(student_BD.split(self.images), teacher_BD.split(self.images), strict=True)
        each = [losses.log_euclidean(_inner(own_ND), _inner(taught_ND), eps=self.eps) for own_ND, taught_ND in pairs]
        return torch.stack(each).sum() / len(student_BD)


class _Aggregated(FeatureCriterion):
    def __init__(self, method: LogEuclidean, matches: list[Match], spoken: tuple[Voice, ...]) -> None:
        super().__init__(method, matches, spoken)
        self.eps, self.images = method.eps, method.images
        self.register_buffer("weight_V", torch.full((len(spoken),), 1 / len(spoken)))
        self.found = False

    @torch.no_grad()
    def begin_epoch(self, _student: nn.Module, labelled: Labelled) -> Mapping[str, float]:
        """Find alpha before the first epoch; return it for the log."""
        if self.found or self.weight_V is None:
            return {}
        self.found = True
        distance_V = torch.zeros(len(self.voices), dtype=torch.float64)
        for teachers, label_B in labelled():
            for start in range(0, len(label_B), self.images):
                label_N = label_B[start : start + self.images]
                same_NN = (label_N.unsqueeze(0) == label_N.unsqueeze(1)).double()
                for index, voice in enumerate(self.voices):
                    seen_NN = _inner(voice.said(teachers)[start : start + self.images].double())
                    distance_V[index] += losses.log_euclidean(seen_NN, same_NN, eps=self.eps).cpu()
        if bool((distance_V > 0).all()):
            self.weight_V.copy_((1 / distance_V) / (1 / distance_V).sum())
        return {f"alpha_{number + 1}": alpha for number, alpha in enumerate(self.weight_V.tolist())}


def _inner(feature_ND: Tensor) -> Tensor:
    with torch.autocast(feature_ND.device.type, enabled=False):
        unit_ND = functional.normalize(feature_ND.to(torch.promote_types(feature_ND.dtype, torch.float32)).relu(), dim=1)
        return unit_ND @ unit_ND.T

"""Features of several teachers, each through a projector of its own."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from edgekd.core.contracts import FeatureSpec
from edgekd.distilling.ensembles import noisy_features
from edgekd.distilling.losses import cosine_smooth_l1, cosine_smooth_l1_each
from edgekd.distilling.methods._features import DroppingMethod, FittedMatch, Match
from edgekd.distilling.methods._logits import Weight
from edgekd.distilling.methods._voices import Probability, dropping_generator
from edgekd.distilling.targets import Target


class Unic(DroppingMethod):
    """Several teachers' standardised features by cosine and smooth L1, some dropped (UNIC 2024, Theia).

    `cosine_weight` times 1 - cosine plus the rest times smooth L1, per teacher, through a projector that is left behind. In
    training, each image keeps the teacher with its largest loss and drops every other with probability `drop`. `target:
    phi_s` rotates each teacher's features so that all channels vary alike while correlations stay (PHI-S, RADIO 2024), `raw`
    leaves them as they are. `noise` adds as many of each channel's deviations, times normal noise, to the standardised features
    of a random `noise_share` of the images, anew in every step (a noisy teacher; ours, after Sau & Balasubramanian 2016).

    Ours: statistics are fixed, from answers to the training images (UNIC follows them by a moving average, EUPE fixes them
    too); one projector a teacher on `student_tap` instead of a ladder of them on every block.
    """

    label_weight: Weight = 0.0
    cosine_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    target: Literal["standardise", "phi_s", "raw"] = "standardise"
    projector: Literal["mlp", "linear"] = "mlp"
    drop: Probability = 0.5
    noise: Annotated[float, Field(ge=0)] = 0.0
    noise_share: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _noise_has_a_scale(self) -> "Unic":
        if self.noise > 0 and self.target == "raw":
            raise ValueError("`noise` counts in deviations of a channel, which `target: raw` does not scale to 1")
        return self

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match with its projector."""
        return _Adapted(self, *self.widths(student, teacher, tap))


class _Adapted(FittedMatch):
    term = "cosine_smooth_l1"

    def __init__(self, method: Unic, width_s: int, width_t: int) -> None:
        super().__init__()
        self.cosine_weight = method.cosine_weight
        self.projector: nn.Module = nn.Linear(width_s, width_t)
        if method.projector == "mlp":
            norm, last = nn.LayerNorm(width_t), nn.Linear(width_t, width_t)
            self.projector = nn.Sequential(self.projector, norm, nn.GELU(), last)
        self.target = Target(method.target, width=width_t, dim=width_t)
        self.noise, self.noise_share, self.generator = method.noise, method.noise_share, dropping_generator()

    def fit(self, feature_ND: Tensor) -> None:
        self.target.fit(feature_ND)

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        target_BD = self._taught(teacher_BD)
        return cosine_smooth_l1(self.projector(student_BD), target_BD, cosine_weight=self.cosine_weight)

    def each(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        target_BD = self._taught(teacher_BD)
        return cosine_smooth_l1_each(self.projector(student_BD), target_BD, cosine_weight=self.cosine_weight)

    def _taught(self, teacher_BD: Tensor) -> Tensor:
        target_BD: Tensor = self.target(teacher_BD)
        if self.noise > 0 and self.training:
            return noisy_features(target_BD, sigma=self.noise, share=self.noise_share, generator=self.generator)
        return target_BD

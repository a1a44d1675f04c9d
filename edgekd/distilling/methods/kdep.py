"""Feature targets without a teacher-side network. Axes: B batch, N images, D feature width, K target width."""

import re
from dataclasses import replace
from math import ceil
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from edgekd.core.contracts import FeatureSpec, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import spectral
from edgekd.distilling.methods._features import Distance, DroppingMethod, FittedMatch, Match, distance, distance_each
from edgekd.distilling.methods._logits import Weight
from edgekd.distilling.methods._voices import TeacherTap
from edgekd.distilling.targets import Target

Positive = Annotated[float, Field(gt=0)]
Alignment = Literal[
    "raw",
    "standardise",
    "select",
    "interpolate",
    "learned",
    "svd",
    "svd_std",
    "svd_std_sorted",
    "svd_pts",
    "whiten",
    "phi_s",
]
ANY_WIDTH = ("learned", "interpolate")
TEACHERS_WIDTH = ("raw", "standardise")
AMPLIFYING = ("svd_pts", "svd_std", "svd_std_sorted", "whiten")  # what hardly varies would become as loud as the rest


class Kdep(DroppingMethod):
    """Features before the last activation against the teacher's SVD, scaled by a root (KDEP, 2022).

    Pre-training without labels, projector or head: the student's own pooled features are the answer.

    - `target`: `svd_pts`, the published one, projects the centred teacher features on their first d_s principal directions and
      takes sign(g) |g / T|^(1 / `exponent`). The paper's rivals: the projection alone (`svd`), with other deviations (`svd_std`
      from `std_ratio` down to 1, `svd_std_sorted` the channels' own, `whiten` all 1), the most varying channels (`select`),
      channels resampled to any width (`interpolate`), the features as they are (`raw`, `standardise`; d_s = d_t only), and
      `learned`, a linear layer. Ours: it sits on the student's side, d_s -> d_t, against standardised features; the paper's
      side is not known. `phi_s` is PHI-S (2024).
    - `temperature`: `auto` (ours) gives the target a mean variance of 1. T only scales the target; the authors take 0.1, at
      a `weight` of 3 or 20.
    - `loss`: the published one is `mse`; `spectral` is that of SpecMatch, with `eps` and `beta`.
    - `on_wider_student`: the paper has no student wider than its teacher. `refuse` says how to widen the teacher's vector;
      `first_channels` teaches as many channels as the target has and leaves the others free; `projector` puts a linear layer
      d_s -> d_t behind the student.
    - Several teachers: each has a target of its own (basis or projector) that the same student features meet; the loss is
      their mean, by `weights`, and `drop` leaves teachers out image by image (not with `spectral`, which has no loss of an
      image).
    - `dim` (ours): take fewer directions than would fit; without it they are min(d_s, d_t), as published.

    Scaled up, directions that hardly vary would be noise: those targets are refused on fewer than 10 rows of features a
    direction, or if the last eigenvalue is below a millionth of the first (both limits are ours).
    """

    student_tap: str = "pre_act"
    teacher_tap: TeacherTap = "cls+patch_mean"
    label_weight: Weight = 0.0
    target: Alignment = "svd_pts"
    exponent: Annotated[float, Field(ge=1)] = 3.0
    temperature: Positive | Literal["auto"] = "auto"
    std_ratio: Annotated[float, Field(ge=1)] | None = None
    loss: Distance | Literal["spectral"] = "mse"
    eps: Positive = 1e-3
    beta: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    on_wider_student: Literal["refuse", "first_channels", "projector"] = "refuse"
    dim: Annotated[int, Field(ge=1)] | None = None
    fit_samples: Annotated[int, Field(ge=2)] = 65536

    @model_validator(mode="after")
    def _an_image_has_a_loss(self) -> "Kdep":
        if self.drop > 0 and self.loss == "spectral":
            raise ValueError("`drop` leaves teachers out image by image, and `loss: spectral` is one number a batch")
        return self

    def needs(self) -> Needs:
        """Ask for the taps, and for enough features to know the covariance."""
        return replace(super().needs(), fit_samples=self.fit_samples)

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match; raise `UsageError` if the student's vector does not fit the teacher's."""
        width_s, width_t = self.widths(student, teacher, tap)
        if width_s > width_t and self.target not in ANY_WIDTH and self.on_wider_student == "refuse":
            raise self._too_wide(student, teacher, tap)
        if width_s < width_t and self.target in TEACHERS_WIDTH:
            raise UsageError(
                f"method kdep: `target: {self.target}` keeps all {width_t} channels of {teacher.name}'s {tap},"
                f" and the student's {self.student_tap} has {width_s}",
                mend="use a target of the student's width (svd_pts, svd, select, interpolate, ...) or `target: learned`",
            )
        most = min(width_s, width_t)
        if self.dim is not None and (self.dim > most or self.target in (*ANY_WIDTH, *TEACHERS_WIDTH)):
            raise UsageError(
                f"method kdep: `dim: {self.dim}` cannot be had from `target: {self.target}`"
                f" with d_s = {width_s} and d_t = {width_t}",
                mend=f"at most {most}, and only where the target has directions to choose from (svd_pts, svd, select, ...)",
            )
        return _Aligned(self, width_s, width_t)

    def _too_wide(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> UsageError:
        width_s, width_t = self.widths(student, teacher, tap)
        return UsageError(
            f"method kdep: the student's {self.student_tap} has d_s = {width_s} channels and"
            f" {teacher.name}'s {tap} only d_t = {width_t}, so {width_s - width_t} of them have no target",
            mend=f"widen the teacher's vector with `teacher_tap: {widened(tap, width_t=width_t, width_s=width_s)}`"
            f" (a ViT's), or set `on_wider_student: first_channels` (the last {width_s - width_t} channels stay free)"
            f" or `on_wider_student: projector` (a linear layer {width_s} -> {width_t} behind the student)",
        )


def widened(tap: str, *, width_t: int, width_s: int) -> str:
    """Return the narrowest `patch_mean+last_<k>` of a ViT with at least `width_s` directions that can vary.

    Each of its k + 1 vectors comes out of a LayerNorm and so varies in one direction less than it is wide. `last_<k>` holds
    the class token, so `cls` beside it would add nothing.
    """
    vectors = sum(int(match[1]) if (match := re.fullmatch(r"last_(\d+)", part)) else 1 for part in tap.split("+"))
    varying = max(1, width_t // vectors - 1)
    return f"patch_mean+last_{max(1, ceil(width_s / varying) - 1)}"


class _Aligned(FittedMatch):
    """One teacher's target, and what stands between it and the student."""

    def __init__(self, method: Kdep, width_s: int, width_t: int) -> None:
        super().__init__()
        self.method = method
        self.term = method.loss
        learned = method.target == "learned"
        wider = width_s > width_t and method.target != "interpolate"
        projected = learned or (wider and method.on_wider_student == "projector")
        self.width = method.dim or (width_t if learned or wider else width_s)
        self.projector = nn.Linear(width_s, self.width) if projected else nn.Identity()
        self.target = Target(
            "standardise" if method.target == "learned" else method.target,
            width=width_t,
            dim=self.width,
            exponent=method.exponent,
            temperature=method.temperature,
            ratio=method.std_ratio,
        )

    def fit(self, feature_ND: Tensor) -> None:
        self.target.fit(feature_ND)
        if self.method.target not in AMPLIFYING:
            return
        try:
            self.target.check_rank()
        except UsageError as error:
            mend = f"{error.mend}, or ask for fewer directions with `dim`"
            raise UsageError(f"method kdep: {error.message}", mend=mend) from error

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        method, target_BK = self.method, self.target(teacher_BD)
        answer_BK = self._answer(student_BD)
        if method.loss == "spectral":
            return spectral(answer_BK, target_BK, eps=method.eps, beta=method.beta)
        return distance(method.loss, answer_BK, target_BK)

    def each(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        assert self.method.loss != "spectral"
        return distance_each(self.method.loss, self._answer(student_BD), self.target(teacher_BD))

    def _answer(self, student_BD: Tensor) -> Tensor:
        answer_BK: Tensor = self.projector(student_BD)[:, : self.width]
        return answer_BK

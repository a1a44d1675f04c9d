"""Matching features through a linear projector."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cross_entropy, feature_mse, kl_divergence, standardise

Weight = Annotated[float, Field(ge=0)]


class Feature(Method):
    """Squared error of linearly projected features against the teacher's, standardised (FitNets, 2015)."""

    student_tap: str = "pooled"
    teacher_tap: str = "pooled"
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    probe_weight: Weight = 0.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def needs(self) -> Needs:
        """Ask for the two taps, and for logits and probe where their terms have a weight."""
        probe = ("probe_logits",) if self.probe_weight > 0 else ()
        logits = ("logits",) if self.label_weight > 0 or self.probe_weight > 0 else ()
        return Needs(
            student_taps=(self.student_tap, *logits),
            teacher_taps=(self.teacher_tap, *probe),
            labels=self.label_weight > 0 or self.probe_weight > 0,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion with one projector a teacher; both taps must be vectors."""
        for spec, tap in ((student, self.student_tap), *((t, self.teacher_tap) for t in teachers)):
            if len(spec.shapes[tap]) != 1:
                raise UsageError(
                    f"method feature: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, a vector is needed",
                    mend="use a pooled tap: pooled, pre_logits, cls, patch_mean or last_<k>",
                )
        width_s = student.shapes[self.student_tap][0]
        return _Criterion(self, width_s, tuple(t.shapes[self.teacher_tap][0] for t in teachers))


class _Criterion(nn.Module):
    def __init__(self, method: Feature, width_s: int, widths_t: tuple[int, ...]) -> None:
        super().__init__()
        self.method = method
        self.projectors = nn.ModuleList(nn.Linear(width_s, width_t) for width_t in widths_t)
        for number, width_t in enumerate(widths_t):
            self.register_buffer(f"mean_{number}", torch.zeros(width_t))
            self.register_buffer(f"std_{number}", torch.ones(width_t))

    def fit(self, teachers: tuple[Mapping[str, Tensor], ...]) -> None:
        """Take each channel's mean and standard deviation from the teachers' features of the training images."""
        for number, features in enumerate(teachers):
            feature_ND = features[self.method.teacher_tap].double()
            self.get_buffer(f"mean_{number}").copy_(feature_ND.mean(dim=0))
            self.get_buffer(f"std_{number}").copy_(feature_ND.std(dim=0, unbiased=False))

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        method = self.method
        errors = []
        for number, (projector, teacher) in enumerate(zip(self.projectors, teachers, strict=True)):
            mean_D, std_D = self.get_buffer(f"mean_{number}"), self.get_buffer(f"std_{number}")
            target_BD = standardise(teacher[method.teacher_tap], mean_D, std_D)
            errors.append(feature_mse(projector(student[method.student_tap]), target_BD))
        mse = torch.stack(errors).mean()
        total, parts = method.weight * mse, {"mse": mse.detach()}
        if method.label_weight > 0:
            ce = cross_entropy(student["logits"], batch, smoothing=method.label_smoothing)
            total, parts["ce"] = total + method.label_weight * ce, ce.detach()
        if method.probe_weight > 0:
            kd = torch.stack(
                [kl_divergence(student["logits"], t["probe_logits"], temperature=method.temperature) for t in teachers]
            ).mean()
            total, parts["kd"] = total + method.probe_weight * kd, kd.detach()
        return Losses(total=total, parts=parts)

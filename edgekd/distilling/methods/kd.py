"""Softened logits."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cross_entropy, kl_divergence

Weight = Annotated[float, Field(ge=0)]


class Kd(Method):
    """Softened logits: of the teacher's own head, or of a linear probe on its features (Hinton 2015)."""

    head: Literal["probe", "own"] = "probe"
    temperature: Annotated[float, Field(gt=0)] = 4.0
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def needs(self) -> Needs:
        """Ask for the student's logits and the teacher's logits or probe."""
        tap = "probe_logits" if self.head == "probe" else "logits"
        return Needs(student_taps=("logits",), teacher_taps=(tap,), labels=self.head == "probe")

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a teacher's logits are not over the same classes."""
        tap = self.needs().teacher_taps[0]
        for teacher in teachers:
            width = teacher.shapes[tap][0]
            if width != classes:
                raise UsageError(
                    f"method kd: {teacher.name} answers over {width} outputs and the data have {classes} classes,"
                    " so the logits have nothing in common to match",
                    mend="use `head: probe` (a linear probe on the labelled images), or the method `feature`",
                )
        return _Criterion(self)


class _Criterion(nn.Module):
    def __init__(self, method: Kd) -> None:
        super().__init__()
        self.method = method
        self.tap = method.needs().teacher_taps[0]

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        method = self.method
        logits_BK = student["logits"]
        ce = cross_entropy(logits_BK, batch, smoothing=method.label_smoothing)
        divergences = [kl_divergence(logits_BK, t[self.tap], temperature=method.temperature) for t in teachers]
        kd = torch.stack(divergences).mean()
        return Losses(total=method.label_weight * ce + method.weight * kd, parts={"ce": ce.detach(), "kd": kd.detach()})

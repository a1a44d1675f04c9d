"""Decoupled softened logits."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import UNKNOWN_LABEL, Batch, FeatureSpec
from edgekd.distilling.losses import dkd
from edgekd.distilling.methods._logits import LogitCriterion, LogitMethod, Weight


class Dkd(LogitMethod):
    """Softened logits split into target class and the rest, weighed apart (DKD, Zhao et al. 2022).

    Alpha 1, beta 8, T 4 are the authors' CIFAR setting; on ImageNet they take T 1 and beta 0.5 to 2. That the CIFAR setting
    is the default is our choice. The loss needs a target class for each image: where the label is unknown (the authors only
    had labelled images) we take the teacher's strongest class, or leave the image out with `unlabelled: skip`. With mixup
    both labels count, weighted. The authors let the term grow linearly over 20 epochs: `warmup_batches` does so over that
    many calls; 0, our default, leaves it to the learning rate's own warm-up.
    """

    alpha: Weight = 1.0
    beta: Weight = 8.0
    unlabelled: Literal["teacher_argmax", "skip"] = "teacher_argmax"
    warmup_batches: Annotated[int, Field(ge=0)] = 0

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion, which counts its calls; raise `UsageError` if a teacher answers over other classes."""
        super().build(student, teachers, classes)
        return _Warming(self, batches=self.warmup_batches)

    def distance(self, student_BK: Tensor, teacher_BK: Tensor, batch: Batch) -> Tensor:
        """Return alpha times the target's divergence plus beta times that among the other classes."""
        own = self._against(student_BK, teacher_BK, batch.label_B)
        if batch.partner_B is None:
            return own
        other = self._against(student_BK, teacher_BK, batch.label_B[batch.partner_B])
        return batch.mix * own + (1 - batch.mix) * other

    def _against(self, student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor) -> Tensor:
        if self.unlabelled == "teacher_argmax":
            label_B = torch.where(label_B == UNKNOWN_LABEL, teacher_BK.argmax(dim=1), label_B)
        return dkd(student_BK, teacher_BK, label_B, alpha=self.alpha, beta=self.beta, temperature=self.temperature)


class _Warming(LogitCriterion):
    calls: Tensor

    def __init__(self, method: Dkd, *, batches: int) -> None:
        super().__init__(method)
        self.batches = batches
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def share(self) -> float:
        if self.batches == 0:
            return 1.0
        if self.training:
            self.calls += 1
        return min(1.0, int(self.calls) / self.batches)

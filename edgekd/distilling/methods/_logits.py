"""What the methods that match logits have in common. Axes: B batch, K classes."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cross_entropy

Weight = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(gt=0)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]


class LogitMethod(Method):
    """`weight` times a distance to the teachers' logits (mean over teachers) plus `label_weight` times cross entropy.

    `head` says whose logits: a linear probe fitted on the labelled images, or the teacher's own head.
    """

    head: Literal["probe", "own"] = "probe"
    temperature: Temperature = 4.0
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    label_smoothing: Smoothing = 0.0

    def distance(self, student_BK: Tensor, teacher_BK: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the student's logits against one teacher's, mean over B."""
        raise NotImplementedError

    @property
    def tap(self) -> str:
        """Return the teachers' tap that is matched."""
        return "probe_logits" if self.head == "probe" else "logits"

    def needs(self) -> Needs:
        """Ask for the student's logits and the teacher's logits or probe."""
        return Needs(student_taps=("logits",), teacher_taps=(self.tap,), labels=self.head == "probe")

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a teacher's logits are not over the same classes."""
        for teacher in teachers:
            width = teacher.shapes[self.tap][0]
            if width != classes:
                raise UsageError(
                    f"method {self.ref().use}: {teacher.name} answers over {width} outputs and the data have {classes} classes,"
                    " so the logits have nothing in common to match",
                    mend="use `head: probe` (a linear probe on the labelled images), or the method `feature`",
                )
        return LogitCriterion(self)


class LogitCriterion(nn.Module):
    """The criterion of every method that matches logits."""

    def __init__(self, method: LogitMethod) -> None:
        super().__init__()
        self.method = method
        self.part = method.ref().use

    def share(self) -> float:
        """Return what the distance's weight is multiplied by in this call; 1 unless a method warms up."""
        return 1.0

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        """Return the weighted sum; its parts are the distance (under the method's name) and `ce`."""
        method, logits_BK = self.method, student["logits"]
        ce = cross_entropy(logits_BK, batch, smoothing=method.label_smoothing)
        distance = torch.stack([method.distance(logits_BK, teacher[method.tap], batch) for teacher in teachers]).mean()
        total = method.label_weight * ce + self.share() * method.weight * distance
        return Losses(total=total, parts={"ce": ce.detach(), self.part: distance.detach()})

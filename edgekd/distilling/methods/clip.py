"""Students of a CLIP's image embedding. Axes: B batch, D embedding width, K classes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cross_entropy, kl
from edgekd.distilling.methods._features import Distance, distance
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight

EMBEDDING = "embedding"


class Clip(Method):
    """The image embedding of a CLIP, so that named classes can be told without training (CLIP-KD, 2024).

    The student's last layer gives an embedding as wide as the teacher's, and a zero-shot head of text embeddings ends it, in
    training and in the exported graph; student and teacher name the same file in `zero_shot`. The loss is `weight` times the
    distance of the two embeddings (`cosine`, or `mse` and `smooth_l1` of both at unit length, as the authors take them), plus
    `logit_weight` times T^2 KL of the zero-shot logits, logit scale included, plus `label_weight` times their cross entropy.
    No labels are needed. The authors weigh their mean squared error by 2000.
    """

    loss: Distance = "cosine"
    weight: Weight = 1.0
    logit_weight: Weight = 1.0
    temperature: Temperature = 2.0
    label_weight: Weight = 0.0
    label_smoothing: Smoothing = 0.0

    def needs(self) -> Needs:
        """Ask for embeddings and zero-shot logits on both sides."""
        return Needs(student_taps=(EMBEDDING, "logits"), teacher_taps=(EMBEDDING, "logits"), labels=self.label_weight > 0)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion, which has no weights; raise `UsageError` for embeddings of another width."""
        width = student.shapes[EMBEDDING]
        for teacher in teachers:
            if teacher.shapes[EMBEDDING] != width or teacher.shapes["logits"] != student.shapes["logits"]:
                raise UsageError(
                    f"method {self.ref().use}: the student's embedding is {width[0]} wide, over {student.shapes['logits'][0]}"
                    f" classes; that of {teacher.name} is {teacher.shapes[EMBEDDING][0]}, over {teacher.shapes['logits'][0]}",
                    mend="give student and teacher the same `zero_shot` file, made by the teacher's own text tower",
                )
        return _Clip(self)


class _Clip(nn.Module):
    def __init__(self, method: Clip) -> None:
        super().__init__()
        self.method = method

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        """Return the weighted sum over the mean of the teachers; its parts are `embedding`, `kd` and `ce`."""
        method = self.method
        near = torch.stack([self._distance(student[EMBEDDING], teacher[EMBEDDING]) for teacher in teachers]).mean()
        kd = torch.stack([kl(student["logits"], t["logits"], temperature=method.temperature) for t in teachers]).mean()
        ce = cross_entropy(student["logits"], batch, smoothing=method.label_smoothing)
        total = method.weight * near + method.logit_weight * kd + method.label_weight * ce
        return Losses(total=total, parts={EMBEDDING: near.detach(), "kd": kd.detach(), "ce": ce.detach()})

    def _distance(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        if self.method.loss == "cosine":
            return distance("cosine", student_BD, teacher_BD)
        student_BD, teacher_BD = (nn.functional.normalize(x.float(), dim=1) for x in (student_BD, teacher_BD.detach()))
        return distance(self.method.loss, student_BD, teacher_BD)

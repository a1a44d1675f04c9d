"""DisWOT's two measures as training losses. Axes: B batch, C channels, L positions, K classes."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import channel_correlation, cross_entropy, kl, similarity_preserving
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight


class Diswot(Method):
    """Softened logits, and which images and which channels go together (DisWOT, 2023).

    label_weight CE + weight KD + relation_weight SP + channel_weight ICKD: the measures of `edgekd search` as losses. Where the
    widths differ, a 1 x 1 convolution that is not deployed takes the student's channels to the teacher's for the last term.
    The paper's weights are not known; 0.1, 0.9 and T 4 are those of the authors' other runs, 3000 is the customary one of SP,
    and without `channel_weight` the last term weighs so much that it begins as large as the KD term.
    """

    student_tap: str = "map"
    teacher_tap: str = "grid_7"
    head: Literal["probe", "own"] = "probe"
    temperature: Temperature = 4.0
    weight: Weight = 0.9
    label_weight: Weight = 0.1
    relation_weight: Weight = 3000.0
    channel_weight: Weight | None = None
    label_smoothing: Smoothing = 0.0

    @property
    def logits_tap(self) -> str:
        """Return the teachers' tap of logits."""
        return "probe_logits" if self.head == "probe" else "logits"

    def needs(self) -> Needs:
        """Ask for maps and logits of both."""
        return Needs(
            student_taps=(self.student_tap, "logits"),
            teacher_taps=(self.teacher_tap, self.logits_tap),
            labels=True,
            feature_tap="pooled" if self.student_tap == "map" else self.student_tap,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a teacher's logits are not over the same classes."""
        for teacher in teachers:
            outputs = teacher.shapes[self.logits_tap][0]
            if outputs != classes:
                raise UsageError(
                    f"method diswot: {teacher.name} answers over {outputs} outputs and the data have {classes} classes",
                    mend="use `head: probe` (a linear probe on the labelled images)",
                )
        widths = [teacher.shapes[self.teacher_tap][0] for teacher in teachers]
        return _Criterion(self, student.shapes[self.student_tap][0], widths)


class _Criterion(nn.Module):
    channel_scale: Tensor

    def __init__(self, method: Diswot, width: int, teacher_widths: list[int]) -> None:
        super().__init__()
        self.method = method
        self.projectors = nn.ModuleList(
            nn.Identity() if wide == width else nn.Conv1d(width, wide, 1, bias=False) for wide in teacher_widths
        )
        # Found from the first batch and kept with the weights, so that training that goes on weighs as it did; 0 until then.
        self.register_buffer("channel_scale", torch.zeros(()))

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        method, logits_BK = self.method, student["logits"]
        map_BCL = _positions(student[method.student_tap])
        ce = cross_entropy(logits_BK, batch, smoothing=method.label_smoothing)
        taught = [_positions(teacher[method.teacher_tap]) for teacher in teachers]
        kd = torch.stack([kl(logits_BK, one[method.logits_tap], temperature=method.temperature) for one in teachers]).mean()
        relation = torch.stack([similarity_preserving(map_BCL.flatten(1), one.flatten(1)) for one in taught]).mean()
        projected = [projector(map_BCL) for projector in self.projectors]
        pairs = zip(projected, taught, strict=True)
        channel = torch.stack([channel_correlation(own_BCL, one_BCL) for own_BCL, one_BCL in pairs]).mean()
        total = method.label_weight * ce + method.weight * kd + method.relation_weight * relation
        total = total + self._channel_weight(kd, channel) * channel
        parts = {"ce": ce, "kd": kd, "relation": relation, "channel": channel}
        return Losses(total=total, parts={name: part.detach() for name, part in parts.items()})

    def _channel_weight(self, kd: Tensor, channel: Tensor) -> Tensor | float:
        if self.method.channel_weight is not None:
            return self.method.channel_weight
        if self.channel_scale == 0:
            begun = self.method.weight * kd.detach() / channel.detach().clamp(min=torch.finfo(channel.dtype).tiny)
            self.channel_scale.copy_(torch.where(channel > 0, begun, torch.ones_like(begun)))
        return self.channel_scale.clone()


def _positions(map_BCX: Tensor) -> Tensor:
    """Return a map as B x C x L; a vector is a map of one position."""
    return map_BCX.flatten(2) if map_BCX.ndim > 2 else map_BCX.unsqueeze(2)

"""What the methods that match features have in common. Axes: B batch, N images, D feature width, K classes."""

from collections.abc import Mapping
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cosine, cross_entropy, feature_mse, kl, smooth_l1
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight
from edgekd.distilling.targets import Target

Distance = Literal["mse", "smooth_l1", "cosine"]


def distance(kind: Distance, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared error or smooth L1 (mean over B and D), or 1 - cosine (mean over B)."""
    match kind:
        case "mse":
            return feature_mse(student_BD, teacher_BD)
        case "smooth_l1":
            return smooth_l1(student_BD, teacher_BD)
        case "cosine":
            return cosine(student_BD, teacher_BD)
        case _:
            assert_never(kind)


class Match(nn.Module):
    """How the student meets one teacher: `forward(student_BD, teacher_BD)` is the loss, mean over B."""

    term: str = "feature"


class FittedMatch(Match):
    """A match that must see teacher features of the training images before the first batch."""

    def fit(self, feature_ND: Tensor) -> None:
        """Take from float32 rows what the match is made of."""
        raise NotImplementedError


class Standardise(Target):
    """Zero mean and unit variance of each channel over the rows that it was fitted to."""

    def __init__(self, width: int) -> None:
        super().__init__("standardise", width=width, dim=width)


class FeatureMethod(Method):
    """`weight` times a distance to the teachers' features (mean over teachers), and terms on the logits where weighted.

    `label_weight` weighs cross entropy on the labels, `probe_weight` the softened logits (at `probe_temperature`) of linear
    probes on the teachers. Without either the student's head is not trained by this method.
    """

    student_tap: str = "pooled"
    teacher_tap: str = "pooled"
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    probe_weight: Weight = 0.0
    probe_temperature: Temperature = 4.0
    label_smoothing: Smoothing = 0.0

    def match(self, student: FeatureSpec, teacher: FeatureSpec) -> Match:
        """Return how this student meets this teacher; both taps are known to be vectors."""
        raise NotImplementedError

    def needs(self) -> Needs:
        """Ask for the two taps, and for logits and probe where their terms have a weight."""
        logits = self.label_weight > 0 or self.probe_weight > 0
        return Needs(
            student_taps=(self.student_tap, "logits") if logits else (self.student_tap,),
            teacher_taps=(self.teacher_tap, "probe_logits") if self.probe_weight > 0 else (self.teacher_tap,),
            labels=logits,
            feature_tap=self.student_tap,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion with one match a teacher; raise `UsageError` if a tap is not a vector."""
        for spec, tap in ((student, self.student_tap), *((teacher, self.teacher_tap) for teacher in teachers)):
            if len(spec.shapes[tap]) != 1:
                raise UsageError(
                    f"method {self.ref().use}: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, a vector is needed",
                    mend="use a pooled tap: pooled, pre_act, pre_logits, cls, patch_mean, last_<k>, or several joined by +",
                )
        matches = [self.match(student, teacher) for teacher in teachers]
        if any(isinstance(match, FittedMatch) for match in matches):
            return FittedFeatureCriterion(self, matches)
        return FeatureCriterion(self, matches)

    def widths(self, student: FeatureSpec, teacher: FeatureSpec) -> tuple[int, int]:
        """Return the widths of the student's and of the teacher's tap."""
        return student.shapes[self.student_tap][0], teacher.shapes[self.teacher_tap][0]


class FeatureCriterion(nn.Module):
    """The criterion of every method that matches features."""

    def __init__(self, method: FeatureMethod, matches: list[Match]) -> None:
        super().__init__()
        self.method = method
        self.matches = nn.ModuleList(matches)
        self.term = matches[0].term

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        """Return the weighted sum; its parts are the match's own term, `ce` and `kd`."""
        method = self.method
        pairs = zip(self.matches, teachers, strict=True)
        features = [match(student[method.student_tap], teacher[method.teacher_tap]) for match, teacher in pairs]
        feature = torch.stack(features).mean()
        total, parts = method.weight * feature, {self.term: feature.detach()}
        if method.label_weight > 0:
            ce = cross_entropy(student["logits"], batch, smoothing=method.label_smoothing)
            total, parts["ce"] = total + method.label_weight * ce, ce.detach()
        if method.probe_weight > 0:
            probes = [kl(student["logits"], t["probe_logits"], temperature=method.probe_temperature) for t in teachers]
            kd = torch.stack(probes).mean()
            total, parts["kd"] = total + method.probe_weight * kd, kd.detach()
        return Losses(total=total, parts=parts)


class FittedFeatureCriterion(FeatureCriterion):
    """The same, with what the matches take from the teachers' features before training."""

    def fit(self, teachers: tuple[Mapping[str, Tensor], ...]) -> None:
        """Fit each match to its teacher's float32 features of the training images."""
        for match, features in zip(self.matches, teachers, strict=True):
            if isinstance(match, FittedMatch):
                match.fit(features[self.method.teacher_tap])

"""What the methods that match features have in common. Axes: B batch, N images, V voices, D feature width, K classes."""

from collections.abc import Mapping
from typing import Literal, assert_never, cast

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling import losses
from edgekd.distilling.losses import cosine, cross_entropy, feature_mse, kl, smooth_l1
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight
from edgekd.distilling.methods._voices import (
    Probability,
    TeacherTap,
    Voice,
    Weights,
    asked,
    checked_weights,
    dropping_generator,
    share_of_each,
    voices,
    weighed,
)
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


def distance_each(kind: Distance, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the same of each image: B numbers."""
    match kind:
        case "mse":
            return losses.feature_mse_each(student_BD, teacher_BD)
        case "smooth_l1":
            return losses.smooth_l1_each(student_BD, teacher_BD)
        case "cosine":
            return losses.cosine_each(student_BD, teacher_BD)
        case _:
            assert_never(kind)


class Match(nn.Module):
    """How the student meets one voice: `forward(student_BD, teacher_BD)` is the loss, mean over B."""

    term: str = "feature"

    def each(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Return the loss of each image, B numbers, for methods that drop teachers image by image."""
        raise NotImplementedError


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

    `teacher_tap` is one tap for all teachers, or a list of one a teacher; an entry that is a list makes several teachers of
    that one. `weights` are those of the teachers (of each such tap), by default equal. `label_weight` weighs cross entropy on
    the labels, `probe_weight` the softened logits (at `probe_temperature`) of linear probes on the teachers. Without either
    the student's head is not trained by this method.
    """

    student_tap: str = "pooled"
    teacher_tap: TeacherTap = "pooled"
    weights: Weights | None = None
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    probe_weight: Weight = 0.0
    probe_temperature: Temperature = 4.0
    label_smoothing: Smoothing = 0.0

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return how this student meets this tap of this teacher; both taps are known to be vectors."""
        raise NotImplementedError

    def needs(self) -> Needs:
        """Ask for the two taps, and for logits and probe where their terms have a weight."""
        logits = self.label_weight > 0 or self.probe_weight > 0
        taps, by_teacher = asked(self.teacher_tap, *(("probe_logits",) if self.probe_weight > 0 else ()))
        return Needs(
            student_taps=(self.student_tap, "logits") if logits else (self.student_tap,),
            teacher_taps=taps,
            taps_by_teacher=by_teacher,
            labels=logits,
            feature_tap=self.student_tap,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion with one match a voice; raise `UsageError` if a tap is not a vector."""
        name = self.ref().use
        spoken = voices(self.teacher_tap, len(teachers), method=name)
        checked_weights(self.weights, count=len(spoken), method=name)
        for spec, tap in ((student, self.student_tap), *((teachers[voice.teacher], voice.tap) for voice in spoken)):
            self.check_shape(spec, tap)
        return self.criterion([self.match(student, teachers[voice.teacher], voice.tap) for voice in spoken], spoken)

    def check_shape(self, spec: FeatureSpec, tap: str) -> None:
        """Raise `UsageError` if the method cannot match what this tap gives."""
        if len(spec.shapes[tap]) != 1:
            raise UsageError(
                f"method {self.ref().use}: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, a vector is needed",
                mend="use a pooled tap: pooled, pre_act, pre_logits, cls, patch_mean, last_<k>, or several joined by +",
            )

    def criterion(self, matches: "list[Match]", spoken: tuple[Voice, ...]) -> "FeatureCriterion":
        """Return what brings these matches together."""
        if any(isinstance(match, FittedMatch) for match in matches):
            return FittedFeatureCriterion(self, matches, spoken)
        return FeatureCriterion(self, matches, spoken)

    def widths(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> tuple[int, int]:
        """Return the widths of the student's and of the teacher's tap."""
        return student.shapes[self.student_tap][0], teacher.shapes[tap][0]


class DroppingMethod(FeatureMethod):
    """A method whose loss is one number an image, so that teachers can be left out image by image.

    `drop` is the probability at which each teacher is, in training; never that with an image's largest loss (UNIC, 2024).
    """

    drop: Probability = 0.0


class FeatureCriterion(nn.Module):
    """The criterion of every method that matches features."""

    weight_V: Tensor | None

    def __init__(self, method: FeatureMethod, matches: list[Match], spoken: tuple[Voice, ...]) -> None:
        super().__init__()
        self.method = method
        self.matches = nn.ModuleList(matches)
        self.term = matches[0].term
        self.voices = spoken
        weight_V = checked_weights(method.weights, count=len(spoken), method=method.ref().use)
        self.register_buffer("weight_V", weight_V, persistent=False)
        self.drop = method.drop if isinstance(method, DroppingMethod) else 0.0
        self.generator = dropping_generator()

    def feature_loss(self, student_BD: Tensor, teachers: tuple[Mapping[str, Tensor], ...]) -> Tensor:
        """Return the loss over all voices: their mean, weighted, some left out."""
        pairs = [(cast(Match, match), voice.said(teachers)) for match, voice in zip(self.matches, self.voices, strict=True)]
        if self.drop > 0 and self.training and len(pairs) > 1:
            each_BV = torch.stack([match.each(student_BD, said_BD) for match, said_BD in pairs], dim=1)
            share_BV = share_of_each(each_BV, self.weight_V, probability=self.drop, generator=self.generator)
            return (share_BV * each_BV).sum()
        return weighed(torch.stack([match(student_BD, said_BD) for match, said_BD in pairs]), self.weight_V)

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        """Return the weighted sum; its parts are the match's own term, `ce` and `kd`."""
        method = self.method
        feature = self.feature_loss(student[method.student_tap], teachers)
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
        """Fit each match to its voice's float32 features of the training images."""
        for match, voice in zip(self.matches, self.voices, strict=True):
            if isinstance(match, FittedMatch):
                match.fit(voice.said(teachers))

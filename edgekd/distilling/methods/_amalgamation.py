"""What the ways of amalgamating teachers have in common. Axes: V voices, B batch, N images, D feature width, K classes."""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.ensembles import average_probabilities
from edgekd.distilling.losses import cross_entropy, kl, kl_to
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight
from edgekd.distilling.methods._voices import TeacherTap, Voice, asked, distinct_names, voices
from edgekd.distilling.targets import Target

Answers = tuple[Mapping[str, Tensor], ...]
Logits = Literal["average", "concatenated", "per_teacher", "none"]


class AmalgamationMethod(Method):
    """Features of heterogeneous teachers brought together, and their logits.

    `logits`: `average`, the mean of the probes' probabilities, all over the student's classes; `concatenated`, the teachers'
    own logits one after the other, where each knows the next of the student's classes (as in the authors' code: a teacher
    with larger logits wins); `per_teacher`, the same classes, each teacher's softened by itself; or `none`.
    """

    student_tap: str = "pooled"
    teacher_tap: TeacherTap = "pooled"
    standardise: bool = True
    width: Annotated[int, Field(ge=1)] | None = None
    reconstruction_weight: Weight = 1.0
    logits: Logits = "average"
    logits_weight: Weight = 1.0
    temperature: Temperature = 1.0
    label_weight: Weight = 0.0
    label_smoothing: Smoothing = 0.0

    def needs(self) -> Needs:
        """Ask for the taps, and for the logits where they are matched."""
        own = {"average": ("probe_logits",), "none": ()}.get(self.logits, ("logits",))
        taps, by_teacher = asked(self.teacher_tap, *own)
        trained = self.logits != "none" or self.label_weight > 0
        return Needs(
            student_taps=(self.student_tap, "logits") if trained else (self.student_tap,),
            teacher_taps=taps,
            taps_by_teacher=by_teacher,
            labels=self.logits == "average" or self.label_weight > 0,
            feature_tap=self.student_tap,
        )

    def amalgam(self, width_s: int, widths_t: tuple[int, ...]) -> nn.Module:
        """Return what turns (student_BD, one standardised teacher_BD a voice) into named losses."""
        raise NotImplementedError

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a tap is not a vector or the logits do not fit the classes."""
        name = self.ref().use
        spoken = voices(self.teacher_tap, len(teachers), method=name)
        for spec, tap in ((student, self.student_tap), *((teachers[voice.teacher], voice.tap) for voice in spoken)):
            if len(spec.shapes[tap]) != 1:
                raise UsageError(
                    f"method {name}: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, a vector is needed",
                    mend="use a pooled tap: pooled, pre_act, pre_logits, cls, patch_mean, last_<k>, or several joined by +",
                )
        self._check_logits(teachers, classes)
        widths_t = tuple(teachers[voice.teacher].shapes[voice.tap][0] for voice in spoken)
        amalgam = self.amalgam(student.shapes[self.student_tap][0], widths_t)
        return AmalgamationCriterion(self, amalgam, spoken, widths_t)

    def _check_logits(self, teachers: tuple[FeatureSpec, ...], classes: int) -> None:
        if self.logits == "average":
            spoken = tuple(Voice(index, "probe_logits") for index in range(len(teachers)))
            for voice, name in zip(spoken, distinct_names(teachers, spoken), strict=True):
                width = teachers[voice.teacher].shapes[voice.tap][0]
                if width != classes:
                    raise UsageError(
                        f"method {self.ref().use}: {name} answers over {width} outputs, not the data's {classes} classes"
                    )
        elif self.logits != "none":
            widths = [teacher.shapes["logits"][0] for teacher in teachers]
            if sum(widths) != classes:
                told = " + ".join(f"{teacher.name} {width}" for teacher, width in zip(teachers, widths, strict=True))
                raise UsageError(
                    f"method {self.ref().use}: `logits: {self.logits}` takes the teachers' own outputs one after the other as"
                    f" the student's classes, and {told} = {sum(widths)} are not the data's {classes} classes",
                    mend="use `logits: average` (probes over the data's classes) or `logits: none`",
                )


class AmalgamationCriterion(nn.Module):
    """The criterion of every amalgamation: standardised features in, the amalgam's losses, and the logits' beside them."""

    def __init__(
        self, method: AmalgamationMethod, amalgam: nn.Module, spoken: tuple[Voice, ...], widths_t: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.method = method
        self.voices = spoken
        self.amalgam = amalgam
        kind: Literal["standardise", "raw"] = "standardise" if method.standardise else "raw"
        self.targets = nn.ModuleList(Target(kind, width=width, dim=width) for width in widths_t)

    def fit(self, teachers: Answers) -> None:
        """Take each channel's statistics from the teachers' features of the training images."""
        for target, voice in zip(self.targets, self.voices, strict=True):
            cast(Target, target).fit(voice.said(teachers))

    def forward(self, student: Mapping[str, Tensor], teachers: Answers, batch: Batch) -> Losses:
        """Return the weighted sum; its parts are the amalgam's own terms, `kd` and `ce`."""
        method = self.method
        taught = tuple(target(voice.said(teachers).detach()) for target, voice in zip(self.targets, self.voices, strict=True))
        terms: dict[str, tuple[float, Tensor]] = self.amalgam(student[method.student_tap].float(), taught)
        if method.logits != "none":
            terms["kd"] = (method.logits_weight, self._divergence(student["logits"], teachers))
        if method.label_weight > 0:
            terms["ce"] = (method.label_weight, cross_entropy(student["logits"], batch, smoothing=method.label_smoothing))
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return Losses(total=total, parts={name: term.detach() for name, (_, term) in terms.items()})

    def _divergence(self, logits_BK: Tensor, teachers: Answers) -> Tensor:
        method = self.method
        if method.logits == "average":
            probes_VBK = torch.stack([features["probe_logits"] for features in teachers])
            q_BK = average_probabilities(probes_VBK, temperature=method.temperature)
            return kl_to(logits_BK, q_BK, temperature=method.temperature)
        own = [features["logits"] for features in teachers]
        if method.logits == "concatenated":
            return kl(logits_BK, torch.cat(own, dim=1), temperature=method.temperature)
        blocks = zip(logits_BK.split([one.shape[1] for one in own], dim=1), own, strict=True)
        return torch.stack([kl(block_BK, one_BK, temperature=method.temperature) for block_BK, one_BK in blocks]).mean()


def two_layers(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """Return Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width_out))

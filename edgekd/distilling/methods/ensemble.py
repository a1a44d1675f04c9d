"""The logits of several teachers as one. Axes: V voices (teachers, or probes of them), B batch, N images, K classes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.ensembles import average_logits, average_probabilities, by_confidence, gated, noisy, standardised
from edgekd.distilling.losses import cross_entropy, kl_to, linear_cka
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight
from edgekd.distilling.methods._voices import (
    TeacherTap,
    Voice,
    Weights,
    asked,
    checked_weights,
    distinct_names,
    dropping_generator,
    voices,
)

Answers = tuple[Mapping[str, Tensor], ...]
Labelled = Callable[[], Iterator[tuple[Answers, Tensor]]]

SIMILARITY_TAP = "pooled"
GATE_TAP = "pre_logits"
_PROBE = "probe_logits@{}"


class Ensemble(Method):
    """Several teachers' softened logits as one answer: averaged, weighed, gated or chosen (Hinton 2015).

    `label_weight` times cross entropy plus `weight` times T^2 KL(ensemble || student). `head: probe` are linear probes on the
    teachers' `probe_tap`, one tap for all or a list of one a teacher; an entry that is a list makes several teachers of one
    (`cls`, `exit_2`, `pooled#1` for a resampled probe, `cls~1` for another kept crop). `head: own` are the teachers' own.

    - `average`: `probabilities` (a mixture) or `logits` (a product). `standardise` gives each teacher's logits mean 0 and
      deviation 1 for each image first, so that one with larger logits (CLIP's are scaled by 100) does not outshout the others.
    - `weighting`: `equal`; `fixed`, by `weights`; `similarity`, how well the data each teacher was made from fit these, by
      `weights` or, without them, measured (ours: linear CKA of its pooled features with the labels, on the labelled images);
      `confidence`, for each image exp(-entropy / `tau`); `select`, the surest teacher alone; `gate`, learned on what the
      student's last layer sees, by the cross entropy of the mixture and nothing else, which in turn trains the gate alone.
    - `noise`: z (1 + `noise` xi) for a random `noise_share` of the images, anew in every step (noisy teacher, Sau &
      Balasubramanian 2016).
    """

    head: Literal["probe", "own"] = "probe"
    probe_tap: TeacherTap = "pooled"
    average: Literal["probabilities", "logits"] = "probabilities"
    standardise: bool = False
    weighting: Literal["equal", "fixed", "similarity", "confidence", "select", "gate"] = "equal"
    weights: Weights | None = None
    tau: Annotated[float, Field(gt=0)] = 1.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    noise_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Temperature = 4.0
    weight: Weight = 1.0
    label_weight: Weight = 1.0
    label_smoothing: Smoothing = 0.0

    @model_validator(mode="after")
    def _sensible(self) -> "Ensemble":
        if self.weighting == "fixed" and self.weights is None:
            raise ValueError("`weighting: fixed` needs `weights`, one for each teacher")
        if self.weighting not in ("fixed", "similarity") and self.weights is not None:
            raise ValueError(f"`weights` mean nothing with `weighting: {self.weighting}`; take `weighting: fixed`")
        if self.head == "own" and self.probe_tap != "pooled":
            raise ValueError("`probe_tap` is where probes are fitted, and `head: own` asks for none")
        return self

    @property
    def measures_similarity(self) -> bool:
        """Say whether the weights are found on the labelled images."""
        return self.weighting == "similarity" and self.weights is None

    def needs(self) -> Needs:
        """Ask for logits, and for what weighs them."""
        more = (SIMILARITY_TAP,) if self.measures_similarity else ()
        taps, by_teacher = asked(self._tap, *more, wrap=self._wrap)
        return Needs(
            student_taps=("logits", GATE_TAP) if self.weighting == "gate" else ("logits",),
            teacher_taps=taps,
            taps_by_teacher=by_teacher,
            labels=self.head == "probe" or self.weighting == "gate" or self.measures_similarity,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a teacher's logits are not over the same classes."""
        spoken = voices(self._tap, len(teachers), method="ensemble", wrap=self._wrap)
        for voice, name in zip(spoken, distinct_names(teachers, spoken), strict=True):
            width = teachers[voice.teacher].shapes[voice.tap][0]
            if width != classes:
                raise UsageError(
                    f"method ensemble: {name} answers over {width} outputs and the data have {classes} classes,"
                    " so the logits have nothing in common to match",
                    mend="use `head: probe` (linear probes on the labelled images), or a method on features",
                )
        gate = self.weighting == "gate" and len(spoken) > 1
        return _Criterion(self, spoken, gate_width=student.shapes[GATE_TAP][0] if gate else None)

    @property
    def _tap(self) -> TeacherTap:
        return self.probe_tap if self.head == "probe" else "logits"

    @property
    def _wrap(self) -> str:
        return _PROBE if self.head == "probe" else "{}"


class _Criterion(nn.Module):
    weight_V: Tensor

    def __init__(self, method: Ensemble, spoken: tuple[Voice, ...], *, gate_width: int | None) -> None:
        super().__init__()
        self.method = method
        self.voices = spoken
        given_V = checked_weights(method.weights, count=len(spoken), method="ensemble")
        self.register_buffer("weight_V", torch.full((len(spoken),), 1 / len(spoken)) if given_V is None else given_V)
        self.gate = nn.Linear(gate_width, len(spoken)) if gate_width is not None else None
        self.measured = not method.measures_similarity
        self.generator = dropping_generator()

    def begin_epoch(self, _student: nn.Module, labelled: Labelled) -> Mapping[str, float]:
        """Before the first epoch find the weights by similarity, if they are to be found; return them for the log."""
        if self.measured:
            return {}
        self.measured = True
        answers, labels = zip(*labelled(), strict=True)
        label_N = torch.cat(labels)
        label_NK = functional.one_hot(label_N, int(label_N.max()) + 1).double()
        taught = [torch.cat([answer[voice.teacher][SIMILARITY_TAP] for answer in answers]).double() for voice in self.voices]
        alike_V = torch.stack([linear_cka(seen_ND, label_NK) for seen_ND in taught]).clamp(min=1e-6)
        self.weight_V.copy_(alike_V / alike_V.sum())
        return {f"weight_{number + 1}": weight for number, weight in enumerate(self.weight_V.tolist())}

    def forward(self, student: Mapping[str, Tensor], teachers: Answers, batch: Batch) -> Losses:
        method, logits_BK = self.method, student["logits"]
        taught_VBK = self._heard(teachers)
        weight_BV = self._weights(student, taught_VBK)
        q_BK = self._together(taught_VBK, None if weight_BV is None else weight_BV.detach(), method.temperature)
        ce = cross_entropy(logits_BK, batch, smoothing=method.label_smoothing)
        kd = kl_to(logits_BK, q_BK, temperature=method.temperature)
        total, parts = method.label_weight * ce + method.weight * kd, {"ce": ce.detach(), "kd": kd.detach()}
        if self.gate is not None and weight_BV is not None:
            mixture_BK = self._together(taught_VBK, weight_BV, 1.0)
            gate_ce = cross_entropy(mixture_BK.clamp(min=torch.finfo(mixture_BK.dtype).tiny).log(), batch)
            total, parts["gate_ce"] = total + gate_ce, gate_ce.detach()
        if weight_BV is not None:
            parts |= {f"weight_{number + 1}": weight for number, weight in enumerate(weight_BV.detach().mean(dim=0))}
        return Losses(total=total, parts=parts)

    def _heard(self, teachers: Answers) -> Tensor:
        method = self.method
        said = [voice.said(teachers).detach().float() for voice in self.voices]
        if method.noise > 0 and self.training:
            said = [noisy(one, sigma=method.noise, share=method.noise_share, generator=self.generator) for one in said]
        taught_VBK = torch.stack(said)
        return standardised(taught_VBK) if method.standardise else taught_VBK

    def _together(self, taught_VBK: Tensor, weight_BV: Tensor | None, temperature: float) -> Tensor:
        if self.method.average == "logits":
            return functional.softmax(average_logits(taught_VBK, weight_BV) / temperature, dim=1)
        if weight_BV is None:
            return average_probabilities(taught_VBK, temperature=temperature)
        return gated(taught_VBK, weight_BV, temperature=temperature)

    def _weights(self, student: Mapping[str, Tensor], taught_VBK: Tensor) -> Tensor | None:
        method, images = self.method, taught_VBK.shape[1]
        match method.weighting:
            case "fixed" | "similarity":
                return self.weight_V.expand(images, -1)
            case "confidence":
                return by_confidence(taught_VBK, tau=method.tau)
            case "select":
                surest_B = by_confidence(taught_VBK, tau=method.tau).argmax(dim=1)
                return functional.one_hot(surest_B, len(self.voices)).to(taught_VBK)
            case "gate" if self.gate is not None:
                # Detached: the student learns from labels and teachers, not from how to please the gate.
                with torch.autocast(taught_VBK.device.type, enabled=False):
                    return functional.softmax(self.gate(student[GATE_TAP].detach().float()), dim=1)
        return None

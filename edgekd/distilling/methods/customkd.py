"""Teachers' features put into the student's terms, by its own head, before they are taught.

Axes: B batch, N images, D feature width, K classes, V voices.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import UNKNOWN_LABEL, Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import cross_entropy, entropy
from edgekd.distilling.methods._features import Distance, distance, distance_each
from edgekd.distilling.methods._logits import LogitMethod, Smoothing, Temperature, Weight
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
from edgekd.distilling.methods.dist import Dist
from edgekd.distilling.methods.dkd import Dkd
from edgekd.distilling.methods.kd import Kd
from edgekd.distilling.methods.logit_standard import LogitStandard
from edgekd.distilling.targets import standardise

Answers = tuple[Mapping[str, Tensor], ...]
Labelled = Callable[[], Iterator[tuple[Answers, Tensor]]]
Projector = Literal["linear", "mlp"]

STUDENT_TAP = "pre_logits"
_LOGITS: dict[str, type[LogitMethod]] = {"kl": Kd, "dkd": Dkd, "dist": Dist, "logit_standard": LogitStandard}


class Customkd(Method):
    """Teacher features customised by the student's own head, then distilled, in turns (CustomKD, 2025).

    Lee et al., CVPR 2025. Before every epoch a projection P of each teacher's features to the student's width is trained to
    be classified by the student's frozen head (labelled images only). In the epoch, with P frozen, the student learns
    `customised_weight` D(f_s, P(f_t)) + `feature_weight` D(Q(f_s), f_t), plus `label_weight` times cross entropy of the
    labelled images and `entropy_weight` times the entropy of its answers to the others. f_s is what its last linear layer
    sees, and P goes through that layer, so the student should have been trained on the task before.

    Weights, projectors, distance, P's optimiser and standardised teacher features are our choice: no code was published.
    `customise_every` and `customise_epochs` set the turns (the paper's best: one to one). `logits` adds a distance to the
    logits of linear probes on the teachers, at that method's own temperature unless one is given.

    Each of several teachers has a P and a Q of its own, and so has each tap where `teacher_tap` gives a teacher a list; the
    feature terms are their mean, by `weights`, and `drop` leaves teachers out image by image, never that with the largest loss.
    """

    teacher_tap: TeacherTap = "pooled"
    weights: Weights | None = None
    drop: Probability = 0.0
    standardise: bool = True
    projector: Projector = "linear"
    distance: Distance = "mse"
    customised_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    label_weight: Weight = 1.0
    entropy_weight: Weight = 0.1
    label_smoothing: Smoothing = 0.0
    head: Literal["student", "random"] = "student"
    customise_every: Annotated[int, Field(ge=1)] = 1
    customise_epochs: Annotated[int, Field(ge=1)] = 1
    customise_lr: Annotated[float, Field(gt=0)] = 1e-3
    customise_weight_decay: Weight = 0.01
    logits: Literal["none", "kl", "dkd", "dist", "logit_standard"] = "none"
    logits_weight: Weight = 1.0
    temperature: Temperature | None = None

    def needs(self) -> Needs:
        """Ask for the input of the student's last layer, its logits, the teachers' tap, and their probes where matched."""
        taps, by_teacher = asked(self.teacher_tap, *(() if self.logits == "none" else ("probe_logits",)))
        return Needs(
            student_taps=(STUDENT_TAP, "logits"),
            teacher_taps=taps,
            taps_by_teacher=by_teacher,
            labels=True,
            feature_tap=STUDENT_TAP,
        )

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if a tap is not a vector."""
        spoken = voices(self.teacher_tap, len(teachers), method="customkd")
        checked_weights(self.weights, count=len(spoken), method="customkd")
        for spec, tap in ((student, STUDENT_TAP), *((teachers[voice.teacher], voice.tap) for voice in spoken)):
            if len(spec.shapes[tap]) != 1:
                raise UsageError(
                    f"method customkd: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, a vector is needed",
                    mend="use a pooled tap: pooled, pre_logits, cls, patch_mean, last_<k>, or several joined by +",
                )
        widths_t = tuple(teachers[voice.teacher].shapes[voice.tap][0] for voice in spoken)
        return _Criterion(self, student.shapes[STUDENT_TAP][0], widths_t, classes, spoken)


class _Bridge(nn.Module):
    """The way between the student and one teacher: P to the student's width, Q to the teacher's."""

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, projector: Projector, width_s: int, width_t: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width_t))
        self.register_buffer("std_D", torch.ones(width_t))
        self.customise = _projector(projector, width_t, width_s).requires_grad_(False)
        self.general = _projector(projector, width_s, width_t)

    def fit(self, feature_ND: Tensor) -> None:
        """Take the statistics of the training images, in float64."""
        self.mean_D.copy_(feature_ND.double().mean(dim=0))
        self.std_D.copy_(feature_ND.double().std(dim=0, unbiased=False))

    def target(self, feature_BD: Tensor) -> Tensor:
        """Return the teacher's features as they are taught: detached, standardised, on the projectors' device."""
        return standardise(feature_BD.detach().to(self.mean_D.device), self.mean_D, self.std_D)


class _Criterion(nn.Module):
    def __init__(
        self, method: Customkd, width_s: int, widths_t: tuple[int, ...], classes: int, spoken: tuple[Voice, ...]
    ) -> None:
        super().__init__()
        self.method = method
        self.voices = spoken
        self.weight_V = checked_weights(method.weights, count=len(spoken), method="customkd")
        self.generator = dropping_generator()
        self.bridges = nn.ModuleList(_Bridge(method.projector, width_s, width_t) for width_t in widths_t)
        self.random_head = nn.Linear(width_s, classes).requires_grad_(False) if method.head == "random" else None
        self.logits = _logit_loss(method)
        self.epochs_begun = 0
        self.optimiser: torch.optim.Optimizer | None = None

    def fit(self, teachers: Answers) -> None:
        """Take each channel's mean and standard deviation from the teachers' features of the training images."""
        if self.method.standardise:
            for bridge, said_ND in self._heard(teachers):
                bridge.fit(said_ND)

    # -------------------------------------------------------------------------------------------- first phase: P learns
    def begin_epoch(self, student: nn.Module, labelled: Labelled) -> Mapping[str, float]:
        """Train P, and P alone, through the frozen head; return the cross entropy and the share right of the last pass."""
        turn = self.epochs_begun % self.method.customise_every == 0
        self.epochs_begun += 1
        if not turn:
            return {}
        head = cast(nn.Linear, self.random_head if self.random_head is not None else cast(Any, student).head)
        trained = [parameter for bridge in self._each() for parameter in bridge.customise.parameters()]
        if self.optimiser is None:
            method = self.method
            self.optimiser = torch.optim.AdamW(trained, lr=method.customise_lr, weight_decay=method.customise_weight_decay)
        for parameter in trained:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            told = [self._customise_once(self.optimiser, head, labelled) for _ in range(self.method.customise_epochs)]
        for parameter in trained:
            parameter.requires_grad_(False)
        return told[-1]

    def customisation(self, head: nn.Linear, teachers: Answers, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross entropy and share right of the customised features through the frozen head, means over teachers.

        The head is a linear layer without modes of its own, so this is its answer in evaluation.
        """
        weight_KD = head.weight.detach()
        bias_K = None if head.bias is None else head.bias.detach()
        losses, rights = [], []
        for bridge, said_BD in self._heard(teachers):
            customised_BD = bridge.customise(bridge.target(said_BD))
            logits_BK = functional.linear(customised_BD, weight_KD, bias_K)
            losses.append(functional.cross_entropy(logits_BK, label_B))
            rights.append((logits_BK.detach().argmax(dim=1) == label_B).float().mean())
        return torch.stack(losses).mean(), torch.stack(rights).mean()

    def _customise_once(self, optimiser: torch.optim.Optimizer, head: nn.Linear, labelled: Labelled) -> dict[str, float]:
        images, ce, right = 0, 0.0, 0.0
        for teachers, label_B in labelled():
            loss, top1 = self.customisation(head, teachers, label_B.to(head.weight.device))
            optimiser.zero_grad(set_to_none=True)
            cast(Any, loss).backward()
            optimiser.step()
            images += len(label_B)
            ce += len(label_B) * float(loss.detach())
            right += len(label_B) * float(top1)
        optimiser.zero_grad(set_to_none=True)
        return {"customise_ce": ce / images, "customise_top1": right / images} if images else {}

    @torch.no_grad()
    def customised(self, teachers: Answers) -> tuple[Tensor, ...]:
        """Return P(f_t) of each teacher: what the student is asked to see."""
        return tuple(bridge.customise(bridge.target(said_BD)) for bridge, said_BD in self._heard(teachers))

    # ------------------------------------------------------------------------- second phase: the student, its head and Q
    def forward(self, student: Mapping[str, Tensor], teachers: Answers, batch: Batch) -> Losses:
        method, logits_BK = self.method, student["logits"]
        own_BD = student[STUDENT_TAP].float()
        customised_BD = self.customised(teachers)
        near, far = self._feature_terms(own_BD, customised_BD, teachers)
        terms = {
            "customised": (method.customised_weight, near),
            "feature": (method.feature_weight, far),
            "ce": (method.label_weight, cross_entropy(logits_BK, batch, smoothing=method.label_smoothing)),
            "entropy": (method.entropy_weight, _unlabelled_entropy(logits_BK, batch)),
        }
        if self.logits is not None:
            losses = [self.logits.distance(logits_BK, features["probe_logits"], batch) for features in teachers]
            terms[method.logits] = (method.logits_weight, torch.stack(losses).mean())
        # A term without weight must leave no gradient, not even zeros: they would let weight decay at the head.
        weighed = [weight * term for weight, term in terms.values() if weight > 0]
        total = torch.stack(weighed).sum() if weighed else own_BD.sum() * 0.0
        parts = {name: term.detach() for name, (_, term) in terms.items()}
        return Losses(total=total, parts=parts | _monitors(own_BD, logits_BK, customised_BD))

    def _feature_terms(self, own_BD: Tensor, customised_BD: tuple[Tensor, ...], teachers: Answers) -> tuple[Tensor, Tensor]:
        """Return both distances over all voices: means, weighted, or what is left of them where teachers are dropped."""
        method = self.method
        near = [(own_BD, target_BD) for target_BD in customised_BD]
        far = [(bridge.general(own_BD), bridge.target(said_BD)) for bridge, said_BD in self._heard(teachers)]
        if method.drop > 0 and self.training and len(near) > 1:
            near_BV = torch.stack([distance_each(method.distance, *pair) for pair in near], dim=1)
            far_BV = torch.stack([distance_each(method.distance, *pair) for pair in far], dim=1)
            both_BV = method.customised_weight * near_BV + method.feature_weight * far_BV
            share_BV = share_of_each(both_BV.detach(), self.weight_V, probability=method.drop, generator=self.generator)
            return (share_BV * near_BV).sum(), (share_BV * far_BV).sum()
        near_V, far_V = (torch.stack([distance(method.distance, *pair) for pair in pairs]) for pairs in (near, far))
        return weighed(near_V, self.weight_V), weighed(far_V, self.weight_V)

    def _heard(self, teachers: Answers) -> Iterator[tuple[_Bridge, Tensor]]:
        """Return each voice's bridge and what it said."""
        return ((bridge, voice.said(teachers)) for bridge, voice in zip(self._each(), self.voices, strict=True))

    def _each(self) -> Iterator[_Bridge]:
        return (cast(_Bridge, bridge) for bridge in self.bridges)


def _projector(kind: Projector, width_in: int, width_out: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width_in, width_out)
    norm, last = nn.LayerNorm(width_out), nn.Linear(width_out, width_out)
    return nn.Sequential(nn.Linear(width_in, width_out), norm, nn.GELU(), last)


def _logit_loss(method: Customkd) -> LogitMethod | None:
    if method.logits == "none":
        return None
    loss = _LOGITS[method.logits]
    return loss() if method.temperature is None else loss(temperature=method.temperature)


def _unlabelled_entropy(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Return the mean entropy of the answers to unlabelled images (with mixup: of which both are), 0 if there are none."""
    unknown_B = batch.label_B == UNKNOWN_LABEL
    if batch.partner_B is not None:
        unknown_B = unknown_B & unknown_B[batch.partner_B]
    return entropy(logits_BK[unknown_B])


@torch.no_grad()
def _monitors(own_BD: Tensor, logits_BK: Tensor, customised_BD: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return what shows trouble in the log.

    `mean_entropy` is the entropy of the mean answer: it falls to 0 where entropy minimisation collapses to one class.
    `below_floor` is the share of P(f_t) below the least feature of the student in the batch: an activation keeps it from there.
    """
    mean_K = functional.softmax(logits_BK.float(), dim=1).mean(dim=0)
    below = torch.stack([(target_BD < own_BD.amin()).float().mean() for target_BD in customised_BD]).mean()
    return {"mean_entropy": entropy(mean_K.clamp(min=1e-12).log()[None]), "below_floor": below}

"""Similarities to images seen before. Axes: B batch, D the teacher's width, Q entries of the queue."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec, Needs
from edgekd.distilling.losses import queue_similarity
from edgekd.distilling.methods._features import FeatureMethod, FittedMatch, Match
from edgekd.distilling.methods._logits import Temperature, Weight
from edgekd.distilling.targets import Target


class QueueSimilarity(FeatureMethod):
    """Softened similarities to a queue of past teacher features (SEED 2021; LightlyTrain's first method).

    A linear head brings the student to the teacher's width. Both are L2-normalised; the loss is the KL between the softmaxes
    of their similarities to the queue, at `temperature`. As in LightlyTrain a batch joins the queue before its own loss, and
    the head starts with the same small weights; its even mixup is `train.augment.mixup: 1` here. Ours: the queue starts with
    the teachers' features of training images instead of zeros, its length is fixed (LightlyTrain takes a quarter to a half
    of the number of images, at most 8192), and `standardise` centres and scales each channel of the teacher first.
    """

    label_weight: Weight = 0.0
    queue: Annotated[int, Field(ge=2)] = 4096
    temperature: Temperature = 0.07
    standardise: bool = False

    def needs(self) -> Needs:
        """Ask for the taps, and for as many features as the queue holds."""
        return replace(super().needs(), fit_samples=self.queue)

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match with its head and its queue."""
        return _Queue(self, *self.widths(student, teacher, tap))


class _Queue(FittedMatch):
    term = "queue"
    queue_QD: Tensor
    held: Tensor
    oldest: Tensor

    def __init__(self, method: QueueSimilarity, width_s: int, width_t: int) -> None:
        super().__init__()
        self.method = method
        self.head = nn.Linear(width_s, width_t)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.register_buffer("queue_QD", torch.zeros(method.queue, width_t))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.target = Target("standardise" if method.standardise else "raw", width=width_t, dim=width_t)

    def fit(self, feature_ND: Tensor) -> None:
        self.target.fit(feature_ND)
        self._push(self._normal(feature_ND))

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        teacher_BD = self._normal(teacher_BD)
        if self.training:
            self._push(teacher_BD)
        queue_QD = self.queue_QD[: int(self.held)]
        return queue_similarity(self.head(student_BD), teacher_BD, queue_QD, temperature=self.method.temperature)

    def _normal(self, feature_BD: Tensor) -> Tensor:
        return functional.normalize(self.target(feature_BD), dim=1)

    @torch.no_grad()
    def _push(self, normal_BD: Tensor) -> None:
        """Overwrite the oldest entries; of more rows than the queue holds the last ones stay."""
        length = len(self.queue_QD)
        kept_BD = normal_BD[-length:]
        place_B = (int(self.oldest) + torch.arange(len(kept_BD), device=kept_BD.device)) % length
        self.queue_QD[place_B] = kept_BD.to(self.queue_QD.dtype)
        self.oldest.fill_((int(self.oldest) + len(kept_BD)) % length)
        self.held.fill_(min(length, int(self.held) + len(kept_BD)))

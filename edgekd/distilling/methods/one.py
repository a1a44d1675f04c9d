"""Branches of one student. Axes: B batch, D trunk width, K classes, P branches."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import Batch, FeatureSpec, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.cohort import TRUNK
from edgekd.distilling.losses import cross_entropy, kl
from edgekd.distilling.methods._logits import Temperature, Weight
from edgekd.distilling.methods._mutual import Answers, MutualCriterion, MutualMethod, Ramp, RampBatches, named
from edgekd.distilling.precision import full_precision


class One(MutualMethod):
    """Branches of one student learn from their gated sum (ONE, Lan et al. 2018).

    The branches share everything below the student's last level of resolution. z_e = sum of g_i z_i with the gate
    g = softmax(ReLU(BN(linear(mean of the shared map)))); the loss is the cross entropy of every branch and of z_e, plus
    `weight` times the ramp times T^2 sum of KL(p_e || p_i). The sum is no student's and gets no gradient from the
    divergences, so the gate learns from the labels alone. `ramp_batches` is how long the authors' ramp exp(-5 (1 - t)^2)
    lasts (they take 80 of 300 epochs); 0, our default, leaves it out. Every branch is a whole student: each is exported
    and judged, `branch_2` and so on as peers.
    """

    temperature: Temperature = 3.0
    branches: Annotated[int, Field(ge=2, le=8)] = 3
    weight: Weight = 1.0
    ramp_batches: RampBatches = 0

    def needs(self) -> Needs:
        """Ask for the branches' logits."""
        return self.asks(branches=self.branches)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion with its gate; raise `UsageError` for a student without branches."""
        logits = self.check(student, teachers, classes)
        if TRUNK not in student.shapes or len(logits) < 2:
            raise UsageError(f"method {self.ref().use}: the student has no branches")
        return _One(self, logits, width=student.shapes[TRUNK][0])


class _One(MutualCriterion):
    method: One

    def __init__(self, method: One, logits: tuple[str, ...], *, width: int) -> None:
        super().__init__(method, logits)
        self.gate = nn.Sequential(nn.Linear(width, len(logits), bias=False), nn.BatchNorm1d(len(logits)), nn.ReLU())
        self.ramp = Ramp(method.ramp_batches)

    def among(self, students: Answers, batch: Batch) -> dict[str, Tensor]:
        method = self.method
        sum_BK = gated_sum([students[key] for key in self.logits], self.gate(students[TRUNK]))
        share = self.ramp() * method.weight
        found = {"ce of the sum": cross_entropy(sum_BK, batch, smoothing=method.label_smoothing)}
        for key in self.logits:
            found[named("one", key)] = share * kl(students[key], sum_BK, temperature=method.temperature)
        return found


@full_precision
def gated_sum(logits: list[Tensor], gate_BP: Tensor) -> Tensor:
    """Return the sum of P logits B x K weighed by softmax(gate) over P."""
    share_BP = functional.softmax(gate_BP, dim=1)
    return (torch.stack(logits, dim=1) * share_BP.unsqueeze(2)).sum(dim=1)

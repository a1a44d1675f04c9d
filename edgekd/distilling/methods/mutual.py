"""Students that teach one another."""

import torch
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import kl
from edgekd.distilling.methods._logits import Weight
from edgekd.distilling.methods._mutual import Answers, MutualCriterion, MutualMethod, named


class Mutual(MutualMethod):
    """Two or more students of any size teach one another while they learn (DML, Zhang et al. 2018).

    For each student k: cross entropy + `weight` / (K - 1) times the sum over the others j of KL(p_j || p_k), where p_j is a
    target that gets no gradient (eq. 5 and 8; T 1 is the authors'). The others are the recipe's `peers:`. The authors update
    the students in turn within a step; here all learn from one pass and are updated together.
    """

    weight: Weight = 1.0

    def needs(self) -> Needs:
        """Ask for every student's logits."""
        return self.asks(peers=1)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion, which has no weights; raise `UsageError` without a peer."""
        logits = self.check(student, teachers, classes)
        if len(logits) < 2:
            raise UsageError(f"method {self.ref().use}: one student has nobody to learn from", mend="add `peers:`")
        return _Mutual(self, logits)


class _Mutual(MutualCriterion):
    method: Mutual

    def among(self, students: Answers, batch: Batch) -> dict[str, Tensor]:
        method, found = self.method, dict[str, Tensor]()
        for key in self.logits:
            told = [kl(students[key], students[by], temperature=method.temperature) for by in self.logits if by != key]
            found[named("mutual", key)] = method.weight * torch.stack(told).mean()
        return found

"""Standardised logits."""

from torch import Tensor

from edgekd.core.contracts import Batch
from edgekd.distilling.losses import logit_standard
from edgekd.distilling.methods._logits import LogitMethod, Temperature, Weight


class LogitStandard(LogitMethod):
    """Softened logits after a z-score of each image's logits, which frees their scale (Sun et al. 2024).

    The authors tune temperature (2 to 4) and weight (1 to 18) for each pair; the defaults are their most frequent ones.
    """

    temperature: Temperature = 2.0
    weight: Weight = 9.0

    def distance(self, student_BK: Tensor, teacher_BK: Tensor, batch: Batch) -> Tensor:
        """Return the divergence of the standardised, softened answers."""
        return logit_standard(student_BK, teacher_BK, temperature=self.temperature, weight=1.0)

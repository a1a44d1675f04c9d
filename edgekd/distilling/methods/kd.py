"""Softened logits."""

from torch import Tensor

from edgekd.core.contracts import Batch
from edgekd.distilling.losses import kl
from edgekd.distilling.methods._logits import LogitMethod


class Kd(LogitMethod):
    """Softened logits: of the teacher's own head, or of a linear probe on its features (Hinton 2015).

    T^2 KL(teacher || student). With `head: probe`, `label_weight: 0` and many unlabelled images this is task-oriented
    transfer (Vemulapalli et al. 2023): the head is fitted on the teacher first, with the few labels, and the student learns
    its answers wherever there is an image.
    """

    def distance(self, student_BK: Tensor, teacher_BK: Tensor, batch: Batch) -> Tensor:
        """Return the divergence of the student's softened answers from the teacher's."""
        return kl(student_BK, teacher_BK, temperature=self.temperature)

"""Correlations of softened logits."""

from torch import Tensor

from edgekd.core.contracts import Batch
from edgekd.distilling.losses import dist
from edgekd.distilling.methods._logits import LogitMethod, Temperature, Weight


class Dist(LogitMethod):
    """Correlation of class probabilities within each image and, per class, over the batch (DIST, 2022).

    `beta` weighs 1 - Pearson over the classes of an image, `gamma` over the images of a batch for each class. Weights and
    temperature are those of the authors' ImageNet runs; their CIFAR runs take `temperature: 4`, `beta: 2`, `gamma: 2`.
    """

    temperature: Temperature = 1.0
    beta: Weight = 1.0
    gamma: Weight = 1.0

    def distance(self, student_BK: Tensor, teacher_BK: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of both correlation distances."""
        return dist(student_BK, teacher_BK, beta=self.beta, gamma=self.gamma, temperature=self.temperature)

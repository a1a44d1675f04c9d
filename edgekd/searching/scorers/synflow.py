"""How much of the signal the weights carry."""

import math

import torch

from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import positive_copy


class Synflow(Scorer):
    """How much signal flows: weights times gradients, all made positive, summed (SynFlow, 2020), as log.

    The image is ones. Batch norms are in evaluation mode with fresh statistics. Needs no images and no teacher.
    """

    def value(self, look: Look) -> float:
        """Return the natural logarithm of the sum over all weights of |w dR / dw|, R the sum of the answers."""
        answer, weights = positive_copy(look.module)
        total = answer(torch.ones(1, *look.image_BCHW.shape[1:], dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(total, weights)
        pairs = zip(weights, gradients, strict=True)
        flow = sum(float((weight * gradient).detach().abs().sum()) for weight, gradient in pairs)
        return math.log(max(flow, 1e-300))

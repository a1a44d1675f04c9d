"""Several teachers as one: their answers put together, set against one another, or left out.

Axes: T teachers, B batch, K classes, D feature width. No gradient reaches a teacher's answers; that of a learned gate does
reach the gate. Softmaxes run in float32 at least, also under autocast.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distilling.precision import full_precision
from edgekd.distilling.unification import unify

__all__ = [
    "average_logits",
    "average_probabilities",
    "by_confidence",
    "drop_teachers",
    "gated",
    "noisy",
    "noisy_features",
    "standardised",
    "unify",
]


@full_precision
def average_probabilities(logits_TBK: Tensor, *, temperature: float) -> Tensor:
    """Return probabilities_BK, the mean over teachers of softmax(logits / T).

    KL to this mean and the mean of the KLs to each teacher differ by what does not depend on the student: both have the same
    gradient, that of a mixture of experts with equal weights (Hinton et al. 2015, sec. 5).
    """
    _refuse_not_tbk(logits_TBK)
    return functional.softmax(logits_TBK.detach() / temperature, dim=2).mean(dim=0)


@full_precision
def average_logits(logits_TBK: Tensor, weight_BT: Tensor | None = None) -> Tensor:
    """Return logits_BK, the mean over teachers, or the sum weighted by `weight_BT`: a product of experts, not a mixture."""
    _refuse_not_tbk(logits_TBK)
    if weight_BT is None:
        return logits_TBK.detach().mean(dim=0)
    _refuse_no_weights(weight_BT, logits_TBK)
    return torch.einsum("tbk,bt->bk", logits_TBK.detach(), weight_BT)


@full_precision
def gated(logits_TBK: Tensor, gate_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return probabilities_BK, the sum over teachers of gate times softmax(logits / T); its gradient is the gate's alone.

    Raises `ValueError` unless the gate's weights are at least 0 and sum to 1 for each image.
    """
    _refuse_not_tbk(logits_TBK)
    _refuse_no_weights(gate_BT, logits_TBK)
    return torch.einsum("tbk,bt->bk", functional.softmax(logits_TBK.detach() / temperature, dim=2), gate_BT)


@full_precision
def by_confidence(logits_TBK: Tensor, *, tau: float) -> Tensor:
    """Return weight_BT proportional to exp(-H / tau), H the entropy of softmax(logits) in nats: who is sure counts.

    Ours. Towards tau = 0 the surest teacher is chosen for each image, towards infinity all count alike.
    """
    _refuse_not_tbk(logits_TBK)
    log_p_TBK = functional.log_softmax(logits_TBK.detach(), dim=2)
    entropy_TB = -(log_p_TBK.exp() * log_p_TBK).sum(dim=2)
    return functional.softmax(-entropy_TB / tau, dim=0).T


@full_precision
def standardised(logits_TBK: Tensor) -> Tensor:
    """Return each teacher's logits of each image with mean 0 and deviation 1 over K (unbiased): none outshouts the others.

    Logits that do not vary become 0.
    """
    centred_TBK = logits_TBK - logits_TBK.mean(dim=2, keepdim=True)
    deviation_TB1 = logits_TBK.std(dim=2, keepdim=True)
    varies_TB1 = deviation_TB1 > 1e-6 * logits_TBK.abs().amax(dim=2, keepdim=True)
    return centred_TBK * varies_TB1 / torch.where(varies_TB1, deviation_TB1, 1)


@full_precision
def noisy(values_BD: Tensor, *, sigma: float, share: float, generator: torch.Generator) -> Tensor:
    """Return z (1 + sigma xi) for a random `share` of the images, xi normal for each number; the rest as they are.

    The noisy teacher of Sau & Balasubramanian (2016), made for logits.
    """
    return values_BD * (1 + sigma * _noise(values_BD, share=share, generator=generator))


@full_precision
def noisy_features(standard_BD: Tensor, *, sigma: float, share: float, generator: torch.Generator) -> Tensor:
    """Return f + sigma xi for a random `share` of the images, of features whose channels have a deviation of 1 (ours)."""
    return standard_BD + sigma * _noise(standard_BD, share=share, generator=generator)


@full_precision
def drop_teachers(losses_BT: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Return weight_BT of each image's losses: the teacher with the largest stays, each other is dropped by `probability`.

    The weights of those that stay are equal and sum to 1 over the whole batch, so the loss is (weight_BT * losses_BT).sum();
    no gradient flows to the weights (UNIC's teacher dropping, Sariyildiz et al. 2024). No image ever loses all its teachers.
    """
    if losses_BT.ndim != 2 or losses_BT.shape[1] == 0:
        raise ValueError(f"losses of images x teachers are needed, not {tuple(losses_BT.shape)}")
    drawn_BT = torch.rand(losses_BT.shape, generator=generator, device=generator.device).to(losses_BT.device)
    stays_BT = drawn_BT >= probability
    stays_BT = stays_BT.scatter(1, losses_BT.detach().argmax(dim=1, keepdim=True), True)
    return stays_BT.to(losses_BT) / stays_BT.sum().clamp(min=1)


def _noise(values_BD: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Return normal noise for a random share of the rows, zeros for the others."""
    device = generator.device
    chosen_B1 = torch.rand(len(values_BD), 1, generator=generator, device=device) < share
    xi_BD = torch.randn(values_BD.shape, generator=generator, device=device, dtype=values_BD.dtype)
    return (chosen_B1 * xi_BD).to(values_BD.device)


def _refuse_not_tbk(logits_TBK: Tensor) -> None:
    if logits_TBK.ndim != 3 or len(logits_TBK) == 0:
        raise ValueError(f"logits of teachers x images x classes are needed, not {tuple(logits_TBK.shape)}")


def _refuse_no_weights(weight_BT: Tensor, logits_TBK: Tensor) -> None:
    if weight_BT.shape != (logits_TBK.shape[1], logits_TBK.shape[0]):
        raise ValueError(f"weights of {tuple(weight_BT.shape)} images x teachers for logits {tuple(logits_TBK.shape)}")
    found_BT = weight_BT.detach()
    if bool((found_BT < 0).any()) or bool(((found_BT.sum(dim=1) - 1).abs() > 1e-3).any()):
        raise ValueError("the weights of an image's teachers must be at least 0 and sum to 1")

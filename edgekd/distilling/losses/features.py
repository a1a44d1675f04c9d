"""Losses on features, and the distance between two clouds of them.

Axes: B batch, D feature width, X all of an image's features, K coefficients, Q entries of a queue, N and M images of clouds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distilling.losses._vectors import direction, refuse_other_shape
from edgekd.distilling.losses.logits import kl
from edgekd.distilling.precision import full_precision

MMD_SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)
"""The widths of the kernels in the code of common feature learning (Luo et al. 2019)."""


@full_precision
def feature_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared error, mean over B and D (FitNets, Romero et al. 2015, eq. 3 on pooled features)."""
    refuse_other_shape(student_BD, teacher_BD)
    return functional.mse_loss(student_BD, teacher_BD.detach())


@full_precision
def smooth_l1(student_BD: Tensor, teacher_BD: Tensor, *, beta: float = 1.0) -> Tensor:
    """Return Huber's error divided by beta (squares below beta, absolute above), mean over B and D."""
    refuse_other_shape(student_BD, teacher_BD)
    return functional.smooth_l1_loss(student_BD, teacher_BD.detach(), beta=beta)


@full_precision
def cosine(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return 1 - cos(student, teacher), mean over B."""
    refuse_other_shape(student_BD, teacher_BD)
    return 1 - (direction(student_BD, dim=1) * direction(teacher_BD.detach(), dim=1)).sum(dim=1).mean()


@full_precision
def cosine_smooth_l1(student_BD: Tensor, teacher_BD: Tensor, *, cosine_weight: float = 0.5) -> Tensor:
    """Return the mean over B of `cosine_smooth_l1_each`: 0.5 and 0.5 in UNIC and Theia, 0.9 and 0.1 in RADIO's patches."""
    return cosine_smooth_l1_each(student_BD, teacher_BD, cosine_weight=cosine_weight).mean()


@full_precision
def cosine_smooth_l1_each(student_BD: Tensor, teacher_BD: Tensor, *, cosine_weight: float = 0.5) -> Tensor:
    """Return w (1 - cos) + (1 - w) smooth L1 (beta 1, mean over D) of each image, B numbers (UNIC, Sariyildiz et al. 2024)."""
    turned_B = cosine_each(student_BD, teacher_BD)
    return cosine_weight * turned_B + (1 - cosine_weight) * smooth_l1_each(student_BD, teacher_BD)


@full_precision
def feature_mse_each(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared error of each image, mean over D: B numbers."""
    refuse_other_shape(student_BD, teacher_BD)
    return (student_BD - teacher_BD.detach()).square().mean(dim=1)


@full_precision
def smooth_l1_each(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return Huber's error (beta 1) of each image, mean over D: B numbers."""
    refuse_other_shape(student_BD, teacher_BD)
    return functional.smooth_l1_loss(student_BD, teacher_BD.detach(), reduction="none").mean(dim=1)


@full_precision
def cosine_each(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return 1 - cos(student, teacher) of each image, B numbers."""
    refuse_other_shape(student_BD, teacher_BD)
    return 1 - (direction(student_BD, dim=1) * direction(teacher_BD.detach(), dim=1)).sum(dim=1)


@full_precision
def feed(student_BX: Tensor, teacher_BX: Tensor) -> Tensor:
    """Return the absolute difference of the unit-length features, summed over X, mean over B (FEED, Park & Kwak 2019).

    A map is one vector: its length is taken over all of an image's elements. The sum grows with their number, up to 2 sqrt(X).
    """
    refuse_other_shape(student_BX, teacher_BX)
    student_BX, teacher_BX = student_BX.flatten(1), teacher_BX.detach().flatten(1)
    return (direction(student_BX, dim=1) - direction(teacher_BX, dim=1)).abs().sum(dim=1).mean()


@full_precision
def mmd(x_ND: Tensor, y_MD: Tensor, *, sigmas: Sequence[float] = MMD_SIGMAS) -> Tensor:
    """Return the squared maximum mean discrepancy of two clouds of directions (Gretton et al. 2012, eq. 5).

    Rows are flattened and brought to unit length; the kernel is the sum over `sigmas` of exp(-|a - b|^2 / (2 sigma^2)); the
    biased estimate, diagonal included, at least 0. Gradients flow to both: common feature learning moves both clouds.
    """
    x_ND, y_MD = direction(x_ND.flatten(1), dim=1), direction(y_MD.flatten(1), dim=1)
    if x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"not the same width: {x_ND.shape[1]} and {y_MD.shape[1]}")
    within = _kernel(x_ND, x_ND, sigmas).mean() + _kernel(y_MD, y_MD, sigmas).mean()
    return (within - 2 * _kernel(x_ND, y_MD, sigmas).mean()).clamp(min=0)


@full_precision
def spectral(student_BK: Tensor, teacher_BK: Tensor, *, eps: float, beta: float) -> Tensor:
    """Return the mean over k of (e_k + eps)^beta, e_k the squared error on coefficient k, mean over B (SpecMatch, 2026).

    The teacher's coefficients are those of its principal directions; beta 1 is plain matching, towards 0 whitening.
    """
    refuse_other_shape(student_BK, teacher_BK)
    error_K = (student_BK - teacher_BK.detach()).square().mean(dim=0)
    return (error_K + eps).pow(beta).mean()


@full_precision
def queue_similarity(student_BD: Tensor, teacher_BD: Tensor, queue_QD: Tensor, *, temperature: float) -> Tensor:
    """Return the KL between softmaxes over Q of the cosines to a queue of teacher features, divided by T, mean over B.

    This is the first loss of LightlyTrain (after Fang et al. 2021, SEED, eq. 6); no T^2.
    """
    refuse_other_shape(student_BD, teacher_BD)
    queue_DQ = direction(queue_QD.detach(), dim=1).T
    student_BQ = direction(student_BD, dim=1) @ queue_DQ / temperature
    return kl(student_BQ, direction(teacher_BD, dim=1) @ queue_DQ / temperature, temperature=1.0)


def _kernel(x_ND: Tensor, y_MD: Tensor, sigmas: Sequence[float]) -> Tensor:
    # the products' formula would lose what the narrowest kernel sees; cdist's gradient at distance 0 is 0
    square_NM = torch.cdist(x_ND, y_MD, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.stack([torch.exp(square_NM / (-2 * sigma**2)) for sigma in sigmas]).sum(dim=0)

"""Losses on what images, or channels, have to do with one another; the widths may differ.

Axes: B batch, N images, D feature width, C channels, L positions.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distilling.losses._vectors import direction, refuse_other_batch
from edgekd.distilling.precision import full_precision, in_float64


@full_precision
def similarity_preserving(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared difference of the B x B inner products, rows of unit length, over B^2 (Tung & Mori 2019, eq. 4).

    The widths may differ.
    """
    refuse_other_batch(student_BD, teacher_BD)
    teacher_BD = teacher_BD.detach()
    student_BB, teacher_BB = (direction(x_BD @ x_BD.T, dim=1) for x_BD in (student_BD, teacher_BD))
    return (student_BB - teacher_BB).square().mean()


@full_precision
def channel_correlation(student_BCL: Tensor, teacher_BCL: Tensor) -> Tensor:
    """Return the squared difference of the C x C inner products over L, rows of unit length, over B C (ICKD, Liu 2021).

    Maps B x C x H x W are flattened; the numbers of positions may differ, the channels must not.
    """
    student_BCL, teacher_BCL = student_BCL.flatten(2), teacher_BCL.detach().flatten(2)
    if student_BCL.shape[:2] != teacher_BCL.shape[:2]:
        raise ValueError(f"not the same batch and channels: {tuple(student_BCL.shape)} and {tuple(teacher_BCL.shape)}")
    student_BCC, teacher_BCC = (direction(x_BCL @ x_BCL.mT, dim=2) for x_BCL in (student_BCL, teacher_BCL))
    return (student_BCC - teacher_BCC).square().sum(dim=2).mean()


@full_precision
def rkd(student_BD: Tensor, teacher_BD: Tensor, *, distance_weight: float, angle_weight: float) -> Tensor:
    """Return weighted Huber errors of pairs' distances and of triplets' angles (RKD, Park et al. 2019, eq. 5 and 7).

    Distances are divided by their mean over distinct rows; means run over B^2 and B^3 entries, as the authors take them.
    The widths may differ. Angles need some B^3 numbers of memory, a weight of 0 none.
    """
    refuse_other_batch(student_BD, teacher_BD)
    teacher_BD = teacher_BD.detach()
    loss = student_BD.new_zeros(())
    if distance_weight:
        student_BB, teacher_BB = _relative_distances(student_BD), _relative_distances(teacher_BD)
        loss = loss + distance_weight * functional.smooth_l1_loss(student_BB, teacher_BB)
    if angle_weight:
        loss = loss + angle_weight * functional.smooth_l1_loss(_angles(student_BD), _angles(teacher_BD))
    return loss


@full_precision
def linear_cka(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of two representations, in [0, 1] (Kornblith et al. 2019, eq. 3 and 4).

    A measure, not a loss: gradients flow to both. 0 if one of them does not vary.
    """
    refuse_other_batch(x_ND, y_NE)
    x_ND, y_NE = _centred_scaled(x_ND), _centred_scaled(y_NE)
    if len(x_ND) <= min(x_ND.shape[1], y_NE.shape[1]):
        x_NN, y_NN = x_ND @ x_ND.T, y_NE @ y_NE.T
        shared, own_x, own_y = (x_NN * y_NN).sum(), x_NN.square().sum(), y_NN.square().sum()
    else:
        shared, own_x, own_y = ((a.T @ b).square().sum() for a, b in ((x_ND, y_NE), (x_ND, x_ND), (y_NE, y_NE)))
    product = own_x * own_y
    return shared / torch.where(product > 0, product, 1).sqrt()


def _centred_scaled(x_ND: Tensor) -> Tensor:
    noise = 8 * torch.finfo(x_ND.dtype).eps * x_ND.detach().abs().max()
    centred_ND = x_ND - x_ND.mean(dim=0)
    largest = centred_ND.detach().abs().max()
    return centred_ND / largest if bool(largest > noise) else torch.zeros_like(centred_ND)


def _relative_distances(x_BD: Tensor) -> Tensor:
    # the products' formula would lose the small distances; cdist's gradient at distance 0 is 0
    distance_BB = torch.cdist(x_BD, x_BD, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance_BB.sum() / (distance_BB > 0).sum().clamp(min=1)
    return distance_BB / torch.where(mean > 0, mean, 1)


def _angles(x_BD: Tensor) -> Tensor:
    # Cosine of the angle at j between i and k, from inner products: B^3 numbers instead of B^2 D. They are taken in float64 and
    # around the mean, for <i - j, k - j> = G_ik - G_ij - G_jk + G_jj cancels.
    tiny = torch.finfo(x_BD.dtype).tiny
    largest = x_BD.detach().abs().max()
    centred_BD = in_float64((x_BD - x_BD.mean(dim=0)) / torch.where(largest > tiny**0.5, largest, 1))
    gram_BB = centred_BD @ centred_BD.T
    own_B = gram_BB.diagonal()
    square_BB = own_B.unsqueeze(0) + own_B.unsqueeze(1) - 2 * gram_BB
    none_BB = square_BB <= 64 * torch.finfo(torch.float64).eps * (own_B.unsqueeze(0) + own_B.unsqueeze(1)) + tiny
    inverse_BB = torch.where(none_BB, 1, square_BB).rsqrt() * ~none_BB
    inner_BBB = (gram_BB.unsqueeze(0) - gram_BB.unsqueeze(1) - (gram_BB - own_B.unsqueeze(1)).unsqueeze(2)).to(x_BD)
    inverse_BB = inverse_BB.to(x_BD)
    return inner_BBB * inverse_BB.unsqueeze(1) * inverse_BB.unsqueeze(2)

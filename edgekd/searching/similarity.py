"""How alike two networks see a batch, as pure functions of tensors; 0 for a network against itself.

Computed in float64 and without gradients. Where a direction is undefined (a row of zeros) it is taken as zeros on that side.

Axes: B batch, C channels, L positions, X anything, D width of the vector before the head, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def semantic(gradient_s_KC: Tensor, gradient_t_KC: Tensor) -> Tensor:
    """Return DisWOT's M_s of two class gradients (Dong et al. 2023, as the authors' README computes it).

    For each class the rows of the outer product g g^T are normalised to length 1; M_s is the squared difference, summed, over
    K C. Row i is sign(g_i) g / |g|, so that no C x C matrix is needed:
    M_s = mean over k and i of [s_ki != 0] + [t_ki != 0] - 2 cos(s_k, t_k) sign(s_ki t_ki).
    Raises `ValueError` unless classes and widths are equal.
    """
    s_KC, t_KC = gradient_s_KC.double(), gradient_t_KC.double()
    if s_KC.shape != t_KC.shape or s_KC.ndim != 2:
        raise ValueError(f"not the same classes and width: {tuple(s_KC.shape)} and {tuple(t_KC.shape)}")
    cosine_K1 = (_rows(s_KC) * _rows(t_KC)).sum(dim=1, keepdim=True)
    signs_KC = s_KC.sign() * t_KC.sign()
    present_KC = (s_KC != 0).double() + (t_KC != 0).double()
    return (present_KC - 2 * cosine_K1 * signs_KC).mean()


@torch.no_grad()
def relation(features_s_BX: Tensor, features_t_BX: Tensor) -> Tensor:
    """Return DisWOT's M_r: squared difference of the B x B inner products, rows of length 1, over B^2. Widths may differ.

    Maps B x C x H x W are flattened. Raises `ValueError` unless both have the same number of images.
    """
    s_BX, t_BX = features_s_BX.double().flatten(1), features_t_BX.double().flatten(1)
    if len(s_BX) != len(t_BX):
        raise ValueError(f"not the same number of images: {len(s_BX)} and {len(t_BX)}")
    return (_rows(s_BX @ s_BX.T) - _rows(t_BX @ t_BX.T)).square().mean()


@torch.no_grad()
def channel_correlation(map_s_BCL: Tensor, map_t_BCL: Tensor) -> Tensor:
    """Return the squared difference of the C x C inner products of each image, rows of length 1, over B C (ICKD, Liu 2021).

    Raises `ValueError` unless batch and channels are equal; the numbers of positions may differ.
    """
    s_BCL, t_BCL = map_s_BCL.double().flatten(2), map_t_BCL.double().flatten(2)
    if s_BCL.shape[:2] != t_BCL.shape[:2]:
        raise ValueError(f"not the same batch and channels: {tuple(s_BCL.shape)} and {tuple(t_BCL.shape)}")
    difference_BCC = _rows(s_BCL @ s_BCL.mT) - _rows(t_BCL @ t_BCL.mT)
    return difference_BCC.square().sum(dim=2).mean()


@torch.no_grad()
def affinity(map_s_BCHW: Tensor, map_t_BCHW: Tensor, *, grid: int) -> Tensor:
    """Return the mean squared difference of the cosines between positions, both maps averaged over a grid x grid first.

    Widths and map sizes may differ; each channel is centred over its image's positions. Raises `ValueError` for other batches.
    """
    if len(map_s_BCHW) != len(map_t_BCHW):
        raise ValueError(f"not the same number of images: {len(map_s_BCHW)} and {len(map_t_BCHW)}")
    cosine_s_BLL, cosine_t_BLL = (_cosines(map_BCHW, grid) for map_BCHW in (map_s_BCHW, map_t_BCHW))
    return (cosine_s_BLL - cosine_t_BLL).square().mean()


@torch.no_grad()
def class_relation(gradient_s_KC: Tensor, gradient_t_KD: Tensor) -> Tensor:
    """Return the squared difference of the K x K inner products of class gradients, rows of length 1, over K^2.

    Widths may differ. Raises `ValueError` unless both are about the same classes.
    """
    if len(gradient_s_KC) != len(gradient_t_KD):
        raise ValueError(f"not the same classes: {len(gradient_s_KC)} and {len(gradient_t_KD)}")
    return relation(gradient_s_KC, gradient_t_KD)


@torch.no_grad()
def activation_maps(map_BCHW: Tensor, weights_KC: Tensor, *, grid: int) -> Tensor:
    """Return the class activation maps sum_c w_kc A_c on a grid x grid, K x (B grid grid) (Grad-CAM without its ReLU)."""
    pooled_BCHW = functional.adaptive_avg_pool2d(map_BCHW.double(), grid)
    return torch.einsum("kc,bchw->kbhw", weights_KC.double(), pooled_BCHW).flatten(1)


@torch.no_grad()
def grad_cam(cam_s_KX: Tensor, cam_t_KX: Tensor) -> Tensor:
    """Return the mean squared difference of the K x K correlations of class activation maps (DisWOT, 2023, M_s as described).

    Raises `ValueError` unless the maps are of the same classes, images and grid.
    """
    if cam_s_KX.shape != cam_t_KX.shape:
        raise ValueError(f"not the same maps: {tuple(cam_s_KX.shape)} and {tuple(cam_t_KX.shape)}")
    s_KX, t_KX = (_rows(cam_KX - cam_KX.mean(dim=1, keepdim=True)) for cam_KX in (cam_s_KX.double(), cam_t_KX.double()))
    return (s_KX @ s_KX.T - t_KX @ t_KX.T).square().mean()


def _cosines(map_BCHW: Tensor, grid: int) -> Tensor:
    pooled_BCL = functional.adaptive_avg_pool2d(map_BCHW.double(), grid).flatten(2)
    unit_BLC = _rows((pooled_BCL - pooled_BCL.mean(dim=2, keepdim=True)).mT)
    return unit_BLC @ unit_BLC.mT


def _rows(x: Tensor) -> Tensor:
    """Return the last axis in length 1; zeros stay zeros. The largest entry is divided out first, so nothing overflows."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)

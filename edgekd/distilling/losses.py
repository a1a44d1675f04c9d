"""Losses as pure functions of tensors. Axes: B batch, D feature width, K classes. All reductions are means over B."""

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.core.contracts import UNKNOWN_LABEL, Batch


def cross_entropy(logits_BK: Tensor, batch: Batch, *, smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy over the labelled images of a batch (0 if it has none), mixup's two labels weighted."""
    own = _known_mean(logits_BK, batch.label_B, smoothing)
    if batch.partner_B is None:
        return own
    other = _known_mean(logits_BK, batch.label_B[batch.partner_B], smoothing)
    return batch.mix * own + (1 - batch.mix) * other


def kl_divergence(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over K, mean over B (Hinton et al. 2015)."""
    log_student_BK = functional.log_softmax(student_BK.float() / temperature, dim=1)
    log_teacher_BK = functional.log_softmax(teacher_BK.float() / temperature, dim=1)
    divergence = functional.kl_div(log_student_BK, log_teacher_BK, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def feature_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared error, mean over B and D (FitNets, Romero et al. 2015, eq. 3 on pooled features)."""
    return functional.mse_loss(student_BD.float(), teacher_BD.float())


def _known_mean(logits_BK: Tensor, label_B: Tensor, smoothing: float) -> Tensor:
    known = label_B != UNKNOWN_LABEL
    if not bool(known.any()):
        return logits_BK.sum() * 0.0
    return functional.cross_entropy(logits_BK.float(), label_B, ignore_index=UNKNOWN_LABEL, label_smoothing=smoothing)


def standardise(feature_BD: Tensor, mean_D: Tensor, std_D: Tensor) -> Tensor:
    """Return features with zero mean and unit variance per channel, given the training set's statistics."""
    return (feature_BD - mean_D) / torch.clamp(std_D, min=1e-6)

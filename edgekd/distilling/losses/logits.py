"""Losses on logits. Axes: B batch, K classes."""

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.core.contracts import UNKNOWN_LABEL, Batch
from edgekd.distilling.losses._vectors import refuse_other_shape, z_direction
from edgekd.distilling.precision import full_precision


@full_precision
def cross_entropy(logits_BK: Tensor, batch: Batch, *, smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy over the labelled images of a batch (0 if it has none), mixup's two labels weighted."""
    own = _known_mean(logits_BK, batch.label_B, smoothing)
    if batch.partner_B is None:
        return own
    other = _known_mean(logits_BK, batch.label_B[batch.partner_B], smoothing)
    return batch.mix * own + (1 - batch.mix) * other


@full_precision
def entropy(logits_BK: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) in nats, mean over B; 0 for an empty batch."""
    log_p_BK = functional.log_softmax(logits_BK, dim=1)
    return -(log_p_BK.exp() * log_p_BK).sum() / max(len(logits_BK), 1)


@full_precision
def kl(student_logits_BK: Tensor, teacher_logits_BK: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over K, mean over B (Hinton et al. 2015).

    0 for an empty batch.
    """
    refuse_other_shape(student_logits_BK, teacher_logits_BK)
    return temperature**2 * _kl(student_logits_BK / temperature, teacher_logits_BK / temperature)


@full_precision
def kl_to(student_logits_BK: Tensor, probabilities_BK: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(q || softmax(student / T)), summed over K, mean over B, for a teacher that is known by its probabilities q.

    They should be softened by the same temperature. 0 for an empty batch; a probability of 0 adds nothing.
    """
    refuse_other_shape(student_logits_BK, probabilities_BK)
    q_BK = probabilities_BK.detach()
    log_p_BK = functional.log_softmax(student_logits_BK / temperature, dim=1)
    return temperature**2 * (torch.xlogy(q_BK, q_BK) - q_BK * log_p_BK).sum() / max(len(q_BK), 1)


@full_precision
def dkd(student: Tensor, teacher: Tensor, label_B: Tensor, *, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return T^2 (alpha TCKD + beta NCKD), mean over the images whose label is known (DKD, Zhao et al. 2022, eq. 7).

    TCKD is the KL of (target, all others), NCKD the KL among the others; TCKD + (1 - p_target) NCKD = KL. Logits are B x K.
    Sums over the other classes are taken in the logarithm, so that none underflows. 0 if no label is known.
    """
    refuse_other_shape(student, teacher)
    known_B = label_B != UNKNOWN_LABEL
    target_B1 = label_B.clamp(min=0).unsqueeze(1)
    s_pair, s_rest = _decoupled(student / temperature, target_B1)
    t_pair, t_rest = _decoupled(teacher.detach() / temperature, target_B1)
    tckd_B = (t_pair.exp() * (t_pair - s_pair)).sum(dim=1)
    nckd_B = (t_rest.exp() * (t_rest - s_rest)).sum(dim=1)
    total = ((alpha * tckd_B + beta * nckd_B) * known_B).sum()
    return temperature**2 * total / known_B.sum().clamp(min=1)


@full_precision
def dist(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: float) -> Tensor:
    """Return T^2 (beta (1 - r over K, mean over B) + gamma (1 - r over B, mean over K)) (DIST, Huang et al. 2022, eq. 9).

    r is Pearson's correlation of the probabilities softmax(logits / T), without the authors' 1e-8 in its denominator.
    """
    refuse_other_shape(student, teacher)
    p_BK = functional.softmax(student / temperature, dim=1)
    q_BK = functional.softmax(teacher.detach() / temperature, dim=1)
    inter = 1 - (z_direction(p_BK, dim=1) * z_direction(q_BK, dim=1)).sum(dim=1).mean()
    intra = 1 - (z_direction(p_BK, dim=0) * z_direction(q_BK, dim=0)).sum(dim=0).mean()
    return temperature**2 * (beta * inter + gamma * intra)


@full_precision
def logit_standard(student: Tensor, teacher: Tensor, *, temperature: float, weight: float) -> Tensor:
    """Return weight T^2 KL of the logits' z-scores per image (unbiased deviation) divided by T (Sun et al. 2024)."""
    refuse_other_shape(student, teacher)
    deviations = (student.shape[1] - 1) ** 0.5
    s_BK, t_BK = (z_direction(logits, dim=1) * deviations / temperature for logits in (student, teacher))
    return weight * temperature**2 * _kl(s_BK, t_BK)


def _known_mean(logits_BK: Tensor, label_B: Tensor, smoothing: float) -> Tensor:
    known = label_B != UNKNOWN_LABEL
    if not bool(known.any()):
        return logits_BK.sum() * 0.0
    return functional.cross_entropy(logits_BK, label_B, ignore_index=UNKNOWN_LABEL, label_smoothing=smoothing)


def _kl(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    log_q_BK = functional.log_softmax(student_BK, dim=1)
    log_p_BK = functional.log_softmax(teacher_BK.detach(), dim=1)
    return (log_p_BK.exp() * (log_p_BK - log_q_BK)).sum() / max(len(student_BK), 1)


def _decoupled(logits_BK: Tensor, target_B1: Tensor) -> tuple[Tensor, Tensor]:
    # log probabilities of (target, all others), B x 2, and of the others among themselves, B x (K - 1)
    if logits_BK.shape[1] < 2:
        raise ValueError("decoupled distillation needs at least 2 classes")
    column_K = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device)
    others_BK = logits_BK.gather(1, column_K + (column_K >= target_B1))
    target_and_others_B2 = torch.cat([logits_BK.gather(1, target_B1), others_BK.logsumexp(dim=1, keepdim=True)], dim=1)
    return functional.log_softmax(target_and_others_B2, dim=1), functional.log_softmax(others_BK, dim=1)

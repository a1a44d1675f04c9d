"""Losses as pure functions of tensors. Axes: B batch, D feature width, K classes or coefficients, C channels, L positions.

All reductions are means over B. Gradients flow to the student only: every loss detaches the teacher's tensors (and a queue)
itself. Sums, softmaxes and logarithms run in float32 at least, also under autocast; float64 stays float64. Where a
direction, a distance or a correlation is undefined (zero vectors, equal rows, answers that do not vary) its value is 0
and its gradient is finite.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.core.contracts import UNKNOWN_LABEL, Batch
from edgekd.distilling.precision import full_precision, in_float64


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
    _refuse_other_shape(student_logits_BK, teacher_logits_BK)
    return temperature**2 * _kl(student_logits_BK / temperature, teacher_logits_BK / temperature)


@full_precision
def dkd(student: Tensor, teacher: Tensor, label_B: Tensor, *, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return T^2 (alpha TCKD + beta NCKD), mean over the images whose label is known (DKD, Zhao et al. 2022, eq. 7).

    TCKD is the KL of (target, all others), NCKD the KL among the others; TCKD + (1 - p_target) NCKD = KL. Logits are B x K.
    Sums over the other classes are taken in the logarithm, so that none underflows. 0 if no label is known.
    """
    _refuse_other_shape(student, teacher)
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
    _refuse_other_shape(student, teacher)
    p_BK = functional.softmax(student / temperature, dim=1)
    q_BK = functional.softmax(teacher.detach() / temperature, dim=1)
    inter = 1 - (_z_direction(p_BK, dim=1) * _z_direction(q_BK, dim=1)).sum(dim=1).mean()
    intra = 1 - (_z_direction(p_BK, dim=0) * _z_direction(q_BK, dim=0)).sum(dim=0).mean()
    return temperature**2 * (beta * inter + gamma * intra)


@full_precision
def logit_standard(student: Tensor, teacher: Tensor, *, temperature: float, weight: float) -> Tensor:
    """Return weight T^2 KL of the logits' z-scores per image (unbiased deviation) divided by T (Sun et al. 2024)."""
    _refuse_other_shape(student, teacher)
    deviations = (student.shape[1] - 1) ** 0.5
    s_BK, t_BK = (_z_direction(logits, dim=1) * deviations / temperature for logits in (student, teacher))
    return weight * temperature**2 * _kl(s_BK, t_BK)


@full_precision
def feature_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared error, mean over B and D (FitNets, Romero et al. 2015, eq. 3 on pooled features)."""
    _refuse_other_shape(student_BD, teacher_BD)
    return functional.mse_loss(student_BD, teacher_BD.detach())


@full_precision
def smooth_l1(student_BD: Tensor, teacher_BD: Tensor, *, beta: float = 1.0) -> Tensor:
    """Return Huber's error divided by beta (squares below beta, absolute above), mean over B and D."""
    _refuse_other_shape(student_BD, teacher_BD)
    return functional.smooth_l1_loss(student_BD, teacher_BD.detach(), beta=beta)


@full_precision
def cosine(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return 1 - cos(student, teacher), mean over B."""
    _refuse_other_shape(student_BD, teacher_BD)
    return 1 - (_direction(student_BD, dim=1) * _direction(teacher_BD.detach(), dim=1)).sum(dim=1).mean()


@full_precision
def spectral(student_BK: Tensor, teacher_BK: Tensor, *, eps: float, beta: float) -> Tensor:
    """Return the mean over k of (e_k + eps)^beta, e_k the squared error on coefficient k, mean over B (SpecMatch, 2026).

    The teacher's coefficients are those of its principal directions; beta 1 is plain matching, towards 0 whitening.
    """
    _refuse_other_shape(student_BK, teacher_BK)
    error_K = (student_BK - teacher_BK.detach()).square().mean(dim=0)
    return (error_K + eps).pow(beta).mean()


@full_precision
def similarity_preserving(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the squared difference of the B x B inner products, rows of unit length, over B^2 (Tung & Mori 2019, eq. 4).

    The widths may differ.
    """
    _refuse_other_batch(student_BD, teacher_BD)
    teacher_BD = teacher_BD.detach()
    student_BB, teacher_BB = (_direction(x_BD @ x_BD.T, dim=1) for x_BD in (student_BD, teacher_BD))
    return (student_BB - teacher_BB).square().mean()


@full_precision
def channel_correlation(student_BCL: Tensor, teacher_BCL: Tensor) -> Tensor:
    """Return the squared difference of the C x C inner products over L, rows of unit length, over B C (ICKD, Liu 2021).

    Maps B x C x H x W are flattened; the numbers of positions may differ, the channels must not.
    """
    student_BCL, teacher_BCL = student_BCL.flatten(2), teacher_BCL.detach().flatten(2)
    if student_BCL.shape[:2] != teacher_BCL.shape[:2]:
        raise ValueError(f"not the same batch and channels: {tuple(student_BCL.shape)} and {tuple(teacher_BCL.shape)}")
    student_BCC, teacher_BCC = (_direction(x_BCL @ x_BCL.mT, dim=2) for x_BCL in (student_BCL, teacher_BCL))
    return (student_BCC - teacher_BCC).square().sum(dim=2).mean()


@full_precision
def queue_similarity(student_BD: Tensor, teacher_BD: Tensor, queue_QD: Tensor, *, temperature: float) -> Tensor:
    """Return the KL between softmaxes over Q of the cosines to a queue of teacher features, divided by T, mean over B.

    This is the first loss of LightlyTrain (after Fang et al. 2021, SEED, eq. 6); no T^2.
    """
    _refuse_other_shape(student_BD, teacher_BD)
    queue_DQ = _direction(queue_QD.detach(), dim=1).T
    student_BQ = _direction(student_BD, dim=1) @ queue_DQ / temperature
    return _kl(student_BQ, _direction(teacher_BD, dim=1) @ queue_DQ / temperature)


@full_precision
def rkd(student_BD: Tensor, teacher_BD: Tensor, *, distance_weight: float, angle_weight: float) -> Tensor:
    """Return weighted Huber errors of pairs' distances and of triplets' angles (RKD, Park et al. 2019, eq. 5 and 7).

    Distances are divided by their mean over distinct rows; means run over B^2 and B^3 entries, as the authors take them.
    The widths may differ. Angles need some B^3 numbers of memory, a weight of 0 none.
    """
    _refuse_other_batch(student_BD, teacher_BD)
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
    _refuse_other_batch(x_ND, y_NE)
    x_ND, y_NE = _centred_scaled(x_ND), _centred_scaled(y_NE)
    if len(x_ND) <= min(x_ND.shape[1], y_NE.shape[1]):
        x_NN, y_NN = x_ND @ x_ND.T, y_NE @ y_NE.T
        shared, own_x, own_y = (x_NN * y_NN).sum(), x_NN.square().sum(), y_NN.square().sum()
    else:
        shared, own_x, own_y = ((a.T @ b).square().sum() for a, b in ((x_ND, y_NE), (x_ND, x_ND), (y_NE, y_NE)))
    product = own_x * own_y
    return shared / torch.where(product > 0, product, 1).sqrt()


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


def _direction(x: Tensor, *, dim: int, noise: Tensor | None = None) -> Tensor:
    # Divided by its largest entry first, the length can neither overflow nor underflow. Below `noise` there is no direction:
    # such vectors are left as they are (as good as 0), for their gradient would be 1 / length.
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    none = largest <= (torch.finfo(x.dtype).tiny ** 0.5 if noise is None else noise)
    scaled = x / torch.where(none, 1, largest)
    square = torch.where(none, 1, scaled.square().sum(dim=dim, keepdim=True))
    return scaled / square.sqrt()


def _z_direction(x: Tensor, *, dim: int) -> Tensor:
    # the z-score up to a factor: products of two sum to Pearson's correlation
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    noise = (8 * torch.finfo(x.dtype).eps * x.detach().abs().amax(dim=dim, keepdim=True)).clamp(min=tiny)
    return _direction(x - x.mean(dim=dim, keepdim=True), dim=dim, noise=noise)


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


def _refuse_other_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"not the same shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def _refuse_other_batch(student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):
        raise ValueError(f"not the same number of rows: {tuple(student.shape)} and {tuple(teacher.shape)}")

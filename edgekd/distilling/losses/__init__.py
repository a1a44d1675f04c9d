"""Losses as pure functions of tensors: `edgekd.distilling.losses.kl` and so on, a module a subject.

All reductions are means over B. Gradients flow to the student only: every loss detaches the teacher's tensors (and a queue)
itself; `mmd` and `linear_cka`, which compare two of a kind, say that they do not. Sums, softmaxes and logarithms run in
float32 at least, also under autocast; float64 stays float64. Where a direction, a distance or a correlation is undefined
(zero vectors, equal rows, answers that do not vary) its value is 0 and its gradient is finite. What ends in `_each` is the
loss of each image, before the mean.
"""

from edgekd.distilling.losses.features import (
    MMD_SIGMAS,
    cosine,
    cosine_each,
    cosine_smooth_l1,
    cosine_smooth_l1_each,
    feature_mse,
    feature_mse_each,
    feed,
    mmd,
    queue_similarity,
    smooth_l1,
    smooth_l1_each,
    spectral,
)
from edgekd.distilling.losses.logits import cross_entropy, dist, dkd, entropy, kl, kl_to, logit_standard
from edgekd.distilling.losses.matrices import log_euclidean
from edgekd.distilling.losses.relations import channel_correlation, linear_cka, rkd, similarity_preserving

__all__ = [
    "MMD_SIGMAS",
    "channel_correlation",
    "cosine",
    "cosine_each",
    "cosine_smooth_l1",
    "cosine_smooth_l1_each",
    "cross_entropy",
    "dist",
    "dkd",
    "entropy",
    "feature_mse",
    "feature_mse_each",
    "feed",
    "kl",
    "kl_to",
    "linear_cka",
    "log_euclidean",
    "logit_standard",
    "mmd",
    "queue_similarity",
    "rkd",
    "similarity_preserving",
    "smooth_l1",
    "smooth_l1_each",
    "spectral",
]

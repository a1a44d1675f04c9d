"""How far two runtimes' answers to the same images are apart. Pure functions in float64.

Axes: N images, K classes. An image with a NaN or an infinity on either side never agrees, has cosine 0, and is left out of the
distances, which could not be stated for it; `Parity.non_finite` counts such images.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from edgekd.core.contracts import Sample
from edgekd.core.records import Flip, Parity

Logits = np.ndarray[Any, Any]
NO_ANSWER = -1


def finite(logits_NK: Logits) -> Logits:
    """Return per image whether all its logits are finite, as bool_N."""
    return cast("Logits", np.isfinite(logits_NK).all(axis=1))


def top1(logits_NK: Logits) -> Logits:
    """Return the first of the largest logits of each image as index_N, `NO_ANSWER` where a logit is not finite."""
    return np.where(finite(logits_NK), np.argmax(np.nan_to_num(logits_NK), axis=1), NO_ANSWER)


def cosines(one_NK: Logits, other_NK: Logits) -> Logits:
    """Return the cosine between the two logit vectors of each image as float64_N.

    Two zero vectors point the same way (1), a zero and a non-zero vector do not (0).
    """
    one_NK, other_NK = _scaled(one_NK), _scaled(other_NK)
    norms_N: Logits = np.sqrt((one_NK**2).sum(axis=1) * (other_NK**2).sum(axis=1))
    alone_N: Logits = np.asarray(~one_NK.any(axis=1) & ~other_NK.any(axis=1), dtype=np.float64)
    dots_N = (one_NK * other_NK).sum(axis=1)
    cosine_N = np.divide(dots_N, norms_N, out=alone_N, where=norms_N > 0)
    return cast("Logits", np.clip(cosine_N, -1.0, 1.0))


def compare(
    torch_NK: Logits,
    runtime_NK: Logits,
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    *,
    labels: tuple[str, ...] = (),
) -> Parity:
    """Return the parity of a runtime's logits with torch's on the same images; `labels` name the images' own classes.

    Without `labels` these are the logits' `classes`. Raises `ValueError` if the shapes differ or there is no image.
    """
    if torch_NK.shape != runtime_NK.shape or torch_NK.shape != (len(samples), len(classes)) or not samples:
        raise ValueError(f"cannot compare {torch_NK.shape} with {runtime_NK.shape} for {len(samples)} images")
    both_N = finite(torch_NK) & finite(runtime_NK)
    apart_MK = np.abs(torch_NK[both_N].astype(np.float64) - runtime_NK[both_N].astype(np.float64))
    cosine_N = np.zeros(len(samples))
    cosine_N[both_N] = cosines(torch_NK[both_N], runtime_NK[both_N])
    torch_N, runtime_N = top1(torch_NK), top1(runtime_NK)
    agree_N = both_N & (torch_N == runtime_N)
    return Parity(
        images=len(samples),
        max_abs=float(apart_MK.max(initial=0.0)),
        mean_abs=float(apart_MK.mean()) if apart_MK.size else 0.0,
        logit_cosine_mean=float(cosine_N.mean()),
        logit_cosine_min=float(cosine_N.min()),
        top1_agreements=int(agree_N.sum()),
        flips=tuple(
            Flip(
                image=samples[i].id,
                torch_class=_name(torch_N[i], classes),
                runtime_class=_name(runtime_N[i], classes),
                label=(labels or classes)[samples[i].label],
            )
            for i in np.flatnonzero(~agree_N).tolist()
        ),
        non_finite=int((~both_N).sum()),
    )


def _name(index: int, classes: tuple[str, ...]) -> str:
    return "" if index == NO_ANSWER else classes[index]


def _scaled(logits_NK: Logits) -> Logits:
    # A cosine does not depend on length; scaling first keeps tiny and huge vectors from under- and overflowing when squared.
    logits_NK = logits_NK.astype(np.float64)
    largest_N1 = np.abs(logits_NK).max(axis=1, keepdims=True)
    return cast("Logits", np.divide(logits_NK, largest_N1, out=np.zeros_like(logits_NK), where=largest_N1 > 0))

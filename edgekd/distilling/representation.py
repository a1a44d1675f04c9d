"""What student and teachers make of the same images: how alike their features are, and pictures of them.

Axes: N images, D feature width.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.core.records import Picture, Representation
from edgekd.distilling.losses import linear_cka

MOST_IMAGES = 500
PERPLEXITY = 30.0
_FEWEST_FOR_TSNE = 10
_TSNE_STEPS = 500

Array = np.ndarray[Any, np.dtype[np.float64]]


def represent(
    student_ND: Tensor,
    teachers: Sequence[tuple[str, Tensor]],
    customised: Sequence[tuple[str, Tensor]],
    label_N: Tensor,
    *,
    seed: int,
) -> Representation:
    """Return the linear CKA of each pair of features of the same images, and their pictures, by PCA and (scikit-learn) t-SNE.

    `teachers` and `customised` are (name, feature_ND). Of more than 500 images, 500 are drawn by the seed. Features that are
    not finite have no picture and no CKA.
    """
    chosen_N = _chosen(len(label_N), seed=seed)
    named = [("student", student_ND), *teachers, *((f"{name}, customised", feature_ND) for name, feature_ND in customised)]
    names = _distinct([name for name, _ in named])
    features = [feature_ND.detach().double().cpu()[chosen_N] for _, feature_ND in named]
    seen = [(name, feature_ND) for name, feature_ND in zip(names, features, strict=True) if bool(feature_ND.isfinite().all())]
    finite = dict(seen)
    cka = {f"{a} ~ {b}": _cka(finite.get(a), finite.get(b)) for a, b in combinations(names, 2)}
    pictures = [Picture(of=name, method="pca", points=_points(_pca(feature_ND.numpy()))) for name, feature_ND in seen]
    tsne = _tsne(images=len(chosen_N), seed=seed)
    if tsne is not None:
        varied = [(name, feature_ND.numpy()) for name, feature_ND in seen if _varies(feature_ND)]
        pictures += [Picture(of=name, method="tsne", points=_points(tsne(feature_ND))) for name, feature_ND in varied]
    return Representation(labels=tuple(label_N[chosen_N].tolist()), cka=cka, pictures=tuple(pictures))


def _chosen(images: int, *, seed: int) -> Tensor:
    if images <= MOST_IMAGES:
        return torch.arange(images)
    drawn = np.random.default_rng(seed).choice(images, MOST_IMAGES, replace=False)
    return torch.from_numpy(np.sort(drawn))


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names with a number after those that came before, so that each means one thing."""
    found: list[str] = []
    for name in names:
        again = 2
        distinct = name
        while distinct in found:
            distinct, again = f"{name} ({again})", again + 1
        found.append(distinct)
    return found


def _cka(one_ND: Tensor | None, other_ND: Tensor | None) -> float | None:
    """Return the linear CKA to six decimals; None where features are missing or do not vary."""
    if one_ND is None or other_ND is None or not _varies(one_ND) or not _varies(other_ND):
        return None
    value = float(linear_cka(one_ND, other_ND))
    return round(value, 6) if math.isfinite(value) else None


def _varies(feature_ND: Tensor) -> bool:
    return bool((feature_ND != feature_ND[:1]).any())


def _pca(feature_ND: Array) -> Array:
    """Return the coordinates along the two directions of largest variance, each direction's largest weight positive."""
    centred_ND = feature_ND - feature_ND.mean(axis=0)
    left_NK, spread_K, right_KD = np.linalg.svd(centred_ND, full_matrices=False)
    strongest_K = np.abs(right_KD).argmax(axis=1)
    sign_K = np.where(right_KD[np.arange(len(right_KD)), strongest_K] < 0, -1.0, 1.0)
    found_N2 = (left_NK * spread_K * sign_K)[:, :2]
    return np.pad(found_N2, ((0, 0), (0, 2 - found_N2.shape[1])))


def _tsne(*, images: int, seed: int) -> Callable[[Array], Array] | None:
    """Return what places neighbours as neighbours (van der Maaten & Hinton 2008), on one thread; None without scikit-learn.

    More threads would add up in another order each time, and small differences grow into another picture.
    """
    if images < _FEWEST_FOR_TSNE:
        return None
    try:
        manifold, threads = importlib.import_module("sklearn.manifold"), importlib.import_module("threadpoolctl")
    except ImportError:
        return None
    perplexity = min(PERPLEXITY, (images - 1) / 3)

    def placed(feature_ND: Array) -> Array:
        start_N2 = _pca(feature_ND)
        start_N2 *= 1e-4 / start_N2[:, 0].std()  # from the principal directions, so that the large distances mean something
        made = manifold.TSNE(perplexity=perplexity, init=start_N2, random_state=seed, max_iter=_TSNE_STEPS)
        with threads.threadpool_limits(limits=1):
            found_N2 = made.fit_transform(feature_ND / np.abs(feature_ND).max())
        return np.asarray(found_N2, dtype=np.float64)

    return placed


def _points(found_N2: Array) -> tuple[tuple[float, float], ...]:
    """Return the coordinates about their middle, as a share of the largest, to three decimals."""
    middle_2 = (found_N2.max(axis=0) + found_N2.min(axis=0)) / 2 if len(found_N2) else np.zeros(2)
    centred_N2 = found_N2 - middle_2
    reach = float(np.abs(centred_N2).max(initial=0.0))
    shown_N2 = np.round(centred_N2 / reach, 3) + 0.0 if reach > 0 else np.zeros_like(centred_N2)
    return tuple((float(x), float(y)) for x, y in shown_N2)

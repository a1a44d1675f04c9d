"""What a trained student's features are worth when only some images have a label: nothing is trained but a convex probe.

Axes: B batch, N images, D feature width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from edgekd.core.console import Console
from edgekd.core.contracts import ImageSet, Source, Student
from edgekd.core.errors import DataError, UsageError
from edgekd.core.records import Checkpoint
from edgekd.core.side_records import LabelledShare
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.probes import LinearProbe, knn_top1
from edgekd.distilling.splits import draw, share_of
from edgekd.distilling.stage import compute_device
from edgekd.distilling.taps import TappedModel


def probe(
    checkpoint: Checkpoint,
    weights: Path,
    *,
    student: Student,
    source: Source,
    tap: str,
    fractions: Sequence[float],
    draws: Sequence[int],
    console: Console,
) -> tuple[int, tuple[LabelledShare, ...]]:
    """Return the tap's width, and what it is worth for each fraction of the labelled training images.

    Labels are drawn class by class (at least one each) by each seed of `draws`; all of them need one draw only. Raises
    `UsageError` if the tap is no vector, `DataError` without labelled images.
    """
    train, val = source.train(), source.val()
    if len(train) == 0:
        raise DataError("a probe needs labelled training images, and the source has none")
    module = cast(TappedModel, student.restore(len(checkpoint.classes), weights).eval())
    width = module.spec((tap,)).shapes[tap]
    if len(width) != 1:
        raise UsageError(f"the tap {tap} has shape {tuple(width)}; a probe needs a vector", mend="choose another --tap: pooled")
    device = compute_device()
    module.to(device)
    console.say(f"{checkpoint.student_name}: looking at {len(train)} + {len(val)} images")

    def features(images: ImageSet) -> Tensor:
        return collect(lambda x: module.features(x, (tap,)), images, checkpoint.input, device=device)[tap]

    seen_ND, held_MD = features(train), features(val)
    found = (_share(seen_ND, held_MD, source, fraction=fraction, draws=draws) for fraction in fractions)
    return width[0], tuple(found)


def _share(seen_ND: Tensor, held_MD: Tensor, source: Source, *, fraction: float, draws: Sequence[int]) -> LabelledShare:
    train, label_M = source.train(), labels_of(source.val())
    label_N = labels_of(train)
    images = len(label_M)
    labels, probe_correct, knn_correct = 0, list[int](), list[int]()
    for seed in draws:
        kept = draw(train.samples, count=share_of(fraction), seed=seed)
        chosen_n = torch.tensor([index for index, sample in enumerate(train.samples) if sample.id in kept])
        labels = len(chosen_n)
        fitted = LinearProbe.fit(seen_ND[chosen_n], label_N[chosen_n], classes=len(source.classes))
        probe_correct.append(int((fitted(held_MD).argmax(dim=1) == label_M).sum()))
        knn_correct.append(round(images * knn_top1(seen_ND[chosen_n], label_N[chosen_n], held_MD, label_M)))
        if labels == len(train):
            break
    return LabelledShare(
        fraction=fraction,
        labels=labels,
        images=images,
        draws=tuple(draws[: len(probe_correct)]),
        probe_correct=tuple(probe_correct),
        knn_correct=tuple(knn_correct),
    )

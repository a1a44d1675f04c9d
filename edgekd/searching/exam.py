"""The fixed batch of real images that every student is scored on, and what the teacher makes of it."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgekd.core.contracts import UNKNOWN_LABEL, ImageSet, Source, Teacher
from edgekd.core.errors import DataError
from edgekd.core.images import prepare_batch
from edgekd.core.records import InputContract
from edgekd.core.search_plan import Search
from edgekd.searching.scoring import Exam, Taught
from edgekd.searching.sight import fit_probe, teacher_sight

_BATCH = 32
_FEWEST_IMAGES = 4
Array = np.ndarray[Any, Any]


def balanced(labels: Sequence[int], count: int, *, seed: int) -> list[int]:
    """Return the numbers of `count` labelled images, one class after the other in turn, drawn by the seed.

    Fewer where there are not so many. Raises `DataError` with fewer than four.
    """
    dice, of_class = random.Random(f"exam {seed}"), dict[int, list[int]]()
    for number, label in enumerate(labels):
        if label != UNKNOWN_LABEL:
            of_class.setdefault(label, []).append(number)
    for numbers in of_class.values():
        dice.shuffle(numbers)
    order = sorted(of_class)
    dice.shuffle(order)
    chosen, turn = list[int](), 0
    while len(chosen) < count and any(of_class.values()):
        numbers = of_class[order[turn % len(order)]]
        if numbers:
            chosen.append(numbers.pop())
        turn += 1
    if len(chosen) < _FEWEST_IMAGES:
        raise DataError(
            f"a search needs labelled training images, at least {_FEWEST_IMAGES}; there are {len(chosen)}",
            mend="label a few images of each class",
        )
    return chosen


def make_exam(plan: Search, source: Source, teacher: Teacher | None, *, size_px: int, seed: int) -> Exam:
    """Return the exam: real training images at `size_px`, their labels, and the teacher's sight of them."""
    train = source.train()
    labels = [sample.label for sample in train.samples]
    chosen = balanced(labels, plan.images, seed=seed)
    image_BCHW = _images(train, chosen, size_px)
    label_B = np.array([labels[number] for number in chosen], dtype=np.int64)
    taught = None
    if teacher is not None:
        classes = len(source.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # a teacher of random weights is the same one when the search goes on
            frozen = teacher.load()
        probe = None
        if plan.head == "probe":
            seen = balanced(labels, plan.probe_images, seed=seed + 1)
            batches = [torch.from_numpy(_images(train, seen[i : i + _BATCH], size_px)) for i in range(0, len(seen), _BATCH)]
            probe = fit_probe(frozen, batches, torch.tensor([labels[number] for number in seen]), classes)
        sight = teacher_sight(frozen, torch.from_numpy(image_BCHW), torch.from_numpy(label_B), probe)
        taught = Taught.of(sight)
    return Exam(
        scorers=plan.scorers,
        image_BCHW=image_BCHW,
        label_B=label_B,
        classes=len(source.classes),
        taught=taught,
        initialisation=plan.initialisation,
        initialisations=plan.initialisations,
        seed=seed,
    )


def _images(images: ImageSet, numbers: Sequence[int], size_px: int) -> Array:
    contract = InputContract(
        size_px=(size_px, size_px),
        resize_px=size_px,
        interpolation="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return prepare_batch(images, numbers, contract)

"""Who is trained on, who is held out, whose label is hidden: pure functions of a seed and the images' own bytes.

Nothing is drawn from a random stream. Each image gets a rank, the sha256 of seed, purpose and its own sha256, and the lowest
ranks are taken. So a split depends neither on file names nor on the order of listing, adding an image moves few others, and
copies of an image always stay on the same side.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.core.contracts import UNKNOWN_LABEL, Sample
from edgekd.core.errors import DataError
from edgekd.core.records import canonical_json

SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An image that can be used: its id, class index or `UNKNOWN_LABEL`, digest, and where its bytes are.

    `offset` and `size_bytes` say where in `file` it stands, if the file holds more than one image.
    """

    id: str
    label: int
    sha256: str
    file: str
    offset: int = 0
    size_bytes: int = 0


def hold_out(images: Sequence[Found], *, fraction: float, seed: int, classes: Sequence[str]) -> tuple[list[Found], list[Found]]:
    """Return (training images, validation images): of each class the share `fraction`, but at least one image on each side.

    Images without a label stay in training. Raises `DataError` if a class has fewer than two different images.
    """
    owned: dict[int, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for image in images:
        if image.label != UNKNOWN_LABEL and image.sha256 not in seen:
            seen.add(image.sha256)
            owned[image.label].append(image.sha256)
    single = [name for label, name in enumerate(classes) if len(owned[label]) < 2]
    if single:
        raise DataError(
            f"`val_fraction` needs at least two different images in each class; there are fewer in {listed(single)}",
            mend="add images, leave these classes out with `classes`, or give a validation set with `val`",
        )
    held: set[str] = set()
    for sha256s in owned.values():
        count = min(max(1, round(fraction * len(sha256s))), len(sha256s) - 1)
        held.update(sorted(sha256s, key=lambda sha256: rank(seed, "validation", sha256))[:count])
    train = [image for image in images if image.label == UNKNOWN_LABEL or image.sha256 not in held]
    val = [image for image in images if image.label != UNKNOWN_LABEL and image.sha256 in held]
    return train, val


def hide_labels(
    images: Sequence[Found], *, per_class: int, seed: int, classes: Sequence[str]
) -> tuple[list[Found], list[Found]]:
    """Return (images that keep their label, images whose label is hidden): `per_class` of each class keep it.

    Raises `DataError` if a class has fewer than `per_class` images.
    """
    by_label: dict[int, list[Found]] = defaultdict(list)
    for image in images:
        by_label[image.label].append(image)
    small = [f"{name} ({len(by_label[label])})" for label, name in enumerate(classes) if len(by_label[label]) < per_class]
    if small:
        raise DataError(
            f"`labels_per_class: {per_class}` is more than there are labelled training images in {listed(small)}",
            mend="lower `labels_per_class` or add labelled images",
        )
    kept = draw(images, count=lambda _: per_class, seed=seed)
    return [image for image in images if image.id in kept], [image for image in images if image.id not in kept]


def draw(images: Iterable[Found | Sample], *, count: Callable[[int], int], seed: int) -> set[str]:
    """Return the ids of `count(n)` of the n images of each class; a smaller draw of the same seed is part of a larger one."""
    by_label: dict[int, list[Found | Sample]] = defaultdict(list)
    for image in images:
        by_label[image.label].append(image)
    drawn: set[str] = set()
    for members in by_label.values():
        members.sort(key=lambda image: rank(seed, "label", image.sha256 + image.id))
        drawn.update(image.id for image in members[: count(len(members))])
    return drawn


def share_of(fraction: float) -> Callable[[int], int]:
    """Return n -> the share `fraction` of n, rounded, but at least 1."""
    return lambda n: max(1, round(fraction * n))


def refuse_leaks(train: Iterable[Found], val: Sequence[Found]) -> None:
    """Raise `DataError` naming the validation images whose bytes are also in training."""
    in_train = {image.sha256: image.id for image in train}
    pairs = [f"{in_train[image.sha256]} = {image.id}" for image in val if image.sha256 in in_train]
    if pairs:
        raise DataError(
            f"{len(pairs)} of {len(val)} validation images are also training images, byte for byte:{lines(pairs)}",
            mend="take them out of one of the two, or set `allow_leaks: true` and trust the accuracy less",
        )


def refuse_duplicates(images: Iterable[Found]) -> None:
    """Raise `DataError` naming the ids that stand for more than one image."""
    twice = [f"{name} ({count} times)" for name, count in Counter(image.id for image in images).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} image names are not unique:{lines(sorted(twice))}", mend="give every image its own name")


def digest(sets: Mapping[str, Sequence[Found]], classes: Sequence[str]) -> str:
    """Return the sha256 over the classes and, sorted, each image's id, label (or none), split and the sha256 of its bytes."""
    total = hashlib.sha256(canonical_json(list(classes)))
    rows = sorted((image.id, image.label, split, image.sha256) for split, images in sets.items() for image in images)
    for row in rows:
        total.update(canonical_json(row))
    return total.hexdigest()


def rank(seed: int, purpose: str, key: str) -> bytes:
    """Return where `key` stands in the seeded order for a purpose."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{key}".encode()).digest()


def listed(words: Sequence[str]) -> str:
    """Return `a, b and 3 more`."""
    return _shortened(words, ", ", " and {} more")


def lines(words: Sequence[str]) -> str:
    """Return the words on indented lines of their own, the last one `and 3 more`."""
    return "\n    " + _shortened(words, "\n    ", "\n    and {} more")


def _shortened(words: Sequence[str], separator: str, more: str) -> str:
    rest = len(words) - SHOWN
    return separator.join(words[:SHOWN]) + (more.format(rest) if rest > 0 else "")

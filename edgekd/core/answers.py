"""Every image's answer, from predictions.csv into a report and out of it again."""

import array
import base64
import csv
import hashlib
import math
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from edgekd.core import stats
from edgekd.core.errors import IntegrityError
from edgekd.core.records import Accuracy, Answers, Calibration
from edgekd.core.store import checked_file

_Row = dict[str, str]


def answers_of(of: str, accuracy: Accuracy, *, folder: Path) -> Answers:
    """Return a model's answers as its predictions.csv holds them; raise `IntegrityError` if the file is not the record's."""
    path = checked_file(accuracy.predictions, folder=folder)
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["label"], row["image"]))
    right = [row["label"] == row["top1"] for row in rows]
    if len({row["image"] for row in rows}) != accuracy.images or sum(right) != accuracy.top1_correct:
        raise IntegrityError(f"{path}: does not add up to its record ({accuracy.top1_correct} of {accuracy.images})")
    images = [(row["label"], row["image"]) for row in rows]
    try:
        return pack(
            of,
            images,
            right,
            top5=None if accuracy.top5_correct is None else [row["top5_hit"] == "1" for row in rows],
            nll=_floats(rows, "nll"),
            brier=_floats(rows, "brier"),
            confidences=_floats(rows, "confidence"),
        )
    except ValueError as error:
        raise IntegrityError(f"{path}: holds something that is no answer: {error}") from error


def pack(
    of: str,
    images: Sequence[tuple[str, str]],
    right: Sequence[bool],
    *,
    top5: Sequence[bool] | None = None,
    nll: Sequence[float] | None = None,
    brier: Sequence[float] | None = None,
    confidences: Sequence[float] | None = None,
) -> Answers:
    """Return the answers of a model to images, given as (label, id) in ascending order."""
    counts = {label: sum(1 for _ in group) for label, group in groupby(images, key=lambda image: image[0])}
    return Answers(
        of=of,
        images=len(images),
        images_digest=hashlib.sha256("\0".join(f"{label}\0{image}" for label, image in images).encode()).hexdigest(),
        classes=tuple(counts),
        class_images=tuple(counts.values()),
        right=_bits(right),
        top5=None if top5 is None else _bits(top5),
        nll=None if nll is None else _packed(nll),
        brier=None if brier is None else _packed(brier),
        calibration=None if confidences is None else _calibration(confidences, right),
    )


def right_of(answers: Answers) -> list[bool]:
    """Return image by image whether the first answer was right."""
    return _unpacked(answers.right, answers)


def top5_of(answers: Answers) -> list[bool] | None:
    """Return image by image whether the right answer was among the first five; None where that says nothing."""
    return None if answers.top5 is None else _unpacked(answers.top5, answers)


def losses_of(packed: str | None, answers: Answers) -> list[float] | None:
    """Return `answers.nll` or `answers.brier` image by image; None where probabilities were not recorded."""
    if packed is None:
        return None
    values = array.array("f")
    try:
        values.frombytes(base64.b64decode(packed, validate=True))
    except ValueError as error:
        raise IntegrityError(f"the answers of {answers.of} are not readable: {error}") from error
    if sys.byteorder == "big":
        values.byteswap()
    if len(values) != answers.images or not all(map(math.isfinite, values)):
        raise IntegrityError(f"the answers of {answers.of} do not hold one loss for each of {answers.images} images")
    return list(values)


def _calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration | None:
    if not confidences or not all(0 <= value <= 1 for value in confidences):
        return None  # a model that answered NaN has no confidence
    ece, mean, p99 = stats.calibration_error(confidences, right)
    return Calibration(ece=ece, noise_mean=mean, noise_p99=p99)


def _floats(rows: Sequence[_Row], column: str) -> list[float] | None:
    if not rows or any(not row.get(column) for row in rows):
        return None  # predictions that an older edgekd wrote
    return [float(row[column]) for row in rows]


def _packed(values: Sequence[float]) -> str:
    packed = array.array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def _bits(flags: Sequence[bool]) -> str:
    padded = "".join("1" if flag else "0" for flag in flags).ljust(-(-len(flags) // 4) * 4, "0")
    return f"{int(padded, 2):0{len(padded) // 4}x}" if padded else ""


def _unpacked(digits: str, answers: Answers) -> list[bool]:
    try:
        bits = "".join(f"{int(digit, 16):04b}" for digit in digits)
    except ValueError as error:
        raise IntegrityError(f"the answers of {answers.of} are not readable: {error}") from error
    if len(digits) != -(-answers.images // 4):
        raise IntegrityError(f"the answers of {answers.of} do not hold one bit for each of {answers.images} images")
    return [bit == "1" for bit in bits[: answers.images]]

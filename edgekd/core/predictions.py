"""Every image's answer, as a CSV file that both sides of a comparison are read from."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.contracts import Sample
from edgekd.core.errors import IntegrityError
from edgekd.core.records import Accuracy
from edgekd.core.store import checked_file, file_ref, write_text

if TYPE_CHECKING:
    import numpy as np

FILE = "predictions.csv"
COLUMNS = ("image", "label", "top1", "confidence", "top5_hit")


def write_predictions(
    logits_NK: "np.ndarray[Any, Any]", samples: Sequence[Sample], classes: tuple[str, ...], folder: Path
) -> Accuracy:
    """Count right answers, write `predictions.csv` into `folder`, and return the counts.

    Top-5 is None (and `top5_hit` empty) with five classes or fewer, where it says nothing. The first of equal logits wins; a
    row with a non-finite logit is wrong.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        logits_NK = logits_NK.astype(np.float64)
        finite_N = np.isfinite(logits_NK).all(axis=1)
        shifted_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        confidence_N = shifted_NK.max(axis=1) / shifted_NK.sum(axis=1)
    order_NK = np.argsort(-logits_NK, axis=1, kind="stable")
    label_N = np.array([sample.label for sample in samples])
    right_N = (order_NK[:, 0] == label_N) & finite_N
    has_top5 = len(classes) > 5
    hit_N = (order_NK[:, :5] == label_N[:, None]).any(axis=1) & finite_N
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for i, sample in enumerate(samples):
        top1 = classes[order_NK[i, 0]] if finite_N[i] else ""
        hit = int(hit_N[i]) if has_top5 else ""
        rows.writerow([sample.id, classes[sample.label], top1, f"{confidence_N[i]:.6f}", hit])
    write_text(folder / FILE, text.getvalue())
    return Accuracy(
        images=len(samples),
        top1_correct=int(right_N.sum()),
        top5_correct=int(hit_N.sum()) if has_top5 else None,
        predictions=file_ref(folder / FILE, folder=folder),
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An image's label and a model's first answer, both by name; `said` is empty where a logit was not finite."""

    label: str
    said: str

    @property
    def right(self) -> bool:
        """Return whether the answer is the label."""
        return self.said == self.label


def read_answers(accuracy: Accuracy, *, folder: Path) -> dict[str, Answer]:
    """Return image id -> answer; raise `IntegrityError` if the file is not the record's or does not add up to it."""
    path = checked_file(accuracy.predictions, folder=folder)
    with path.open(encoding="utf-8", newline="") as file:
        answers = {row["image"]: Answer(label=row["label"], said=row["top1"]) for row in csv.DictReader(file)}
    if len(answers) != accuracy.images or sum(answer.right for answer in answers.values()) != accuracy.top1_correct:
        raise IntegrityError(f"{path}: does not add up to its record ({accuracy.top1_correct} of {accuracy.images})")
    return answers


def read_right(accuracy: Accuracy, *, folder: Path) -> dict[str, bool]:
    """Return image id -> was the first answer right; raise `IntegrityError` if the file is not the record's."""
    return {image: answer.right for image, answer in read_answers(accuracy, folder=folder).items()}

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

    Logits = np.ndarray[Any, Any]

FILE = "predictions.csv"
COLUMNS = ("image", "label", "top1", "confidence", "top5_hit", "nll", "brier")
MOST_NLL = 100.0
"""What an answer costs at most, in nats: a probability of zero, or a row with NaN, is this wrong and no more."""


def write_predictions(logits_NK: "Logits", samples: Sequence[Sample], classes: tuple[str, ...], folder: Path) -> Accuracy:
    """Count right answers, write `predictions.csv` into `folder`, and return the counts.

    Top-5 is None (and `top5_hit` empty) with five classes or fewer, where it says nothing. The first of equal logits wins; a
    row with a non-finite logit is wrong. `nll` is -ln of the label's probability (at most `MOST_NLL`), `brier` the sum over the
    classes of (probability - label) squared (Brier 1950), 0 to 2.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        logits_NK = logits_NK.astype(np.float64)
        finite_N = np.isfinite(logits_NK).all(axis=1)
        shifted_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        confidence_N = shifted_NK.max(axis=1) / shifted_NK.sum(axis=1)
    nll_N, brier_N = _losses(logits_NK, np.array([sample.label for sample in samples]), finite_N)
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
        losses = f"{nll_N[i]:.9g}", f"{brier_N[i]:.9g}"
        rows.writerow([sample.id, classes[sample.label], top1, f"{confidence_N[i]:.6f}", hit, *losses])
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


def _losses(logits_NK: "Logits", label_N: "Logits", finite_N: "Logits") -> "tuple[Logits, Logits]":
    """Return each row's negative log-likelihood and Brier score as float32; the worst for a row that is not finite."""
    import numpy as np

    safe_NK = np.where(finite_N[:, None], logits_NK, 0.0)
    shifted_NK = safe_NK - safe_NK.max(axis=1, keepdims=True)
    log_NK = shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    nll_N = -np.take_along_axis(log_NK, label_N[:, None], axis=1)[:, 0]
    hot_NK = np.arange(logits_NK.shape[1])[None, :] == label_N[:, None]
    brier_N = ((np.exp(log_NK) - hot_NK) ** 2).sum(axis=1)
    capped_N = np.where(finite_N, np.clip(nll_N, 0.0, MOST_NLL), MOST_NLL)
    return capped_N.astype(np.float32), np.where(finite_N, brier_N, 2.0).astype(np.float32)

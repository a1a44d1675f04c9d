"""Every image's answer in a report: packed without loss, read back, and refused where it was changed."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from edgekd.core import answers
from edgekd.core.contracts import Sample
from edgekd.core.errors import IntegrityError
from edgekd.core.predictions import MOST_NLL, write_predictions
from edgekd.core.store import file_ref

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def predicted(folder: Path, logits_NK: np.ndarray) -> tuple:
    """Write the predictions of logits over images whose labels go round, and return the counts and the labels."""
    labels = [i % len(CLASSES) for i in range(len(logits_NK))]
    samples = [Sample(id=f"{i:03d}.jpg", label=label, locator=None) for i, label in enumerate(labels)]
    return write_predictions(logits_NK, samples, CLASSES, folder), labels


def test_answers_come_out_of_a_file_of_predictions(tmp_path: Path) -> None:
    """Right or wrong, among the first five, likelihood and Brier score against scipy, in the order of (label, image)."""
    logits_NK = np.random.default_rng(0).normal(0, 3, (50, 6))
    accuracy, labels = predicted(tmp_path, logits_NK)
    found = answers.answers_of("student", accuracy, folder=tmp_path)
    order = sorted(range(50), key=lambda i: (CLASSES[labels[i]], f"{i:03d}.jpg"))
    top = logits_NK.argmax(axis=1)
    assert answers.right_of(found) == [bool(top[i] == labels[i]) for i in order]
    assert answers.top5_of(found) == [bool(labels[i] in np.argsort(-logits_NK[i])[:5]) for i in order]
    nll = -log_softmax(logits_NK, axis=1)
    assert answers.losses_of(found.nll, found) == pytest.approx([nll[i, labels[i]] for i in order], rel=1e-6)
    hot = np.eye(6)[labels]
    brier = ((softmax(logits_NK, axis=1) - hot) ** 2).sum(axis=1)
    assert answers.losses_of(found.brier, found) == pytest.approx([brier[i] for i in order], rel=1e-5, abs=1e-7)
    assert (found.classes, sum(found.class_images)) == (CLASSES, 50)
    assert found.calibration is not None


def test_a_row_that_is_not_finite_costs_the_most(tmp_path: Path) -> None:
    """NaN is wrong, as unlikely as it gets, and has no confidence."""
    logits_NK = np.zeros((6, 6))
    logits_NK[2, 0] = math.nan
    logits_NK[3, 3] = -1e9
    accuracy, _ = predicted(tmp_path, logits_NK)
    found = answers.answers_of("x", accuracy, folder=tmp_path)
    even = math.log(6)
    assert answers.losses_of(found.nll, found) == pytest.approx([even, even, MOST_NLL, MOST_NLL, even, even])
    assert answers.losses_of(found.brier, found)[2] == 2.0
    assert found.calibration is None


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_bits_come_back_as_they_were(flags: list[bool]) -> None:
    """Whatever their number."""
    packed = answers.pack("m", [("a", f"{i:03d}") for i in range(len(flags))], flags, top5=flags)
    assert answers.right_of(packed) == answers.top5_of(packed) == flags


def test_the_digest_is_of_ids_and_labels_in_their_order() -> None:
    """The same images have the same one; another label or id has not."""
    images = [("a", "1"), ("b", "2")]
    same = answers.pack("m", images, [True, False]).images_digest
    assert answers.pack("other", images, [False, False]).images_digest == same
    for other in ([("a", "1"), ("a", "2")], [("a", "1"), ("b", "3")]):
        assert answers.pack("m", other, [True, False]).images_digest != same


@pytest.mark.parametrize(
    "change", [{"right": "xx"}, {"right": "f"}, {"nll": "!"}, {"nll": "AAAA"}, {"nll": "AADAfwAAAAAAAAAA"}]
)
def test_answers_that_were_changed_are_refused(change: dict) -> None:
    """Digits that are none, too few, losses that are not numbers."""
    packed = answers.pack("m", [("a", f"{i}") for i in range(7)], [True] * 7, nll=[0.5] * 7).model_copy(update=change)
    with pytest.raises(IntegrityError, match="the answers of m"):
        _ = answers.right_of(packed), answers.losses_of(packed.nll, packed)


@pytest.mark.parametrize(("old", "new"), [("1.79", "1.80"), (",ant,", ",bee,"), ("000.jpg", "001.jpg")])
def test_predictions_that_are_not_the_records_are_refused(tmp_path: Path, old: str, new: str) -> None:
    """A changed byte, and a file that does not add up though its digest is right."""
    accuracy, _ = predicted(tmp_path, np.eye(6))
    path = tmp_path / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if old in text else text + "\n")
    with pytest.raises(IntegrityError):
        answers.answers_of("m", accuracy, folder=tmp_path)
    forged = accuracy.model_copy(update={"predictions": file_ref(path, folder=tmp_path), "top1_correct": 4})
    with pytest.raises(IntegrityError, match="does not add up"):
        answers.answers_of("m", forged, folder=tmp_path)


def test_predictions_with_a_word_for_a_number_are_refused(tmp_path: Path) -> None:
    """What cannot be read is told, not passed over."""
    accuracy, _ = predicted(tmp_path, np.eye(6))
    path = tmp_path / "predictions.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ",much"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match="no answer"):
        answers.answers_of("m", accuracy.model_copy(update={"predictions": file_ref(path, folder=tmp_path)}), folder=tmp_path)


def test_older_predictions_have_no_losses(tmp_path: Path) -> None:
    """Without the columns nothing is made up."""
    accuracy, _ = predicted(tmp_path, np.eye(6))
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join(",".join(line.split(",")[:5]) for line in path.read_text().splitlines()) + "\n")
    older = accuracy.model_copy(update={"predictions": file_ref(path, folder=tmp_path)})
    found = answers.answers_of("m", older, folder=tmp_path)
    assert (found.nll, found.brier) == (None, None)
    assert answers.losses_of(found.nll, found) is None

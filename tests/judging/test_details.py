"""What the pages show beside the figures: counted by hand on small sets of answers."""

import base64
import json
from typing import Any

import pytest

from edgekd.core.errors import IntegrityError
from edgekd.core.predictions import Answer
from edgekd.core.records import Checkpoint, MadeBy
from edgekd.core.store import file_ref
from edgekd.judging.details import MOST_CLASSES, change_of
from edgekd.judging.formats._plots import front
from edgekd.judging.stage import make_report

JPEG = base64.b64encode(b"\xff\xd8\xff rest \xff\xd9").decode()


def answers(**said: str) -> dict[str, Answer]:
    """Return answers; `cat_1="dog"` is an image of a cat that was called a dog."""
    return {image: Answer(label=image.partition("_")[0], said=says) for image, says in said.items()}


BEFORE = answers(cat_1="cat", cat_2="cat", cat_3="dog", dog_1="cat", dog_2="dog", emu_1="emu", emu_2="cat")
NOW = answers(cat_1="dog", cat_2="emu", cat_3="cat", dog_1="dog", dog_2="dog", emu_1="emu", emu_2="dog")


def test_classes_are_counted_on_the_same_images_and_the_worst_comes_first() -> None:
    """Cats lost two and won one, dogs won one; an emu called otherwise, but wrong as before, is no change."""
    change = change_of(NOW, BEFORE, subject="student", against="baseline")
    cat, dog = change.classes
    assert (cat.name, cat.images, cat.right, cat.right_before, cat.only_now, cat.only_before) == ("cat", 3, 1, 2, 1, 2)
    assert (dog.name, dog.images, dog.right, dog.right_before, dog.only_now, dog.only_before) == ("dog", 2, 2, 1, 1, 0)
    assert cat.difference == pytest.approx(-1 / 3)


def test_p_values_are_corrected_for_the_number_of_classes() -> None:
    """Ten lost of ten is 2 / 2^10 alone, and three times that among three classes; the next has the factor two."""
    before = {f"{name}_{i}": "yes" for name in "abc" for i in range(10)}
    said = {"a": 10, "b": 8, "c": 0}
    now = {image: "no" if int(image[2:]) < said[image[0]] else "yes" for image in before}

    def as_answers(of: dict[str, str]) -> dict[str, Answer]:
        return {image: Answer(label=image[0], said=image[0] if says == "yes" else "x") for image, says in of.items()}

    a, b = change_of(as_answers(now), as_answers(before), subject="s", against="b").classes
    assert (a.name, a.p_value) == ("a", pytest.approx(3 * 2 / 2**10))
    assert (b.name, b.p_value) == ("b", pytest.approx(2 * 2 / 2**8))


def test_images_that_only_one_answered_do_not_count() -> None:
    """A comparison is of what both saw."""
    change = change_of(answers(cat_1="cat", cat_9="cat"), answers(cat_1="dog"), subject="s", against="b")
    assert [(one.images, one.right) for one in change.classes] == [(1, 1)]


def test_of_many_classes_the_worst_and_the_best_are_kept() -> None:
    """A thousand classes do not make a page of a thousand rows."""
    before = {f"{i}_{k}": Answer(label=str(i), said=str(i) if k < 50 else "x") for i in range(100) for k in range(100)}
    now = {f"{i}_{k}": Answer(label=str(i), said=str(i) if k < i else "x") for i in range(100) for k in range(100)}
    kept = [one.name for one in change_of(now, before, subject="s", against="b").classes]
    assert kept == [str(i) for i in (*range(20), *range(80, 100))]
    assert len(kept) == MOST_CLASSES


def teach(run: Any) -> None:
    """Have the teacher answer as the student does."""
    folder = run.folder.checkpoint().parent
    student = Checkpoint.from_json(run.folder.checkpoint().read_bytes())
    (folder / "teacher-0").mkdir()
    said = folder / "teacher-0" / "predictions.csv"
    said.write_bytes((folder / "predictions.csv").read_bytes())
    accuracy = student.accuracy.model_copy(update={"predictions": file_ref(said, folder=folder)})
    run.write_student_record(teachers=(student.teachers[0].model_copy(update={"accuracy": accuracy}),))


def test_a_runs_details_are_read_from_its_files(run: Any, answered: Any) -> None:
    """Student against baseline, each artifact against the student, and the pictures of its flips with everybody's answer."""
    teach(run)
    folder = run.folder.artifact("onnxruntime-fp32").parent
    pictures = [{"image": "val/0000.jpg", "jpeg": JPEG}, {"image": "val/0031.jpg", "jpeg": ""}, {"image": "other", "jpeg": ""}]
    (folder / "flips.json").write_text(json.dumps(pictures))
    right = answered(30) | {"val/0000.jpg": False, "val/0031.jpg": True}
    run.write_artifact(right=right, flips=file_ref(folder / "flips.json", folder=folder))
    run.write_measurement()
    details = make_report(recipe_name="r", run=run.folder, artifacts=None, made_by=MadeBy(version="1")).details
    assert [(change.subject, change.against) for change in details.changes] == [
        ("student", "baseline"),
        ("onnxruntime-fp32", "student"),
    ]
    (ketch,) = details.changes[1].classes
    assert (ketch.right, ketch.right_before, ketch.only_now, ketch.only_before) == (30, 30, 1, 1)
    assert details.flipped == 2
    assert list(details.fingerprints) == ["local"]
    first, second = details.shown
    assert (first.image, first.label, first.jpeg) == ("val/0000.jpg", "ketch", JPEG)
    assert [(answer.who, answer.right) for answer in first.answers] == [
        ("teacher vit_tiny_patch16_224", True),
        ("student", True),
        ("onnxruntime-fp32", False),
    ]
    assert (second.image, second.jpeg) == ("val/0031.jpg", "")


def test_pictures_that_were_exchanged_stop_the_report(run: Any) -> None:
    """As any other file of a run."""
    folder = run.folder.artifact("onnxruntime-fp32").parent
    (folder / "flips.json").write_text("[]")
    run.write_artifact(flips=file_ref(folder / "flips.json", folder=folder))
    run.write_measurement()
    (folder / "flips.json").write_text("[ ]")
    with pytest.raises(IntegrityError):
        make_report(recipe_name="r", run=run.folder, artifacts=None, made_by=MadeBy(version="1"))


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([], []),
        ([(1.0, 0.5)], [(1.0, 0.5)]),
        ([(1.0, 0.5), (2.0, 0.5), (2.0, 0.7), (0.5, 0.2), (3.0, 0.6)], [(0.5, 0.2), (1.0, 0.5), (2.0, 0.7)]),
        ([(1.0, 0.5), (1.0, 0.6)], [(1.0, 0.6)]),
    ],
)
def test_the_front_holds_what_nothing_beats_in_both(points: list, best: list) -> None:
    """Faster and more accurate at once, or as good in one and better in the other, beats a point."""
    assert front(points) == best

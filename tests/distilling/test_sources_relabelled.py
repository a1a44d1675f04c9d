"""Another source's images under a model's classes."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError
from edgekd.distilling.sources.relabelled import Relabelled
from edgekd.testing import TinySource

LINES = "0\tx\tother\n1\ty\tclass_2\n2\tz\tclass_0\n3\tclass_1\tthird\n"


def relabelled(folder: Path, text: str = LINES, **options: int) -> Relabelled:
    (folder / "classes.tsv").write_text(text)
    return Relabelled(source=TinySource(unlabelled_images=2, **options), classes=folder / "classes.tsv")


def test_labels_become_the_lines_that_name_them(tmp_path: Path) -> None:
    """The pixels, ids and order stay; a class without images is one of the model's all the same."""
    source, within = relabelled(tmp_path), TinySource(unlabelled_images=2)
    assert source.classes == ("other", "class_2", "class_0", "third")
    for ours, theirs in [(source.train(), within.train()), (source.val(), within.val())]:
        assert [s.label for s in ours.samples] == [[2, 3, 1][s.label] for s in theirs.samples]
        assert [s.id for s in ours.samples] == [s.id for s in theirs.samples]
        np.testing.assert_array_equal(ours.load(1), theirs.load(1))
    assert [s.label for s in source.unlabelled().samples] == [UNKNOWN_LABEL] * 2
    assert len(source.calibration(5)) == 5
    assert source.val().samples[1:3] == [source.val().samples[1], source.val().samples[2]]


def test_facts_and_digest_are_of_images_and_classes(tmp_path: Path) -> None:
    """Other images, other names or another order are other data."""
    source = relabelled(tmp_path)
    facts = source.facts()
    assert (facts.classes, facts.digest, facts.validation_images) == (source.classes, source.digest(), 9)
    digest = source.digest()
    assert relabelled(tmp_path).digest() == digest
    swapped = LINES.replace("class_2", "?").replace("class_0", "class_2").replace("?", "class_0")
    assert len({digest, relabelled(tmp_path, seed=1).digest(), relabelled(tmp_path, swapped).digest()}) == 3


def test_its_identity_is_that_of_the_file_and_the_source_within(tmp_path: Path) -> None:
    """Not where the file lies."""
    (tmp_path / "sub").mkdir()
    assert relabelled(tmp_path).identity() == relabelled(tmp_path / "sub").identity()
    assert relabelled(tmp_path).identity() != relabelled(tmp_path, seed=1).identity()


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\nb\n", "none of its lines is called"), ("class_0\tclass_1\nclass_2\tx\n", "are the same line")],
)
def test_classes_that_cannot_be_told_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """A missing one, and two that would be one."""
    with pytest.raises(DataError, match=said):
        relabelled(tmp_path, text).digest()

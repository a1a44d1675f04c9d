"""distilling/splits.py: seeded, stratified, independent of names, and honest about copies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError
from edgekd.distilling import splits
from edgekd.distilling.splits import Found

CLASSES = ("a", "b", "c")


def image(number: int, label: int, sha256: str | None = None) -> Found:
    return Found(id=f"train/{number}", label=label, sha256=sha256 or f"{label}-{number}", file="f")


def hold_out(images, fraction=0.25, seed=0, classes=CLASSES):
    return splits.hold_out(images, fraction=fraction, seed=seed, classes=classes)


many = st.lists(st.integers(2, 30), min_size=3, max_size=3).map(
    lambda counts: [image(100 * label + number, label) for label, count in enumerate(counts) for number in range(count)]
)


class TestHoldOut:
    @given(many, st.floats(0.01, 0.99), st.integers(0, 5))
    def test_every_class_is_on_both_sides(self, images, fraction, seed):
        """Each image is on one side; each class has round(n * fraction) in validation, at least 1 and at most n - 1."""
        train, val = hold_out(images, fraction, seed)
        assert sorted(found.id for found in [*train, *val]) == sorted(found.id for found in images)
        for label in range(3):
            size = sum(found.label == label for found in images)
            held = sum(found.label == label for found in val)
            assert held == min(max(1, round(fraction * size)), size - 1)

    @given(many, st.randoms(use_true_random=False))
    def test_names_and_order_do_not_matter(self, images, shuffler):
        """Renamed and listed in another order, the same bytes are held out."""
        renamed = [replace(found, id=f"x/{number}") for number, found in enumerate(images)]
        shuffler.shuffle(renamed)
        assert {found.sha256 for found in hold_out(images)[1]} == {found.sha256 for found in hold_out(renamed)[1]}

    @given(many)
    def test_copies_stay_together(self, images):
        """A byte-for-byte copy is on the same side as its original, also under another label."""
        copies = [
            replace(found, id=f"{found.id}-copy", label=(found.label + number % 2) % 3) for number, found in enumerate(images)
        ]
        train, val = hold_out([*images, *copies])
        assert not {found.sha256 for found in train} & {found.sha256 for found in val}

    def test_the_seed_decides(self):
        """Another seed holds out other images; the same seed the same."""
        images = [image(number, number % 3) for number in range(60)]
        assert hold_out(images, seed=1) == hold_out(images, seed=1)
        assert hold_out(images, seed=1)[1] != hold_out(images, seed=2)[1]

    def test_images_without_a_label_stay_in_training(self):
        """They could not be judged."""
        images = [*(image(number, number % 3) for number in range(9)), image(99, UNKNOWN_LABEL)]
        train, val = hold_out(images)
        assert any(found.id == "train/99" for found in train)
        assert all(found.label != UNKNOWN_LABEL for found in val)

    def test_a_class_with_one_image_cannot_be_split(self):
        """The message names the classes and how to mend it; two copies of one image count as one."""
        images = [image(1, 0), image(2, 0), image(3, 1), image(4, 2, "same"), image(5, 2, "same")]
        with pytest.raises(DataError, match=r"fewer in b, c\n") as caught:
            hold_out(images)
        assert "`val`" in caught.value.mend


class TestHideLabels:
    @given(many, st.integers(0, 3))
    def test_each_class_keeps_so_many(self, images, seed):
        """`per_class` of each class keep their label, the rest does not, and nobody is lost."""
        kept, hidden = splits.hide_labels(images, per_class=2, seed=seed, classes=CLASSES)
        assert [sum(found.label == label for found in kept) for label in range(3)] == [2, 2, 2]
        assert sorted(found.id for found in [*kept, *hidden]) == sorted(found.id for found in images)

    def test_more_labels_contain_the_fewer(self):
        """With the same seed, the images labelled for 2 per class are among those for 4."""
        images = [image(number, number % 3) for number in range(30)]
        few = splits.hide_labels(images, per_class=2, seed=3, classes=CLASSES)[0]
        more = splits.hide_labels(images, per_class=4, seed=3, classes=CLASSES)[0]
        assert {found.id for found in few} < {found.id for found in more}

    def test_a_smaller_class_is_told(self):
        """Every class that is too small is named with its size."""
        images = [*(image(number, 0) for number in range(5)), image(10, 1), image(11, 2), image(12, 2)]
        with pytest.raises(DataError, match=r"labels_per_class: 3.* b \(1\), c \(2\)"):
            splits.hide_labels(images, per_class=3, seed=0, classes=CLASSES)


class TestLeaksAndDuplicates:
    def test_the_same_bytes_on_both_sides_are_told(self):
        """Every leaking pair is listed, up to 20 and how many more."""
        train = [image(number, 0, f"s{number}") for number in range(30)]
        val = [replace(found, id=found.id.replace("train", "val")) for found in train[:25]]
        with pytest.raises(DataError) as caught:
            splits.refuse_leaks(train, [*val, image(99, 1)])
        text = str(caught.value)
        assert "25 of 26 validation images" in text
        assert "train/3 = val/3" in text
        assert "and 5 more" in text
        assert "train/20 = " not in text
        assert "allow_leaks: true" in text

    def test_different_bytes_are_no_leak(self):
        """Nothing is raised."""
        splits.refuse_leaks([image(1, 0)], [image(2, 0)])

    def test_one_id_for_two_images_is_told(self):
        """Ids must be unique, for everything that is remembered about an image goes by its id."""
        with pytest.raises(DataError, match=r"1 image names are not unique:\n    train/1 \(2 times\)"):
            splits.refuse_duplicates([image(1, 0), image(2, 0), image(1, 1)])


class TestDigest:
    IMAGES = (image(1, 0), image(2, 1))

    def test_order_does_not_matter(self):
        """The digest is over the sorted images."""
        first, second = self.IMAGES
        assert splits.digest({"train": [first, second]}, CLASSES) == splits.digest({"train": [second, first]}, CLASSES)

    @pytest.mark.parametrize(
        "sets",
        [
            {"train": [replace(IMAGES[0], id="other"), IMAGES[1]]},
            {"train": [replace(IMAGES[0], label=1), IMAGES[1]]},
            {"train": [replace(IMAGES[0], label=UNKNOWN_LABEL), IMAGES[1]]},
            {"train": [replace(IMAGES[0], sha256="other"), IMAGES[1]]},
            {"train": [IMAGES[0]], "val": [IMAGES[1]]},
            {"train": [IMAGES[0]]},
        ],
    )
    def test_every_fact_matters(self, sets):
        """An id, a label, a hidden label, bytes, a split or a missing image each change it."""
        assert splits.digest(sets, CLASSES) != splits.digest({"train": list(self.IMAGES)}, CLASSES)

    def test_where_the_file_lies_does_not_matter(self):
        """A moved data set is the same data set; a renamed class is not."""
        here = {"train": list(self.IMAGES)}
        there = {"train": [replace(found, file="elsewhere", offset=512) for found in self.IMAGES]}
        assert splits.digest(here, CLASSES) == splits.digest(there, CLASSES)
        assert splits.digest(here, CLASSES) != splits.digest(here, ("a", "b", "d"))

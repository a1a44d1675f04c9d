"""The folder source, and through it what all built-in sources have in common."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core import parts
from edgekd.core.config import read_yaml, validate
from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError, UsageError
from edgekd.core.records import Quarantined

Folder = parts.load("source", "folder")


@pytest.fixture
def root(tmp_path, class_folders) -> Path:
    """Return a folder with `train` (cat 6, dog 4) and `val` (cat 2, dog 2)."""
    class_folders(tmp_path / "train", {"cat": 6, "dog": 4})
    class_folders(tmp_path / "val", {"cat": 2, "dog": 2}, seed=7)
    return tmp_path


def source(root: Path, **options):
    return Folder(**{"train": root / "train", "val": root / "val"} | options)


def ids(images) -> list[str]:
    return [sample.id for sample in images.samples]


def refused(source) -> str:
    """Return the message with which a source refuses its images."""
    with pytest.raises(DataError) as caught:
        source.facts()
    assert caught.value.exit_code == 2
    return str(caught.value)


class TestClassFolders:
    def test_folders_are_classes_in_the_order_of_their_names(self, root):
        """Classes are sorted by name, labels are indices into them, ids say the split and the path."""
        images = source(root).train()
        assert source(root).classes == ("cat", "dog")
        assert ids(images) == [f"train/cat/00{n}.png" for n in range(6)] + [f"train/dog/00{n}.png" for n in range(4)]
        assert [sample.label for sample in images.samples] == [0] * 6 + [1] * 4
        assert ids(source(root).val()) == ["val/cat/000.png", "val/cat/001.png", "val/dog/000.png", "val/dog/001.png"]

    def test_images_in_subfolders_belong_to_the_class(self, root, draw):
        """cat/indoors/x.png is a cat."""
        (root / "train" / "cat" / "indoors").mkdir()
        (root / "train" / "cat" / "indoors" / "x.png").write_bytes(draw(99))
        sample = source(root).train().samples[6]
        assert (sample.id, sample.label) == ("train/cat/indoors/x.png", 0)

    def test_load_gives_the_pixels(self, root):
        """Image i is the file that its id names."""
        images = source(root).train()
        expected = np.asarray(Image.open(root / images.samples[7].id))
        np.testing.assert_array_equal(images.load(7), expected)

    def test_classes_fix_order_and_choice(self, root, class_folders):
        """With `classes`, indices follow the list and other folders are left out, also in validation."""
        class_folders(root / "more", {"emu": 3, "fox": 2}, seed=3)
        for name in ("emu", "fox"):
            shutil.move(root / "more" / name, root / "train" / name)
        (root / "val" / "emu").mkdir()
        shutil.copy(root / "val" / "cat" / "000.png", root / "val" / "emu" / "zero.png")
        chosen = source(root, classes=("fox", "cat"), allow_leaks=True)
        assert chosen.classes == ("fox", "cat")
        assert {sample.id.split("/")[1]: sample.label for sample in chosen.train().samples} == {"cat": 1, "fox": 0}
        assert ids(chosen.val()) == ["val/cat/000.png", "val/cat/001.png"]

    def test_an_unknown_class_is_refused(self, root):
        """A class in `classes` without a folder is told with the nearest that there is."""
        text = refused(source(root, classes=("cat", "dogs")))
        assert "class dogs is not among the training classes" in text
        assert "Did you mean dog?" in text

    def test_a_validation_class_that_is_not_trained_is_refused(self, root):
        """It could never be answered."""
        (root / "val" / "dog").rename(root / "val" / "cow")
        text = refused(source(root))
        assert "class cow is not among the training classes" in text
        assert "cat, dog" in text

    def test_loose_images_are_refused(self, root, draw):
        """An image beside the class folders has no class; the message offers the three ways to mend it."""
        (root / "train" / "stray.png").write_bytes(draw(55))
        text = refused(source(root))
        assert "1 images are in no class folder:\n    stray.png" in text
        assert "labels_csv" in text
        assert "unlabelled" in text

    def test_an_empty_class_is_refused(self, root):
        """A class folder without images is told, in training and in validation."""
        (root / "train" / "emu").mkdir()
        (root / "train" / ".git").mkdir()
        assert "no image in class folder emu" in refused(source(root))
        (root / "train" / "emu").rmdir()
        (root / "val" / "dog" / "000.png").unlink()
        (root / "val" / "dog" / "001.png").unlink()
        assert "no image in class folder dog" in refused(source(root))


class TestTooLittle:
    def test_a_missing_folder(self, root):
        """The option, the path and how paths are meant are told."""
        text = refused(source(root, val=root / "nowhere"))
        assert text.startswith(f"`val`: {root / 'nowhere'}: no such folder")
        assert "relative to the recipe's folder" in text

    def test_a_file_instead_of_a_folder(self, root):
        """A path to a file is not a folder."""
        assert "is not a folder" in refused(source(root, train=root / "train" / "cat" / "000.png"))

    def test_no_images_at_all(self, root, tmp_path):
        """The suffixes that count are told."""
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "readme.txt").write_text("nothing here")
        text = refused(source(root, train=tmp_path / "empty"))
        assert "no image files there" in text
        assert ".webp" in text

    def test_one_class_only(self, tmp_path, class_folders):
        """There is nothing to tell apart."""
        class_folders(tmp_path / "train", {"cat": 4})
        assert "only one class, cat" in refused(Folder(train=tmp_path / "train", val_fraction=0.25))

    def test_one_image_only(self, tmp_path, class_folders):
        """A single image is refused as such."""
        class_folders(tmp_path / "train", {"cat": 1})
        assert "1 labelled training image;" in refused(Folder(train=tmp_path / "train", val_fraction=0.5))

    def test_a_class_with_one_image_cannot_be_split(self, tmp_path, class_folders):
        """With `val_fraction`, each class needs an image on each side."""
        class_folders(tmp_path / "train", {"cat": 4, "dog": 1})
        assert "there are fewer in dog" in refused(Folder(train=tmp_path / "train", val_fraction=0.25))

    def test_more_labels_than_images(self, root):
        """`labels_per_class` beyond the smallest class is refused."""
        assert "dog (4)" in refused(source(root, labels_per_class=5))

    def test_a_class_whose_images_are_all_bad(self, root):
        """Quarantine does not empty a class in silence."""
        for path in (root / "train" / "dog").iterdir():
            path.write_bytes(b"")
        text = refused(source(root, bad_images="quarantine"))
        assert "no training image in class dog (4 were left out)" in text


class TestBadImages:
    @pytest.fixture
    def damaged(self, root) -> Path:
        """Spoil three images in three folders."""
        (root / "train" / "cat" / "001.png").write_bytes(b"")
        (root / "train" / "dog" / "002.png").write_bytes(b"I am a text\n")
        half = (root / "val" / "cat" / "000.png").read_bytes()[:150]
        (root / "val" / "cat" / "000.png").write_bytes(half)
        return root

    def test_all_are_listed_at_once(self, damaged):
        """By default one error names every bad image, why, and how to leave them out."""
        text = refused(source(damaged))
        assert "3 of 14 images cannot be used" in text
        assert "train/cat/001.png: zero bytes" in text
        assert "train/dog/002.png: not an image that is read here (text;" in text
        assert "val/cat/000.png: truncated" in text
        assert "bad_images: quarantine" in text

    def test_quarantine_leaves_them_out_and_counts_them(self, damaged):
        """The others are used; the record names those left out."""
        quarantined = source(damaged, bad_images="quarantine")
        assert "train/cat/001.png" not in ids(quarantined.train())
        facts = quarantined.facts()
        assert (facts.train_images, facts.validation_images) == (8, 3)
        assert facts.quarantined[0] == Quarantined(image="train/cat/001.png", reason="zero bytes")
        assert [bad.image for bad in facts.quarantined] == ["train/cat/001.png", "train/dog/002.png", "val/cat/000.png"]

    def test_a_long_list_is_cut_at_twenty(self, tmp_path, class_folders):
        """Twenty are shown, the rest is counted."""
        class_folders(tmp_path / "train", {"cat": 30, "dog": 3})
        for path in (tmp_path / "train" / "cat").iterdir():
            path.write_bytes(b"")
        text = refused(Folder(train=tmp_path / "train", val_fraction=0.3))
        assert text.count("zero bytes") == 20
        assert "and 10 more" in text

    def test_an_image_that_changes_during_the_run(self, root):
        """A file that was whole when it was checked and is broken when it is loaded is told with its id."""
        images = source(root).train()
        (root / "train" / "cat" / "000.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"train/cat/000\.png .* now cannot: zero bytes"):
            images.load(0)


class TestSplitting:
    def test_a_share_is_held_out(self, root):
        """With `val_fraction`, each class gives its share; nobody is on both sides; ids stay those of `train`."""
        split = source(root, val=None, val_fraction=0.5)
        assert [sample.label for sample in split.val().samples] == [0, 0, 0, 1, 1]
        assert sorted(ids(split.train()) + ids(split.val())) == ids(source(root).train())

    def test_hidden_labels_make_unlabelled_images(self, root):
        """`labels_per_class` keeps so many labels; the other images are still learned from."""
        few = source(root, labels_per_class=2)
        assert [sample.label for sample in few.train().samples] == [0, 0, 1, 1]
        assert [sample.label for sample in few.unlabelled().samples] == [UNKNOWN_LABEL] * 6
        assert sorted(ids(few.train()) + ids(few.unlabelled())) == ids(source(root).train())
        assert len(few.val()) == 4
        facts = few.facts()
        assert (facts.train_images, facts.labelled_images, facts.validation_images) == (10, 4, 4)

    def test_unlabelled_folders_are_added(self, root, tmp_path, draw):
        """Flat or nested, with any names, in the order given; several folders do not clash."""
        for number, folder in enumerate(("one", "two")):
            (tmp_path / folder / "cat").mkdir(parents=True)
            (tmp_path / folder / "x.png").write_bytes(draw(50 + number))
            (tmp_path / folder / "cat" / "y.png").write_bytes(draw(60 + number))
        more = source(root, unlabelled=(tmp_path / "one", tmp_path / "two"))
        assert ids(more.unlabelled()) == [
            "unlabelled-0/cat/y.png",
            "unlabelled-0/x.png",
            "unlabelled-1/cat/y.png",
            "unlabelled-1/x.png",
        ]
        assert {sample.label for sample in more.unlabelled().samples} == {UNKNOWN_LABEL}
        assert more.unlabelled().load(1).shape == (12, 16, 3)

    def test_leaks_are_refused_or_allowed(self, root):
        """The same bytes in training and validation are an error that names the pair, unless allowed."""
        shutil.copy(root / "train" / "cat" / "003.png", root / "val" / "cat" / "again.png")
        assert "train/cat/003.png = val/cat/again.png" in refused(source(root))
        assert len(source(root, allow_leaks=True).val()) == 5

    def test_unlabelled_images_can_leak_too(self, root):
        """Validation images may not be learned from without their label either."""
        assert "= val/cat/000.png" in refused(source(root, unlabelled=(root / "val",)))

    def test_calibration_is_seeded_and_nested(self, root):
        """`n` training images without labels, the smaller samples inside the larger, labelled or not."""
        few = source(root, labels_per_class=1)
        three, eight = few.calibration(3), few.calibration(8)
        assert ids(three) == ids(source(root, labels_per_class=1).calibration(3))
        assert set(ids(three)) < set(ids(eight))
        assert {sample.label for sample in eight.samples} == {UNKNOWN_LABEL}
        assert set(ids(few.calibration(10))) == set(ids(few.train()) + ids(few.unlabelled()))
        assert ids(source(root, seed=5).calibration(3)) != ids(source(root).calibration(3))
        np.testing.assert_array_equal(three.load(0), np.asarray(Image.open(root / three.samples[0].id)))

    def test_too_many_calibration_images(self, root):
        """More than there are is an error, not a repetition."""
        with pytest.raises(DataError, match="11 calibration images were asked for; there are 10"):
            source(root).calibration(11)


class TestLabelsCsv:
    @pytest.fixture
    def flat(self, tmp_path, draw) -> Path:
        """Return a flat folder with five images and a place for its CSV."""
        (tmp_path / "flat").mkdir()
        for number in range(5):
            (tmp_path / "flat" / f"{number}.png").write_bytes(draw(number))
        return tmp_path

    def write(self, flat: Path, *rows: str, header: str = "file,label") -> Path:
        path = flat / "labels.csv"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    def flat_source(self, flat: Path, *rows: str, **options):
        given = {"header": options.pop("header")} if "header" in options else {}
        return Folder(train=flat / "flat", labels_csv=self.write(flat, *rows, **given), **{"val_fraction": 0.5} | options)

    def test_labels_come_from_the_csv(self, flat):
        """Other columns are ignored; images that are not listed have no label."""
        rows = ["0.png,x,cat", "1.png,y,dog", "2.png,z,cat", '3.png,"a, b",dog']
        labelled = self.flat_source(flat, *rows, header="\ufefffile,note,label")
        assert labelled.classes == ("cat", "dog")
        everything = [*labelled.train().samples, *labelled.val().samples, *labelled.unlabelled().samples]
        assert {sample.id: sample.label for sample in everything} == {
            "train/0.png": 0,
            "train/1.png": 1,
            "train/2.png": 0,
            "train/3.png": 1,
            "train/4.png": UNKNOWN_LABEL,
        }

    def test_every_wrong_line_is_told(self, flat):
        """Missing files, repeated files, empty, unknown and padded labels: one message with line numbers."""
        rows = ["0.png,cat", "nine.png,cat", "0.png,dog", "1.png,", "2.png,Dog", "3.png, dog", "../x.png,cat", "4.png"]
        text = refused(self.flat_source(flat, *rows, classes=("cat", "dog")))
        assert "labels.csv: 7 lines cannot be used" in text
        for problem in (
            "line 3: no such image: nine.png",
            "line 4: 0.png is already on line 2",
            "line 5: no label for 1.png",
            "line 6: no class is called 'Dog'. Did you mean dog?",
            "line 7: the label ' dog' begins or ends with a space",
            "line 8: no such image: ../x.png",
            "line 9: no label for 4.png",
        ):
            assert problem in text

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"name,class\n0.png,cat\n", "must name the columns `file` and `label`; found name, class"),
            (b"", "found nothing"),
            (b"file,label\n", "no line with a label"),
            (b"file,label\n\xff\xfe,cat\n", "not UTF-8 text"),
            (b'file,label\n"0.png,cat\n', "line 2: not valid CSV"),
        ],
    )
    def test_a_csv_that_is_none(self, flat, content, reason):
        """A wrong header, no rows, other encodings and broken quotes are each told."""
        (flat / "labels.csv").write_bytes(content)
        assert reason in refused(Folder(train=flat / "flat", labels_csv=flat / "labels.csv", val_fraction=0.5))

    def test_a_missing_csv(self, flat):
        """The path and the system's reason are told."""
        text = refused(Folder(train=flat / "flat", labels_csv=flat / "no.csv", val_fraction=0.5))
        assert "no.csv: cannot be read (No such file or directory)" in text

    def test_validation_can_have_its_own_csv(self, flat):
        """With `val_labels_csv` the validation folder is flat too, and each of its images needs a label."""
        (flat / "held").mkdir()
        for number in (3, 4):
            (flat / "flat" / f"{number}.png").rename(flat / "held" / f"{number}.png")
        (flat / "val.csv").write_text("file,label\n3.png,dog\n")
        options = {"val": flat / "held", "val_labels_csv": flat / "val.csv", "val_fraction": None}
        rows = ["0.png,cat", "1.png,dog", "2.png,cat"]
        assert "no label for 1 images" in refused(self.flat_source(flat, *rows, **options))
        (flat / "val.csv").write_text("file,label\n3.png,dog\n4.png,cat\n")
        assert [sample.label for sample in self.flat_source(flat, *rows, **options).val().samples] == [1, 0]


class TestDigest:
    def test_moving_the_folder_changes_nothing(self, root, tmp_path):
        """The digest is of the images, not of where they lie."""
        before = source(root).digest()
        shutil.copytree(root / "train", tmp_path / "moved" / "train")
        shutil.copytree(root / "val", tmp_path / "moved" / "val")
        assert source(tmp_path / "moved").digest() == before

    def test_images_labels_and_splits_change_it(self, root, draw):
        """New bytes, a moved file, a hidden label, another split each give another digest."""
        seen = {source(root).digest(), source(root, labels_per_class=2).digest(), source(root, labels_per_class=3).digest()}
        seen |= {source(root, val=None, val_fraction=0.25, seed=seed).digest() for seed in (0, 1)}
        (root / "train" / "cat" / "000.png").rename(root / "train" / "dog" / "new.png")
        seen.add(source(root).digest())
        (root / "val" / "cat" / "000.png").write_bytes(draw(12345))
        seen.add(source(root).digest())
        assert len(seen) == 7

    def test_a_source_remembers(self, root, draw):
        """One source gives one answer, whatever happens to the files meanwhile."""
        one = source(root)
        before = one.digest()
        (root / "train" / "cat" / "new.png").write_bytes(draw(777))
        assert one.digest() == before
        assert source(root).digest() != before


class TestOptions:
    def test_exactly_one_way_to_validate(self, root):
        """`val` and `val_fraction` exclude each other and one is needed."""
        with pytest.raises(ValueError, match="give exactly one of `val`"):
            Folder(train=root / "train")
        with pytest.raises(ValueError, match="give exactly one of `val`"):
            source(root, val_fraction=0.5)

    @pytest.mark.parametrize(
        "options", [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"labels_per_class": 0}, {"classes": ()}]
    )
    def test_numbers_out_of_range(self, root, options):
        """Shares are between 0 and 1, counts at least 1."""
        with pytest.raises(ValueError):
            Folder(**{"train": root / "train", "val_fraction": 0.5} | options)

    def test_a_class_twice(self, root):
        """A class has one index."""
        with pytest.raises(ValueError, match="names a class twice"):
            source(root, classes=("cat", "dog", "cat"))

    def test_options_are_read_from_a_recipe(self, root):
        """Option names are those of the recipe; paths start at the recipe; unknown ones are told with those that are known."""
        recipe = root / "recipe.yaml"
        recipe.write_text("train: train\nval: ./val\nunlabelled: [val]\nlabels_per_class: 2\nclasses: [dog, cat]\n")
        document = read_yaml(recipe)
        loaded = validate(Folder, document.data, document)
        assert (loaded.train_at, loaded.val_at, loaded.unlabelled_at) == (root / "train", root / "val", (root / "val",))
        assert loaded.class_names == ("dog", "cat")
        recipe.write_text("train: train\nvalid: val\n")
        document = read_yaml(recipe)
        with pytest.raises(UsageError, match=r"recipe.yaml:2:1: unknown key `valid`. Did you mean val") as caught:
            validate(Folder, document.data, document)
        assert "Known here: train, val, unlabelled," in str(caught.value)

    def test_a_reference_makes_the_same_source(self, root):
        """`ref()` writes the options under the names that a recipe uses."""
        one = source(root, classes=("dog", "cat"), unlabelled=(root / "val",), allow_leaks=True)
        ref = one.ref()
        assert ref.use == "folder"
        again = Folder(**{name: tuple(value) if isinstance(value, list) else value for name, value in ref.options.items()})
        assert again == one


class TestImageSets:
    def test_samples_behave_like_a_sequence(self, root):
        """Indices from both ends, slices and iteration agree; beyond the end is an IndexError."""
        samples = source(root).train().samples
        assert len(list(samples)) == len(samples) == 10
        assert samples[-1] == samples[9]
        assert samples[2:5] == [samples[2], samples[3], samples[4]]
        with pytest.raises(IndexError):
            samples[10]

    def test_names_beyond_ascii_survive(self, root, draw):
        """Ids are text, whatever the script."""
        (root / "train" / "cat" / "écharpe 猫.png").write_bytes(draw(4242))
        images = source(root).train()
        index = ids(images).index("train/cat/écharpe 猫.png")
        assert images.load(index).shape == (12, 16, 3)

    def test_they_are_small_when_pickled(self, tmp_path, class_folders):
        """Data workers get the bytes of the ids, a digest and a few integers for each image, not objects."""
        class_folders(tmp_path / "train", {"cat": 150, "dog": 150})
        images = Folder(train=tmp_path / "train", val_fraction=0.1).train()
        packed = pickle.dumps(images)
        assert len(packed) < 112 * len(images)
        again = pickle.loads(packed)
        assert list(again.samples) == list(images.samples)
        np.testing.assert_array_equal(again.load(3), images.load(3))

    def test_reading_is_reported(self, root):
        """`on_progress` is called while images are read, and only then."""
        calls: list[tuple[int, int]] = []
        one = source(root)
        one.on_progress(lambda done, total: calls.append((done, total)))
        one.facts()
        assert calls == [(10, 10), (4, 4)]
        one.facts()
        assert calls == [(10, 10), (4, 4)]

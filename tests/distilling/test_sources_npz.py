"""The npz source: arrays in, images out, and every archive that is not what it should be refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from edgekd.core import parts
from edgekd.core.contracts import UNKNOWN_LABEL
from edgekd.core.errors import DataError

Npz = parts.load("source", "npz")
LABELS = np.array([0, 1, 0, 1, 2, 2])


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (8, 6, 3))), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes arrays to a new archive."""

    def write(name: str = "train.npz", **arrays) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.fixture
def train(save) -> Path:
    """Return an archive of six images in three classes."""
    return save(images=pixels(6), labels=LABELS)


def refused(source) -> str:
    with pytest.raises(DataError) as caught:
        source.facts()
    return str(caught.value)


def test_images_and_labels(save, train):
    """Row i of the array is image i; ids are split and row; indices without names name themselves."""
    val = save("val.npz", images=pixels(2, seed=1), labels=np.array([2, 0]))
    source = Npz(train=train, val=val)
    images = source.train()
    assert source.classes == ("0", "1", "2")
    assert [sample.label for sample in images.samples] == LABELS.tolist()
    assert images.samples[4].id == "train/00000004"
    np.testing.assert_array_equal(images.load(4), pixels(6)[4])
    assert images.load(4).flags.writeable
    assert [sample.label for sample in source.val().samples] == [2, 0]


def test_names_from_the_archive(save):
    """`names_key` names the classes; other arrays and other key names do no harm."""
    names = np.array(["ape", "bee", "cow"])
    path = save(pictures=pixels(6), fine=LABELS, names=names, coarse=LABELS)
    source = Npz(train=path, val_fraction=0.5, images_key="pictures", labels_key="fine", names_key="names")
    assert source.classes == ("ape", "bee", "cow")
    assert [len(source.train()), len(source.val())] == [3, 3]


def test_names_from_the_recipe(train):
    """`classes` names them; a label beyond the list is told with its row."""
    assert Npz(train=train, val_fraction=0.5, classes=("x", "y", "z")).classes == ("x", "y", "z")
    text = refused(Npz(train=train, val_fraction=0.5, classes=("x", "y")))
    assert "2 labels are of no class" in text
    assert "image 4: 2" in text


def test_labels_may_be_names(save):
    """String labels are class names, sorted unless `classes` says otherwise."""
    path = save(images=pixels(4), labels=np.array(["dog", "cat", "dog", "cat"]))
    assert [sample.label for sample in Npz(train=path, val=path, allow_leaks=True).train().samples] == [1, 0, 1, 0]
    fixed = Npz(train=path, val=path, allow_leaks=True, classes=("dog", "cat"))
    assert [sample.label for sample in fixed.train().samples] == [0, 1, 0, 1]


def test_minus_one_is_unknown_in_training_only(save):
    """-1 makes a training image unlabelled and is refused in validation."""
    path = save(images=pixels(6), labels=np.array([0, 1, -1, 0, 1, -1]))
    val = save("val.npz", images=pixels(2, seed=1), labels=np.array([0, 1]))
    source = Npz(train=path, val=val)
    assert [sample.id for sample in source.unlabelled().samples] == ["train/00000002", "train/00000005"]
    assert [sample.label for sample in source.unlabelled().samples] == [UNKNOWN_LABEL] * 2
    bad = save("bad.npz", images=pixels(2, seed=1), labels=np.array([0, -1]))
    assert "image 1: -1" in refused(Npz(train=path, val=bad))


def test_unlabelled_archives_need_no_labels(save, train):
    """Only the images of an `unlabelled` archive are read."""
    more = save("more.npz", images=pixels(3, seed=4))
    source = Npz(train=train, val_fraction=0.5, unlabelled=(more,))
    assert [sample.id for sample in source.unlabelled().samples] == [f"unlabelled-0/0000000{n}" for n in range(3)]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_grey_images_get_three_channels(save, shape):
    """N x H x W and N x H x W x 1 are grey."""
    grey = pixels(6, *shape)
    image = Npz(train=save(images=grey, labels=LABELS), val_fraction=0.5, allow_leaks=True).train().load(0)
    assert image.shape == (5, 4, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_the_shape_is_part_of_an_image(save):
    """The same bytes as 2 x 6 and as 6 x 2 are different images."""
    wide, tall = pixels(6, 2, 6), pixels(6, 2, 6).reshape(6, 6, 2)
    wide_path, tall_path = save("wide.npz", images=wide, labels=LABELS), save("tall.npz", images=tall, labels=LABELS)
    assert Npz(train=wide_path, val=tall_path).facts().validation_images == 6


def test_workers_read_the_archive_themselves(train):
    """A pickled set holds no pixels."""
    images = Npz(train=train, val_fraction=0.5).train()
    packed = pickle.dumps(images)
    assert pixels(6)[0].tobytes() not in packed
    np.testing.assert_array_equal(pickle.loads(packed).load(0), images.load(0))


def test_an_archive_that_shrinks_during_the_run(save, train):
    """Rows that are gone are told, rows that changed are read as they are now."""
    images = Npz(train=train, val=save("val.npz", images=pixels(3, seed=9), labels=np.arange(3))).train()
    save(images=pixels(2, seed=5), labels=np.array([0, 1]))
    np.testing.assert_array_equal(images.load(1), pixels(2, seed=5)[1])
    with pytest.raises(DataError, match="only 2 images left"):
        images.load(5)
    train.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        images.load(0)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"image": pixels(6), "labels": LABELS}, "holds no array 'images'. Did you mean image?"),
        ({"images": pixels(6)}, "holds no array 'labels'"),
        ({"images": pixels(6) / 255, "labels": LABELS}, "images is float64 of shape (6, 8, 6, 3)"),
        ({"images": pixels(6, 8, 6, 4), "labels": LABELS}, "images is uint8 of shape (6, 8, 6, 4)"),
        ({"images": pixels(6, 3, 0, 3), "labels": LABELS}, "of shape (6, 3, 0, 3)"),
        ({"images": pixels(6), "labels": LABELS[:5]}, "6 images but 5 labels"),
        ({"images": pixels(6), "labels": LABELS / 2}, "labels is float64"),
        ({"images": pixels(6), "labels": LABELS[:, None]}, "labels is int64 of shape (6, 1)"),
        ({"images": pixels(6), "labels": LABELS * 2}, "not 0, 1, 2, ... without gaps: 0, 2, 4"),
        ({"images": pixels(6), "labels": LABELS - 2}, "without gaps: -2, 0"),
        ({"images": np.array([None, 1], dtype=object), "labels": LABELS}, "Python objects, which are never unpickled"),
    ],
)
def test_arrays_of_another_kind(save, arrays, reason):
    """A missing key, wrong type, wrong shape, wrong count, gaps and pickled objects each have their message."""
    assert reason in refused(Npz(train=save(**arrays), val_fraction=0.5))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", pickle.dumps([1, 2])])
def test_files_of_another_kind(tmp_path, content):
    """Whatever is no archive is refused, pickles unopened."""
    (tmp_path / "x.npz").write_bytes(content)
    assert "x.npz: not a readable .npz archive" in refused(Npz(train=tmp_path / "x.npz", val_fraction=0.5))


def test_a_single_array_is_no_archive(tmp_path):
    """A .npy file is told as such."""
    np.save(tmp_path / "x.npy", pixels(3))
    assert "a single array" in refused(Npz(train=tmp_path / "x.npy", val_fraction=0.5))


def test_a_missing_archive(tmp_path):
    """The system's reason is told."""
    assert "cannot be read (No such file" in refused(Npz(train=tmp_path / "no.npz", val_fraction=0.5))


def test_a_damaged_archive(save, train):
    """A flipped byte in the stored arrays is noticed by the archive's checksum."""
    content = bytearray(train.read_bytes())
    content[len(content) // 2] ^= 1
    train.write_bytes(content)
    assert "not a readable .npz archive" in refused(Npz(train=train, val_fraction=0.5))


def test_two_archives_must_name_the_same_classes(save):
    """Training and validation that number the classes differently are refused."""
    names = np.array(["ape", "bee", "cow"])
    train = save(images=pixels(6), labels=LABELS, names=names)
    val = save("val.npz", images=pixels(6, seed=1), labels=LABELS, names=names[::-1])
    assert "names is cow, bee, ape, but in" in refused(Npz(train=train, val=val, names_key="names"))
    twice = save("twice.npz", images=pixels(6), labels=LABELS, names=np.array(["ape", "ape", "cow"]))
    assert "different strings" in refused(Npz(train=twice, val_fraction=0.5, names_key="names"))


def test_names_come_from_one_place(train):
    """`names_key` and `classes` together are refused."""
    with pytest.raises(ValueError, match="not both"):
        Npz(train=train, val_fraction=0.5, names_key="names", classes=("a", "b", "c"))

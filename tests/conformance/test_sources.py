"""What every registered source promises, whoever wrote it. A new source needs a case here."""

import io
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core import parts
from edgekd.core.contracts import UNKNOWN_LABEL, Source
from edgekd.core.errors import DataError

COUNTS = {"cat": 6, "dog": 5}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 14, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path) -> dict[str, object]:
    for split, first in (("train", 0), ("val", 500)):
        for label, (name, count) in enumerate(COUNTS.items()):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.png").write_bytes(png(first + 100 * label + number))
    (root / "more").mkdir()
    (root / "more" / "x.png").write_bytes(png(999))
    return {"train": root / "train", "val": root / "val", "unlabelled": (root / "more",)}


def webdataset(root: Path) -> dict[str, object]:
    for split, first in (("train", 0), ("val", 500)):
        with tarfile.open(root / f"{split}.tar", "w") as shard:
            for label, count in enumerate(COUNTS.values()):
                for number in range(count):
                    key = f"{label}-{number}"
                    for suffix, content in (("png", png(first + 100 * label + number)), ("cls", str(label).encode())):
                        info = tarfile.TarInfo(f"{key}.{suffix}")
                        info.size = len(content)
                        shard.addfile(info, io.BytesIO(content))
    with tarfile.open(root / "more.tar", "w") as shard:
        info = tarfile.TarInfo("x.png")
        info.size = len(png(999))
        shard.addfile(info, io.BytesIO(png(999)))
    return {
        "train": root / "train.tar",
        "val": root / "val.tar",
        "unlabelled": root / "more.tar",
        "classes": tuple(COUNTS),
    }


def npz(root: Path) -> dict[str, object]:
    labels = np.repeat(np.arange(len(COUNTS)), list(COUNTS.values()))
    for split, first in (("train", 0), ("val", 500)):
        seeds = [first + 100 * label + number for label, count in enumerate(COUNTS.values()) for number in range(count)]
        np.savez(root / f"{split}.npz", images=np.stack([pixels(seed) for seed in seeds]), labels=labels)
    np.savez(root / "more.npz", images=pixels(999)[None])
    return {
        "train": root / "train.npz",
        "val": root / "val.npz",
        "unlabelled": (root / "more.npz",),
        "classes": tuple(COUNTS),
    }


CASES: dict[str, Callable[[Path], dict[str, object]]] = {"folder": folder, "npz": npz, "webdataset": webdataset}
COMPOSED = {
    "adaptation",
    "relabelled",
}  # made of other sources and with other options: kept to its promises by a test file of its own


def test_every_source_has_a_case():
    """A source without a case here is not known to keep its promises."""
    assert sorted({*CASES, *COMPOSED}) == list(parts.names("source"))


@pytest.fixture(params=sorted(set(parts.names("source")) - COMPOSED))
def make(request, tmp_path, monkeypatch) -> Callable[..., Source]:
    """Return a function options -> source over 11 training, 11 validation and 1 unlabelled image in two classes."""
    if request.param not in CASES:
        pytest.fail(f"source {request.param} has no case in {Path(__file__).name}")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    options = CASES[request.param](tmp_path / "data")
    cls = parts.load("source", request.param)
    return lambda **more: cls(**options | more)


def ids(images) -> list[str]:
    return [sample.id for sample in images.samples]


def test_classes_and_labels(make):
    """Labels are indices into the classes; every class is in training and validation; unlabelled images have none."""
    source = make()
    assert source.classes == tuple(COUNTS)
    for images in (source.train(), source.val()):
        assert len(images) == len(images.samples) == 11
        assert [sum(s.label == label for s in images.samples) for label in range(2)] == [6, 5]
    assert [sample.label for sample in source.unlabelled().samples] == [UNKNOWN_LABEL]


def test_images_are_uint8_rgb(make):
    """Every image loads as uint8 height x width x 3, the same each time, and can be written to."""
    source = make()
    for images in (source.train(), source.val(), source.unlabelled()):
        for index in range(len(images)):
            image = images.load(index)
            assert (image.dtype, image.shape, image.flags.writeable) == (np.uint8, (10, 14, 3), True)
            np.testing.assert_array_equal(image, images.load(index))
    np.testing.assert_array_equal(source.unlabelled().load(0), pixels(999))
    trained = {source.train().load(index).tobytes() for index in range(11)}
    assert trained == {pixels(100 * label + n).tobytes() for label, count in enumerate((6, 5)) for n in range(count)}


def test_a_digest_of_an_image_is_of_its_bytes(make):
    """Every image has one, different images have different ones, and hiding labels changes none."""
    source, hidden = make(), make(labels_per_class=2)
    images = [source.train(), source.unlabelled(), source.val()]
    known = {sample.id: sample.sha256 for part in images for sample in part.samples}
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in known.values())
    assert len(set(known.values())) == 23
    for part in (hidden.train(), hidden.unlabelled(), hidden.calibration(5)):
        assert {sample.id: sample.sha256 for sample in part.samples}.items() <= known.items()


def test_writing_into_an_image_changes_no_other(make):
    """What one caller does to the pixels it was given, the next does not see."""
    images = make().train()
    before = images.load(2).copy()
    images.load(2)[:] = 0
    np.testing.assert_array_equal(images.load(2), before)


def test_ids_are_unique_and_of_one_split(make):
    """No id is in two sets, and ids are relative paths with / between parts."""
    source = make()
    everything = ids(source.train()) + ids(source.unlabelled()) + ids(source.val())
    assert len(set(everything)) == len(everything) == 23
    assert all("/" in name and not name.startswith("/") and "\\" not in name for name in everything)


def test_a_share_can_be_held_out(make):
    """`val_fraction` splits the training images, each class on both sides, the same way every time."""
    source, again = make(val=None, val_fraction=0.4, seed=3), make(val=None, val_fraction=0.4, seed=3)
    assert [sum(s.label == label for s in source.val().samples) for label in range(2)] == [2, 2]
    assert sorted(ids(source.train()) + ids(source.val())) == sorted(ids(make().train()))
    assert ids(again.val()) == ids(source.val())
    assert ids(make(val=None, val_fraction=0.4, seed=4).val()) != ids(source.val())


def test_labels_can_be_hidden(make):
    """`labels_per_class` leaves so many labels; the other images are unlabelled, none is lost."""
    source = make(labels_per_class=2)
    assert [sample.label for sample in source.train().samples] == [0, 0, 1, 1]
    assert len(source.unlabelled()) == 8
    assert {sample.label for sample in source.unlabelled().samples} == {UNKNOWN_LABEL}


def test_calibration(make):
    """`calibration(n)` gives `n` different training images, the same every time; too many is an error."""
    source = make()
    chosen = ids(source.calibration(5))
    assert len(set(chosen)) == 5
    assert set(chosen) <= set(ids(source.train()) + ids(source.unlabelled()))
    assert chosen == ids(make().calibration(5))
    assert source.calibration(5).load(0).shape == (10, 14, 3)
    with pytest.raises(DataError, match="13 calibration images"):
        source.calibration(13)


def test_digest_and_facts(make):
    """The digest is that of the facts, the same for the same data, another for other splits; the facts count."""
    source = make()
    facts = source.facts()
    assert source.digest() == facts.digest == make().digest()
    assert source.digest() != make(labels_per_class=2).digest()
    assert (facts.train_images, facts.labelled_images, facts.validation_images) == (12, 11, 11)
    assert facts.classes == source.classes
    assert facts.quarantined == ()
    assert facts.source == source.ref()


def test_sets_and_sources_can_be_pickled(make):
    """Data workers get image sets; a pickled source answers the same."""
    source = make()
    images = pickle.loads(pickle.dumps(source.train()))
    assert list(images.samples) == list(source.train().samples)
    np.testing.assert_array_equal(images.load(3), source.train().load(3))
    assert pickle.loads(pickle.dumps(source)).digest() == source.digest()


def test_nothing_is_read_before_it_is_asked_for(make):
    """Making a source reads no file, so a recipe with a wrong path can still be shown."""
    source = make(train=Path("nowhere-to-be-found"))
    with pytest.raises(DataError, match="nowhere-to-be-found"):
        source.train()


def test_a_leak_is_refused(make):
    """The same images in training and validation are an error unless they are allowed."""
    leaking = {"val": make().ref().options["train"]}
    path = leaking["val"][0] if isinstance(leaking["val"], list) else leaking["val"]
    with pytest.raises(DataError, match="11 of 11 validation images are also training images"):
        make(val=Path(path)).facts()
    assert len(make(val=Path(path), allow_leaks=True).val()) == 11

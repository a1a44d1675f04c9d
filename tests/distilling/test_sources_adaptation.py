"""Unsupervised domain adaptation as a source: who is labelled, who is hidden, what is judged, and nested options."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.core import parts
from edgekd.core.contracts import UNKNOWN_LABEL, Source
from edgekd.core.errors import DataError, UsageError
from edgekd.core.parts import PartRef
from edgekd.distilling.sources.adaptation import Adaptation
from edgekd.distilling.sources.folder import Folder
from edgekd.recipe import load_recipe

Write = Callable[..., Path]
PHOTO, SKETCH = {"cat": 4, "dog": 3}, {"cat": 5, "dog": 2}


def ids(images) -> list[str]:
    return [sample.id for sample in images.samples]


@pytest.fixture
def domains(tmp_path: Path, class_folders: Write) -> Path:
    """Return a folder with training and validation images of photos (7 + 4) and sketches (7 + 5)."""
    class_folders(tmp_path / "photo" / "train", PHOTO, seed=1)
    class_folders(tmp_path / "photo" / "val", {"cat": 2, "dog": 2}, seed=2)
    class_folders(tmp_path / "sketch" / "train", SKETCH, seed=3)
    class_folders(tmp_path / "sketch" / "val", {"cat": 2, "dog": 3}, seed=4)
    return tmp_path


def options(root: Path, domain: str, **more: object) -> dict[str, object]:
    return {"use": "folder", "train": root / domain / "train", "val": root / domain / "val", **more}


def adaptation(
    root: Path, *, source: dict[str, object] | None = None, target: dict[str, object] | None = None, **own
) -> Source:
    cls = parts.load("source", "adaptation")
    return cls(
        source=options(root, "photo", **(source or {})),
        target=options(root, "sketch", **(target or {})),
        **own,
    )


def test_labels_come_from_one_domain_and_the_test_from_the_other(domains: Path) -> None:
    """Labelled are the source's training images, unlabelled the target's, judged is on the target's validation images."""
    made = adaptation(domains)
    assert made.classes == ("cat", "dog")
    assert [(s.id.partition("/train/")[0], s.label) for s in made.train().samples] == [("source", 0)] * 4 + [("source", 1)] * 3
    assert [(s.id.split("/")[0], s.label) for s in made.unlabelled().samples] == [("target", UNKNOWN_LABEL)] * 7
    assert ids(made.val()) == [
        f"target/val/{name}/{n:03d}.png" for name, count in (("cat", 2), ("dog", 3)) for n in range(count)
    ]
    assert [s.label for s in made.val().samples] == [0, 0, 1, 1, 1]
    facts = made.facts()
    assert (facts.train_images, facts.labelled_images, facts.validation_images) == (14, 7, 5)


def test_the_pixels_are_those_of_the_domains(domains: Path) -> None:
    """Each image is the one that its own source gives, and knows the digest of its bytes."""
    made = adaptation(domains)
    photo = Folder(train=domains / "photo" / "train", val=domains / "photo" / "val")
    sketch = Folder(train=domains / "sketch" / "train", val=domains / "sketch" / "val")
    for mine, own in ((made.train(), photo.train()), (made.unlabelled(), sketch.train()), (made.val(), sketch.val())):
        assert len(mine) == len(mine.samples) == len(own)
        for index in range(len(own)):
            np.testing.assert_array_equal(mine.load(index), own.load(index))
            assert mine.samples[index].sha256 == own.samples[index].sha256
    assert made.train().samples[-1] == made.train().samples[6] == made.train().samples[2:][4]
    with pytest.raises(IndexError):
        made.train().samples[7]


def test_hidden_source_labels_are_unlabelled_images_too(domains: Path) -> None:
    """With `labels_per_class` on the source, its other images follow the target's, and none is lost."""
    made = adaptation(domains, source={"labels_per_class": 1})
    assert [s.label for s in made.train().samples] == [0, 1]
    assert [name.split("/")[0] for name in ids(made.unlabelled())] == ["target"] * 7 + ["source"] * 5
    assert {s.label for s in made.unlabelled().samples} == {UNKNOWN_LABEL}
    assert made.facts().train_images == 14


def test_target_labels_that_are_known_stay_hidden(domains: Path) -> None:
    """`labels_per_class` on the target changes neither how many of its labels are seen (none) nor how many images."""
    made = adaptation(domains, target={"labels_per_class": 1})
    assert {s.label for s in made.unlabelled().samples} == {UNKNOWN_LABEL}
    assert sorted(ids(made.unlabelled())) == sorted(ids(adaptation(domains).unlabelled()))


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ({"cat": 2, "cow": 2}, r"only in `source`: dog; only in `target`: cow"),
        ({"cat": 2, "dog": 2, "cow": 2}, r"`source` has 2 classes and `target` 3.*: only in `target`: cow"),
    ],
)
def test_other_classes_are_refused(domains: Path, class_folders: Write, classes: dict[str, int], told: str) -> None:
    """Labels of one domain say nothing about classes of another; the message lists what differs."""
    class_folders(domains / "other" / "train", classes, seed=7)
    class_folders(domains / "other" / "val", classes, seed=8)
    cls = parts.load("source", "adaptation")
    with pytest.raises(DataError, match=told):
        cls(source=options(domains, "photo"), target=options(domains, "other")).train()


def test_the_same_classes_in_another_order_are_refused(domains: Path) -> None:
    """Labels are indices, so the order counts."""
    with pytest.raises(DataError, match="same names in another order: cat, dog against dog, cat"):
        adaptation(domains, target={"classes": ("dog", "cat")}).classes  # noqa: B018 - asking is what fails


def test_a_labelled_copy_of_a_test_image_is_a_leak(domains: Path) -> None:
    """An image of the target's test among the source's training images is refused, unless leaks are allowed."""
    copied = (domains / "sketch" / "val" / "dog" / "001.png").read_bytes()
    (domains / "photo" / "train" / "dog" / "copy.png").write_bytes(copied)
    with pytest.raises(DataError, match=r"1 of 5 validation(.|\n)*source/train/dog/copy.png = target/val/dog/001.png"):
        adaptation(domains).facts()
    assert len(adaptation(domains, allow_leaks=True).train()) == 8


def test_a_leak_inside_the_target_is_its_own_affair(domains: Path) -> None:
    """Testing on the very images that were seen without labels is an option of the target, as everywhere."""
    same = {"val": domains / "sketch" / "train"}
    with pytest.raises(DataError, match="7 of 7 validation images are also training images"):
        adaptation(domains, target=same).facts()
    assert len(adaptation(domains, target={**same, "allow_leaks": True}).val()) == 7


def test_calibration_is_of_both_domains_and_stays_the_same(domains: Path) -> None:
    """`n` different training images without labels, the same every time, a smaller choice inside the larger."""
    chosen = adaptation(domains).calibration(8)
    assert ids(chosen) == ids(adaptation(domains).calibration(8))
    assert len(set(ids(chosen))) == len(chosen) == 8
    assert {name.split("/")[0] for name in ids(chosen)} == {"source", "target"}
    assert {s.label for s in chosen.samples} == {UNKNOWN_LABEL}
    assert set(ids(adaptation(domains).calibration(3))) <= set(ids(chosen))
    everything = [*adaptation(domains).train().samples, *adaptation(domains).unlabelled().samples]
    by_digest = {s.sha256: s.id for s in everything}
    assert [by_digest[s.sha256] for s in chosen.samples] == ids(chosen)
    first = next(i for i, s in enumerate(adaptation(domains).train().samples) if s.id in ids(chosen))
    np.testing.assert_array_equal(chosen.load(0), adaptation(domains).train().load(first))
    with pytest.raises(DataError, match="15 calibration images were asked for; there are 14"):
        adaptation(domains).calibration(15)


def test_the_digest_covers_both_domains_and_their_roles(domains: Path, draw) -> None:
    """The same data have the same digest; swapped domains, a hidden label or a changed image have another."""
    before = adaptation(domains).digest()
    assert before == adaptation(domains).digest() == adaptation(domains).facts().digest
    cls = parts.load("source", "adaptation")
    swapped = cls(source=options(domains, "sketch"), target=options(domains, "photo"))
    assert len({before, swapped.digest(), adaptation(domains, source={"labels_per_class": 2}).digest()}) == 3
    (domains / "sketch" / "train" / "cat" / "000.png").write_bytes(draw(99_999))
    assert adaptation(domains).digest() != before


def test_quarantined_images_say_which_domain(domains: Path) -> None:
    """What a domain left out is in the facts under the domain's name."""
    (domains / "sketch" / "train" / "cat" / "bad.png").write_bytes(b"no image")
    facts = adaptation(domains, target={"bad_images": "quarantine"}).facts()
    assert [bad.image for bad in facts.quarantined] == ["target/train/cat/bad.png"]


def test_progress_is_told_for_both_domains(domains: Path) -> None:
    """Reading four folders of images for the first time is told."""
    told: list[int] = []
    made = adaptation(domains)
    made.on_progress(lambda done, total: told.append(total))
    made.facts()
    assert {7, 4, 5} <= set(told)


def test_sets_and_source_can_be_pickled(domains: Path) -> None:
    """Data workers get image sets; a pickled source answers the same."""
    made = adaptation(domains)
    for images in (made.train(), made.unlabelled(), made.val(), made.calibration(4)):
        again = pickle.loads(pickle.dumps(images))
        assert list(again.samples) == list(images.samples)
        np.testing.assert_array_equal(again.load(1), images.load(1))
    assert pickle.loads(pickle.dumps(made)).digest() == made.digest()


def test_domains_may_be_of_different_kinds(domains: Path, draw) -> None:
    """Photos in folders, sketches in shards: each is read by its own source."""
    for split, count in (("train", 4), ("val", 2)):
        with tarfile.open(domains / f"{split}.tar", "w") as shard:
            for number in range(count):
                (domains / "x.png").write_bytes(draw(7000 + 10 * count + number))
                (domains / "x.txt").write_text(("cat", "dog")[number % 2])
                shard.add(domains / "x.png", f"{number}.png")
                shard.add(domains / "x.txt", f"{number}.txt")
    cls = parts.load("source", "adaptation")
    made = cls(
        source=options(domains, "photo"),
        target={"use": "webdataset", "train": domains / "train.tar", "val": domains / "val.tar"},
    )
    assert (len(made.train()), len(made.unlabelled()), len(made.val())) == (7, 4, 2)
    assert made.unlabelled().load(0).shape == (12, 16, 3)


# ---------------------------------------------------------------------------------------------------------------- recipe
RECIPE = """
name: adapt
data:
  use: adaptation
  source:
    use: folder
    train: photo/train
    val: photo/val
    labels_per_class: 2
  target: {use: folder, train: sketch/train, val: sketch/val}
student: {use: timm, model: mobilenetv3_small_050, size: 32}
method: supervised
train: {duration: {steps: 1}}
"""


@pytest.fixture
def recipe(domains: Path) -> Path:
    """Return a recipe beside the domains' folders."""
    (domains / "recipe.yaml").write_text(RECIPE)
    return domains / "recipe.yaml"


def test_nested_paths_start_at_the_recipes_folder(recipe: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like every path in a recipe, those of the two domains do not depend on where the command is run."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    made = load_recipe(recipe).source
    assert isinstance(made, Adaptation)
    assert made.source == Folder(train=recipe.parent / "photo/train", val=recipe.parent / "photo/val", labels_per_class=2)
    assert (len(made.train()), len(made.val())) == (4, 5)


def test_a_path_given_on_the_command_line_starts_at_the_current_folder(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--set data.target.val=DIR` is what the shell's completion wrote."""
    monkeypatch.chdir(recipe.parent / "sketch")
    made = load_recipe(recipe, assignments=["data.target.val=val", "data.source.labels_per_class=1"]).source
    assert made.target.val_at == recipe.parent / "sketch" / "val"
    assert made.source.labels_per_class == 1


def test_the_resolved_recipe_is_read_again_as_the_same_source(recipe: Path, tmp_path_factory) -> None:
    """Written out with absolute paths and read from another folder, it names the same images."""
    loaded = load_recipe(recipe)
    copy = tmp_path_factory.mktemp("run") / "recipe.yaml"
    copy.write_text(loaded.resolved())
    again = load_recipe(copy)
    assert again.source == loaded.source
    assert again.resolved() == loaded.resolved()
    assert again.source.digest() == loaded.source.digest()


def test_ref_and_identity_hold_the_nested_options(domains: Path) -> None:
    """The reference is what a recipe would say; the identity takes a labels file by its content, not by its path."""
    (domains / "labels.csv").write_text("file,label\n")
    made = adaptation(domains, source={"labels_csv": domains / "labels.csv"})
    ref = made.ref()
    assert ref.use == "adaptation"
    assert ref.options["source"]["use"] == "folder"
    assert ref.options["source"]["train"] == str(domains / "photo" / "train")
    assert PartRef.model_validate_json(ref.model_dump_json()) == ref
    before = made.identity()["options"]
    assert "sha256" in before["source"]["options"]["labels_csv"]
    assert before["target"] == parts.load("source", "folder")(**drop_use(options(domains, "sketch"))).identity()
    (domains / "labels.csv").write_text("file,label\na,b\n")
    assert made.identity()["options"]["source"] != before["source"]


def drop_use(given: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in given.items() if key != "use"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "    train: photo/train",
            "    trian: photo/train",
            r"recipe.yaml:7:\d+: `data.source.trian`: unknown key. Did you mean train\?",
        ),
        ("    train: photo/train\n", "", r"recipe.yaml:5:\d+: `data.source.train` is missing"),
        ("labels_per_class: 2", "labels_per_class: 0", r"recipe.yaml:9:\d+: `data.source.labels_per_class`: should be greater"),
        (
            "use: folder\n",
            "use: foldr\n",
            r"recipe.yaml:5:\d+: `data.source`: no source is called 'foldr'. Did you mean folder\?",
        ),
        ("    use: folder\n", "", r"recipe.yaml:5:\d+: `data.source`: say which part with `use: NAME`"),
        (", val: sketch/val}", "}", r"recipe.yaml:10:\d+: `data.target`: give exactly one of `val`"),
        ("  target: {use: folder, train: sketch/train, val: sketch/val}\n", "", r"recipe.yaml:3:\d+: `data.target` is missing"),
        (
            "  target: {use: folder, train: sketch/train, val: sketch/val}",
            "  target: 7",
            r"`data.target`: should be a part's name",
        ),
    ],
)
def test_a_mistake_in_a_nested_option_names_its_line(recipe: Path, old: str, new: str, told: str) -> None:
    """Nested options are checked with the recipe, and a message leads to the line of the mistake."""
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=told):
        load_recipe(recipe).source  # noqa: B018 - asking is what fails


def test_nothing_is_read_before_it_is_asked_for(domains: Path) -> None:
    """Making the source reads no file, so a recipe with a wrong path can still be shown."""
    made = adaptation(domains, target={"train": domains / "nowhere-to-be-found"})
    with pytest.raises(DataError, match="nowhere-to-be-found"):
        made.train()

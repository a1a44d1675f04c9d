"""`edgekd finetune`: from a run's checkpoint to another one on labelled images, or to what its frozen features are worth."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgekd.core.errors import UsageError
from edgekd.core.parts import PartRef
from edgekd.core.plan import Duration, Train
from edgekd.core.records import Artifact, Checkpoint
from edgekd.core.side_records import LabelledShare, Probes
from edgekd.core.store import RunFolder, read_record
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.heads import with_fresh_head
from edgekd.distilling.sources.folder import Folder
from edgekd.distilling.students.timm import Timm
from edgekd.finetuning import Labelled, Tuning, compose, find_checkpoint, settled
from edgekd.recipe import load_recipe
from edgekd.testing import TinySource, TinyStudent

Call = Callable[..., tuple[int, str, str]]
HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture
def mobilenet(experiment: Path, finished_by: Callable[[str], Path]) -> Path:
    """Return a finished run whose student has a layer between pooling and its last one: the taps differ in width."""
    text = experiment.read_text()
    assert "test_efficientnet" in text
    return finished_by(text.replace("test_efficientnet", "mobilenetv3_small_050"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "student.safetensors")


def student(run: Path) -> Checkpoint:
    return read_record(Checkpoint, RunFolder(run).checkpoint())


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in one if one[key].shape != other[key].shape or not torch.equal(one[key], other[key])}


def two_classes(home: Path) -> Path:
    """Return a folder of two of the three classes, under other names and without a validation set."""
    root = home / "others"
    for old, new in (("disc", "round"), ("bars", "striped")):
        (root / new).mkdir(parents=True)
        for path in (home / "images/train" / old).iterdir():
            (root / new / path.name).write_bytes(path.read_bytes())
    return root


# ------------------------------------------------------------------------------------------------------- what is trained
def test_the_head_alone_is_trained_and_the_new_run_can_be_exported(finished: Path, edgekd: Call) -> None:
    """Mode `head` leaves every other weight and statistic as it was; export and report work on the result."""
    home, out = finished, finished / "tuned"
    code, told, err = edgekd("finetune", home / "run", "--mode", "head", "--epochs", 2, "--batch", 8, "--out", out)
    assert code == 0, err
    assert "the last layer, with its own head: adamw, learning rate 0.005" in err
    assert changed(weights(home / "run"), weights(out)) == HEAD
    before, record = student(home / "run"), student(out)
    assert record.from_["start"] == before.digest()
    assert record.start is not None
    assert (record.start.checkpoint, record.start.head, record.method.use) == (before.digest(), "kept", "supervised")
    assert record.training.images_seen == 2 * 12
    right = record.accuracy.top1_correct
    assert f"top-1              {right / 12:6.1%}" in told
    assert {"linear probe", "nearest neighbours"} <= {line[2:20].strip() for line in told.splitlines()}
    assert edgekd("export", out)[0] == 0
    licences = read_record(Artifact, RunFolder(out).artifact("onnxruntime-fp32")).licences
    assert licences["teacher test_vit"] == before.teachers[0].licence  # its features are in these weights
    assert edgekd("report", out)[0] == 0
    assert edgekd("verify", out)[0] == 0


def test_the_same_call_again_trains_nothing(finished: Path, edgekd: Call) -> None:
    """A finished fine-tuning is kept; another seed is another one."""
    call = ("finetune", finished / "run/checkpoint/checkpoint.json", "--epochs", 1, "--batch", 8, "--out", finished / "tuned")
    assert edgekd(*call)[0] == 0
    first = student(finished / "tuned")
    assert changed(weights(finished / "run"), weights(finished / "tuned")) > HEAD
    _, _, err = edgekd(*call)
    assert "student: kept" in err
    edgekd(*call, "--seed", 1)
    assert student(finished / "tuned").digest() != first.digest()


def test_other_classes_begin_with_a_fresh_head(finished: Path, edgekd: Call) -> None:
    """A folder of two new classes: the last layer has two rows, and a fifth of each class is held out."""
    others, out = two_classes(finished), finished / "tuned"
    options = ("--data", others, "--epochs", 1, "--batch", 8, "--labels-per-class", 3, "--out", out)
    code, _, err = edgekd("finetune", finished / "run", *options)
    assert code == 0, err
    assert "a fresh head" in err
    record = student(out)
    assert record.classes == ("round", "striped")
    assert weights(out)["classifier.weight"].shape[0] == 2
    assert record.start is not None
    assert (record.start.head, record.start.classes) == ("fresh", 3)
    assert (record.data.labelled_images, record.data.train_images, record.data.validation_images) == (6, 12, 4)


def test_a_probe_is_fitted_and_no_step_is_taken(mobilenet: Path, edgekd: Call) -> None:
    """Mode `probe` is a run as well: same body, a head that no gradient of its own convex problem would move."""
    out = mobilenet / "probed"
    code, _, err = edgekd(
        "finetune", mobilenet / "run", "--mode", "probe", "--fraction", 0.5, "--set", "export=[]", "--out", out
    )
    assert code == 0, err
    record = student(out)
    assert changed(weights(mobilenet / "run"), weights(out)) == HEAD
    assert (record.training.steps, record.training.images_seen, record.head) == (0, 0, "probe")
    assert (record.data.labelled_images, record.data.train_images) == (12, 24)  # half of all eight, not of the first four
    source = load_recipe(out / "recipe.yaml").source
    net = Timm(model="mobilenetv3_small_050", weights="random", size=32).restore(3, out / "checkpoint/student.safetensors")
    seen_ND = collect(lambda x: net.features(x, ("pre_logits",)), source.train(), record.input, device=torch.device("cpu"))
    x_ND = seen_ND["pre_logits"].double().numpy()
    mean_D, std_D = x_ND.mean(axis=0), np.maximum(x_ND.std(axis=0), 1e-6)
    weight_KD, bias_K = (net.head.weight.detach().double().numpy(), net.head.bias.detach().double().numpy())
    logits_NK = x_ND @ weight_KD.T + bias_K
    p_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    p_NK /= p_NK.sum(axis=1, keepdims=True)
    wrong_NK = p_NK - np.eye(3)[labels_of(source.train()).numpy()]
    gradient_KD = wrong_NK.T @ ((x_ND - mean_D) / std_D) / len(x_ND) + 1e-2 * weight_KD * std_D
    assert np.abs(gradient_KD).max() < 1e-4
    label_N = labels_of(source.train()).numpy()
    assert record.training.final_loss == pytest.approx(-np.log(p_NK[np.arange(len(p_NK)), label_N]).mean(), abs=1e-4)
    assert edgekd("report", out)[0] == 0


# ------------------------------------------------------------------------------------------------- shares of the labels
def test_the_table_of_label_shares_is_right(mobilenet: Path, edgekd: Call) -> None:
    """Three draws of few labels, one of all; the nearest neighbours of the full set agree with a float64 derivation."""
    out = mobilenet / "probes"
    call = ("finetune", mobilenet / "run", "--mode", "probe", "--fractions", "0.25,1", "--out", out)
    code, told, err = edgekd(*call)
    assert code == 0, err
    record = read_record(Probes, out / "probes.json")
    few, every = record.shares
    assert (few.labels, few.draws, every.labels, every.draws) == (3, (0, 1, 2), 12, (0,))
    assert record.from_["checkpoint"] == student(mobilenet / "run").digest()
    source = load_recipe(mobilenet / "recipe.yaml").source
    part = Timm(model="mobilenetv3_small_050", weights="random", size=32)
    net = part.restore(3, mobilenet / "run/checkpoint/student.safetensors")
    contract = student(mobilenet / "run").input

    def unit(images: object) -> np.ndarray:
        x_ND = collect(lambda x: net.features(x, ("pooled",)), images, contract, device=torch.device("cpu"))["pooled"]
        x_ND = x_ND.double().numpy()
        return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)

    votes_MK = np.exp(unit(source.val()) @ unit(source.train()).T / 0.07) @ np.eye(3)[labels_of(source.train()).numpy()]
    assert every.knn_correct == (int((votes_MK.argmax(axis=1) == labels_of(source.val()).numpy()).sum()),)
    assert record.width == 288
    last = told.splitlines()[-1].split()
    assert last[:4] == ["12", "100.0%", "1", f"{every.probe_correct[0] / 12:.1%}"]
    assert f"{every.knn_correct[0] / 12:.1%}" in last[5:]
    _, _, err = edgekd(*call)
    assert "probes.json: kept" in err


def test_the_table_says_mean_interval_and_spread() -> None:
    """Right 6, 8 and 10 of 20: mean 40 %, Wilson's interval at 8 of 20, sd of the draws 10 %."""
    from edgekd.summaries import _draws

    share = LabelledShare(fraction=0.1, labels=3, images=20, draws=(0, 1, 2), probe_correct=(6, 8, 10), knn_correct=(8, 8, 8))
    z, p, n = 1.959964, 0.4, 20
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert _draws(share.probe_correct, 20).split() == [
        "40.0%",
        f"[{centre - half:.1%},",
        f"{centre + half:.1%}]",
        "sd",
        "10.0%",
    ]
    assert _draws(share.knn_correct, 20).endswith("sd 0.0%")


def test_a_fraction_of_the_labels_is_drawn_class_by_class(finished: Path) -> None:
    """A smaller share is part of a larger one, another seed draws others, at least one of each class stays; val is whole."""
    images = finished / "images"

    def kept(fraction: float, seed: int = 0) -> set[str]:
        source = Folder(train=images / "train", val=images / "val", label_fraction=fraction, label_seed=seed)
        assert len(source.train()) + len(source.unlabelled()) == 24
        assert len(source.val()) == 12
        return {sample.id for sample in source.train().samples}

    assert [len(kept(f)) for f in (0.001, 0.25, 0.5, 1.0)] == [3, 6, 12, 24]
    assert kept(0.25) < kept(0.5)
    assert kept(0.25) != kept(0.25, seed=1)
    assert kept(0.5) == {
        sample.id for sample in Folder(train=images / "train", val=images / "val", labels_per_class=4).train().samples
    }


# --------------------------------------------------------------------------------------------------------------- a start
def test_a_fresh_head_leaves_the_body_as_it_was(tmp_path: Path) -> None:
    """Everything but the last layer is taken over, bit for bit, and the new layer fits the new classes."""
    from safetensors.torch import save_file

    part = TinyStudent(width=5)
    trained = part.build(3)
    moved = {key: value + 0.25 if value.is_floating_point() else value + 2 for key, value in trained.state_dict().items()}
    save_file(moved, tmp_path / "w.safetensors")
    fresh = with_fresh_head(TinyStudent(width=5, seed=9), tmp_path / "w.safetensors", had=3, classes=7)
    expected = load_file(tmp_path / "w.safetensors")
    assert changed(expected, fresh.state_dict()) == {"head.weight", "head.bias"}
    assert fresh.head.weight.shape == (7, 5)
    assert torch.equal(fresh.head.weight, TinyStudent(width=5, seed=9).build(7).head.weight)


def test_the_weights_of_another_student_are_refused(tmp_path: Path) -> None:
    """As when a head is kept."""
    from safetensors.torch import save_file

    save_file(
        {key: value.contiguous() for key, value in TinyStudent(width=4).build(3).state_dict().items()},
        tmp_path / "w.safetensors",
    )
    with pytest.raises(UsageError, match="not the weights"):
        with_fresh_head(TinyStudent(width=5), tmp_path / "w.safetensors", had=3, classes=7)


def test_a_recipe_that_keeps_the_head_of_other_classes_is_refused(finished: Path, edgekd: Call) -> None:
    """Even of as many classes: rows of the old head would be read as the new classes."""
    for number, name in enumerate(("disc", "bars", "plain")):
        for split in ("train", "val"):
            (finished / "images" / split / name).rename(finished / "images" / split / f"new{number}")
    recipe = finished / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "start: {checkpoint: run/checkpoint/checkpoint.json}\n")
    code, _, err = edgekd("distill", recipe, "--out", finished / "again")
    assert code == 2
    assert "start.head: fresh" in err


def test_what_was_trained_before_there_was_freezing_keeps_its_digest() -> None:
    """A plan that freezes nothing is written as it always was."""
    plan = Train(duration=Duration(steps=1))
    assert "freeze" not in plan.model_dump(mode="json")
    assert Train(duration=Duration(steps=1), freeze="backbone").model_dump(mode="json")["freeze"] == "backbone"


def test_freezing_needs_a_method_that_trains_the_head(experiment: Path, edgekd: Call) -> None:
    """Matching similarities leaves the last layer alone, so nothing would be learned."""
    changes = ("--set", "method={use: queue_similarity}", "--set", "train.freeze=backbone")
    code, _, err = edgekd("distill", experiment, *changes, "--out", experiment.parent / "never")
    assert code == 2
    assert "train.freeze" in err


# ------------------------------------------------------------------------------------------------------- the composition
def test_few_labels_are_seen_more_often(finished: Path) -> None:
    """30 epochs of 12 images in batches of 8 are 45 steps; 134 epochs make the 200 that are the least."""
    earlier = find_checkpoint(finished / "run")
    tuning = Tuning(batch=8)
    draft = compose(earlier, Labelled(), tuning)
    duration = settled(draft, earlier, draft.source, tuning).recipe.train.duration
    assert (duration.epochs, math.ceil(200 * 8 / 12)) == (134, 134)
    given = settled(
        compose(earlier, Labelled(), tuning, assignments=("train.duration.steps=7",)),
        earlier,
        draft.source,
        tuning,
        assignments=("train.duration.steps=7",),
    )
    assert given.recipe.train.duration == Duration(steps=7)


def test_many_labels_are_seen_thirty_times(finished: Path) -> None:
    """With 1000 labelled images 30 epochs are enough steps."""
    earlier = find_checkpoint(finished / "run")
    tuning = Tuning(batch=64)
    source = TinySource(train_images=1000)
    assert settled(compose(earlier, Labelled(), tuning), earlier, source, tuning).recipe.train.duration.epochs == 30


def test_the_images_come_from_where_they_are_said_to(finished: Path) -> None:
    """A folder with train and val inside, a folder and a share, another recipe, or what the checkpoint was made from."""
    record = find_checkpoint(finished / "run").record
    images = finished / "images"
    assert Labelled(data=images).section(record, seed=0) == {
        "use": "folder",
        "train": str(images / "train"),
        "val": str(images / "val"),
    }
    assert Labelled(data=images / "train").section(record, seed=0)["val_fraction"] == 0.2
    assert Labelled(data=images / "train", val=images / "val").section(record, seed=0)["val"] == str(images / "val")
    own = Labelled(fraction=0.5).section(record, seed=4)
    assert (own["label_fraction"], own["label_seed"], own["labels_per_class"]) == (0.5, 4, None)
    assert PartRef.model_validate(Labelled().section(record, seed=0)) == record.data.source
    other = Labelled(recipe=finished / "recipe.yaml").section(record, seed=0)
    assert (other["train"], other["labels_per_class"]) == (str(images / "train"), 4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--mode", "everything"), "no mode is called 'everything'"),
        (("--fractions", "0.1"), "--fractions belongs to --mode probe"),
        (("--mode", "probe", "--fractions", "a,b"), "expected shares between commas"),
        (("--mode", "probe", "--fractions", "0,1"), "fractions are above 0 and at most 1"),
        (("--mode", "probe", "--fractions", "1", "--tap", "map"), "a probe needs a vector"),
        (("--mode", "probe", "--lr", "1"), "neither --lr nor --epochs"),
        (("--tap", "cls"), "--tap belongs to --fractions"),
        (("--data", "a", "--recipe", "b"), "not both"),
        (("--val", "a"), "belong to --data"),
        (("--labels-per-class", "3", "--fraction", "0.5"), "at most one of"),
        (("--data", "nowhere"), "no such folder"),
    ],
)
def test_a_mistake_is_told_in_a_line(finished: Path, edgekd: Call, arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, no traceback, and no run folder of something that cannot be."""
    code, _, err = edgekd("finetune", finished / "run", *arguments, "--out", finished / "never")
    assert (code, told in err) == (2, True), err
    assert not (finished / "never/checkpoint").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, edgekd: Call) -> None:
    """The message says what to give."""
    code, _, err = edgekd("finetune", tmp_path)
    assert code == 2
    assert "there is no checkpoint here" in err


# ---------------------------------------------------------------------------------------------------- without its head
def test_a_run_is_left_without_its_head(mobilenet: Path, edgekd: Call) -> None:
    """Plain weights and their record; what is there is shown by `edgekd show`."""
    out = mobilenet / "backbone"
    code, told, err = edgekd("backbone", mobilenet / "run", "--out", out, "--format", "timm", "--format", "torch")
    assert code == 0, err
    assert "mobilenetv3_small_050 without its head, tap pooled, 288 wide" in told
    assert edgekd("show", out / "backbone.json")[1] == told
    own = {key: value for key, value in weights(mobilenet / "run").items() if key not in HEAD}
    assert changed(own, load_file(out / "backbone.safetensors")) == set()


def test_an_embedding_is_checked_on_noise_where_the_images_are_gone(finished: Path, edgekd: Call) -> None:
    """It says so, and in the record as well."""
    recipe = finished / "run/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/images/", "/gone/"))
    code, told, err = edgekd("backbone", finished / "run", "--out", finished / "backbone", "--format", "onnx")
    assert code == 0, err
    assert "checked on noise" in err
    assert "agrees with torch on 16 images of noise" in told

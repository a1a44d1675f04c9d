"""The distil stage: kept answers train like a teacher that runs, and the record says what was trained and by what."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from edgekd.core.console import silent
from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs, Teacher
from edgekd.core.errors import DataError, IntegrityError, UsageError
from edgekd.core.host import made_by
from edgekd.core.plan import Augment, Cache, Duration, Train
from edgekd.core.predictions import read_answers
from edgekd.core.records import Checkpoint
from edgekd.distilling import stage
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.job import Job
from edgekd.distilling.methods.feature import Feature
from edgekd.distilling.methods.kd import Kd
from edgekd.distilling.methods.supervised import Supervised
from edgekd.distilling.models import state_digest
from edgekd.distilling.probes import LinearProbe
from edgekd.distilling.students.timm import Timm
from edgekd.testing import TinySource

WIDTHS = {"pooled": 6, "cls": 4}
STUDENT = Timm(model="test_efficientnet", weights="random", size=32)  # the smallest that timm has
SOURCE = TinySource(train_images=9, unlabelled_images=7, val_images=9, size_px=36)


class Frozen:
    """Fixed linear maps of an image's 4 x 4 means; counts the images that it was shown."""

    name, licence, size_px, parameters, precision, weights_sha256 = "maps", "mit", (24, 24), 480, "fp32", "a" * 64

    def __init__(self) -> None:
        self.images = 0
        generator = torch.Generator().manual_seed(0)
        self._map = {tap: torch.randn(48, width, generator=generator) for tap, width in WIDTHS.items()}

    def to(self, device: Any) -> "Frozen":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return FeatureSpec(name=self.name, shapes={tap: (WIDTHS[tap],) for tap in taps})

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        self.images += len(image_BCHW)
        assert tuple(image_BCHW.shape[-2:]) == self.size_px
        means_BD = torch.nn.functional.adaptive_avg_pool2d(image_BCHW, 4).flatten(1)
        return {tap: means_BD @ self._map[tap] for tap in taps}


frozen: list[Frozen] = []


class Maps(Teacher):
    """A teacher in memory; every one that was loaded stands in `frozen`."""

    def load(self) -> Frozen:
        frozen.append(Frozen())
        return frozen[-1]


@pytest.fixture(autouse=True)
def _none_loaded() -> None:
    frozen.clear()


def job(root: Path, method: Method, **changes: Any) -> Job:
    train = {"duration": Duration(steps=3), "batch": 4, "lr": 1e-3, "warmup": 0.0, "evaluate_every": 0.0}
    train |= changes.pop("train", {})
    options = {
        "name": "student",
        "source": SOURCE,
        "student": STUDENT,
        "teachers": (Maps(),) if method.needs().teachers else (),
        "method": method,
        "plan": Train(**train),
        "cache": Cache(views=changes.pop("views", 2), folder=root / "teachers"),
        "seed": 0,
        "start": None,
        "images_seen": None,
        "from_": {"data": "d", "settings": "s"},
        "made_by": made_by(None),
    }
    return Job(**options | changes)


def distilled(root: Path, method: Method, name: str = "run", **changes: Any) -> Checkpoint:
    return stage.distill(job(root, method, **changes), root / name, silent())


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------- kept answers
class Fitted(Feature):
    """A `feature` that is fitted to as many rows as one view of every image has, kept or not."""

    def needs(self) -> Needs:
        return replace(super().needs(), fit_samples=16)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("method", [Kd(label_weight=0.5), Fitted(teacher_tap="cls", probe_weight=1.0)], ids=["kd", "feature"])
def test_kept_answers_train_like_a_teacher_that_runs(tmp_path: Path, method: Method, mixup: float) -> None:
    """Both show the student the same views; their losses differ by what half floats round off, from the first step on."""
    augment = Augment(mixup=mixup, colour_jitter=0.2, erasing=0.5)
    losses = []
    for views in (2, 0):
        distilled(tmp_path, method, f"views-{views}", views=views, train={"augment": augment})
        losses.append([line["loss"] for line in history(tmp_path / f"views-{views}")])
    kept, online = losses
    assert len(kept) == len(online) == 3
    assert kept[0] == pytest.approx(online[0], rel=2e-3)
    assert kept == pytest.approx(online, rel=2e-2)
    assert len(set(online)) == 3


def test_the_teacher_is_not_called_while_its_answers_are_kept(tmp_path: Path) -> None:
    """Sixteen images in two views and the whole labelled and validation images fill the cache; training asks for nothing."""
    method = Kd()
    stage.fill_caches(job(tmp_path, method), silent())
    assert [one.images for one in frozen] == [16 * 2 + 9 + 9]
    distilled(tmp_path, method, train={"duration": Duration(epochs=2.5)})
    assert [one.images for one in frozen] == [50, 0]
    distilled(tmp_path, method, "online", views=0)
    # Whole labelled and validation images and labelled crops for the probe; then training, then what both see is compared.
    assert frozen[-1].images == 9 + 9 + 9 + 3 * 4 + 9


def test_what_is_kept_beforehand_is_what_training_asks_for(tmp_path: Path) -> None:
    """Without a number of views both settle on the same one, from the epochs of the plan."""
    method = Feature(label_weight=0.0)
    train = {"duration": Duration(epochs=2.5)}
    stage.fill_caches(job(tmp_path, method, views=None, train=train), silent())
    assert frozen[-1].images == 16 * 3 + 9 + 9
    distilled(tmp_path, method, views=None, train=train)
    assert frozen[-1].images == 0


def test_the_seed_of_a_run_leaves_the_views_alone(tmp_path: Path) -> None:
    """Other seeds meet the same answers; another seed of the cache asks anew."""
    distilled(tmp_path, Kd())
    distilled(tmp_path, Kd(), "other", seed=1)
    assert frozen[-1].images == 0
    moved = Cache(views=2, seed=1, folder=tmp_path / "teachers")
    distilled(tmp_path, Kd(), "moved", cache=moved)
    assert frozen[-1].images == 16 * 2


# -------------------------------------------------------------------------------------------------------------- the record
def answers(weights: Path, images: Any, tap: str) -> torch.Tensor:
    student: Any = STUDENT.restore(3, weights)
    contract = STUDENT.input_contract()
    return collect(lambda x: student.features(x, (tap,)), images, contract, device=torch.device("cpu"))[tap]


def test_a_head_that_the_method_does_not_train_is_a_linear_probe(tmp_path: Path) -> None:
    """Its top-1, and every logit, are those of a probe fitted on the trained features; the weights file carries it."""
    checkpoint = distilled(tmp_path, Feature(label_weight=0.0))
    assert checkpoint.head == "probe"
    weights = tmp_path / "run/student.safetensors"
    seen, held = (answers(weights, images, "pre_logits") for images in (SOURCE.train(), SOURCE.val()))
    probe = LinearProbe.fit(seen, labels_of(SOURCE.train()), classes=3)
    logits_MK = probe(held)
    assert checkpoint.accuracy.top1 == pytest.approx(float((logits_MK.argmax(1) == labels_of(SOURCE.val())).double().mean()))
    torch.testing.assert_close(answers(weights, SOURCE.val(), "logits"), logits_MK, rtol=1e-3, atol=1e-3)


def test_features_are_judged_at_the_tap_that_the_method_shapes(tmp_path: Path) -> None:
    """The probe of the record is one on `pre_act` when that is what was trained, and the tap is named."""
    checkpoint = distilled(tmp_path, Feature(student_tap="pre_act", label_weight=0.0))
    assert checkpoint.feature_tap == "pre_act"
    weights = tmp_path / "run/student.safetensors"
    seen, held = (answers(weights, images, "pre_act") for images in (SOURCE.train(), SOURCE.val()))
    probe = LinearProbe.fit(seen, labels_of(SOURCE.train()), classes=3)
    expected = float((probe(held).argmax(1) == labels_of(SOURCE.val())).double().mean())
    assert checkpoint.probe_top1 == pytest.approx(expected)


def test_a_teachers_answers_are_kept_beside_the_students(tmp_path: Path) -> None:
    """Image by image, as its linear probe gives them, so that both can be compared in pairs; sealed by digest."""
    (teacher,) = distilled(tmp_path, Feature(label_weight=0.0)).teachers
    said = read_answers(teacher.accuracy, folder=tmp_path / "run")
    assert list(said) == [sample.id for sample in SOURCE.val().samples]
    assert teacher.accuracy.top1 == teacher.probe_top1
    (tmp_path / "run" / teacher.accuracy.predictions.path).write_text("image,label,top1\n")
    with pytest.raises(IntegrityError):
        read_answers(teacher.accuracy, folder=tmp_path / "run")


def test_a_trained_head_is_left_as_it_was_trained(tmp_path: Path) -> None:
    """A method with the student's logits trains the head itself, and has nothing of its own to keep."""
    checkpoint = distilled(tmp_path, Kd())
    assert (checkpoint.head, checkpoint.criterion) == ("trained", None)
    assert not (tmp_path / "run/criterion.safetensors").exists()
    predicted = answers(tmp_path / "run/student.safetensors", SOURCE.val(), "logits").argmax(1)
    assert checkpoint.accuracy.top1 == pytest.approx(float((predicted == labels_of(SOURCE.val())).double().mean()))


def test_what_the_method_learned_is_kept_with_where_it_belongs(tmp_path: Path) -> None:
    """Projector and statistics, trained and fitted, and in the file's header the method, teachers, taps, data and seed."""
    method = Feature(teacher_tap="cls", label_weight=0.0)
    checkpoint = distilled(tmp_path, method, seed=5)
    assert checkpoint.criterion is not None
    path = tmp_path / "run" / checkpoint.criterion.path
    kept = load_file(path)
    widths = sorted(tuple(value.shape) for value in kept.values() if value.ndim == 2)
    assert (4, 256) in widths
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    assert json.loads(told["method"]) == method.ref().model_dump(mode="json")
    assert [teacher["weights_sha256"] for teacher in json.loads(told["teachers"])] == ["a" * 64]
    assert json.loads(told["teacher_taps"]) == ["cls"]
    assert (told["data"], told["seed"]) == (SOURCE.digest(), "5")
    assert json.loads(told["cache"]) == {"views": 2, "answers": "each", "seed": 0, "dtype": "fp16"}


def test_a_start_is_taken_over_whole(tmp_path: Path) -> None:
    """Head included: after one step at next to no rate the weights are those of the file, not the recipe's."""
    distilled(tmp_path, Supervised(), "first", train={"lr": 1e-2})
    start = tmp_path / "first/student.safetensors"
    distilled(tmp_path, Kd(), "second", start=start, train={"lr": 1e-12, "duration": Duration(steps=1)})
    before, after = load_file(start), load_file(tmp_path / "second/student.safetensors")
    for key, value in before.items():
        if "running_" not in key and "num_batches" not in key:
            torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6)
    fresh = distilled(tmp_path, Kd(), "fresh", train={"lr": 1e-12, "duration": Duration(steps=1)})
    other = load_file(tmp_path / "fresh" / fresh.weights.path)
    assert not torch.allclose(other["classifier.weight"], before["classifier.weight"], atol=1e-3)


def test_the_teachers_draw_nothing_from_the_students_start(tmp_path: Path) -> None:
    """With and without a teacher, kept or running, a seed starts the same student."""
    plan = {"lr": 1e-12, "duration": Duration(steps=1)}
    runs = [("kd", Kd(), 2), ("online", Kd(), 0), ("alone", Supervised(), 2)]
    states = []
    for name, method, views in runs:
        distilled(tmp_path, method, name, views=views, train=plan)
        state = load_file(tmp_path / name / "student.safetensors")
        states.append({key: value for key, value in state.items() if "running_" not in key and "num_batches" not in key})
    for state in states[1:]:
        for key, value in states[0].items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- what methods see
class Watching(Method):
    """Remembers every batch and every labelled pass; its loss is the cross entropy of what it knows."""

    def needs(self) -> Needs:
        return Needs(student_taps=("logits",), teacher_taps=("cls",), labels=True, fit_samples=5)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        watchers.append(Watcher())
        return watchers[-1]


class Watcher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fitted: list[torch.Tensor] = []
        self.batches: list[Batch] = []
        self.heads: list[nn.Linear] = []
        self.passes: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def fit(self, teachers: tuple[Mapping[str, torch.Tensor], ...]) -> None:
        self.fitted.append(teachers[0]["cls"])

    def begin_epoch(
        self, student: Any, labelled: Callable[[], Iterator[tuple[tuple[dict[str, torch.Tensor], ...], torch.Tensor]]]
    ) -> dict[str, float]:
        self.heads.append(student.head)
        for _ in range(2):
            self.passes.append([(teachers[0]["cls"], label_B) for teachers, label_B in labelled()])
        return {"passes": float(len(self.passes))}

    def forward(
        self, student: Mapping[str, torch.Tensor], teachers: tuple[Mapping[str, torch.Tensor], ...], batch: Batch
    ) -> Losses:
        self.batches.append(batch)
        known = batch.label_B >= 0
        loss = student["logits"].square().mean() + 0 * known.sum()
        return Losses(total=loss, parts={"teacher": teachers[0]["cls"].mean()})


watchers: list[Watcher] = []


@pytest.mark.parametrize("views", [2, 0])
def test_a_criterion_gets_labelled_passes_before_every_epoch(tmp_path: Path, views: int) -> None:
    """Sixteen images in steps of four: epochs begin before steps 1 and 5. Every pass holds each labelled image once."""
    distilled(tmp_path, Watching(), views=views, train={"duration": Duration(steps=6)})
    watcher = watchers[-1]
    assert [len(rows) for rows in watcher.fitted] == [5]
    assert len(watcher.passes) == 4
    assert [head.out_features for head in watcher.heads if isinstance(head, nn.Linear)] == [3, 3]
    assert {line["step"]: line["passes"] for line in history(tmp_path / "run") if "passes" in line} == {1: 2.0, 5: 4.0}
    first = Frozen()
    crops = stage.Crops(seed=0)
    for view, seen in enumerate(watcher.passes[:2]):
        cls_ND, label_N = (torch.cat(column) for column in zip(*seen, strict=True))
        assert sorted(label_N.tolist()) == sorted(labels_of(SOURCE.train()).tolist())
        shown = crops.batch(SOURCE.train(), range(9), view, size_px=(24, 24)).float() / 255
        expected_ND = first.features(shown, ("cls",))["cls"]
        distance_NN = torch.cdist(cls_ND, expected_ND)
        assert sorted(distance_NN.argmin(dim=1).tolist()) == list(range(9))
        assert float(distance_NN.min(dim=1).values.max()) < 0.02
        assert torch.equal(labels_of(SOURCE.train())[distance_NN.argmin(dim=1)], label_N)


def test_every_batch_holds_the_asked_share_of_labelled_images(tmp_path: Path) -> None:
    """Three of four, where by their number it would be nine of sixteen; without it, every image comes once an epoch."""
    distilled(tmp_path, Watching(), train={"labelled_share": 0.75})
    assert [int((batch.label_B >= 0).sum()) for batch in watchers[-1].batches] == [3, 3, 3]
    distilled(tmp_path, Watching(), "plain", train={"duration": Duration(epochs=1)})
    seen = torch.cat([batch.index_B for batch in watchers[-1].batches])
    assert sorted(seen.tolist()) == list(range(16))


def test_epochs_repeat_kept_views_and_make_new_ones_otherwise(tmp_path: Path) -> None:
    """Three epochs show views 0, 1, 0 of two that are kept, and 0, 1, 2 to a teacher that runs."""
    for views, expected in ((2, [0, 1, 0]), (0, [0, 1, 2])):
        distilled(tmp_path, Watching(), f"v{views}", views=views, train={"duration": Duration(epochs=3)})
        numbers = [set(batch.view_B.tolist()) for batch in watchers[-1].batches]
        assert numbers == [{view} for view in expected for _ in range(4)]


def test_a_run_ends_where_the_other_ended(tmp_path: Path) -> None:
    """`images_seen` overrules the plan's duration."""
    assert distilled(tmp_path, Supervised(), images_seen=20).training.images_seen == 20


# ---------------------------------------------------------------------------------------------------------------- refusals
def test_what_a_method_needs_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    """A teacher, and labels; neither leaves a folder behind."""
    with pytest.raises(UsageError, match="method kd needs a teacher"):
        distilled(tmp_path, Kd(), teachers=())
    with pytest.raises(DataError, match="method supervised needs labelled training images"):
        distilled(tmp_path, Supervised(), source=TinySource(train_images=0, unlabelled_images=6))
    assert not (tmp_path / "run").exists()


def test_a_students_weights_are_timms_own(tmp_path: Path) -> None:
    """The file loads into the bare timm model, key by key."""
    distilled(tmp_path, Supervised())
    student: Any = STUDENT.restore(3, tmp_path / "run/student.safetensors")
    bare: Any = STUDENT.build(3, start=False)
    bare.model.load_state_dict(load_file(tmp_path / "run/student.safetensors"))
    assert state_digest(bare.model) == state_digest(student.model)


def test_a_student_without_a_teacher_meets_new_crops_in_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept views bind the distilled student alone; the baseline is not held to a few crops of its few labelled images."""
    drawn: list[int | None] = []
    view = stage.Crops.view
    monkeypatch.setattr(stage.Crops, "view", lambda crops, epoch: drawn.append(crops.views) or view(crops, epoch))
    for name, method, views in (("kd", Kd(), 2), ("supervised", Supervised(), None)):
        drawn.clear()
        distilled(tmp_path, method, name, train={"duration": Duration(epochs=4.0)})
        assert set(drawn) == {views}

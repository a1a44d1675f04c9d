"""The distil stage with teachers of other classes, further heads and a zero-shot student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekd.core.console import silent
from edgekd.core.contracts import FeatureSpec, Method, Teacher
from edgekd.core.errors import UsageError
from edgekd.core.host import made_by
from edgekd.core.plan import Cache, Duration, Train
from edgekd.core.records import Checkpoint
from edgekd.distilling import stage
from edgekd.distilling.heads import with_fresh_head
from edgekd.distilling.job import Job, Peer
from edgekd.distilling.methods.clip import Clip
from edgekd.distilling.methods.kd import Kd
from edgekd.distilling.methods.mutual import Mutual
from edgekd.distilling.methods.uhc import Uhc
from edgekd.distilling.students.timm import Timm
from edgekd.testing import TinySource

STUDENT = Timm(model="test_efficientnet", weights="random", size=32)
SOURCE = TinySource(train_images=0, unlabelled_images=12, val_images=6, size_px=36)
EMBEDDING = 5


class Frozen:
    """Linear maps of an image's 4 x 4 means: features, an embedding, and logits over its own classes."""

    licence, size_px, parameters, precision = "mit", (24, 24), 480, "fp32"

    def __init__(self, name: str, classes: tuple[str, ...]) -> None:
        self.name, self.classes, self.images = name, classes, 0
        self.weights_sha256 = name.encode().hex().ljust(64, "0")
        generator = torch.Generator().manual_seed(len(name))
        self.widths = {"pooled": 6, "embedding": EMBEDDING, "logits": len(classes)}
        self._map = {tap: torch.randn(48, width, generator=generator) for tap, width in self.widths.items()}

    def to(self, device: Any) -> "Frozen":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return FeatureSpec(name=self.name, shapes={tap: (self.widths[tap],) for tap in taps}, classes=self.classes)

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        self.images += len(image_BCHW)
        means_BD = torch.nn.functional.adaptive_avg_pool2d(image_BCHW, 4).flatten(1)
        return {tap: means_BD @ self._map[tap] for tap in taps}


loaded: list[Frozen] = []


class Knowing(Teacher):
    """A teacher in memory that knows some classes."""

    model: str
    classes: tuple[str, ...]

    def load(self) -> Frozen:
        loaded.append(Frozen(self.model, self.classes))
        return loaded[-1]


FIRST, SECOND = (Knowing(model="one", classes=("class_1", "class_0")), Knowing(model="two", classes=("class_1", "class_2")))


@pytest.fixture(autouse=True)
def _none_loaded() -> None:
    loaded.clear()


def job(root: Path, method: Method, *teachers: Teacher, **changes: Any) -> Job:
    options: dict[str, Any] = {
        "name": "student",
        "source": SOURCE,
        "student": STUDENT,
        "teachers": teachers,
        "method": method,
        "plan": Train(duration=Duration(steps=3), batch=4, lr=1e-3, warmup=0.0, evaluate_every=0.0),
        "cache": Cache(views=1, folder=root / "teachers"),
        "seed": 0,
        "start": None,
        "images_seen": None,
        "from_": {"data": "d", "settings": "s"},
        "made_by": made_by(None),
    }
    return Job(**options | changes)


def distilled(root: Path, method: Method, *teachers: Teacher, **changes: Any) -> Checkpoint:
    return stage.distill(job(root, method, *teachers, **changes), root / "run", silent())


def test_two_teachers_of_other_classes_and_no_label_give_a_student_with_all_heads(tmp_path: Path) -> None:
    """The record names the outputs, their classes and the teachers'; restored from its weights it answers with all of them."""
    made = distilled(tmp_path, Uhc(heads=True), FIRST, SECOND)
    assert made.heads == {"one": ("class_1", "class_0"), "two": ("class_1", "class_2")}
    assert [teacher.classes for teacher in made.teachers] == [FIRST.classes, SECOND.classes]
    assert made.head == "trained"
    line = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert {"uhc", "head one", "head two"} <= set(line)
    again: Any = STUDENT.restore(3, tmp_path / "run" / "student.safetensors")
    found = again.features(torch.rand(2, 3, 32, 32), ("logits", "logits_one", "logits_two"))
    assert {tap: tuple(value.shape) for tap, value in found.items()} == {
        "logits": (2, 3),
        "logits_one": (2, 2),
        "logits_two": (2, 2),
    }
    with torch.no_grad():
        image_BCHW = torch.rand(2, 3, 32, 32)
        expected = again.features(image_BCHW, tuple(found))
        for one, other in zip(STUDENT.exportable(again)(image_BCHW), expected.values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_heads_go_on_where_a_start_left_them_and_go_with_the_method(tmp_path: Path) -> None:
    """Trained on by the same method they keep their weights; another method, or a fresh last layer, leaves them behind."""
    made = distilled(tmp_path, Uhc(heads=True), FIRST, SECOND)
    weights = tmp_path / "run" / "student.safetensors"
    before = load_file(weights)["further_heads.one.weight"]
    plan = Train(duration=Duration(steps=1), batch=4, lr=1e-9, warmup=0.0, evaluate_every=0.0)
    again = stage.distill(job(tmp_path, Uhc(heads=True), FIRST, SECOND, start=weights, plan=plan), tmp_path / "on", silent())
    assert again.heads == made.heads
    torch.testing.assert_close(load_file(tmp_path / "on" / "student.safetensors")["further_heads.one.weight"], before)
    kd = Kd(head="own", label_weight=0.0)
    whole = Knowing(model="all", classes=SOURCE.classes)
    alone = stage.distill(job(tmp_path, kd, whole, start=weights), tmp_path / "alone", silent())
    assert alone.heads == {}
    assert not any("further_heads" in key for key in load_file(tmp_path / "alone" / "student.safetensors"))
    assert set(with_fresh_head(STUDENT, weights, had=3, classes=5).state_dict()) == set(STUDENT.build(5).state_dict())


def test_only_heads_may_be_learnt(tmp_path: Path) -> None:
    """With `weight: 0` the first output is left as it was, and the record says that nobody trained it."""
    made = distilled(tmp_path, Uhc(heads=True, weight=0.0), FIRST)
    assert made.head == "untrained"
    assert list(made.heads) == ["one"]


def test_a_record_without_heads_is_written_as_before(tmp_path: Path) -> None:
    """No new key where there is nothing to say, so that earlier digests stay."""
    distilled(tmp_path, Uhc(), FIRST, SECOND)
    assert "heads" not in json.loads((tmp_path / "run" / "checkpoint.json").read_text())


@pytest.mark.parametrize(
    ("method", "teachers", "says"),
    [
        (Uhc(), (FIRST,), "no teacher knows class_2"),
        (Kd(head="own", label_weight=0.0), (FIRST,), "one (knows 2 classes|answers over 2 outputs)"),
        (
            Kd(head="own", label_weight=0.0),
            (Knowing(model="turned", classes=("class_1", "class_0", "class_2")),),
            "turned has them in another order: its output 0 is 'class_1'",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_a_teacher_has_looked_at_an_image(
    tmp_path: Path, method: Method, teachers: tuple[Teacher, ...], says: str
) -> None:
    """Class sets, names and order are compared when the teachers are loaded."""
    with pytest.raises(UsageError, match=says):
        distilled(tmp_path, method, *teachers)
    assert sum(frozen.images for frozen in loaded) == 0
    assert not (tmp_path / "run").exists()


def test_a_zero_shot_student_learns_the_embedding_without_labels(tmp_path: Path) -> None:
    """Its head is neither fitted nor replaced afterwards, and texts in another order than the images' classes are refused."""
    names = ("class_0", "class_1", "class_2")
    text_KD = torch.randn(3, EMBEDDING, generator=torch.Generator().manual_seed(0))
    paths = []
    for order in (names, names[::-1]):
        paths.append(tmp_path / f"{order[0]}.safetensors")
        save_file({"text_KD": text_KD}, paths[-1], {"classes": json.dumps(order)})
    teacher = Knowing(model="clip", classes=names)
    student = STUDENT.model_copy(update={"zero_shot": paths[0]})
    made = distilled(tmp_path, Clip(), teacher, student=student)
    assert made.head == "trained"
    restored: Any = student.restore(3, tmp_path / "run" / "student.safetensors")
    torch.testing.assert_close(restored.zero_shot.text_KD, torch.nn.functional.normalize(text_KD, dim=1))
    with pytest.raises(UsageError, match="zero-shot texts are of class_2, class_1"):
        distilled(tmp_path, Clip(), teacher, student=student.model_copy(update={"zero_shot": paths[1]}))
    with pytest.raises(UsageError, match="has no tap 'embedding'"):
        distilled(tmp_path, Clip(), teacher)


def test_a_peer_that_cannot_be_built_is_named_before_training(tmp_path: Path) -> None:
    """A missing file of one of several students says whose it is, and nothing is written."""
    lost = STUDENT.model_copy(update={"weights": tmp_path / "lost.safetensors"})
    peer = Peer(name="large", student=lost, folder=tmp_path / "peer", from_={})
    source = TinySource(train_images=6, val_images=6, size_px=36)
    with pytest.raises(UsageError, match=r"peer large: .*lost.safetensors: there is no such weights file"):
        distilled(tmp_path, Mutual(), source=source, peers=(peer,))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="method kd needs no peers and has 1"):
        distilled(tmp_path, Kd(), FIRST, source=source, peers=(peer,))

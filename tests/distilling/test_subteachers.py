"""Sub-teachers of one teacher, several teachers beside one another, and what is said when one of them fails."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core import parts
from edgekd.core.console import silent
from edgekd.core.contracts import FeatureSpec, Teacher
from edgekd.core.errors import UsageError
from edgekd.core.host import made_by
from edgekd.core.plan import Cache, Duration, Train
from edgekd.distilling import models, stage
from edgekd.distilling.evaluation import labels_of
from edgekd.distilling.faults import load_all
from edgekd.distilling.imagesets import concat
from edgekd.distilling.job import Job
from edgekd.distilling.methods.ensemble import Ensemble
from edgekd.distilling.probes import LinearProbe
from edgekd.distilling.students.timm import Timm
from edgekd.distilling.subteachers import resampled, understood
from edgekd.distilling.teachers.stochastic_depth import StochasticDepth, kept_blocks
from edgekd.distilling.teaching import Lesson, Teaching, teach
from edgekd.distilling.views import Crops
from edgekd.testing import TinySource

SOURCE = TinySource(train_images=12, unlabelled_images=6, val_images=9, size_px=20)
WIDTHS = {"pooled": 6, "cls": 4, "exit_2": 5}


class Frozen:
    """Fixed linear maps of an image's 4 x 4 means, named after their seed; or what a test puts in their place."""

    licence, size_px, parameters, precision = "mit", (12, 12), 480, "fp32"

    def __init__(self, part: "Maps") -> None:
        self.part = part
        self.name = f"maps{part.seed}"
        self.weights_sha256 = f"{part.seed:064}"
        self.images = 0
        generator = torch.Generator().manual_seed(part.seed)
        self._map = {tap: torch.randn(48, width, generator=generator) for tap, width in WIDTHS.items()}
        self._map["logits"] = torch.randn(48, part.classes, generator=generator)

    def to(self, device: Any) -> "Frozen":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        unknown = [tap for tap in taps if tap not in self._map]
        if unknown:
            raise UsageError(f"{self.name} has no tap {unknown[0]!r}")
        return FeatureSpec(name=self.name, shapes={tap: (self._map[tap].shape[1],) for tap in taps})

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        self.images += len(image_BCHW)
        means_BD = torch.nn.functional.adaptive_avg_pool2d(image_BCHW, 4).flatten(1)
        if self.part.broken:
            means_BD[-1] = torch.nan
        return {tap: means_BD @ self._map[tap] for tap in taps}


loaded: list[Frozen] = []


class Maps(Teacher):
    """A teacher in memory; every one that was loaded stands in `loaded`."""

    seed: int = 0
    classes: int = 3
    broken: bool = False
    missing: bool = False

    def load(self) -> Frozen:
        if self.missing:
            raise UsageError("weights.safetensors: there is no such weights file", mend="give another")
        loaded.append(Frozen(self))
        return loaded[-1]


@pytest.fixture(autouse=True)
def _none_loaded() -> None:
    loaded.clear()


def lesson(root: Path, *, views: int = 3, answers: Any = "each") -> Lesson:
    return Lesson(
        source=SOURCE,
        images=concat(SOURCE.train(), SOURCE.unlabelled()),
        images_seen=1000,
        crops=Crops(seed=3, views=views or None),
        cache=Cache(views=views, answers=answers, folder=root),
        device=torch.device("cpu"),
        console=silent(),
    )


def taught(root: Path, *taps: str, **changes: Any) -> Teaching:
    (one,) = teach((Maps(),), taps, lesson(root, **changes))
    return one


# ------------------------------------------------------------------------------------------------------------- the names
@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("cls", ("cls", False, 0, 0)),
        ("cls+patch_mean", ("cls+patch_mean", False, 0, 0)),
        ("cls~2", ("cls", False, 0, 2)),
        ("probe_logits", ("pooled", True, 0, 0)),
        ("probe_logits~1", ("pooled", True, 0, 1)),
        ("probe_logits#4", ("pooled", True, 4, 0)),
        ("probe_logits@exit_2", ("exit_2", True, 0, 0)),
        ("probe_logits@cls#3~1", ("cls", True, 3, 1)),
    ],
)
def test_a_name_says_how_an_answer_is_had(name: str, meaning: tuple[str, bool, int, int]) -> None:
    """Tap, probe, which resampling of the labelled images, which other crop."""
    found = understood(name)
    assert (found.tap, found.probe, found.bag, found.crop) == meaning


@pytest.mark.parametrize("name", ["", "cls#1", "~1", "cls~", "probe_logits@@cls", "cls~1~2", "cls#1#2"])
def test_a_name_without_meaning_is_refused(name: str) -> None:
    """With what could have been meant."""
    with pytest.raises(UsageError, match=r"is not the name of a teacher's answer(.|\n)*probe_logits@cls"):
        understood(name)


def test_resampled_images_keep_each_class_as_large() -> None:
    """With replacement within a class, the same for the same number; number 0 is every image once."""
    label_N = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    assert torch.equal(resampled(label_N, 0), torch.arange(9))
    drawn = resampled(label_N, 1)
    assert torch.equal(label_N[drawn].bincount(), label_N.bincount())
    assert len(set(drawn.tolist())) < 9
    assert torch.equal(drawn, resampled(label_N, 1))
    assert not torch.equal(drawn, resampled(label_N, 2))


# --------------------------------------------------------------------------------------------- answers derived from taps
TAPS = ("cls", "cls~1", "probe_logits", "probe_logits@exit_2", "probe_logits@exit_2#1", "probe_logits@cls~2")


def test_sub_teachers_cost_no_pass_of_the_teacher(tmp_path: Path) -> None:
    """Six answers from three taps, each kept once: the teacher sees every view, and whole images twice at most."""
    one = taught(tmp_path, *TAPS)
    assert one.frozen.images == 18 * 3 + 12 + 9
    assert {path.name for path in tmp_path.glob("*/*") if path.is_dir()} == {"cls", "pooled", "exit_2"}
    found = one.ask([4, 0, 17], 1)
    assert list(found) == list(TAPS)
    assert one.spec().shapes == {tap: (4,) if tap.startswith("cls") else (3,) for tap in TAPS}
    assert one.frozen.images == 18 * 3 + 12 + 9


def test_another_crop_is_the_next_kept_view(tmp_path: Path) -> None:
    """View 1's next but one of three is view 0."""
    one = taught(tmp_path, *TAPS)
    plain = taught(tmp_path, "cls", "probe_logits@cls")
    assert torch.equal(one.ask([4, 0], 1)["cls~1"], plain.ask([4, 0], 2)["cls"])
    assert torch.equal(one.ask([4, 0], 1)["probe_logits@cls~2"], plain.ask([4, 0], 0)["probe_logits@cls"])


def test_each_probe_is_fitted_on_its_own_tap_and_images(tmp_path: Path) -> None:
    """On whole images and first crops; resampled ones on the same draw of both."""
    one = taught(tmp_path, *TAPS)
    labels = labels_of(SOURCE.train())
    whole = one.whole(SOURCE.train(), ("exit_2",))["exit_2"]
    crops = taught(tmp_path, "exit_2").ask(range(12), 0)["exit_2"]
    asked = taught(tmp_path, "exit_2").ask([15], 2)["exit_2"]
    for bag, name in ((0, "probe_logits@exit_2"), (1, "probe_logits@exit_2#1")):
        drawn = resampled(labels, bag)
        probe = LinearProbe.fit(torch.cat([whole[drawn], crops[drawn]]), labels[drawn].repeat(2), classes=3)
        torch.testing.assert_close(one.ask([15], 2)[name], probe(asked), rtol=1e-3, atol=1e-3)
    found = one.ask(range(18), 0)
    assert float((found["probe_logits@exit_2"] - found["probe_logits@exit_2#1"]).abs().max()) > 1e-3


def test_other_crops_need_kept_views_each_by_itself(tmp_path: Path) -> None:
    """Refused before the teacher has worked where there are too few, none, or only their mean."""
    for changes, told in (({"views": 2}, "has 2"), ({"views": 0}, "has 0"), ({"answers": "mean"}, "the mean of its views")):
        with pytest.raises(UsageError, match=rf"needs 3 kept views(.|\n)*{told}(.|\n)*cache.views"):
            taught(tmp_path, "cls~2", **changes)
        assert loaded[-1].images == 0


def test_a_teacher_that_runs_gives_the_same_sub_teachers(tmp_path: Path) -> None:
    """Probes of any tap, online, to the precision of half floats."""
    taps = ("exit_2", "probe_logits@exit_2#1")
    kept, online = taught(tmp_path, *taps), taught(tmp_path, *taps, views=0)
    for tap, value in kept.ask([3, 16], 1).items():
        torch.testing.assert_close(online.ask([3, 16], 1)[tap], value, rtol=5e-3, atol=5e-3 * float(value.abs().max()))


def test_an_exit_is_one_block_of_the_last_ones() -> None:
    """`exit_1` is the class token at the end, `exit_2` the one before: the parts of `last_2`."""
    vit = models.build("test_vit", weights="random", size=None).eval()
    found = vit.features(torch.rand(2, 3, *vit.size_px), ("exit_1", "exit_2", "last_2", "cls"))
    torch.testing.assert_close(torch.cat([found["exit_2"], found["exit_1"]], dim=1), found["last_2"])
    torch.testing.assert_close(found["exit_1"], found["cls"])


# ------------------------------------------------------------------------------------------- several, and one that fails
def test_each_teacher_is_asked_its_own_taps(tmp_path: Path) -> None:
    """And keeps no more than those."""
    one, other = teach((Maps(), Maps(seed=1)), (), lesson(tmp_path), by_teacher=(("cls",), ("exit_2", "probe_logits")))
    assert (list(one.ask([0], 0)), list(other.ask([0], 0))) == (["cls"], ["exit_2", "probe_logits"])
    assert {path.name for path in tmp_path.glob("*/*") if path.is_dir()} == {"cls", "exit_2", "pooled"}


def job(root: Path, *teachers: Teacher, method: Any = None, views: int = 2) -> Job:
    return Job(
        name="student",
        source=SOURCE,
        student=Timm(model="test_efficientnet", weights="random", size=32),
        teachers=teachers,
        method=method or Ensemble(),
        plan=Train(duration=Duration(steps=2), batch=6, lr=1e-3, warmup=0.0, evaluate_every=0.0),
        cache=Cache(views=views, folder=root / "teachers"),
        seed=0,
        start=None,
        images_seen=None,
        from_={"data": "d", "settings": "s"},
        made_by=made_by(None),
    )


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize(
    ("third", "method", "told"),
    [
        (
            Maps(seed=2, broken=True),
            None,
            r"teacher 3 of 3 \(test_subteachers\): maps2: its `pooled` .*infinite or none at all",
        ),
        (Maps(seed=2, missing=True), None, r"teacher 3 of 3 \(test_subteachers\): weights.safetensors: there is no such"),
        (Maps(seed=2, classes=1000), Ensemble(head="own"), r"maps2 \(3\) logits answers over 1000 outputs"),
        (Maps(seed=2), Ensemble(probe_tap=("cls", "cls", "patch_mean")), r"teacher 3 of 3 .*maps2 has no tap 'patch_mean'"),
    ],
    ids=["nan", "missing", "classes", "tap"],
)
def test_a_fault_in_one_teacher_names_it_and_stops_before_training(
    tmp_path: Path, views: int, third: Teacher, method: Any, told: str
) -> None:
    """Not a number, a missing file, other classes, an unknown tap: nothing of the run is written."""
    with pytest.raises(UsageError, match=told):
        stage.distill(job(tmp_path, Maps(), Maps(seed=1), third, method=method, views=views), tmp_path / "run", silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("third", "method"),
    [(Maps(seed=2, missing=True), None), (Maps(seed=2, classes=9), Ensemble(head="own"))],
    ids=["missing", "classes"],
)
def test_what_can_be_known_beforehand_is_told_before_any_teacher_works(tmp_path: Path, third: Teacher, method: Any) -> None:
    """The last teacher's missing file is not found after the first one has answered for an hour."""
    with pytest.raises(UsageError):
        stage.distill(job(tmp_path, Maps(), Maps(seed=1), third, method=method), tmp_path / "run", silent())
    assert [one.images for one in loaded][:2] == [0, 0]


def test_a_teacher_that_runs_without_labels_is_tried_out_first(tmp_path: Path) -> None:
    """A broken one is met before the training also where nothing is probed."""
    with pytest.raises(UsageError, match=r"maps0: its `cls` of train/.*infinite or none at all"):
        bare = Lesson(**{**vars(lesson(tmp_path, views=0)), "source": TinySource(train_images=0, unlabelled_images=6)})
        Teaching(Maps(broken=True), ("cls",), bare)


def test_several_teachers_train_one_student(tmp_path: Path) -> None:
    """Three teachers, one of them as two, from their caches: the record names all, and nobody is asked again."""
    method = Ensemble(probe_tap=(("pooled", "cls~1"), "exit_2", "pooled"), weighting="confidence")
    record = stage.distill(job(tmp_path, Maps(), Maps(seed=1), Maps(seed=2), method=method), tmp_path / "run", silent())
    assert [teacher.name for teacher in record.teachers] == ["maps0", "maps1", "maps2"]
    line = (tmp_path / "run/history.jsonl").read_text().splitlines()[0]
    assert all(f'"weight_{number}"' in line for number in range(1, 5))
    loaded.clear()
    stage.distill(job(tmp_path, Maps(), Maps(seed=1), Maps(seed=2), method=method), tmp_path / "again", silent())
    assert [one.images for one in loaded] == [0, 0, 0]


def test_one_teacher_alone_is_not_numbered(tmp_path: Path) -> None:
    """There is nothing to tell it from."""
    with pytest.raises(UsageError, match=r"^weights.safetensors: there is no such"):
        load_all((Maps(missing=True),))


# ------------------------------------------------------------------------------------------------------ stochastic depth
@pytest.fixture(scope="module")
def shortened() -> Any:
    """A tiny ViT without a third of its blocks."""
    torch.manual_seed(0)
    return StochasticDepth(model="test_vit", weights="random", precision="fp32", drop=0.4, draw=1).load()


def test_what_is_left_out_follows_from_the_pixels(shortened: Any) -> None:
    """The same image answers alike in any batch, as an image of its own and again; others lose other blocks."""
    images = torch.randint(0, 256, (12, 3, *shortened.size_px), generator=torch.Generator().manual_seed(0)).float() / 255
    found = shortened.features(images, ("cls",))["cls"]
    torch.testing.assert_close(shortened.features(images[[7]], ("cls",))["cls"], found[[7]], rtol=1e-4, atol=1e-5)
    assert torch.equal(shortened.features(images, ("cls",))["cls"], found)
    kept = kept_blocks(images, blocks=6, drop=0.4, draw=1)
    assert len({tuple(row) for row in kept.tolist()}) > 3
    assert not torch.equal(kept, kept_blocks(images, blocks=6, drop=0.4, draw=2))
    assert "without 0.4 of its blocks, draw 1" in shortened.name


def test_a_block_that_is_left_out_hands_its_input_on(shortened: Any) -> None:
    """Against the same ViT with its blocks called one by one: x stays as it is where the draw says so."""
    image = torch.randint(0, 256, (1, 3, *shortened.size_px), generator=torch.Generator().manual_seed(5)).float() / 255
    vit = shortened._tapped.model
    kept = kept_blocks(image, blocks=len(vit.blocks), drop=0.4, draw=1)[0].tolist()
    with torch.no_grad():
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(shortened._tapped.prepared(image)))))
        for block, is_kept in zip(vit.blocks, kept, strict=True):
            x = block(x) if is_kept else x
        expected = vit.norm(x)[:, 0]
    torch.testing.assert_close(shortened.features(image, ("cls",))["cls"], expected, rtol=1e-4, atol=1e-5)


def test_as_many_blocks_are_left_out_as_asked() -> None:
    """Over 500 images of 12 blocks, within six standard errors; each block and each image by itself."""
    images = torch.randint(0, 256, (500, 3, 4, 4), generator=torch.Generator().manual_seed(1)).float() / 255
    kept = kept_blocks(images, blocks=12, drop=0.1, draw=0).double().numpy()
    assert 1 - kept.mean() == pytest.approx(0.1, abs=6 * np.sqrt(0.09 / 6000))
    assert np.abs(1 - kept.mean(axis=0) - 0.1).max() < 6 * np.sqrt(0.09 / 500)
    correlation = np.corrcoef(kept.T) - np.eye(12)
    assert np.abs(correlation).max() < 6 / np.sqrt(500)


def test_a_model_without_residual_blocks_is_refused() -> None:
    """With what to use instead."""
    part = parts.load("teacher", "stochastic_depth")(model="lcnet_035", weights="random")
    with pytest.raises(UsageError, match=r"lcnet_035 has no residual blocks(.|\n)*exit_<k>"):
        part.load()  # type: ignore[attr-defined]

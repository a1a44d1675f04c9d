"""distilling/teaching.py: teachers answer the same whether they are asked in every step or their answers were kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.console import silent
from edgekd.core.contracts import UNKNOWN_LABEL, FeatureSpec, ImageSet, Sample, Source, Teacher
from edgekd.core.errors import UsageError
from edgekd.core.plan import Cache
from edgekd.distilling import teaching
from edgekd.distilling.evaluation import labels_of
from edgekd.distilling.imagesets import concat
from edgekd.distilling.probes import LinearProbe, knn_top1
from edgekd.distilling.teaching import Lesson, Teaching, teach
from edgekd.distilling.views import Crops

SIDE, CLASSES = 16, 3
WIDTHS = {"pooled": 6, "cls": 4}


class Pictures:
    """Noise around a colour of the class, image by image from its number."""

    def __init__(self, split: str, numbers: range | list[int], *, labelled: bool = True) -> None:
        self.samples = [
            Sample(id=f"{split}/{n:03}.png", label=n % CLASSES if labelled else UNKNOWN_LABEL, locator=(split, n))
            for n in numbers
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> np.ndarray:
        split, number = self.samples[index].locator
        rng = np.random.default_rng([*split.encode(), number])
        colour = [60 + 80 * ((number % CLASSES) == channel) for channel in range(3)]
        return np.clip(rng.normal(colour, 30, (SIDE + 4, SIDE, 3)), 0, 255).astype(np.uint8)


class Colours(Source):
    """Twelve training images of three classes, the first `labelled` of them with labels, and nine to validate on."""

    labelled: int = 6

    def train(self) -> Pictures:
        return Pictures("train", range(self.labelled))

    def unlabelled(self) -> Pictures:
        return Pictures("train", range(self.labelled, 12), labelled=False)

    def val(self) -> Pictures:
        return Pictures("val", range(9))

    @property
    def classes(self) -> tuple[str, ...]:
        return ("red", "green", "blue")


class Frozen:
    """Fixed linear maps of an image's 4 x 4 means; counts the images that it was shown."""

    name, licence, size_px, parameters, precision = "maps", "mit", (12, 12), 480, "fp32"

    def __init__(self, weights: str) -> None:
        self.weights_sha256 = weights
        self.images = 0
        generator = torch.Generator().manual_seed(int(weights[:4], 16))
        self._map = {tap: torch.randn(48, width, generator=generator) for tap, width in WIDTHS.items()}

    def to(self, device: Any) -> "Frozen":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        shapes = {tap: (sum(WIDTHS[part] for part in tap.split("+")),) for tap in taps}
        return FeatureSpec(name=self.name, shapes=shapes)

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        self.images += len(image_BCHW)
        means_BD = torch.nn.functional.adaptive_avg_pool2d(image_BCHW, 4).flatten(1)
        return {tap: torch.cat([means_BD @ self._map[part] for part in tap.split("+")], dim=1) for tap in taps}


class Maps(Teacher):
    """A teacher in memory."""

    weights: str = "a" * 64

    def load(self) -> Frozen:
        return Frozen(self.weights)


def lesson(
    root: Path,
    *,
    views: int = 2,
    answers: Any = "each",
    source: Colours | None = None,
    images: ImageSet | None = None,
    images_seen: int = 10_000,
) -> Lesson:
    source = source or Colours()
    return Lesson(
        source=source,
        images=images or concat(source.train(), source.unlabelled()),
        images_seen=images_seen,
        crops=Crops(seed=3, views=views or None),
        cache=Cache(views=views, answers=answers, folder=root),
        device=torch.device("cpu"),
        console=silent(),
    )


TAPS = ("cls", "pooled+cls", "probe_logits")


def taught(root: Path, *, taps: tuple[str, ...] = TAPS, **changes: Any) -> Teaching:
    (one,) = teach((Maps(),), taps, lesson(root, **changes))
    return one


def shown(images: ImageSet, indices: list[int], view: int) -> torch.Tensor:
    """Return the crops that training would show a teacher of 12 x 12."""
    return Crops(seed=3).batch(images, indices, view, size_px=(12, 12))


@pytest.mark.parametrize("view", [0, 1])
def test_kept_answers_are_those_of_a_teacher_that_is_asked(tmp_path: Path, view: int) -> None:
    """All taps, the joined one and the probe included, to the precision of half a float's eleven bits."""
    kept, online = taught(tmp_path / "a"), taught(tmp_path / "b", views=0)
    assert (kept.online, online.online) == (False, True)
    images = concat(Colours().train(), Colours().unlabelled())
    index_B, view_B = torch.tensor([7, 0, 11]), torch.full((3,), view)
    ours = kept.answer(index_B, view_B, None)
    theirs = online.answer(index_B, view_B, shown(images, [7, 0, 11], view))
    assert list(ours) == list(theirs) == list(TAPS)
    for tap in TAPS:
        assert ours[tap].dtype == torch.float32
        torch.testing.assert_close(ours[tap], theirs[tap], rtol=2e-3, atol=2e-3 * float(theirs[tap].abs().max()))
    assert float((ours["cls"][0] - ours["cls"][1]).abs().max()) > 0.1
    for tap, value in online.ask([7, 0, 11], view).items():
        torch.testing.assert_close(value, theirs[tap])


def test_kept_answers_are_given_without_the_teacher(tmp_path: Path) -> None:
    """It sees every training view and every whole labelled image once; then never again, in this run or the next."""
    first = taught(tmp_path)
    assert first.frozen.images == 12 * 2 + 6 + 9
    first.answer(torch.arange(12), torch.ones(12, dtype=torch.int64), None)
    first.rows(100)
    assert first.frozen.images == 12 * 2 + 6 + 9
    again = taught(tmp_path)
    assert again.frozen.images == 0
    assert again.facts == first.facts
    for tap, value in again.rows(100).items():
        assert torch.equal(value, first.rows(100)[tap])


def test_an_online_teacher_keeps_nothing(tmp_path: Path) -> None:
    """With no views nothing is written, and it sees what it is asked."""
    online = taught(tmp_path / "none", views=0)
    before = online.frozen.images
    online.ask([1, 2], 5)
    assert online.frozen.images == before + 2
    assert not (tmp_path / "none").exists()


def folders(root: Path) -> dict[str, set[str]]:
    """Return for each kind of cut the names of the folders that hold it."""
    found: dict[str, set[str]] = {}
    for index in root.glob("*/*/index.json"):
        kind = json.loads(index.read_text())["made_from"]["cut"]["kind"]
        found.setdefault(kind, set()).add(index.parent.parent.name)
    return found


def test_the_number_of_labels_does_not_change_what_is_kept_of_the_views(tmp_path: Path) -> None:
    """Six or nine labels, or the images in another order: the same folder, and the teacher sees only whole images anew."""
    taught(tmp_path)
    before = folders(tmp_path)["crop"]
    more = taught(tmp_path, source=Colours(labelled=9))
    assert more.frozen.images == 9  # whole labelled images; the validation images were met already
    backwards = Pictures("train", list(range(11, -1, -1)))
    turned = taught(tmp_path, images=backwards)
    assert turned.frozen.images == 0
    assert folders(tmp_path)["crop"] == before
    assert len(before) == 1
    torch.testing.assert_close(turned.ask([0, 4], 1)["cls"], more.ask([11, 7], 1)["cls"])


def test_a_probe_is_derived_and_never_kept(tmp_path: Path) -> None:
    """Its features are kept, its answers are not: other labels give others."""
    taught(tmp_path)
    names = {path.name for path in tmp_path.glob("*/*") if path.is_dir()}
    assert names == {"cls", "pooled"}


def test_a_teacher_is_judged_by_its_features_of_whole_images(tmp_path: Path) -> None:
    """Linear probe and nearest neighbours agree with both computed from the teacher's maps of the whole pictures."""
    source = Colours()
    facts = taught(tmp_path, views=0).facts
    frozen = Frozen("a" * 64)

    def whole(images: Pictures) -> torch.Tensor:
        squares = []
        for index in range(len(images)):
            # The largest centre square, 16 of 20 rows, then 12 x 12.
            square_CHW = torch.from_numpy(images.load(index)[2:18]).permute(2, 0, 1)[None].float()
            small = torch.nn.functional.interpolate(square_CHW, (12, 12), mode="bicubic", antialias=True)
            squares.append(small.clamp(0, 255) / 255)
        return frozen.features(torch.cat(squares), ("pooled",))["pooled"]

    seen, held, label_M = whole(source.train()), whole(source.val()), labels_of(source.val())
    probe = LinearProbe.fit(seen, labels_of(source.train()), classes=3)
    assert facts.probe_top1 == pytest.approx(float((probe(held).argmax(1) == label_M).double().mean()))
    assert facts.knn_top1 == pytest.approx(knn_top1(seen, labels_of(source.train()), held, label_M))
    assert (facts.name, facts.precision, facts.weights_sha256) == ("maps", "fp32", "a" * 64)


def test_a_probe_needs_labels(tmp_path: Path) -> None:
    """Without any the tap is refused; another tap is answered, and nothing is judged."""
    source = Colours(labelled=0)
    with pytest.raises(UsageError, match="needs labelled images"):
        taught(tmp_path, source=source)
    blind = taught(tmp_path, source=source, taps=("cls",))
    assert (blind.facts.probe_top1, blind.facts.knn_top1) == (None, None)
    assert blind.ask([3], 0)["cls"].shape == (1, 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Record which (view, image) pairs a teacher is asked for."""
    pairs: list[tuple[int, int]] = []
    ask = Teaching.ask

    def recording(self: Teaching, indices: Any, view: int) -> dict[str, torch.Tensor]:
        pairs.extend((view, index) for index in indices)
        return ask(self, indices, view)

    monkeypatch.setattr(Teaching, "ask", recording)
    return pairs


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize(
    ("count", "pairs"),
    [
        (4, [(0, 0), (0, 4), (0, 7), (0, 11)]),
        (12, [(0, n) for n in range(12)]),
        (14, [*((0, n) for n in range(12)), (1, 0), (1, 11)]),
        (24, [(view, n) for view in range(2) for n in range(12)]),
    ],
)
def test_rows_to_fit_on_are_training_views_spread_over_the_images(
    tmp_path: Path, asked: list[tuple[int, int]], views: int, count: int, pairs: list[tuple[int, int]]
) -> None:
    """A few come from the whole set and not from its first class; more go on with the next view."""
    one = taught(tmp_path, views=views)
    rows = one.rows(count)
    assert asked == pairs
    images = one.lesson.images
    crops = torch.cat([shown(images, [index], view) for view, index in pairs]).float() / 255
    expected = Frozen("a" * 64).features(crops, ("cls",))["cls"]
    torch.testing.assert_close(rows["cls"], expected, rtol=2e-3, atol=5e-3)
    assert {tap: len(value) for tap, value in rows.items()} == dict.fromkeys(TAPS, count)


def test_there_are_no_more_rows_than_kept_views(tmp_path: Path) -> None:
    """12 images in 2 views are 24 rows, however many are wanted; a teacher that runs can always be shown another view."""
    assert len(taught(tmp_path).rows(1000)["cls"]) == 24
    assert len(taught(tmp_path, views=0).rows(30)["cls"]) == 30


def test_a_teacher_that_runs_is_not_asked_for_more_than_a_quarter_of_the_training(tmp_path: Path) -> None:
    """Statistics of 48 images seen come from each image once, not from four thousand views; 80 allow for 20 rows."""
    for images_seen, rows in ((0, 12), (48, 12), (80, 20)):
        one = teach((Maps(),), ("cls",), lesson(tmp_path, views=0, images_seen=images_seen))[0]
        assert len(one.rows(4096)["cls"]) == rows


def test_where_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the recipe's folder, else beside what edgekd remembers; without a home that is told."""
    one = lesson(tmp_path)
    assert one.root == tmp_path
    unsaid = Lesson(**{**vars(one), "cache": Cache(views=2)})
    monkeypatch.setattr(teaching, "cache_folder", lambda: tmp_path / "home")
    assert unsaid.root == tmp_path / "home" / "teachers"
    monkeypatch.setattr(teaching, "cache_folder", lambda: None)
    with pytest.raises(UsageError, match=r"no folder is known(.|\n)*cache.views: 0"):
        _ = unsaid.root


def test_several_teachers_are_kept_apart(tmp_path: Path) -> None:
    """Each has folders of its own and its own facts."""
    parts = (Maps(), Maps(weights="b" * 64))
    one, other = teach(parts, ("cls",), lesson(tmp_path))
    assert len(folders(tmp_path)["crop"]) == 2
    assert (one.facts.weights_sha256, other.facts.weights_sha256) == ("a" * 64, "b" * 64)
    assert not torch.equal(one.ask([0], 0)["cls"], other.ask([0], 0)["cls"])


def test_mean_answers_are_the_mean_over_kept_views_whatever_is_shown(tmp_path: Path) -> None:
    """Vectors are averaged over the views, the probe answers to the average, and the view asked for may be any."""
    each, mean = taught(tmp_path, views=3), taught(tmp_path, views=3, answers="mean")
    index_B = torch.tensor([7, 0, 11])
    views = [each.answer(index_B, torch.full((3,), view), None) for view in range(3)]
    found = mean.answer(index_B, torch.tensor([0, 99, 5]), None)
    for tap in ("cls", "pooled+cls"):
        expected = np.mean([answer[tap].double().numpy() for answer in views], axis=0)
        np.testing.assert_allclose(found[tap].numpy(), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(views[0][tap].numpy() - expected).max() > 0.01
    logits = [
        answer["probe_logits"].double().numpy() for answer in views
    ]  # a linear probe: of the mean, the mean of its logits
    np.testing.assert_allclose(found["probe_logits"].numpy(), np.mean(logits, axis=0), rtol=1e-3, atol=1e-4)
    assert torch.equal(mean.rows(12)["cls"], mean.answer(torch.arange(12), torch.zeros(12, dtype=torch.int64), None)["cls"])


def test_mean_answers_need_views_and_vectors(tmp_path: Path) -> None:
    """Nothing kept has no mean, and maps of different crops cannot be laid on one another."""
    with pytest.raises(ValueError, match="keeps none"):
        Cache(views=0, answers="mean")

    class Grids(Frozen):
        def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
            return FeatureSpec(name=self.name, shapes=dict.fromkeys(taps, (4, 2, 2)))

    class Gridded(Teacher):
        def load(self) -> Frozen:
            return Grids("b" * 64)

    with pytest.raises(UsageError, match="`grid_2` says where things are"):
        Teaching(Gridded(), ("grid_2",), lesson(tmp_path, answers="mean"))


def test_the_probe_has_seen_crops_as_well(tmp_path: Path) -> None:
    """It is fitted on whole images and on the first view of each labelled one; the fit is convex, so the two fits agree."""
    one = taught(tmp_path)
    source = Colours()
    whole_ND = one.whole(source.train(), ("pooled",))["pooled"]
    crops_ND = Frozen("a" * 64).features(shown(source.train(), list(range(6)), 0).float().div(255), ("pooled",))["pooled"]
    expected = LinearProbe.fit(torch.cat([whole_ND, crops_ND]), labels_of(source.train()).repeat(2), classes=CLASSES)
    probe = one.model.probe  # type: ignore[attr-defined]
    torch.testing.assert_close(probe(whole_ND), expected(whole_ND), rtol=2e-2, atol=2e-2)
    other = LinearProbe.fit(whole_ND, labels_of(source.train()), classes=CLASSES)
    assert float((probe(whole_ND) - other(whole_ND)).abs().max()) > 0.1

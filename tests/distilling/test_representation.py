"""What student and teachers make of the same images: CKA of each pair, pictures that say the same every time."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core.records import Representation
from edgekd.distilling.representation import MOST_IMAGES, represent

N = 40


@pytest.fixture
def without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make scikit-learn look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # else what another test imported would be found


def clusters(width: int, *, seed: int = 0, count: int = N) -> Tensor:
    """Return features of four well separated classes."""
    draw = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(4, width, generator=draw)
    return centres[torch.arange(count) % 4] + torch.randn(count, width, generator=draw)


def labels(count: int = N) -> Tensor:
    return torch.arange(count) % 4


def of(seen: Representation, name: str, method: str = "pca") -> np.ndarray:
    (picture,) = [picture for picture in seen.pictures if (picture.of, picture.method) == (name, method)]
    return np.array(picture.points)


def test_every_pair_is_compared_and_everyone_has_a_picture(without_sklearn: None) -> None:
    """Student, two teachers, one customised: six pairs and four pictures, in this order."""
    seen = represent(
        clusters(6),
        [("vit", clusters(9, seed=1)), ("dino", clusters(7, seed=2))],
        [("vit", clusters(6, seed=3))],
        labels(),
        seed=0,
    )
    assert [picture.of for picture in seen.pictures] == ["student", "vit", "dino", "vit, customised"]
    assert list(seen.cka) == [
        "student ~ vit",
        "student ~ dino",
        "student ~ vit, customised",
        "vit ~ dino",
        "vit ~ vit, customised",
        "dino ~ vit, customised",
    ]
    assert {picture.method for picture in seen.pictures} == {"pca"}
    assert seen.labels == tuple(i % 4 for i in range(N))
    assert all(len(picture.points) == N for picture in seen.pictures)


def test_cka_is_that_of_the_kernels(without_sklearn: None) -> None:
    """A float64 derivation from the centred kernels; rotated, scaled and shifted features are alike, CKA 1."""
    x, y = clusters(6), clusters(9, seed=1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5)))[0]
    seen = represent(x, [("vit", y), ("turned", 3 * x @ rotation + 7)], [], labels(), seed=0)
    centre = np.eye(N) - 1 / N
    kx, ky = (centre @ f.double().numpy() @ f.double().numpy().T @ centre for f in (x, y))
    expected = (kx * ky).sum() / np.sqrt((kx * kx).sum() * (ky * ky).sum())
    assert seen.cka["student ~ vit"] == pytest.approx(expected, abs=1e-6)
    assert seen.cka["student ~ turned"] == pytest.approx(1.0, abs=1e-6)


def test_the_picture_is_along_the_directions_of_largest_variance(without_sklearn: None) -> None:
    """The SVD example worked out by hand: rows (+-2, 0, 0), (0, +-1, 0) about (10, 20, 30), as shares of the largest."""
    feature_ND = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]) + torch.tensor([10.0, 20, 30])
    seen = represent(feature_ND, [], [], torch.tensor([0, 0, 1, 1]), seed=0)
    assert seen.pictures[0].points == ((1.0, 0.0), (-1.0, 0.0), (0.0, 0.5), (0.0, -0.5))
    assert seen.cka == {}


def test_pictures_are_the_same_for_the_same_features(without_sklearn: None) -> None:
    """No sign is left to chance: mirrored signs of the decomposition cannot turn a picture round."""
    one = represent(clusters(6), [("vit", clusters(9, seed=1))], [], labels(), seed=0)
    again = represent(clusters(6).clone(), [("vit", clusters(9, seed=1))], [], labels(), seed=0)
    assert one == again
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    turned = represent(clusters(6)[:, shuffled], [], [], labels(), seed=0)
    np.testing.assert_allclose(of(turned, "student"), of(one, "student"), atol=1.1e-3)


def test_points_are_within_the_square_and_short(without_sklearn: None) -> None:
    """Whatever the features' scale, the picture fills [-1, 1] and has three decimals."""
    for scale in (1e-9, 1.0, 1e9):
        points = of(represent(scale * clusters(6), [], [], labels(), seed=0), "student")
        assert np.abs(points).max() == 1.0
        np.testing.assert_array_equal(points, np.round(points, 3))


def test_of_many_images_some_are_drawn_by_the_seed(without_sklearn: None) -> None:
    """At most 500, in order, labels and features of the same images, the same for the same seed."""
    count = 700
    label_N = torch.arange(count)
    feature_ND = torch.stack([label_N.double(), torch.zeros(count)], dim=1)
    seen = represent(feature_ND, [("twice", 2 * feature_ND)], [], label_N, seed=3)
    assert len(seen.labels) == len(set(seen.labels)) == MOST_IMAGES == 500
    assert list(seen.labels) == sorted(seen.labels)
    x = of(seen, "student")[:, 0]
    assert (np.diff(x) > 0).all()
    assert seen == represent(feature_ND, [("twice", 2 * feature_ND)], [], label_N, seed=3)
    assert seen.labels != represent(feature_ND, [], [], label_N, seed=4).labels


def test_what_has_no_answer_has_none(without_sklearn: None) -> None:
    """Features that do not vary or are not finite have no CKA; the latter have no picture; a single channel has a flat one."""
    broken = clusters(6)
    broken[3, 2] = float("nan")
    seen = represent(
        clusters(6), [("constant", torch.ones(N, 5)), ("broken", broken), ("thin", clusters(1, seed=4))], [], labels(), seed=0
    )
    assert seen.cka["student ~ constant"] is None
    assert seen.cka["student ~ broken"] is None
    assert seen.cka["student ~ thin"] is not None
    assert [picture.of for picture in seen.pictures] == ["student", "constant", "thin"]
    assert not of(seen, "constant").any()
    assert not of(seen, "thin")[:, 1].any()
    assert of(seen, "thin")[:, 0].any()
    text = seen.model_dump_json()
    assert Representation.model_validate_json(text) == seen


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_images_are_enough(without_sklearn: None, count: int) -> None:
    """One, two or three images make a picture, if a poor one."""
    seen = represent(clusters(6, count=count), [("vit", clusters(9, count=count))], [], labels(count), seed=0)
    assert [len(picture.points) for picture in seen.pictures] == [count, count]


def test_teachers_of_one_name_are_told_apart(without_sklearn: None) -> None:
    """The same model twice (other weights, say) has two pictures under two names."""
    seen = represent(clusters(6), [("vit", clusters(9)), ("vit", clusters(9, seed=1))], [], labels(), seed=0)
    assert [picture.of for picture in seen.pictures] == ["student", "vit", "vit (2)"]
    assert list(seen.cka) == ["student ~ vit", "student ~ vit (2)", "vit ~ vit (2)"]


def test_the_features_given_are_left_alone(without_sklearn: None) -> None:
    """Nothing is written into the caller's tensors, and no gradient is asked of them."""
    feature_ND = clusters(6).requires_grad_(True)
    before = feature_ND.detach().clone()
    represent(feature_ND, [], [], labels(), seed=0)
    assert torch.equal(feature_ND.detach(), before)


def test_neighbours_stay_neighbours_where_scikit_learn_is() -> None:
    """t-SNE of four separated classes: nearly every image's nearest neighbour is of its class; the same for the same seed."""
    count = 60
    seen = represent(clusters(8, count=count), [], [], labels(count), seed=1)
    assert [(picture.of, picture.method) for picture in seen.pictures] == [("student", "pca"), ("student", "tsne")]
    points = of(seen, "student", "tsne")
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(count)
    own = labels(count).numpy()
    assert (own[apart.argmin(axis=1)] == own).mean() > 0.95
    assert seen == represent(clusters(8, count=count), [], [], labels(count), seed=1)


def test_neighbours_of_odd_features_are_placed_too() -> None:
    """Features of any scale or a single channel are placed; what does not vary has no neighbours and no such picture."""
    given = [("tiny", 1e-20 * clusters(6)), ("huge", 1e20 * clusters(6)), ("thin", clusters(1)), ("constant", torch.ones(N, 3))]
    seen = represent(clusters(6), given, [], labels(), seed=0)
    assert [p.of for p in seen.pictures if p.method == "tsne"] == ["student", "tiny", "huge", "thin"]
    assert all(np.abs(of(seen, name, "tsne")).max() == 1.0 for name in ("tiny", "huge", "thin"))


def test_few_images_have_no_tsne() -> None:
    """Nine images have no neighbourhoods worth a picture."""
    seen = represent(clusters(6, count=9), [], [], labels(9), seed=0)
    assert {picture.method for picture in seen.pictures} == {"pca"}

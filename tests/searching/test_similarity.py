"""The measures of similarity: the reference's vectors, float64 re-derivations, and 0 for a network against itself."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgekd.searching import similarity
from edgekd.searching.scorers import rank_correlation, relation, semantic


@pytest.mark.parametrize(
    ("s", "t", "expected"),
    [((1, 1), (1, -1), 2.0), ((1, 2), (2, 1), 0.4), ((1, 2), (2, 4), 0.0), ((1, 2), (-1, -2), 0.0)],
)
def test_semantic_similarity_of_the_reference(s: tuple[int, int], t: tuple[int, int], expected: float) -> None:
    """M_s of one class: by hand; the sign and the scale of a gradient do not matter."""
    assert float(semantic(torch.tensor([s]), torch.tensor([t]))) == pytest.approx(expected, abs=1e-12)


def test_semantic_similarity_is_that_of_the_outer_products() -> None:
    """The closed form is the C x C definition: rows of g g^T in length 1, squared difference over K C, zeros included."""
    random = np.random.default_rng(0)
    s_KC, t_KC = random.normal(size=(2, 5, 7))
    s_KC[1, 2] = t_KC[1, 3] = t_KC[4, 0] = 0.0
    s_KC[2] = 0.0
    total = 0.0
    for s_C, t_C in zip(s_KC, t_KC, strict=True):
        rows = []
        for g_C in (s_C, t_C):
            outer = np.outer(g_C, g_C)
            length = np.linalg.norm(outer, axis=1, keepdims=True)
            rows.append(np.divide(outer, length, out=np.zeros_like(outer), where=length > 0))
        total += ((rows[0] - rows[1]) ** 2).sum()
    found = float(semantic(torch.from_numpy(s_KC), torch.from_numpy(t_KC)))
    assert found == pytest.approx(total / s_KC.size, rel=1e-12)


def test_relation_similarity_of_the_reference() -> None:
    """M_r of two images that student and teacher see as different and as the same; scale does not matter."""
    eye, same = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(relation(eye, same)) == pytest.approx(0.292893, abs=1e-6)
    features = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert float(relation(features, 3 * features)) == pytest.approx(0, abs=1e-12)


def test_channel_correlation_of_the_reference() -> None:
    """Channels that are apart for the student and together for the teacher: by hand."""
    apart, together = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 2, 1, 2)
    assert float(similarity.channel_correlation(apart, together)) == pytest.approx(0.585786, abs=1e-6)


def test_a_network_is_at_distance_0_from_itself() -> None:
    """Every distance, with dead channels and a class without a gradient among what is compared."""
    dice = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 5, 4, 4, generator=dice).relu()
    maps[:, 3] = 0
    gradient = torch.randn(4, 5, generator=dice)
    gradient[:, 2] = 0
    gradient[1] = 0
    cams = similarity.activation_maps(maps, gradient, grid=2)
    found = [
        semantic(gradient, gradient),
        relation(maps, maps),
        similarity.channel_correlation(maps, maps),
        similarity.affinity(maps, maps, grid=2),
        similarity.class_relation(gradient, gradient),
        similarity.grad_cam(cams, cams),
    ]
    assert [abs(float(value)) < 1e-14 for value in found] == [True] * len(found)


def test_widths_may_differ_where_they_may() -> None:
    """Relation, affinity, class relation and class activation maps do not change when channels are doubled."""
    dice = torch.Generator().manual_seed(1)
    narrow, other = torch.randn(6, 3, 4, 4, generator=dice), torch.randn(6, 5, 2, 2, generator=dice)
    wide = torch.cat([narrow, narrow], dim=1)
    for measure in (relation, lambda a, b: similarity.affinity(a, b, grid=2)):
        assert float(measure(wide, other)) == pytest.approx(float(measure(narrow, other)), rel=1e-9)
    rows = narrow.mean(dim=(2, 3))
    assert float(similarity.class_relation(torch.cat([rows, rows], 1), other.mean(dim=(2, 3)))) == pytest.approx(
        float(similarity.class_relation(rows, other.mean(dim=(2, 3)))), rel=1e-9
    )


def test_affinity_in_float64_by_hand() -> None:
    """Cosines between positions of channel-centred maps, against numpy."""
    random = np.random.default_rng(2)
    a, b = random.normal(size=(3, 4, 2, 2)), random.normal(size=(3, 6, 2, 2))

    def cosines(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        flat = x.reshape(3, x.shape[1], 4)
        flat = flat - flat.mean(axis=2, keepdims=True)
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        return np.einsum("bci,bcj->bij", unit, unit)

    expected = ((cosines(a) - cosines(b)) ** 2).mean()
    assert float(similarity.affinity(torch.from_numpy(a), torch.from_numpy(b), grid=2)) == pytest.approx(expected, rel=1e-12)


def test_class_activation_maps_weigh_the_channels() -> None:
    """sum_c w_kc A_c, pooled on the grid first: two channels by hand."""
    maps = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]]]])
    found = similarity.activation_maps(maps, torch.tensor([[1.0, 0.0], [2.0, 1.0]]), grid=1)
    assert torch.equal(found, torch.tensor([[2.0], [24.0]], dtype=torch.float64))


@pytest.mark.parametrize("measure", [semantic, relation, similarity.channel_correlation, similarity.class_relation])
def test_what_cannot_be_compared_is_refused(measure: object) -> None:
    """Another number of images, channels or classes is an error and no broadcast."""
    with pytest.raises(ValueError, match="not the same"):
        measure(torch.ones(3, 4), torch.ones(2, 4)) if measure is not similarity.channel_correlation else measure(  # type: ignore[operator]
            torch.ones(2, 3, 4), torch.ones(2, 2, 4)
        )


def test_the_gradient_of_the_head_is_autograds() -> None:
    """(p - y)^T v / B is the gradient of the mean cross entropy with respect to a linear layer's weights."""
    from edgekd.core.search_contracts import Sight

    dice = torch.Generator().manual_seed(3)
    vector, label = torch.randn(6, 5, generator=dice, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2])
    weight = torch.randn(3, 5, generator=dice, dtype=torch.float64, requires_grad=True)
    logits = vector @ weight.T
    functional.cross_entropy(logits, label).backward()
    sight = Sight(
        map_BCHW=vector.view(6, 5, 1, 1), vector_BD=vector, logits_BK=logits.detach(), label_B=label, weigh=lambda: weight
    )
    torch.testing.assert_close(sight.gradient_KD, weight.grad, rtol=1e-12, atol=1e-14)


def test_rank_correlation_of_the_reference() -> None:
    """Two neighbours in the wrong order, out of four."""
    spearman, kendall = rank_correlation((1, 2, 3, 4), (1, 3, 2, 4))
    assert spearman == pytest.approx(0.8, abs=1e-9)
    assert kendall == pytest.approx(0.666667, abs=1e-6)

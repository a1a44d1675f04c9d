"""Unifying teachers of different classes: exact where they agree, the least cross entropy or squared error where not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.core.errors import UsageError
from edgekd.distilling.ensembles import unify
from edgekd.distilling.unification import Estimator, check_connected

ESTIMATORS: tuple[Estimator, ...] = ("cross_entropy", "factorisation")
SETS = ((0, 1, 2, 5), (2, 3), (3, 4, 5), (1, 4))


def restricted(q: torch.Tensor, sets: tuple[tuple[int, ...], ...]) -> list[torch.Tensor]:
    return [q[:, list(known)] / q[:, list(known)].sum(dim=1, keepdim=True) for known in sets]


def distributions(seed: int, images: int, classes: int, *, spread: float = 2.0) -> torch.Tensor:
    return torch.softmax(torch.from_numpy(np.random.default_rng(seed).normal(size=(images, classes)) * spread), dim=1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_published_vector(estimator: Estimator) -> None:
    """(.625, .375) over {1, 2} and (.6, .4) over {2, 3} are of q = (.5, .3, .2)."""
    given = [torch.tensor([[0.625, 0.375]], dtype=torch.float64), torch.tensor([[0.6, 0.4]], dtype=torch.float64)]
    q = unify(given, [(1, 2), (2, 3)], (1, 2, 3), estimator=estimator)
    np.testing.assert_allclose(q.numpy(), [[0.5, 0.3, 0.2]], atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), order=st.permutations([0, 1, 2, 3]))
def test_teachers_that_agree_give_their_q_in_any_order(estimator: Estimator, seed: int, order: list[int]) -> None:
    """Six classes, four overlapping teachers, image by image; classes by name, columns in any order."""
    q = distributions(seed, 3, 6)
    names = tuple("abcdef")
    sets = [tuple(reversed(SETS[teacher])) for teacher in order]
    found = unify(restricted(q, tuple(sets)), [[names[k] for k in known] for known in sets], names, estimator=estimator)
    np.testing.assert_allclose(found.numpy(), q.numpy(), rtol=1e-6, atol=1e-9)


def test_cross_entropy_is_at_its_minimum_where_teachers_disagree() -> None:
    """Its gradient in log q, sum_i (q restricted - p_i), is 0: derived by hand in numpy, not taken from the solver."""
    given = [distributions(seed, 5, len(known)) for seed, known in enumerate(SETS)]
    q = unify(given, SETS, tuple(range(6)), estimator="cross_entropy").numpy()
    gradient = np.zeros_like(q)
    for p, known in zip(given, SETS, strict=True):
        columns = list(known)
        gradient[:, columns] += q[:, columns] / q[:, columns].sum(axis=1, keepdims=True) - p.numpy()
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    np.testing.assert_allclose(q.sum(axis=1), 1)


def test_factorisation_is_a_stationary_point_of_the_squared_error() -> None:
    """No small change of q or u makes the masked error of p_i(l) - q(l) u_i less (mild disagreement)."""
    q0 = distributions(1, 1, 6, spread=0.5)
    noise = np.random.default_rng(0)
    given = [p * torch.from_numpy(noise.uniform(0.9, 1.1, p.shape)) for p in restricted(q0, SETS)]
    given = [p / p.sum(dim=1, keepdim=True) for p in given]
    q = unify(given, SETS, tuple(range(6)), estimator="factorisation").numpy()[0]

    def error(q: np.ndarray) -> float:
        total = 0.0
        for p, known in zip(given, SETS, strict=True):
            seen, own = p.numpy()[0], q[list(known)]
            total += float(((seen - own * (seen @ own) / (own @ own)) ** 2).sum())  # the best u for this q
        return total

    best = error(q)
    for k in range(6):
        for change in (0.999, 1.001):
            moved = q.copy()
            moved[k] *= change
            assert error(moved) > best


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sure_teachers_stay_finite(estimator: Estimator) -> None:
    """Probabilities of exactly 0 and 1, also contradicting ones, give a distribution."""
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    q = unify([one, other], [(0, 1), (1, 2)], (0, 1, 2), estimator=estimator)
    assert q.dtype == torch.float32
    assert bool(q.isfinite().all())
    assert bool((q >= 0).all())
    np.testing.assert_allclose(q.sum(dim=1).numpy(), 1, rtol=1e-5)
    assert int(q[1].argmax()) == 1


def test_overlapping_thirds_of_a_hundred_classes() -> None:
    """Three teachers of 40 classes each, as of CIFAR-100: q comes back, also from float32."""
    thirds = (tuple(range(40)), tuple(range(30, 70)), (*range(60, 100), 0))
    q = distributions(3, 8, 100)
    found = unify([p.float() for p in restricted(q, thirds)], thirds, tuple(range(100)))
    np.testing.assert_allclose(found.numpy(), q.numpy(), rtol=2e-4, atol=1e-6)


def test_what_is_not_determined_is_refused() -> None:
    """Classes that nobody knows are named; so are groups of teachers that share no class."""
    with pytest.raises(UsageError, match="no teacher knows 3: 1 of 4"):
        check_connected([(0, 1), (1, 2)], (0, 1, 2, 3))
    with pytest.raises(UsageError, match=r"teachers 1, 3 and teachers 2, 4 share no class"):
        check_connected([("a", "b"), ("c", "d"), ("b", "e"), ("d", "f")], tuple("abcdef"))
    check_connected([("a", "b"), ("c", "d"), ("b", "c")], tuple("abcd"))


def test_what_does_not_fit_is_refused() -> None:
    """Strange or doubled classes by teacher; answers of another width or number."""
    p = torch.full((1, 2), 0.5)
    with pytest.raises(UsageError, match="teacher 2 of 2 knows zebra"):
        unify([p, p], [("a", "b"), ("b", "zebra")], ("a", "b", "c"))
    with pytest.raises(UsageError, match="teacher 1 of 2 has no classes, or one of them twice"):
        unify([p, p], [("a", "a"), ("a", "b")], ("a", "b"))
    with pytest.raises(UsageError, match="named twice"):
        unify([p], [("a", "b")], ("a", "b", "a"))
    with pytest.raises(ValueError, match="teacher 2 answers"):
        unify([p, torch.ones(1, 3)], [("a", "b"), ("b", "c")], ("a", "b", "c"))
    with pytest.raises(ValueError, match="1 teachers answer"):
        unify([p], [("a", "b"), ("b", "c")], ("a", "b", "c"))

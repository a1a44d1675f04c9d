"""Losses for several teachers, against published vectors and float64 numpy derivations of the formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.distilling import losses
from edgekd.distilling.losses import cosine_smooth_l1, feed, kl, kl_to, log_euclidean, mmd

A = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def rows(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def similarities(seed: int, n: int, width: int) -> Tensor:
    unit = torch.nn.functional.normalize(rows(seed, n, width).abs(), dim=1)
    return unit @ unit.T


def log_by_numpy(matrix: np.ndarray) -> np.ndarray:
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.log(value)) @ vector.T


# ---- FEED
def test_feed_matches_the_published_vector() -> None:
    """(3, 4) and (4, 3) differ by .2 in each coordinate of their directions, whatever their length."""
    student, teacher = torch.tensor([[4.0, 3.0]]), torch.tensor([[3.0, 4.0]])
    assert float(feed(student, teacher)) == pytest.approx(0.4, abs=1e-6)
    assert float(feed(7 * student, 0.01 * teacher)) == pytest.approx(0.4, abs=1e-6)


def test_feed_takes_the_length_of_a_whole_map_and_sums_over_it() -> None:
    """Images B x C x H x W are one vector each; the mean is over images alone."""
    student, teacher = rows(1, 3, 4, 2, 2), rows(2, 3, 4, 2, 2)
    s, t = (x.numpy().reshape(3, -1) for x in (student, teacher))
    s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    assert float(feed(student, teacher)) == pytest.approx(np.abs(s - t).sum(axis=1).mean())


# ---- cosine and smooth L1
@pytest.mark.parametrize(("student", "teacher", "radio", "unic"), [((1, 0), (0, 1), 0.95, 0.75), ((3, 0), (0, 4), 1.2, 2.0)])
def test_cosine_and_smooth_l1_match_the_published_vectors(
    student: tuple[int, int], teacher: tuple[int, int], radio: float, unic: float
) -> None:
    """UNIC weighs both by a half, RADIO the cosine by .9."""
    s, t = torch.tensor([student]).float(), torch.tensor([teacher]).float()
    assert float(cosine_smooth_l1(s, t)) == pytest.approx(unic, abs=1e-6)
    assert float(cosine_smooth_l1(s, t, cosine_weight=0.9)) == pytest.approx(radio, abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "smooth_l1", "feature_mse", "cosine_smooth_l1"])
def test_the_losses_of_each_image_have_the_loss_of_the_batch_as_mean(name: str) -> None:
    """So that leaving no teacher out changes nothing."""
    student, teacher = rows(3, 5, 7), rows(4, 5, 7)
    each = getattr(losses, f"{name}_each")(student, teacher)
    assert each.shape == (5,)
    assert float(each.mean()) == pytest.approx(float(getattr(losses, name)(student, teacher)), rel=1e-12)
    assert len({round(float(loss), 9) for loss in each}) == 5


# ---- MMD
def test_mmd_matches_the_published_vector() -> None:
    """Two orthogonal directions under the authors' seven kernels."""
    value = mmd(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    assert float(value) == pytest.approx(11.706640, abs=1e-6)
    assert float(value) == pytest.approx(2 * (7 - sum(math.exp(-1 / s**2) for s in losses.MMD_SIGMAS)), abs=1e-12)


def test_mmd_is_the_biased_estimate_of_directions() -> None:
    """Against numpy, pair by pair, for clouds of different sizes; the rows' lengths do not matter."""
    x, y, sigmas = rows(5, 4, 3), rows(6, 6, 3), (0.3, 1.0)
    unit_x, unit_y = (v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (x, y))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        square = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return float(sum(np.exp(-square / (2 * s**2)) for s in sigmas).mean())

    expected = kernel(unit_x, unit_x) + kernel(unit_y, unit_y) - 2 * kernel(unit_x, unit_y)
    assert float(mmd(3 * x, y, sigmas=sigmas)) == pytest.approx(expected, rel=1e-10)
    assert float(mmd(x, x.flip(0), sigmas=sigmas)) == pytest.approx(0, abs=1e-12)


def test_mmd_moves_both_clouds() -> None:
    """Common feature learning trains the teachers' aligners too; the gradient is that of finite differences."""
    x, y = rows(7, 3, 4).requires_grad_(), rows(8, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, sigmas=(0.5, 2.0)), (x, y))
    alike = rows(7, 3, 4).requires_grad_()
    mmd(alike, alike.detach().clone()).backward()
    assert alike.grad is not None
    assert bool(alike.grad.isfinite().all())


# ---- log-Euclidean distance
@pytest.mark.parametrize(
    ("a", "eps", "expected"), [(torch.diag(torch.tensor([math.e, 1.0])), 0.0, 1.0), (A, 0.0, 0.644855), (A, 0.1, 0.507796)]
)
def test_log_euclidean_matches_the_published_vectors(a: Tensor, eps: float, expected: float) -> None:
    """diag(e, 1) is 1 away from I; the 2 x 2 matrix .644855, and .507796 with .1 on both diagonals."""
    assert float(log_euclidean(a.double(), EYE, eps=eps)) == pytest.approx(expected, abs=1e-6)
    assert float(log_euclidean(EYE, a.double(), eps=eps)) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_log_euclidean_matches_the_published_vector() -> None:
    """Daleckii and Krein's, for [[1, .5], [.5, 1]] against I."""
    a = A.clone().requires_grad_()
    log_euclidean(a, EYE, eps=0.0).backward()
    assert a.grad is not None
    expected = [[-1.115984, 1.656605], [1.656605, -1.115984]]
    np.testing.assert_allclose(a.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_log_euclidean_agrees_with_numpy_and_with_finite_differences(eps: float) -> None:
    """On similarities of 5 images of 8 channels; the gradient through X X^T too."""
    a, b = similarities(1, 5, 8), similarities(2, 5, 8)
    by_numpy = log_by_numpy(a.numpy() + eps * np.eye(5)) - log_by_numpy(b.numpy() + eps * np.eye(5))
    assert float(log_euclidean(a, b, eps=eps)) == pytest.approx((by_numpy**2).sum(), rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: log_euclidean(x, b, eps=eps), (a.clone().requires_grad_(),))
    x = rows(3, 5, 8).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_euclidean(x @ x.T, b, eps=eps), (x,))


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-9, 1e-4, 1e-3, 2e-3])
def test_the_gradient_is_exact_where_eigenvalues_are_equal_or_nearly(gap: float) -> None:
    """Where automatic differentiation of eigenvectors divides by the gap: the differential of log at diag(2, 2 + gap)."""
    a = torch.diag(torch.tensor([2.0, 2.0 + gap], dtype=torch.float64)).requires_grad_()
    b = torch.tensor([[1.0, 0.3], [0.3, 2.0]], dtype=torch.float64)
    log_euclidean(a, b, eps=0.0).backward()
    residual = np.diag(np.log([2.0, 2.0 + gap])) - log_by_numpy(b.numpy())
    quotient = math.log1p(gap / 2) / gap if gap else 0.5
    expected = 2 * residual * np.array([[0.5, quotient], [quotient, 1 / (2 + gap)]])
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), expected, rtol=1e-12)


def test_log_euclidean_computes_in_float64_and_answers_in_what_it_was_given() -> None:
    """Half-precision similarities give the distance of those numbers, not one lost in the eigenvalues."""
    a, b = similarities(4, 6, 9).half(), similarities(5, 6, 9).half()
    found = log_euclidean(a, b, eps=1e-2)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(log_euclidean(a.double(), b.double(), eps=1e-2)), rel=1e-6)


def test_log_euclidean_refuses_what_has_no_logarithm() -> None:
    """The same image twice is singular without eps; and shapes must agree. What is not a number stays so."""
    twice = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        log_euclidean(twice - 1e-6 * EYE, EYE, eps=0.0)
    assert math.isfinite(float(log_euclidean(twice, EYE, eps=1e-3)))
    with pytest.raises(ValueError, match="not two square matrices"):
        log_euclidean(torch.ones(2, 3), torch.ones(2, 3), eps=0.1)
    assert math.isnan(float(log_euclidean(twice * math.nan, EYE, eps=0.1)))


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_log_euclidean_is_symmetric_and_indifferent_to_a_common_rotation(seed: int) -> None:
    """d(A, B) = d(B, A) = d(Q A Q^T, Q B Q^T), and d(A, A) = 0."""
    a, b = similarities(seed, 4, 6), similarities(seed + 1, 4, 6)
    rotation = torch.linalg.qr(rows(seed + 2, 4, 4)).Q
    value = float(log_euclidean(a, b, eps=1e-2))
    assert float(log_euclidean(b, a, eps=1e-2)) == pytest.approx(value, rel=1e-9)
    turned = [rotation @ x @ rotation.T for x in (a, b)]
    assert float(log_euclidean(*turned, eps=1e-2)) == pytest.approx(value, rel=1e-6)
    assert float(log_euclidean(a, a, eps=1e-2)) == 0


# ---- a teacher known by its probabilities
def test_kl_to_probabilities_is_the_kl_to_their_logits() -> None:
    """At each temperature; a probability of 0 adds nothing, and the teacher gets no gradient."""
    student, teacher = rows(1, 4, 5).requires_grad_(), rows(2, 4, 5)
    for temperature in (1.0, 3.0):
        q = torch.softmax(teacher / temperature, dim=1)
        expected = float(kl(student, teacher, temperature=temperature).detach())
        assert float(kl_to(student, q, temperature=temperature).detach()) == pytest.approx(expected, rel=1e-9)
    sure = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = kl_to(torch.tensor([[0.0, 0.0]], dtype=torch.float64, requires_grad=True), sure, temperature=1.0)
    assert float(value.detach()) == pytest.approx(math.log(2))
    value.backward()
    assert sure.grad is None


@pytest.mark.parametrize("loss", [feed, cosine_smooth_l1, lambda s, t: log_euclidean(s @ s.T, t @ t.T, eps=0.1)])
def test_only_the_student_gets_a_gradient(loss: object) -> None:
    """The teacher's side is detached by the loss itself."""
    student, teacher = rows(1, 4, 6).requires_grad_(), rows(2, 4, 6).requires_grad_()
    loss(student, teacher).backward()  # type: ignore[operator]
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert teacher.grad is None

"""Losses against numbers worked out by hand, published vectors, and float64 numpy derivations of the formulas."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.core.contracts import Batch
from edgekd.distilling import losses
from edgekd.distilling.losses import cross_entropy, dist, dkd, entropy, feature_mse, kl, linear_cka, logit_standard
from edgekd.distilling.precision import full_precision

LN3 = math.log(3)
LABELS = torch.tensor([0, 2, 1, 4, 3, 0])
QUEUE = torch.from_numpy(np.random.default_rng(9).normal(size=(11, 5)))

# every loss of (student, teacher), each B x 5, with settings that are not the neutral ones
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda s, t: kl(s, t, temperature=2.0),
    "dkd": lambda s, t: dkd(s, t, LABELS[: len(s)], alpha=0.7, beta=3.0, temperature=2.0),
    "dist": lambda s, t: dist(s, t, beta=0.7, gamma=3.0, temperature=2.0),
    "logit_standard": lambda s, t: logit_standard(s, t, temperature=2.0, weight=9.0),
    "feature_mse": feature_mse,
    "smooth_l1": lambda s, t: losses.smooth_l1(s, t, beta=0.5),
    "cosine": losses.cosine,
    "spectral": lambda s, t: losses.spectral(s, t, eps=1e-3, beta=1 / 3),
    "similarity_preserving": losses.similarity_preserving,
    "channel_correlation": lambda s, t: losses.channel_correlation(s.unsqueeze(0), t.unsqueeze(0)),
    "queue_similarity": lambda s, t: losses.queue_similarity(s, t, QUEUE, temperature=0.07),
    "rkd": lambda s, t: losses.rkd(s, t, distance_weight=25.0, angle_weight=50.0),
    "kl_to": full_precision(lambda s, t: losses.kl_to(s, torch.softmax(t / 2, dim=1), temperature=2.0)),
    "feed": losses.feed,
    "cosine_smooth_l1": lambda s, t: losses.cosine_smooth_l1(s, t, cosine_weight=0.9),
    "log_euclidean": full_precision(lambda s, t: losses.log_euclidean(inner(s), inner(t), eps=0.05)),
}
# derived in test_losses_teachers.py: gradients to both sides, and B numbers instead of their mean
ELSEWHERE = {"mmd", *(f"{name}_each" for name in ("cosine", "smooth_l1", "feature_mse", "cosine_smooth_l1"))}


def batch(labels: list[int], *, mix: float = 1.0, partners: list[int] | None = None) -> Batch:
    n = len(labels)
    return Batch(
        image_BCHW=torch.zeros(n, 3, 1, 1),
        label_B=torch.tensor(labels),
        index_B=torch.arange(n),
        view_B=torch.zeros(n, dtype=torch.int64),
        mix=mix,
        partner_B=None if partners is None else torch.tensor(partners),
    )


def rows(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def inner(x: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(x, dim=1)
    return unit @ unit.T


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# ---- published vectors


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.130812), (2.0, 0.145363), (4.0, 0.149458)])
def test_kl_matches_the_published_vectors(temperature: float, expected: float) -> None:
    """KL of z_t = (ln 3, 0) from z_s = 0 times T^2 is the reference figure at each temperature."""
    value = kl(torch.zeros(1, 2), torch.tensor([[LN3, 0.0]]), temperature=temperature)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_kl_has_a_direction() -> None:
    """KL(p||q) and KL(q||p) differ, the teacher is the first; their sum is the reference's."""
    z, nought = torch.tensor([[LN3, 0.0]]).double(), torch.zeros(1, 2).double()
    assert float(kl(z, nought, temperature=1.0)) == pytest.approx(0.143841, abs=1e-6)
    assert float(kl(z, nought, temperature=1.0) + kl(nought, z, temperature=1.0)) == pytest.approx(0.274653, abs=1e-6)


def test_entropy_matches_the_published_vectors() -> None:
    """Uniform over 4 gives ln 4; (.75, .25) gives .562335 with gradient -+.205990."""
    assert float(entropy(torch.zeros(3, 4))) == pytest.approx(1.386294, abs=1e-6)
    z = torch.tensor([[LN3, 0.0]], requires_grad=True)
    value = entropy(z)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.562335, abs=1e-6)
    assert z.grad is not None
    assert z.grad.tolist() == [pytest.approx([-0.205990, 0.205990], abs=1e-6)]


def test_dkd_matches_the_published_vector() -> None:
    """Target part, other part, the total with alpha 1 and beta 8, and the identity with KL."""
    student, teacher, label = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    tckd = float(dkd(student, teacher, label, alpha=1, beta=0, temperature=1.0))
    nckd = float(dkd(student, teacher, label, alpha=0, beta=1, temperature=1.0))
    assert (tckd, nckd) == (pytest.approx(0.119630, abs=1e-6), pytest.approx(0.462117, abs=1e-6))
    assert float(dkd(student, teacher, label, alpha=1, beta=8, temperature=1.0)) == pytest.approx(3.816567, abs=2e-6)
    p_target = math.exp(2) / (math.exp(2) + math.exp(1) + 1)
    assert tckd + (1 - p_target) * nckd == pytest.approx(0.274328, abs=1e-6)
    assert float(kl(student, teacher, temperature=1.0)) == pytest.approx(0.274328, abs=1e-6)


def test_standardised_logits_match_the_published_vector() -> None:
    """The divergence of the z-scores at T = 2, times T^2 and the weight 9."""
    student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    assert float(logit_standard(student, teacher, temperature=2.0, weight=9.0)) == pytest.approx(9.349939, abs=2e-6)
    assert float(logit_standard(student, teacher, temperature=2.0, weight=0.25)) == pytest.approx(0.259721, abs=1e-6)


def test_z_scores_take_the_unbiased_deviation() -> None:
    """Logits (1, 2, 3) count as (-1, 0, 1), whatever their scale and offset."""
    z_scores = torch.tensor([[-1.0, 0.0, 1.0]])
    teacher = torch.tensor([[0.3, -1.1, 2.0]])
    expected = logit_standard(z_scores, teacher, temperature=1.0, weight=1.0)
    found = logit_standard(torch.tensor([[1.0, 2.0, 3.0]]), teacher * 7 - 3, temperature=1.0, weight=1.0)
    t = teacher[0].double()
    own = kl(z_scores.double(), ((t - t.mean()) / t.std()).unsqueeze(0), temperature=1.0)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert float(found) == pytest.approx(float(own), abs=1e-6)


def test_dist_matches_the_published_vector() -> None:
    """Opposite answers have correlation -1 both ways: 2 for each relation."""
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert float(dist(student, teacher, beta=1, gamma=0, temperature=1.0)) == pytest.approx(2, abs=1e-6)
    assert float(dist(student, teacher, beta=0, gamma=1, temperature=1.0)) == pytest.approx(2, abs=1e-6)


def test_spectral_matches_the_published_vector() -> None:
    """Errors (1, 5e-7) with eps 1e-3 and beta 1/3 give .550175; beta 1 without eps is the plain mean."""
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1e-3]])
    assert float(losses.spectral(student, teacher, eps=1e-3, beta=1 / 3)) == pytest.approx(0.550175, abs=1e-6)
    assert float(losses.spectral(student, teacher, eps=0.0, beta=1.0)) == pytest.approx(0.50000025, abs=1e-7)


def test_similarity_preserving_matches_the_published_vector() -> None:
    """I against [[1, 0], [1, 0]] gives .292893; a feature's scale does not matter."""
    value = losses.similarity_preserving(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert float(value) == pytest.approx(0.292893, abs=1e-6)
    features = rows(0, 4, 3)
    assert float(losses.similarity_preserving(features, 3 * features)) == pytest.approx(0, abs=1e-12)


def test_channel_correlation_matches_the_published_vector() -> None:
    """Orthogonal channels against equal ones give .585786, also as a map."""
    student, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert float(losses.channel_correlation(student, teacher)) == pytest.approx(0.585786, abs=1e-6)
    assert float(losses.channel_correlation(student.unsqueeze(2), teacher.unsqueeze(3))) == pytest.approx(0.585786, abs=1e-6)


def test_queue_similarity_matches_the_published_vector() -> None:
    """Teacher and student at opposite members of a queue of two: 14.285696 at T = .07."""
    value = losses.queue_similarity(
        torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 0.0]]).double(), torch.eye(2).double(), temperature=0.07
    )
    assert float(value) == pytest.approx(14.285696, abs=1e-6)


def test_cka_matches_the_published_vectors() -> None:
    """A rotation, scale and offset leave 1; half of the variance in common gives .707107."""
    x = rows(1, 30, 4)
    rotation = torch.linalg.qr(rows(2, 4, 4)).Q
    assert float(linear_cka(x, 3 * x @ rotation + 7)) == pytest.approx(1, abs=1e-9)
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert float(linear_cka(cross, line)) == pytest.approx(0.707107, abs=1e-6)


def test_mse_matches_the_published_vector() -> None:
    """The mean of the squares of 1, 2, 3, 4 is 7.5."""
    assert float(feature_mse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2))) == 7.5


# ---- the formulas, derived anew in float64 numpy


def expected_kl(s: np.ndarray, t: np.ndarray) -> float:
    p, q = softmax(t / 2), softmax(s / 2)
    return float(4 * np.mean(np.sum(p * np.log(p / q), axis=1)))


def expected_dkd(s: np.ndarray, t: np.ndarray) -> float:
    total = 0.0
    for row, label in enumerate(LABELS.tolist()):
        p, q = softmax(t[row : row + 1] / 2)[0], softmax(s[row : row + 1] / 2)[0]
        pair_p, pair_q = (np.array([x[label], 1 - x[label]]) for x in (p, q))
        rest_p, rest_q = (np.delete(x, label) / (1 - x[label]) for x in (p, q))
        total += 0.7 * np.sum(pair_p * np.log(pair_p / pair_q)) + 3.0 * np.sum(rest_p * np.log(rest_p / rest_q))
    return 4 * total / len(s)


def expected_dist(s: np.ndarray, t: np.ndarray) -> float:
    p, q = softmax(s / 2), softmax(t / 2)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return float(4 * (0.7 * inter + 3 * intra))


def expected_logit_standard(s: np.ndarray, t: np.ndarray) -> float:
    p, q = (softmax((z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) / 2) for z in (t, s))
    return float(9 * 4 * np.mean(np.sum(p * np.log(p / q), axis=1)))


def expected_smooth_l1(s: np.ndarray, t: np.ndarray) -> float:
    d = np.abs(s - t)
    return float(np.mean(np.where(d < 0.5, 0.5 * d * d / 0.5, d - 0.25)))


def expected_cosine(s: np.ndarray, t: np.ndarray) -> float:
    return float(np.mean([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(s, t, strict=True)]))


def expected_relation(s: np.ndarray, t: np.ndarray, *, divisor: float) -> float:
    def relation(x: np.ndarray) -> np.ndarray:
        gram = np.array([[a @ b for b in x] for a in x])
        return np.array([line / np.sqrt(np.sum(line**2)) for line in gram])

    return float(np.sum((relation(s) - relation(t)) ** 2) / divisor)


def expected_queue(s: np.ndarray, t: np.ndarray) -> float:
    def answers(x: np.ndarray) -> np.ndarray:
        cosines = [[a @ q / np.linalg.norm(a) / np.linalg.norm(q) for q in QUEUE.numpy()] for a in x]
        return softmax(np.array(cosines) / 0.07)

    p, q = answers(t), answers(s)
    return float(np.mean(np.sum(p * np.log(p / q), axis=1)))


def expected_rkd(s: np.ndarray, t: np.ndarray) -> float:
    def huber(d: np.ndarray) -> float:
        return float(np.mean(np.where(np.abs(d) < 1, 0.5 * d * d, np.abs(d) - 0.5)))

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    def angles(x: np.ndarray) -> np.ndarray:
        n, out = len(x), np.zeros((len(x),) * 3)
        for j in range(n):
            for i in range(n):
                for k in range(n):
                    a, b = x[i] - x[j], x[k] - x[j]
                    length = np.linalg.norm(a) * np.linalg.norm(b)
                    out[j, i, k] = a @ b / length if length > 0 else 0.0
        return out

    return 25 * huber(distances(s) - distances(t)) + 50 * huber(angles(s) - angles(t))


def unit_rows(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(axis=1, keepdims=True))


def expected_cosine_smooth_l1(s: np.ndarray, t: np.ndarray) -> float:
    d = np.abs(s - t)
    return 0.9 * expected_cosine(s, t) + 0.1 * float(np.mean(np.where(d < 1, d * d / 2, d - 0.5)))


def expected_log_euclidean(s: np.ndarray, t: np.ndarray) -> float:
    def logarithm(x: np.ndarray) -> np.ndarray:
        value, vector = np.linalg.eigh(unit_rows(x) @ unit_rows(x).T + 0.05 * np.eye(len(x)))
        return (vector * np.log(value)) @ vector.T

    return float(((logarithm(s) - logarithm(t)) ** 2).sum())


EXPECTED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "kl": expected_kl,
    "dkd": expected_dkd,
    "dist": expected_dist,
    "logit_standard": expected_logit_standard,
    "feature_mse": lambda s, t: float(np.sum((s - t) ** 2) / s.size),
    "smooth_l1": expected_smooth_l1,
    "cosine": expected_cosine,
    "spectral": lambda s, t: float(np.mean([(np.mean(e**2) + 1e-3) ** (1 / 3) for e in (s - t).T])),
    "similarity_preserving": lambda s, t: expected_relation(s, t, divisor=len(s) ** 2),
    "channel_correlation": lambda s, t: expected_relation(s, t, divisor=len(s)),
    "queue_similarity": expected_queue,
    "rkd": expected_rkd,
    "kl_to": expected_kl,  # both at T = 2
    "feed": lambda s, t: float(np.abs(unit_rows(s) - unit_rows(t)).sum(axis=1).mean()),
    "cosine_smooth_l1": expected_cosine_smooth_l1,
    "log_euclidean": expected_log_euclidean,
}


def test_every_loss_of_the_module_is_derived_anew() -> None:
    """A loss that is added without a derivation and without the checks below fails here."""
    public = {name for name in losses.__all__ if callable(getattr(losses, name))}
    assert public == {*PAIRS, *ELSEWHERE, "cross_entropy", "entropy", "linear_cka"}
    assert set(PAIRS) == set(EXPECTED)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("name", PAIRS)
def test_losses_equal_their_formulas(name: str, scale: float) -> None:
    """In float64 to rounding; in float32 as well as float32 can; the result is of the student's type."""
    s, t = scale * rows(3, 6, 5), scale * rows(4, 6, 5)
    expected = EXPECTED[name](s.numpy(), t.numpy())
    double, single = PAIRS[name](s, t), PAIRS[name](s.float(), t.float())
    assert double.dtype == torch.float64
    assert single.dtype == torch.float32
    assert float(double) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(single) == pytest.approx(expected, rel=2e-4, abs=2e-6)


@pytest.mark.parametrize("shape", [(40, 6), (8, 20)])
def test_cka_equals_its_formula(shape: tuple[int, int]) -> None:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) with centring matrices, for more rows than channels and fewer."""
    x, y = rows(5, *shape), rows(6, shape[0], shape[1] + 1)
    h = np.eye(shape[0]) - 1 / shape[0]
    k, m = (h @ a.numpy() @ a.numpy().T @ h for a in (x, y))
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    assert float(linear_cka(x, y)) == pytest.approx(expected, rel=1e-9)
    assert float(linear_cka(x.float(), y.float() * 1e-3 + 1)) == pytest.approx(expected, rel=1e-3)


# ---- properties


def test_kl_is_a_mean_over_the_batch() -> None:
    """Repeating the batch changes nothing."""
    s, t = rows(3, 5, 7), rows(4, 5, 7)
    once, thrice = kl(s, t, temperature=2.0), kl(s.repeat(3, 1), t.repeat(3, 1), temperature=2.0)
    assert float(once) == pytest.approx(float(thrice), rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=9), st.floats(0.5, 8))
def test_kl_of_a_model_with_itself_is_nothing(logits: list[float], temperature: float) -> None:
    """KL(p||p) = 0 for any logits and temperature, and so are its decoupled parts."""
    z = torch.tensor([logits])
    assert float(kl(z, z.clone(), temperature=temperature)) == pytest.approx(0, abs=1e-6)
    assert float(dkd(z, z.clone(), LABELS[:1], alpha=1, beta=8, temperature=temperature)) == pytest.approx(0, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.3, 8), st.floats(0.1, 6))
def test_dkd_splits_kl(seed: int, temperature: float, scale: float) -> None:
    """TCKD + (1 - p_target) NCKD = KL for each image."""
    s, t, label = scale * rows(seed, 1, 5), scale * rows(seed + 1, 1, 5), LABELS[1:2]
    tckd = float(dkd(s, t, label, alpha=1, beta=0, temperature=temperature))
    nckd = float(dkd(s, t, label, alpha=0, beta=1, temperature=temperature))
    rest = 1 - float(softmax(t.numpy() / temperature)[0, int(label)])
    assert tckd + rest * nckd == pytest.approx(float(kl(s, t, temperature=temperature)), rel=1e-7, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9))
def test_dist_does_not_see_the_scale_of_probabilities(seed: int, share: float) -> None:
    """Answers p and share p + (1 - share) / K are the same to it: an affine map of the probabilities."""
    p = softmax(2 * np.random.default_rng(seed).normal(size=(6, 5)))
    flattened = np.log(share * p + (1 - share) / 5)
    value = dist(torch.from_numpy(flattened), torch.from_numpy(np.log(p)), beta=1, gamma=1, temperature=1.0)
    assert float(value) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_a_student_that_equals_its_teacher_has_nothing_to_lose(name: str) -> None:
    """Each loss is 0 there (SpecMatch: its eps to the power beta) and positive a step away."""
    x = rows(7, 6, 5)
    least = 0.1 if name == "spectral" else 0.0
    assert float(PAIRS[name](x, x.clone())) == pytest.approx(least, abs=1e-9)
    assert float(PAIRS[name](x + 0.1 * rows(8, 6, 5), x)) > least + 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_reach_the_student_and_never_the_teacher(name: str) -> None:
    """Checked against finite differences for the student; the teacher's tensor gets none even if it asks for it."""
    student, teacher = rows(3, 6, 5).requires_grad_(), rows(4, 6, 5).requires_grad_()
    PAIRS[name](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert torch.autograd.gradcheck(lambda s: PAIRS[name](s, teacher.detach()), (student.detach().requires_grad_(),))


def test_the_queue_gets_no_gradient() -> None:
    """It holds teacher features."""
    student, queue = rows(3, 6, 5).requires_grad_(), QUEUE.clone().requires_grad_()
    losses.queue_similarity(student, rows(4, 6, 5), queue, temperature=0.07).backward()
    assert queue.grad is None


HARD: dict[str, Tensor] = {
    "zero": torch.zeros(6, 5),
    "equal rows": torch.tensor([[1.0, -2.0, 0.1, 0.3, 4.0]]).repeat(6, 1),
    "constant rows": torch.arange(6.0).unsqueeze(1).repeat(1, 5) / 10 + 0.1,
    "huge": 1e4 * torch.eye(6, 5),
    "huge, both signs": 1e4 * rows(10, 6, 5).float(),
    "tiny": 1e-25 * rows(11, 6, 5).float(),
    "one row": torch.tensor([[0.3, 1.0, -1.0, 0.0, 2.0]]),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("name", PAIRS)
def test_hard_cases_stay_finite(name: str, hard: str) -> None:
    """Value and gradient are finite whichever side, or both, is degenerate or huge."""
    easy = rows(12, len(HARD[hard]), 5).float()
    for s, t in ((HARD[hard], easy), (easy, HARD[hard]), (HARD[hard], HARD[hard].flip(0))):
        student = s.clone().requires_grad_()
        value = PAIRS[name](student, t)
        value.backward()
        assert student.grad is not None
        assert bool(value.detach().isfinite())
        assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("name", ["kl", "dkd", "dist"])
def test_a_small_temperature_keeps_gradients_finite(name: str) -> None:
    """T = 0.001 on logits of 1e4: no -inf from underflowing sums, and no nan from 0 times it."""
    cases = {
        "kl": lambda s, t: kl(s, t, temperature=1e-3),
        "dkd": lambda s, t: dkd(s, t, LABELS, alpha=1, beta=8, temperature=1e-3),
        "dist": lambda s, t: dist(s, t, beta=1, gamma=1, temperature=1e-3),
    }
    student = (1e4 * rows(13, 6, 5).float()).requires_grad_()
    value = cases[name](student, 1e4 * rows(14, 6, 5).float())
    value.backward()
    assert student.grad is not None
    assert bool(value.detach().isfinite())
    assert bool(student.grad.isfinite().all())


def test_dkd_of_a_certain_teacher_is_what_the_formula_says() -> None:
    """Where p_target rounds to 1, the other classes still count: the published clamp-free log of sums would be -inf."""
    teacher, student = torch.tensor([[200.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 200.0]])
    tckd = dkd(student, teacher, LABELS[:1], alpha=1, beta=0, temperature=1.0)
    nckd = dkd(student, teacher, LABELS[:1], alpha=0, beta=1, temperature=1.0)
    p = 1 / (1 + math.exp(-1))
    assert float(tckd) == pytest.approx(200, rel=1e-6)
    assert float(nckd) == pytest.approx(p * (math.log(p) + 199) + (1 - p) * math.log(1 - p), rel=1e-6)


def test_dkd_counts_labelled_images_only() -> None:
    """An unknown label neither adds to the loss nor to its mean; none at all gives 0 with a gradient."""
    s, t = rows(3, 4, 5), rows(4, 4, 5)
    known = dkd(s[:2], t[:2], torch.tensor([3, 1]), alpha=1, beta=8, temperature=4.0)
    mixed = dkd(s, t, torch.tensor([3, 1, -1, -1]), alpha=1, beta=8, temperature=4.0)
    assert float(mixed) == pytest.approx(float(known), rel=1e-12)
    student = s.clone().requires_grad_()
    nothing = dkd(student, t, torch.full((4,), -1), alpha=1, beta=8, temperature=4.0)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert student.grad is not None
    assert float(student.grad.abs().sum()) == 0


def test_answers_that_do_not_vary_have_no_correlation() -> None:
    """Uniform answers count as uncorrelated with any (1 for each relation), not as rounding noise; the gradient is mild."""
    student = torch.zeros(6, 100, requires_grad=True)
    value = dist(student, rows(15, 6, 100).float(), beta=1, gamma=1, temperature=1.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(2, abs=1e-5)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1


def test_cka_of_what_does_not_vary_is_nothing() -> None:
    """Constant features have nothing in common with any, and no nan reaches a record."""
    assert float(linear_cka(torch.full((9, 3), 0.1), rows(1, 9, 4).float())) == 0


def test_an_empty_batch_gives_nothing() -> None:
    """The unlabelled part of a batch can be empty: 0 with a gradient, no nan."""
    student = torch.zeros(0, 5, requires_grad=True)
    value = entropy(student) + kl(student, torch.zeros(0, 5), temperature=2.0)
    value.backward()
    assert float(value.detach()) == 0


@pytest.mark.parametrize("name", PAIRS)
def test_losses_do_not_lose_precision_under_autocast(name: str) -> None:
    """Under bf16 autocast float32 inputs give the same bits; half precision inputs are widened first."""
    s, t = rows(3, 6, 5).float(), rows(4, 6, 5).float()
    plain = PAIRS[name](s, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PAIRS[name](s, t), plain)
    halved = PAIRS[name](s.bfloat16(), t.half())
    assert halved.dtype == torch.float32
    assert torch.equal(halved, PAIRS[name](s.bfloat16().float(), t.half().float()))


def test_tensors_may_be_given_by_name() -> None:
    """The public names of the arguments are those of the tensors."""
    s, t = rows(3, 6, 5), rows(4, 6, 5)
    assert torch.equal(kl(student_logits_BK=s, teacher_logits_BK=t, temperature=2.0), kl(s, t, temperature=2.0))
    assert torch.equal(linear_cka(x_ND=s, y_NE=t), linear_cka(s, t))


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"similarity_preserving", "rkd", "channel_correlation"}))
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    """One teacher row for six students' is a mistake, not a target for all."""
    with pytest.raises(ValueError, match="not the same shape"):
        PAIRS[name](rows(3, 6, 5), rows(4, 1, 5))


@pytest.mark.parametrize("name", ["similarity_preserving", "rkd"])
def test_relations_need_no_common_width(name: str) -> None:
    """They compare rows with rows: widths may differ, the rows must not."""
    assert float(PAIRS[name](rows(3, 6, 5), rows(4, 6, 9))) > 0
    with pytest.raises(ValueError, match="not the same number of rows"):
        PAIRS[name](rows(3, 6, 5), rows(4, 5, 5))


def test_small_distances_far_from_the_origin_count() -> None:
    """In float32, rows a hundredth apart around 100: a distance from inner products would be noise."""
    s, t = (0.01 * rows(seed, 40, 5).float() + 100 for seed in (16, 17))
    expected = losses.rkd(s.double(), t.double(), distance_weight=1.0, angle_weight=1.0)
    assert float(losses.rkd(s, t, distance_weight=1.0, angle_weight=1.0)) == pytest.approx(float(expected), rel=1e-3)


def test_other_channels_and_single_classes_are_refused() -> None:
    """Correlations of 3 channels cannot meet those of 4; with one class there are no others."""
    with pytest.raises(ValueError, match="not the same batch and channels"):
        losses.channel_correlation(rows(3, 2, 3, 5), rows(4, 2, 4, 5))
    with pytest.raises(ValueError, match="at least 2 classes"):
        dkd(rows(3, 2, 1), rows(4, 2, 1), LABELS[:2], alpha=1, beta=1, temperature=1.0)
    with pytest.raises(TypeError, match="no tensor of a float type"):
        entropy(torch.tensor([[1, 2]]))


def test_relational_weights_choose_their_terms() -> None:
    """Each of the two terms alone, times its weight, adds up to both."""
    s, t = rows(3, 6, 5), rows(4, 6, 5)
    distance = float(losses.rkd(s, t, distance_weight=1.0, angle_weight=0.0))
    angle = float(losses.rkd(s, t, distance_weight=0.0, angle_weight=1.0))
    assert min(distance, angle) > 0
    assert float(losses.rkd(s, t, distance_weight=25.0, angle_weight=50.0)) == pytest.approx(25 * distance + 50 * angle)


# ---- labels


def test_cross_entropy_counts_labelled_images_only() -> None:
    """Unknown labels neither add to the loss nor to its mean."""
    logits = torch.tensor([[1.0, 0.0], [50.0, 0.0]])
    assert float(cross_entropy(logits, batch([0, -1]))) == pytest.approx(0.313262, abs=1e-6)


def test_cross_entropy_of_an_unlabelled_batch_is_zero_with_a_gradient() -> None:
    """A batch without labels gives exactly 0 and can still be differentiated."""
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, batch([-1, -1, -1]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) == 0.0


def test_mixup_weighs_the_two_labels() -> None:
    """With mix 0.25 the loss is a quarter of the own label's and three quarters of the partner's."""
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    own0, own1 = 0.313262, 1.313262
    loss = cross_entropy(logits, batch([0, 1], mix=0.25, partners=[0, 0]))
    assert float(loss) == pytest.approx(0.25 * (own0 + own1) / 2 + 0.75 * own0, abs=1e-6)


def test_smoothing_spreads_the_label() -> None:
    """Smoothing e gives (1 - e) CE + e times the mean of the negative log probabilities, in the logits' own type."""
    logits = torch.tensor([[1.0, 0.0]]).double()
    near, far = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    loss = cross_entropy(logits, batch([0]), smoothing=0.1)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(0.9 * near + 0.1 * (near + far) / 2, abs=1e-12)

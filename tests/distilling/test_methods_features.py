"""Methods that match features, against float64 numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec

B, N, WIDTH_S, WIDTH_T, K = 6, 300, 4, 5, 3


def criterion(name: str, *, widths_t: tuple[int, ...] = (WIDTH_T,), width_s: int = WIDTH_S, **options: Any) -> Any:
    torch.manual_seed(0)
    method = parts.load("method", name)(**options)
    student = FeatureSpec(name="s", shapes={method.student_tap: (width_s,), "logits": (K,)})
    shapes = [{method.teacher_tap: (width,), "probe_logits": (K,)} for width in widths_t]
    teachers = tuple(FeatureSpec(name=f"t{i}", shapes=shape) for i, shape in enumerate(shapes))
    return method.build(student, teachers, K)


def rows(seed: int, n: int, width: int) -> Tensor:
    """Correlated channels of different scales, around a mean that is not 0."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, width)) * np.geomspace(3.0, 0.3, width) @ generator.normal(size=(width, width))
    return torch.tensor(values + generator.normal(size=width), dtype=torch.float32)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def unlabelled(n: int = B) -> Batch:
    return Batch(
        image_BCHW=torch.zeros(n, 3, 4, 4),
        label_B=torch.full((n,), -1),
        index_B=torch.arange(n),
        view_B=torch.zeros(n, dtype=torch.int64),
    )


def fit(made: Any, *rows_ND: Tensor) -> None:
    made.fit(tuple({made.method.teacher_tap: feature_ND} for feature_ND in rows_ND))


def total(made: Any, student: Tensor, *teachers: Tensor, given: Batch | None = None, **more: Tensor) -> Tensor:
    taught = tuple({made.method.teacher_tap: t, "probe_logits": torch.zeros(len(t), K)} for t in teachers)
    loss: Tensor = made({made.method.student_tap: student, **more}, taught, given or unlabelled(len(student))).total
    return loss


def value(made: Any, student: Tensor, *teachers: Tensor, **more: Any) -> float:
    return float(total(made, student, *teachers, **more).detach())


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ numbers(layer.weight).T + numbers(layer.bias)


def standard(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return (x - seen.mean(axis=0)) / seen.std(axis=0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def huber(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine"])
def test_feature_is_the_distance_of_the_projection_to_the_standardised_teacher(kind: str) -> None:
    """The three distances, statistics from the rows that were fitted on."""
    made = criterion("feature", distance=kind, label_weight=0.0, weight=2.0)
    seen, s, t = rows(1, N, WIDTH_T), rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    fit(made, seen)
    answer, target = linear(made.matches[0].projector, numbers(s)), standard(numbers(t), numbers(seen))
    expected = {
        "mse": ((answer - target) ** 2).mean(),
        "smooth_l1": huber(answer - target).mean(),
        "cosine": 1 - (unit(answer) * unit(target)).sum(axis=1).mean(),
    }[kind]
    assert value(made, s, t) == pytest.approx(2 * expected, rel=1e-4)


def test_feature_can_project_through_a_small_network() -> None:
    """`mlp` is Linear, LayerNorm, GELU, Linear."""
    made = criterion("feature", projector="mlp", label_weight=0.0)
    seen, s, t = rows(1, N, WIDTH_T), rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    fit(made, seen)
    first, _, _, last = made.matches[0].projector
    hidden = linear(first, numbers(s))
    hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    expected = ((linear(last, hidden) - standard(numbers(t), numbers(seen))) ** 2).mean()
    assert value(made, s, t) == pytest.approx(expected, rel=1e-4)


def test_similarity_preserving_compares_normalised_similarities() -> None:
    """Mean over B^2 of the squared difference of row-normalised Gram matrices; widths may differ."""
    made = criterion("similarity_preserving", label_weight=0.0, weight=10.0)
    s, t = rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    assert not hasattr(made, "fit")
    gram_s, gram_t = (unit(x @ x.T) for x in (numbers(s), numbers(t)))
    assert value(made, s, t) == pytest.approx(10 * ((gram_s - gram_t) ** 2).mean(), rel=1e-4)


def test_rkd_compares_distances_and_angles() -> None:
    """Huber error of distances over their mean off the diagonal, and of the cosines at each corner of each triplet."""
    made = criterion("rkd", label_weight=0.0)
    s, t = rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.linalg.norm(x[:, None] - x[None], axis=2)
        return d / (d.sum() / (B * (B - 1)))

    def angles(x: np.ndarray) -> np.ndarray:
        cosines = np.zeros((B, B, B))
        for corner in range(B):
            for i in range(B):
                for j in range(B):
                    a, b = x[i] - x[corner], x[j] - x[corner]
                    lengths = np.linalg.norm(a) * np.linalg.norm(b)
                    cosines[corner, i, j] = a @ b / lengths if lengths > 0 else 0.0
        return cosines

    expected = 25 * huber(distances(numbers(s)) - distances(numbers(t))).mean()
    expected += 50 * huber(angles(numbers(s)) - angles(numbers(t))).mean()
    assert value(made, s, t) == pytest.approx(expected, rel=1e-4)


def test_specmatch_matches_all_components_at_unit_variance() -> None:
    """Mean over components of (squared error + eps)^(1/3); the target's variances are the eigenvalues over their mean."""
    made = criterion("specmatch")
    seen, s, t = rows(1, N, WIDTH_T), rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    fit(made, seen)
    centred = numbers(seen) - numbers(seen).mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions[np.arange(WIDTH_T), np.abs(directions).argmax(axis=1)])
    scale = 1 / np.sqrt(centred.var(axis=0).mean())
    target = (numbers(t) - numbers(seen).mean(axis=0)) @ (directions * signs[:, None]).T * scale
    error = ((linear(made.matches[0].head, numbers(s)) - target) ** 2).mean(axis=0)
    assert value(made, s, t) == pytest.approx(((error + 1e-3) ** (1 / 3)).mean(), rel=1e-4)


def test_specmatchs_scale_is_what_makes_eps_mean_the_same_for_all_teachers() -> None:
    """With `scale: unit` a teacher 100 times as loud gives the same loss, with `none` it does not."""
    seen, s, t = rows(1, N, WIDTH_T), rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    found = {}
    for scale in ("unit", "none"):
        for loudness in (1.0, 100.0):
            made = criterion("specmatch", scale=scale)
            fit(made, seen * loudness)
            found[scale, loudness] = value(made, s, t * loudness)
    assert found["unit", 100.0] == pytest.approx(found["unit", 1.0], rel=1e-4)
    assert found["none", 100.0] > 2 * found["none", 1.0]


def queue_kl(student: np.ndarray, teacher: np.ndarray, queue: np.ndarray, temperature: float) -> float:
    def log_softmax(z: np.ndarray) -> np.ndarray:
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    log_q, log_p = (log_softmax(unit(x) @ unit(queue).T / temperature) for x in (student, teacher))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def test_queue_similarity_is_the_divergence_of_similarities_to_queue_and_batch() -> None:
    """The fitted rows fill the queue; in training the batch itself replaces the oldest before the loss is taken."""
    made = criterion("queue_similarity", queue=20, temperature=0.1)
    seen, s, t = rows(1, 20, WIDTH_T), rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    fit(made, seen)
    queue = np.concatenate([numbers(seen)[B:], numbers(t)])
    expected = queue_kl(linear(made.matches[0].head, numbers(s)), numbers(t), queue, 0.1)
    assert value(made, s, t) == pytest.approx(expected, rel=1e-4)


def test_the_queue_forgets_the_oldest_first() -> None:
    """First in, first out over several batches, around the end of the buffer; evaluation leaves the queue alone."""
    made = criterion("queue_similarity", queue=7)
    seen, batches = rows(1, 9, WIDTH_T), [rows(10 + i, 3, WIDTH_T) for i in range(4)]
    fit(made, seen)
    history = unit(numbers(seen))
    for t in batches:
        total(made, rows(2, 3, WIDTH_S), t)
        history = np.concatenate([history, unit(numbers(t))])
        held = numbers(made.matches[0].queue_QD)
        np.testing.assert_allclose(np.sort(held, axis=0), np.sort(history[-7:], axis=0), rtol=1e-5)
    before = made.matches[0].queue_QD.clone()
    total(made.eval(), rows(2, 3, WIDTH_S), rows(20, 3, WIDTH_T))
    assert torch.equal(before, made.matches[0].queue_QD)


def test_a_queue_that_is_not_full_compares_only_with_what_it_holds() -> None:
    """Two fitted rows and a batch of three in a queue for a thousand: five similarities."""
    made = criterion("queue_similarity", queue=1000)
    seen, s, t = rows(1, 2, WIDTH_T), rows(2, 3, WIDTH_S), rows(3, 3, WIDTH_T)
    fit(made, seen)
    queue = np.concatenate([numbers(seen), numbers(t)])
    expected = queue_kl(linear(made.matches[0].head, numbers(s)), numbers(t), queue, 0.07)
    assert value(made, s, t) == pytest.approx(expected, rel=1e-4)


def test_a_queue_and_its_place_come_back_from_a_state_dict() -> None:
    """A restored criterion goes on as the first one would have."""
    made, again = criterion("queue_similarity", queue=8), criterion("queue_similarity", queue=8)
    fit(made, rows(1, 5, WIDTH_T))
    total(made, rows(2, B, WIDTH_S), rows(3, B, WIDTH_T))
    again.load_state_dict(made.state_dict())
    s, t = rows(4, B, WIDTH_S), rows(5, B, WIDTH_T)
    assert value(made, s, t) == value(again, s, t)
    assert torch.equal(made.matches[0].queue_QD, again.matches[0].queue_QD)


def test_two_batches_may_be_in_flight_before_the_first_goes_backward() -> None:
    """The queue that a loss was taken against is not overwritten under its gradient (gradient accumulation)."""
    made = criterion("queue_similarity", queue=8)
    fit(made, rows(1, 8, WIDTH_T))
    first = total(made, rows(2, B, WIDTH_S), rows(3, B, WIDTH_T))
    second = total(made, rows(4, B, WIDTH_S), rows(5, B, WIDTH_T))
    (first + second).backward()
    assert made.matches[0].head.weight.grad is not None


@pytest.mark.parametrize("name", ["feature", "similarity_preserving", "rkd", "queue_similarity", "kdep", "specmatch"])
def test_several_teachers_of_different_widths_count_as_the_mean_of_their_losses(name: str) -> None:
    """The total is the mean of the single matches, each fitted to its own teacher."""
    made = criterion(name, widths_t=(WIDTH_T, WIDTH_T + 2), label_weight=0.0, weight=1.0)
    s, t, u = rows(2, B, WIDTH_S), rows(3, B, WIDTH_T), rows(4, B, WIDTH_T + 2)
    if hasattr(made, "fit"):
        fit(made, rows(1, N, WIDTH_T), rows(5, N, WIDTH_T + 2))
    both = value(made.eval(), s, t, u)
    alone = [float(match(s, teacher).detach()) for match, teacher in zip(made.matches, (t, u), strict=True)]
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["feature", "similarity_preserving", "rkd", "queue_similarity", "kdep", "specmatch"])
def test_gradients_reach_the_student_and_the_projectors_and_nobody_else(name: str) -> None:
    """Teachers stay as they are even if they could learn; every weight of the criterion gets a gradient."""
    made = criterion(name, label_weight=0.0)
    if hasattr(made, "fit"):
        fit(made, rows(1, N, WIDTH_T))
    s, t = rows(2, B, WIDTH_S).requires_grad_(), rows(3, B, WIDTH_T).requires_grad_()
    total(made, s, t).backward()
    assert s.grad is not None
    assert float(s.grad.abs().sum()) > 0
    assert t.grad is None
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in made.parameters())


@pytest.mark.parametrize("name", ["feature", "similarity_preserving", "rkd", "queue_similarity", "kdep", "specmatch"])
def test_logits_are_asked_for_only_where_a_term_needs_them(name: str) -> None:
    """Without label and probe terms neither labels nor logits are needed; with them, both."""
    plain = parts.load("method", name)(label_weight=0.0).needs()
    assert (plain.labels, len(plain.student_taps), len(plain.teacher_taps)) == (False, 1, 1)
    full = parts.load("method", name)(label_weight=1.0, probe_weight=1.0).needs()
    assert full.labels
    assert full.student_taps[1:] == ("logits",)
    assert full.teacher_taps[1:] == ("probe_logits",)


def test_label_and_probe_terms_are_added_with_their_weights() -> None:
    """A uniform probe against logits (ln 3, 0, 0): 16 KL at temperature 4; and the cross entropy of label 0, ln(5/3)."""
    s, t = rows(2, B, WIDTH_S), rows(3, B, WIDTH_T)
    logits = torch.tensor([math.log(3), 0.0, 0.0]).repeat(B, 1)
    given = unlabelled()
    given.label_B = torch.zeros(B, dtype=torch.int64)
    bare = value(criterion("rkd", label_weight=0.0), s, t)
    made = criterion("rkd", label_weight=0.5, probe_weight=2.0)
    soft = np.exp(np.array([math.log(3) / 4, 0, 0]))
    soft = soft / soft.sum()
    kl = 16 * (np.log(1 / 3) - np.log(soft)).mean()
    expected = bare + 0.5 * math.log(5 / 3) + 2.0 * kl
    assert value(made, s, t, given=given, logits=logits) == pytest.approx(expected, rel=1e-4)

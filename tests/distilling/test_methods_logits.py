"""Methods that match logits, against float64 numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec, Losses
from edgekd.core.errors import UsageError

B, K = 7, 5
LABELS = [0, 4, 2, -1, 1, -1, 3]


def criterion(name: str, *, teachers: int = 1, **options: Any) -> Any:
    method = parts.load("method", name)(**options)
    taps = method.needs().teacher_taps
    specs = tuple(FeatureSpec(name=f"t{i}", shapes=dict.fromkeys(taps, (K,))) for i in range(teachers))
    return method.build(FeatureSpec(name="s", shapes={"logits": (K,)}), specs, K)


def logits(seed: int, *, scale: float = 2.0, grad: bool = False) -> Tensor:
    values = np.random.default_rng(seed).normal(size=(B, K)) * scale
    return torch.tensor(values, dtype=torch.float32, requires_grad=grad)


def batch(labels: list[int], *, mix: float = 1.0, partner: list[int] | None = None) -> Batch:
    n = len(labels)
    return Batch(
        image_BCHW=torch.zeros(n, 3, 4, 4),
        label_B=torch.tensor(labels),
        index_B=torch.arange(n),
        view_B=torch.zeros(n, dtype=torch.int64),
        mix=mix,
        partner_B=None if partner is None else torch.tensor(partner),
    )


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean() * temperature**2)


def dkd(student: np.ndarray, teacher: np.ndarray, labels: list[int], *, alpha: float, beta: float, t: float) -> float:
    """The target's binary divergence and the divergence among the others, image by image."""
    losses = []
    for z_s, z_t, y in zip(student / t, teacher / t, labels, strict=True):
        p, q = np.exp(log_softmax(z_t[None]))[0], np.exp(log_softmax(z_s[None]))[0]
        target = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        p_rest, q_rest = np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])
        losses.append(alpha * target + beta * (p_rest * np.log(p_rest / q_rest)).sum())
    return float(np.mean(losses) * t**2)


def pearson_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of 1 - correlation."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    rows = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(1 - rows.mean())


def standard(z: np.ndarray) -> np.ndarray:
    return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, ddof=1, keepdims=True)


def cross_entropy(student: np.ndarray, labels: list[int]) -> float:
    return float(np.mean([-row[y] for row, y in zip(log_softmax(student), labels, strict=True) if y >= 0]))


def run(made: Any, student: Tensor, teachers: tuple[Tensor, ...], given: Batch) -> Losses:
    return made({"logits": student}, tuple({made.method.tap: t} for t in teachers), given)


def test_kd_is_the_softened_divergence_plus_cross_entropy() -> None:
    """Total = label_weight CE + weight T^2 KL."""
    s, t = logits(0), logits(1)
    losses = run(criterion("kd", temperature=3.0, weight=0.7, label_weight=0.3), s, (t,), batch(LABELS))
    expected = 0.3 * cross_entropy(numbers(s), LABELS) + 0.7 * kl(numbers(s), numbers(t), 3.0)
    assert float(losses.total) == pytest.approx(expected, rel=1e-5)


def test_task_oriented_transfer_is_kd_without_a_label_term() -> None:
    """With label_weight 0 the loss is the divergence from the probe, on labelled and unlabelled images alike."""
    s, t = logits(0), logits(1)
    made = criterion("kd", label_weight=0.0)
    assert made.method.needs().teacher_taps == ("probe_logits",)
    labelled, unlabelled = (run(made, s, (t,), batch(labels)).total for labels in (LABELS, [-1] * B))
    assert float(labelled) == float(unlabelled) == pytest.approx(kl(numbers(s), numbers(t), 4.0), rel=1e-5)


def test_dkd_splits_target_and_rest_and_asks_the_teacher_where_there_is_no_label() -> None:
    """Unknown labels become the teacher's strongest class."""
    s, t = logits(2), logits(3)
    losses = run(criterion("dkd", alpha=0.5, beta=2.0, temperature=2.0, label_weight=0.0), s, (t,), batch(LABELS))
    labels = [y if y >= 0 else int(numbers(t)[i].argmax()) for i, y in enumerate(LABELS)]
    expected = dkd(numbers(s), numbers(t), labels, alpha=0.5, beta=2.0, t=2.0)
    assert float(losses.total) == pytest.approx(expected, rel=1e-5)


def test_dkd_can_leave_unlabelled_images_out() -> None:
    """`skip` averages over the labelled images only, and a batch without any gives 0 with a gradient of 0."""
    s, t = logits(2, grad=True), logits(3)
    made = criterion("dkd", unlabelled="skip", label_weight=0.0)
    known = [i for i, y in enumerate(LABELS) if y >= 0]
    expected = dkd(numbers(s)[known], numbers(t)[known], [LABELS[i] for i in known], alpha=1.0, beta=8.0, t=4.0)
    assert float(run(made, s, (t,), batch(LABELS)).total.detach()) == pytest.approx(expected, rel=1e-5)
    nothing = run(made, s, (t,), batch([-1] * B)).total
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert s.grad is not None
    assert float(s.grad.abs().sum()) == 0.0


def test_dkd_weighs_both_labels_of_a_mixed_image() -> None:
    """Under mixup the loss is the share-weighted mean of the losses for either label."""
    s, t, labels = logits(2), logits(3), [0, 1, 2, 3, 4, 0, 1]
    partner = [6, 5, 4, 3, 2, 1, 0]
    made = criterion("dkd", label_weight=0.0)
    losses = run(made, s, (t,), batch(labels, mix=0.8, partner=partner))
    own = dkd(numbers(s), numbers(t), labels, alpha=1.0, beta=8.0, t=4.0)
    other = dkd(numbers(s), numbers(t), [labels[i] for i in partner], alpha=1.0, beta=8.0, t=4.0)
    assert float(losses.total) == pytest.approx(0.8 * own + 0.2 * other, rel=1e-5)


def test_dkd_grows_over_its_warm_up() -> None:
    """Call n of `warmup_batches` has n parts of the weight; evaluation does not count; the count is saved."""
    s, t = logits(2), logits(3)
    made = criterion("dkd", warmup_batches=4, label_weight=0.0)
    full = float(run(criterion("dkd", label_weight=0.0), s, (t,), batch(LABELS)).total)
    shares = [float(run(made, s, (t,), batch(LABELS)).total) / full for _ in range(3)]
    assert shares == pytest.approx([0.25, 0.5, 0.75])
    assert float(run(made.eval(), s, (t,), batch(LABELS)).total) / full == pytest.approx(0.75)
    again = criterion("dkd", warmup_batches=4, label_weight=0.0)
    again.load_state_dict(made.state_dict())
    later = [float(run(again, s, (t,), batch(LABELS)).total) / full for _ in range(2)]
    assert later == pytest.approx([1.0, 1.0])


def test_dist_correlates_over_classes_and_over_images() -> None:
    """T^2 times: beta (1 - r) within images plus gamma (1 - r) within classes, of softmax probabilities."""
    s, t = logits(4), logits(5)
    made = criterion("dist", temperature=1.5, beta=0.5, gamma=3.0, label_weight=0.0)
    p, q = (np.exp(log_softmax(numbers(z) / 1.5)) for z in (s, t))
    expected = 1.5**2 * (0.5 * pearson_distance(p, q) + 3.0 * pearson_distance(p.T, q.T))
    assert float(run(made, s, (t,), batch(LABELS)).total) == pytest.approx(expected, rel=1e-4)


def test_logit_standard_ignores_shift_and_scale_of_logits() -> None:
    """Its loss is 9 T^2 KL of the z-scores, the same for a student whose logits are stretched and moved."""
    s, t = logits(6), logits(7)
    made = criterion("logit_standard", label_weight=0.0)
    expected = 9.0 * kl(standard(numbers(s)), standard(numbers(t)), 2.0)
    assert float(run(made, s, (t,), batch(LABELS)).total) == pytest.approx(expected, rel=1e-4)
    assert float(run(made, 3 * s + 5, (t,), batch(LABELS)).total) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "logit_standard"])
def test_several_teachers_count_as_the_mean_of_their_losses(name: str) -> None:
    """Two teachers: half the sum of what each alone would cost; gradients reach the student and no teacher."""
    s, t, u = logits(8, grad=True), logits(9, grad=True), logits(10, grad=True)
    both = run(criterion(name, teachers=2, label_weight=0.0), s, (t, u), batch(LABELS)).total
    first, second = (run(criterion(name, label_weight=0.0), s, (one,), batch(LABELS)).total.detach() for one in (t, u))
    assert float(both.detach()) == pytest.approx((float(first) + float(second)) / 2, rel=1e-5)
    both.backward()
    assert s.grad is not None
    assert float(s.grad.abs().sum()) > 0
    assert t.grad is None
    assert u.grad is None


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "logit_standard"])
def test_parts_are_logged_unweighted_under_the_methods_name(name: str) -> None:
    """The history shows cross entropy and the method's own term, whatever their weights."""
    s, t = logits(8), logits(9)
    one, two = (run(criterion(name, weight=w, label_weight=w), s, (t,), batch(LABELS)) for w in (0.5, 2.0))
    assert set(one.parts) == {"ce", name}
    assert {k: float(v) for k, v in one.parts.items()} == {k: float(v) for k, v in two.parts.items()}
    assert float(two.total) == pytest.approx(4 * float(one.total), rel=1e-5)


@pytest.mark.parametrize("name", ["dkd", "dist", "logit_standard"])
def test_logits_over_other_classes_are_refused_by_name(name: str) -> None:
    """A teacher's own head over 1000 outputs has nothing to say about 5 classes."""
    method = parts.load("method", name)(head="own")
    with pytest.raises(UsageError, match=rf"method {name}: vit answers over 1000 outputs and the data have 5 classes"):
        method.build(FeatureSpec(name="s", shapes={"logits": (5,)}), (FeatureSpec(name="vit", shapes={"logits": (1000,)}),), 5)

"""Students that teach one another: values by float64 numpy, and who is moved by whom."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import kl
from edgekd.distilling.methods.fusion import joined_maps
from edgekd.distilling.methods.one import gated_sum

B, K = 5, 4
LABELS = [0, 1, 2, 3, 0]


def batch(labels: list[int] = LABELS) -> Batch:
    return Batch(
        image_BCHW=torch.zeros(len(labels), 3, 4, 4),
        label_B=torch.tensor(labels),
        index_B=torch.arange(len(labels)),
        view_B=torch.zeros(len(labels), dtype=torch.int64),
    )


def answers(*peers: str, seed: int = 0, **more: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "logits": (K,),
        **{f"{peer}/logits": (K,) for peer in peers},
        **{k.replace("__", "/"): v for k, v in more.items()},
    }
    return {tap: torch.randn(B, *shape, generator=generator).requires_grad_() for tap, shape in shapes.items()}


def criterion(name: str, given: dict[str, Tensor], *, teachers: int = 0, **options: Any) -> Any:
    torch.manual_seed(0)
    student = FeatureSpec(name="s", shapes={tap: tuple(value.shape[1:]) for tap, value in given.items()})
    taught = tuple(FeatureSpec(name=f"t{i}", shapes={"probe_logits": (K,)}) for i in range(teachers))
    return parts.load("method", name)(**options).build(student, taught, K)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def ce(z: Tensor, labels: list[int] = LABELS) -> float:
    return float(-log_softmax(numbers(z))[np.arange(len(labels)), labels].mean())


def divergence(target: Tensor, answer: Tensor, t: float = 1.0) -> float:
    log_p, log_q = log_softmax(numbers(target) / t), log_softmax(numbers(answer) / t)
    return float(t**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


# ------------------------------------------------------------------------------------------------------------------ mutual
def test_mutual_is_every_students_cross_entropy_and_its_mean_divergence_from_the_others() -> None:
    """Eq. 5 and 8 of the paper, for three students."""
    given = answers("b", "c")
    z = [given["logits"], given["b/logits"], given["c/logits"]]
    expected = sum(ce(one) for one in z)
    expected += sum(divergence(z[j], z[k]) / 2 for k in range(3) for j in range(3) if j != k)
    losses = criterion("mutual", given)(given, (), batch())
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert set(losses.parts) == {"ce", "ce b", "ce c", "mutual", "mutual b", "mutual c"}


def test_a_peers_target_is_detached() -> None:
    """The gradient on one student is that of its own terms alone, with the other's answers as constants."""
    given = answers("b")
    criterion("mutual", given)(given, (), batch()).total.backward()
    own = given["logits"].detach().clone().requires_grad_()
    (
        torch.nn.functional.cross_entropy(own, torch.tensor(LABELS)) + kl(own, given["b/logits"].detach(), temperature=1)
    ).backward()
    torch.testing.assert_close(given["logits"].grad, own.grad)


def test_mutual_does_not_depend_on_the_order_of_the_peers() -> None:
    """The same answers under exchanged names give the same sum."""
    given = answers("b", "c")
    swapped = {"logits": given["c/logits"], "b/logits": given["logits"], "c/logits": given["b/logits"]}
    one, two = (float(criterion("mutual", g)(g, (), batch()).total.detach()) for g in (given, swapped))
    assert one == pytest.approx(two, rel=1e-6)


def test_a_frozen_teacher_is_a_peer_in_one_direction() -> None:
    """It adds its divergence to every student, mean over the teachers, and gets no gradient."""
    given, without = answers("b"), answers("b")
    teachers = tuple({"probe_logits": torch.randn(B, K, requires_grad=True)} for _ in range(2))
    losses = criterion("mutual", given, teachers=2, teacher_weight=0.5)(given, teachers, batch())
    expected = float(criterion("mutual", without)(without, (), batch()).total.detach())
    expected += 0.25 * sum(divergence(t["probe_logits"], given[key]) for key in ("logits", "b/logits") for t in teachers)
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5)
    losses.total.backward()
    assert all(teacher["probe_logits"].grad is None for teacher in teachers)
    assert all(float(value.grad.abs().sum()) > 0 for value in given.values())


@pytest.mark.parametrize("name", ["mutual", "fusion"])
def test_one_student_alone_is_refused(name: str) -> None:
    """There is nobody to learn from, and the message says what to add."""
    given = answers(map=(3, 2, 2))
    with pytest.raises(UsageError, match=r"(?s)method \w+: .*add `peers:`"):
        criterion(name, given)


@pytest.mark.parametrize("name", ["mutual", "one", "fusion"])
def test_teachers_of_other_classes_are_refused(name: str) -> None:
    """A teacher's own head of another width has nothing to say here."""
    given = answers("b", map=(3, 2, 2), b__map=(3, 2, 2), trunk=(6,))
    student = FeatureSpec(name="s", shapes={tap: tuple(value.shape[1:]) for tap, value in given.items()})
    method = parts.load("method", name)(teacher_weight=1.0, head="own")
    with pytest.raises(UsageError, match="vit answers over 1000 outputs and the data have 4 classes"):
        method.build(student, (FeatureSpec(name="vit", shapes={"logits": (1000,)}),), K)


# --------------------------------------------------------------------------------------------------------------------- one
def test_the_gated_sum_of_the_reference_vector_and_its_divergences() -> None:
    """z = rows of I2 and g = (.75, .25) give z_e = (.75, .25) and T^2 KL .030856 and .280279 at T = 3."""
    z = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    mixed = gated_sum(z, torch.tensor([[math.log(3.0), 0.0]]))
    torch.testing.assert_close(mixed, torch.tensor([[0.75, 0.25]]))
    assert float(kl(z[0], mixed, temperature=3.0)) == pytest.approx(0.030856, abs=1e-6)
    assert float(kl(z[1], mixed, temperature=3.0)) == pytest.approx(0.280279, abs=1e-6)


def test_one_sums_the_branches_losses_and_the_gates() -> None:
    """All cross entropies, and T^2 KL of every branch from the gated sum, by numpy."""
    given = answers("branch_2", "branch_3", trunk=(6,))
    made = criterion("one", given, weight=0.5).eval()
    z = [given["logits"], given["branch_2/logits"], given["branch_3/logits"]]
    gate = np.maximum(numbers(given["trunk"]) @ numbers(made.gate[0].weight).T / math.sqrt(1 + made.gate[1].eps), 0)
    share = np.exp(log_softmax(gate))
    mixed = torch.tensor(sum(share[:, [i]] * numbers(one) for i, one in enumerate(z)))
    expected = sum(ce(one) for one in z) + ce(mixed) + 0.5 * sum(divergence(mixed, one, 3.0) for one in z)
    assert float(made(given, (), batch()).total.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_gate_learns_from_the_labels_alone() -> None:
    """Without a label nothing moves it, whatever the branches say to the sum."""
    given = answers("branch_2", "branch_3", trunk=(6,))
    made = criterion("one", given)
    made(given, (), batch([-1] * B)).total.backward()
    assert all(float(weight.grad.abs().sum()) == 0 for weight in made.gate.parameters())
    assert float(given["logits"].grad.abs().sum()) > 0
    made(given, (), batch()).total.backward()
    assert float(made.gate[0].weight.grad.abs().sum()) > 0


def test_the_ramp_grows_to_one_and_counts_training_calls_only() -> None:
    """exp(-5 (1 - t)^2): .2865 at half its length, 1 at its end; looking does not count."""
    given = answers("branch_2", "branch_3", trunk=(6,))
    made = criterion("one", given, ramp_batches=4)
    shares = [made.ramp() for _ in range(5)]
    assert shares == pytest.approx([math.exp(-5 * 0.75**2), math.exp(-1.25), math.exp(-5 / 16), 1.0, 1.0])
    made.eval()
    made(given, (), batch())
    assert int(made.ramp.calls) == 5


# ------------------------------------------------------------------------------------------------------------------ fusion
def test_fusion_sums_what_students_and_fused_classifier_say_to_one_another() -> None:
    """Its terms are the published ones of the classifier's own answers."""
    given = answers("b", map=(3, 2, 2), b__map=(2, 2, 2))
    made = criterion("fusion", given).eval()
    joined = torch.cat([given["map"], given["b/map"]], dim=1)
    fused = made.classify(made.fuse(joined).mean(dim=(2, 3)))
    z = [given["logits"], given["b/logits"]]
    mean = torch.stack(z).mean(dim=0)
    expected = sum(map(ce, [*z, fused])) + sum(divergence(fused, one, 3.0) for one in z) + divergence(mean, fused, 3.0)
    assert float(made(given, (), batch()).total.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_fused_classifier_moves_maps_by_its_own_terms_only() -> None:
    """With no label, the students' divergences from it and its own from their mean leave logits and maps to themselves."""
    given = answers("b", map=(3, 2, 2), b__map=(2, 2, 2))
    made = criterion("fusion", given)
    terms = made.among(given, batch([-1] * B))
    terms["fusion"].backward(retain_graph=True)
    assert given["map"].grad is None or float(given["map"].grad.abs().sum()) == 0
    assert given["b/logits"].grad is None
    for value in given.values():
        value.grad = None
    terms["fusion of the fused"].backward()
    assert given["logits"].grad is None
    assert float(given["map"].grad.abs().sum()) > 0


def test_maps_of_another_size_are_resized_to_the_first() -> None:
    """A constant map stays constant, and channels are joined in order."""
    joined = joined_maps([torch.zeros(2, 1, 4, 4), torch.full((2, 3, 2, 2), 5.0)])
    assert joined.shape == (2, 4, 4, 4)
    assert float(joined[:, 1:].min()) == float(joined[:, 1:].max()) == 5.0

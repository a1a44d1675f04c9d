"""Teachers of different classes: what the student learns, whose order does not matter, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core.contracts import Batch, FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.distilling.methods.uhc import Uhc

CLASSES = ("a", "b", "c")
SETS = (("a", "b"), ("b", "c"))
Q = torch.tensor([[0.5, 0.3, 0.2]])


def batch(size: int = 1) -> Batch:
    return Batch(
        image_BCHW=torch.zeros(size, 3, 4, 4),
        label_B=torch.full((size,), -1),
        index_B=torch.arange(size),
        view_B=torch.zeros(size, dtype=torch.int64),
    )


def specs(sets: tuple[tuple[str, ...], ...]) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(name=f"vit-{i}.x", shapes={"logits": (len(s),)}, classes=s) for i, s in enumerate(sets))


def criterion(method: Uhc, sets: tuple[tuple[str, ...], ...] = SETS, classes: tuple[str, ...] = CLASSES) -> Any:
    shapes = {"logits": (len(classes),)}
    return method.build(FeatureSpec(name="s", shapes=shapes, classes=classes), specs(sets), len(classes))


def told(q_BK: Tensor, sets: tuple[tuple[str, ...], ...] = SETS, *, temperature: float = 1.0) -> tuple[dict[str, Tensor], ...]:
    """Return the logits of teachers that know q, each restricted to its own classes and in its own order."""
    return tuple({"logits": temperature * q_BK[:, [CLASSES.index(c) for c in s]].log() + 3.0} for s in sets)


def total(method: Uhc, logits_BK: Tensor, teachers: tuple[dict[str, Tensor], ...], **more: Any) -> float:
    return float(criterion(method, **more)({"logits": logits_BK}, teachers, batch(len(logits_BK))).total.detach())


@pytest.mark.parametrize("estimator", ["cross_entropy", "factorisation"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_student_of_the_reference_vector_learns_q_itself(estimator: Any, temperature: float) -> None:
    """p = (.625, .375) and (.6, .4) over {1, 2} and {2, 3} come from q = (.5, .3, .2): at log q the loss is 0."""
    method = Uhc(estimator=estimator, temperature=temperature)
    teachers = told(Q, temperature=temperature)
    first, second = (torch.softmax(t["logits"] / temperature, dim=1)[0].tolist() for t in teachers)
    assert (first, second) == (pytest.approx([0.625, 0.375]), pytest.approx([0.6, 0.4]))
    assert total(method, temperature * Q.log() - 7.0, teachers) == pytest.approx(0.0, abs=1e-5)


def test_the_loss_is_the_divergence_from_q() -> None:
    """float64 numpy: KL(q || softmax(student))."""
    z = np.array([1.0, -0.5, 0.25])
    log_s = z - np.log(np.exp(z).sum())
    q = Q[0].double().numpy()
    expected = float((q * (np.log(q) - log_s)).sum())
    assert total(Uhc(), torch.tensor(z[None], dtype=torch.float32), told(Q)) == pytest.approx(expected, rel=1e-4)


def test_each_restricts_the_student_to_the_classes_of_a_teacher() -> None:
    """The mean of KL(p_i || student among the classes of i); ratios within both sets are all that it sees."""
    z = np.array([1.0, -0.5, 0.25])
    expected = 0.0
    for columns in ([0, 1], [1, 2]):
        p = Q[0].double().numpy()[columns] / Q[0].double().numpy()[columns].sum()
        log_s = z[columns] - np.log(np.exp(z[columns]).sum())
        expected += float((p * (np.log(p) - log_s)).sum()) / 2
    method = Uhc(estimator="each")
    assert total(method, torch.tensor(z[None], dtype=torch.float32), told(Q)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("estimator", ["cross_entropy", "factorisation", "each"])
def test_the_order_of_teachers_and_of_their_classes_does_not_matter(estimator: Any) -> None:
    """Teachers that disagree, exchanged, and one with its classes the other way round: the same loss."""
    generator = torch.Generator().manual_seed(0)
    answers = [torch.randn(4, 2, generator=generator) for _ in SETS]
    z = torch.randn(4, 3, generator=generator)
    one = total(Uhc(estimator=estimator), z, tuple({"logits": a} for a in answers))
    turned = ({"logits": answers[1].flip(1)}, {"logits": answers[0]})
    assert total(Uhc(estimator=estimator), z, turned, sets=(("c", "b"), ("a", "b"))) == pytest.approx(one, rel=1e-4)


def test_teachers_get_no_gradient() -> None:
    """q is a target; only the student moves."""
    teachers = tuple({"logits": torch.randn(2, 2, requires_grad=True)} for _ in SETS)
    student = torch.randn(2, 3, requires_grad=True)
    method = Uhc(heads=True)
    heads = {f"logits_{name}": torch.randn(2, 2, requires_grad=True) for name in method.further_heads(specs(SETS))}
    criterion(method)({"logits": student, **heads}, teachers, batch(2)).total.backward()
    assert all(teacher["logits"].grad is None for teacher in teachers)
    assert all(float(value.grad.abs().sum()) > 0 for value in (student, *heads.values()))


def test_heads_are_named_after_teachers_and_learn_from_their_own() -> None:
    """One output a teacher with its classes in its order; the loss of one does not touch another."""
    method = Uhc(heads=True, weight=0.0)
    named = method.further_heads(specs(SETS))
    assert named == {"vit_0_x": ("a", "b"), "vit_1_x": ("b", "c")}
    assert method.needs().student_taps == ()
    made = criterion(method, sets=(("a", "b"), ("x", "y")))  # not connected, which matters only where they are unified
    heads = {f"logits_{name}": torch.zeros(1, 2, requires_grad=True) for name in named}
    losses = made(heads, told(Q), batch())
    expected = [float((p * np.log(2 * p)).sum()) for p in (np.array([0.625, 0.375]), np.array([0.6, 0.4]))]
    assert [float(losses.parts[f"head {name}"]) for name in named] == pytest.approx(expected, rel=1e-4)
    twice = (specs(SETS)[0], specs(SETS)[0])
    assert list(method.further_heads(twice)) == ["vit_0_x_1", "vit_0_x_2"]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ((("a", "b"), ()), "does not say which classes"),
        ((("a",), ("b", "c")), "share no class"),
        ((("a", "b"), ("a", "b")), "no teacher knows c"),
        ((("a", "b"), ("b", "c", "d")), "which are no classes here"),
    ],
)
def test_teachers_that_do_not_determine_an_answer_are_refused(sets: tuple[tuple[str, ...], ...], says: str) -> None:
    """Unnamed, unconnected, missing and foreign classes, each before training."""
    with pytest.raises(UsageError, match=says):
        criterion(Uhc(), sets=sets)

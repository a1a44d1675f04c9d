"""Every registered method keeps the method's contract."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError

CLASSES, WIDTH_S, WIDTH_T, B = 5, 8, 12, 6
FITTED_N = 200
KNOWN_STUDENT_TAPS = {"pooled", "pre_act", "pre_logits", "logits", "map", "embedding"}
NAMES = tuple(f"class_{index}" for index in range(CLASSES))


def method(name: str) -> Method:
    part = parts.load("method", name)()
    assert isinstance(part, Method)
    return part


def spec(name: str, taps: tuple[str, ...], width: int) -> FeatureSpec:
    shapes = {tap: (CLASSES,) if "logits" in tap and tap != "pre_logits" else (width,) for tap in taps}
    return FeatureSpec(name=name, shapes=shapes | ({"map": (width, 3, 3)} if "map" in taps else {}), classes=NAMES)


def together(student: FeatureSpec, needs: Needs) -> FeatureSpec:
    """Return a student's taps, and those of its peers or branches as the stage adds them."""
    shapes = dict(student.shapes)
    for peer in range(max(needs.peers, needs.branches - 1)):
        shapes |= {f"peer_{peer}/{tap}": shape for tap, shape in student.shapes.items()}
    return replace(student, shapes=shapes | ({"trunk": (WIDTH_S,)} if needs.branches else {}))


def knowing(teacher: FeatureSpec, number: int, *, of: int) -> FeatureSpec:
    """Return a teacher that knows all classes if it is alone, else all but one that another one knows."""
    names = tuple(name for index, name in enumerate(NAMES) if of == 1 or index != number)
    shapes = {tap: (len(names),) if tap == "logits" else shape for tap, shape in teacher.shapes.items()}
    return replace(teacher, shapes=shapes, classes=names)


def tensors(model: FeatureSpec, *, grad: bool, rows: int = B) -> dict[str, torch.Tensor]:
    return {tap: torch.randn(rows, *shape, requires_grad=grad) for tap, shape in model.shapes.items()}


def fit(criterion: nn.Module, specs: tuple[FeatureSpec, ...]) -> None:
    """Show the criterion features of training images, as the stage does, if it wants to see any."""
    if hasattr(criterion, "fit"):
        criterion.fit(tuple(tensors(s, grad=False, rows=FITTED_N) for s in specs))


def batch(labels: list[int]) -> Batch:
    return Batch(
        image_BCHW=torch.rand(B, 3, 8, 8),
        label_B=torch.tensor(labels),
        index_B=torch.arange(B),
        view_B=torch.zeros(B, dtype=torch.int64),
    )


def built(name: str, teachers: int) -> tuple[Needs, nn.Module, FeatureSpec, tuple[FeatureSpec, ...]]:
    part = method(name)
    needs = part.needs()
    student = together(spec("student", needs.student_taps, WIDTH_S), needs)
    widths = [WIDTH_S if "embedding" in needs.teacher_taps else WIDTH_T + i for i in range(teachers)]
    specs = tuple(spec(f"teacher{i}", needs.teacher_taps, width) for i, width in enumerate(widths))
    if needs.class_sets:
        specs = tuple(knowing(one, i, of=teachers) for i, one in enumerate(specs))
    return needs, part.build(student, specs, CLASSES), student, specs


@pytest.fixture(params=parts.names("method"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_methods_are_registered() -> None:
    """The suite runs over something: every method of the house."""
    assert {
        "supervised",
        *("kd", "dkd", "dist", "logit_standard"),
        *("mutual", "one", "fusion", "uhc", "clip"),
        *("feature", "similarity_preserving", "rkd", "queue_similarity", "kdep", "specmatch"),
    } <= set(parts.names("method"))


def test_it_has_help_and_a_stable_identity(name: str) -> None:
    """One line of help without import; an identity that JSON can hold."""
    assert 20 < len(parts.help_line("method", name)) <= 100
    assert json.loads(json.dumps(method(name).identity()))["use"] == name


def test_it_asks_only_for_taps_that_students_have(name: str) -> None:
    """Its student taps are taps of any timm model."""
    assert {part for tap in method(name).needs().student_taps for part in tap.split("+")} <= KNOWN_STUDENT_TAPS


@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 0], [0, -1, -1, 2, -1, -1], [-1] * B])
def test_the_loss_is_a_number_with_gradients_for_the_student_alone(name: str, teachers: int, labels: list[int]) -> None:
    """Labelled, partly labelled and unlabelled batches give a finite scalar; teachers get no gradient."""
    torch.manual_seed(0)
    needs, criterion, student, specs = built(name, teachers if method(name).needs().teachers else 0)
    fit(criterion, specs)
    features = tensors(student, grad=True)
    taught = tuple(tensors(s, grad=False) for s in specs)
    losses = criterion(features, taught, batch(labels))
    assert isinstance(losses, Losses)
    assert losses.total.ndim == 0
    assert math.isfinite(float(losses.total.detach()))
    assert losses.parts
    assert all(not part.requires_grad for part in losses.parts.values())
    losses.total.backward()
    grads = [f.grad for f in features.values()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)
    assert all(t.grad is None for one in taught for t in one.values())
    if needs.teachers or any(label >= 0 for label in labels):
        assert any(float(g.abs().sum()) > 0 for g in grads)


def test_its_own_weights_learn_with_the_student(name: str) -> None:
    """Every weight of the criterion that asks for a gradient gets one from a labelled batch."""
    torch.manual_seed(0)
    _, criterion, student, specs = built(name, 1 if method(name).needs().teachers else 0)
    fit(criterion, specs)
    taught = tuple(tensors(s, grad=False) for s in specs)
    criterion(tensors(student, grad=True), taught, batch([0, 1, 2, 3, 4, -1])).total.backward()
    weights = {key: p for key, p in criterion.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in weights.values())


def test_what_it_fitted_and_learnt_is_in_its_state(name: str) -> None:
    """A criterion built afresh gives the same loss once it has the first one's state: no `fit` is needed again."""
    torch.manual_seed(0)
    teachers = 1 if method(name).needs().teachers else 0
    _, criterion, student, specs = built(name, teachers)
    fit(criterion, specs)
    _, again, _, _ = built(name, teachers)
    again.load_state_dict(criterion.state_dict())
    features, taught = tensors(student, grad=False), tuple(tensors(s, grad=False) for s in specs)
    given = batch([0, 1, 2, 3, 4, -1])
    first, second = (float(made(features, taught, given).total.detach()) for made in (criterion, again))
    assert math.isfinite(first)
    assert first == second


def test_more_steps_make_the_loss_smaller(name: str) -> None:
    """Two hundred plain gradient steps on features and criterion lower the loss."""
    torch.manual_seed(0)
    _, criterion, student, specs = built(name, 1 if method(name).needs().teachers else 0)
    fit(criterion, specs)
    features = tensors(student, grad=True)
    taught = tuple(tensors(s, grad=False) for s in specs)
    optimiser = torch.optim.Adam([*features.values(), *criterion.parameters()], lr=0.05)
    history = []
    for _ in range(200):
        losses = criterion(features, taught, batch([0, 1, 2, 3, 4, -1]))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append(float(losses.total.detach()))
    assert history[-1] < 0.8 * history[0]


def test_an_unknown_option_is_refused(name: str) -> None:
    """A misspelt option is an error, never ignored."""
    with pytest.raises(ValueError, match="no_such_option"):
        parts.load("method", name)(no_such_option=1)


def test_kd_refuses_teachers_of_other_classes() -> None:
    """Logits over 1000 outputs have nothing in common with 5 classes, and the message says what to do."""
    kd = parts.load("method", "kd")(head="own")
    teacher = FeatureSpec(name="vit", shapes={"logits": (1000,)})
    with pytest.raises(UsageError, match=r"1000 outputs and the data have 5 classes(.|\n)*head: probe"):
        kd.build(FeatureSpec(name="s", shapes={"logits": (5,)}), (teacher,), 5)


def test_feature_refuses_taps_that_are_maps() -> None:
    """A map cannot go through a linear projector."""
    feature = parts.load("method", "feature")(student_tap="map")
    with pytest.raises(UsageError, match="a vector is needed"):
        feature.build(
            FeatureSpec(name="s", shapes={"map": (8, 3, 3), "logits": (5,)}),
            (FeatureSpec(name="t", shapes={"pooled": (8,)}),),
            5,
        )


def test_features_targets_are_standardised_by_the_training_images() -> None:
    """After `fit`, a projector that outputs zeros has loss 1: the target's variance (float64 derivation: mean of z^2)."""
    feature = parts.load("method", "feature")(label_weight=0.0)
    criterion = feature.build(
        FeatureSpec(name="s", shapes={"pooled": (4,)}), (FeatureSpec(name="t", shapes={"pooled": (3,)}),), 5
    )
    teacher = {"pooled": torch.randn(B, 3, dtype=torch.float64).float() * torch.tensor([0.01, 1.0, 100.0]) + 5}
    criterion.fit((teacher,))
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.zero_()
    loss = criterion({"pooled": torch.randn(B, 4)}, (teacher,), batch([-1] * B)).total
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-4)

"""KDEP's targets, limits and refusals, against float64 numpy and numbers derived by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec
from edgekd.core.errors import UsageError

TAP = "cls+patch_mean"


def built(width_s: int, width_t: int, *, tap: str = TAP, **options: Any) -> Any:
    torch.manual_seed(0)
    method = parts.load("method", "kdep")(teacher_tap=tap, **options)
    student = FeatureSpec(name="mobilenet", shapes={"pre_act": (width_s,)})
    return method.build(student, (FeatureSpec(name="vit", shapes={tap: (width_t,)}),), 3)


def rows(seed: int, n: int, width: int) -> Tensor:
    """Correlated channels of different scales, around a mean that is not 0."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, width)) * np.geomspace(3.0, 0.3, width) @ generator.normal(size=(width, width))
    return torch.tensor(values + 5 * generator.normal(size=width), dtype=torch.float32)


def total(made: Any, student: Tensor, teacher: Tensor) -> Tensor:
    n = len(student)
    given = Batch(
        image_BCHW=torch.zeros(n, 3, 4, 4),
        label_B=torch.full((n,), -1),
        index_B=torch.arange(n),
        view_B=torch.zeros(n, dtype=torch.int64),
    )
    loss: Tensor = made({"pre_act": student}, ({made.method.teacher_tap: teacher},), given).total
    return loss


def fitted(width_s: int, width_t: int, **options: Any) -> tuple[Any, Tensor]:
    made, seen = built(width_s, width_t, **options), rows(1, 400, width_t)
    made.fit(({TAP: seen},))
    return made, seen


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def projection(seen: np.ndarray, x: np.ndarray, dim: int) -> np.ndarray:
    """Coefficients of the first right singular vectors of the centred rows, their largest entry positive."""
    _, _, directions = np.linalg.svd(seen - seen.mean(axis=0), full_matrices=False)
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    return (x - seen.mean(axis=0)) @ (directions * signs[:, None])[:dim].T


def pts(g: np.ndarray, temperature: float, exponent: float) -> np.ndarray:
    return np.sign(g) * np.abs(g / temperature) ** (1 / exponent)


def test_it_asks_for_no_labels_and_no_logits() -> None:
    """Pre-training: the student's features before the activation, the teacher's vector, and many rows to fit on."""
    needs = parts.load("method", "kdep")().needs()
    assert (needs.student_taps, needs.teacher_taps) == (("pre_act",), ("cls+patch_mean",))
    assert (needs.labels, needs.teachers, needs.fit_samples) == (False, True, 65536)


def test_targets_of_a_matrix_whose_svd_is_known() -> None:
    """Rows (+-2,0,0), (0,+-1,0) about (10,20,30): coefficients +-2 and +-1, auto temperature 0.520242, root 3."""
    four = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]) + torch.tensor([10.0, 20, 30])
    made = built(2, 3)
    made.fit(({TAP: four.repeat(5, 1)},))
    large, small = (2 / 0.520242) ** (1 / 3), (1 / 0.520242) ** (1 / 3)
    expected = torch.tensor([[large, 0], [-large, 0], [0, small], [0, -small]])
    torch.testing.assert_close(made.matches[0].target(four), expected, atol=1e-4, rtol=1e-5)
    assert float(total(made, torch.zeros(4, 2), four)) == pytest.approx(1.0, abs=1e-5)
    assert float(total(made, expected, four)) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_squared_error_to_pts_of_the_projection() -> None:
    """A given temperature and exponent, on images that were not fitted on."""
    made, seen = fitted(4, 7, temperature=0.1, exponent=2.0, weight=3.0)
    s, t = rows(2, 6, 4), rows(3, 6, 7)
    target = pts(projection(numbers(seen), numbers(t), 4), 0.1, 2.0)
    assert float(total(made, s, t)) == pytest.approx(3 * ((numbers(s) - target) ** 2).mean(), rel=1e-4)


def test_auto_temperature_gives_a_student_that_says_nothing_a_loss_of_one() -> None:
    """However loud the teacher, the mean square of the target over the fitted rows is 1."""
    for loudness in (0.01, 100.0):
        made, seen = built(4, 7), rows(1, 400, 7) * loudness
        made.fit(({TAP: seen},))
        assert float(total(made, torch.zeros(400, 4), seen)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["smooth_l1", "cosine", "spectral"])
def test_the_other_losses_take_the_same_target(kind: str) -> None:
    """Smooth L1, 1 - cosine, and SpecMatch's mean over channels of (squared error + eps)^beta."""
    made, seen = fitted(4, 7, loss=kind, temperature=0.5, eps=1e-2, beta=0.5)
    s, t = rows(2, 6, 4), rows(3, 6, 7)
    answer, target = numbers(s), pts(projection(numbers(seen), numbers(t), 4), 0.5, 3.0)
    error = answer - target
    lengths = np.linalg.norm(answer, axis=1) * np.linalg.norm(target, axis=1)
    expected = {
        "smooth_l1": np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5).mean(),
        "cosine": (1 - (answer * target).sum(axis=1) / lengths).mean(),
        "spectral": (((error**2).mean(axis=0) + 1e-2) ** 0.5).mean(),
    }[kind]
    assert float(total(made, s, t)) == pytest.approx(expected, rel=1e-4)


def test_the_rivals_take_their_own_targets() -> None:
    """Projection alone, whitened, and the most varying channels."""
    s, t = rows(2, 6, 4), rows(3, 6, 7)
    seen = numbers(rows(1, 400, 7))
    svd = projection(seen, numbers(t), 4)
    targets = {
        "svd": svd,
        "whiten": svd / projection(seen, seen, 4).std(axis=0),
        "select": numbers(t)[:, np.argsort(-seen.std(axis=0))[:4]],
    }
    for kind, target in targets.items():
        made, _ = fitted(4, 7, target=kind)
        assert float(total(made, s, t)) == pytest.approx(((numbers(s) - target) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("kind", ["svd_std_sorted", "phi_s", "interpolate", "svd_std"])
def test_the_remaining_targets_have_the_students_width(kind: str) -> None:
    """They are fitted and teach a student narrower than the teacher; `svd_std` by a ratio that is given."""
    made, _ = fitted(4, 7, target=kind, std_ratio=2.98)
    assert made.matches[0].target(rows(3, 6, 7)).shape == (6, 4)
    assert not list(made.parameters())


@pytest.mark.parametrize("width_s", [4, 9])
def test_learned_is_a_linear_layer_on_the_students_side(width_s: int) -> None:
    """Whatever the widths: the student goes to the teacher's width and meets standardised features."""
    made, seen = fitted(width_s, 7, target="learned")
    s, t = rows(2, 6, width_s), rows(3, 6, 7)
    layer = made.matches[0].projector
    answer = numbers(s) @ numbers(layer.weight).T + numbers(layer.bias)
    target = (numbers(t) - numbers(seen).mean(axis=0)) / numbers(seen).std(axis=0)
    assert float(total(made, s, t).detach()) == pytest.approx(((answer - target) ** 2).mean(), rel=1e-4)


def test_a_student_wider_than_the_teacher_is_told_how_to_widen_it() -> None:
    """The message has both widths, the narrowest joined tap that suffices, and the two other ways out."""
    with pytest.raises(UsageError) as refused:
        built(576, 384)
    assert str(refused.value) == (
        "method kdep: the student's pre_act has d_s = 576 channels and vit's cls+patch_mean only d_t = 384,"
        " so 192 of them have no target\n"
        "  To mend: widen the teacher's vector with `teacher_tap: patch_mean+last_3` (a ViT's), or set"
        " `on_wider_student: first_channels` (the last 192 channels stay free) or `on_wider_student: projector`"
        " (a linear layer 576 -> 384 behind the student)"
    )


@pytest.mark.parametrize(
    ("tap", "width_t", "width_s", "advice"),
    [
        ("cls", 192, 300, "patch_mean+last_1"),
        ("cls+patch_mean", 768, 960, "patch_mean+last_2"),
        ("patch_mean+last_2", 576, 1280, "patch_mean+last_6"),
        ("patch_mean+last_2", 576, 577, "patch_mean+last_3"),
    ],
)
def test_the_advised_tap_is_the_narrowest_that_can_vary_enough(tap: str, width_t: int, width_s: int, advice: str) -> None:
    """(k + 1) vectors of a LayerNorm vary in (k + 1)(D - 1) directions: at least d_s, and not with one vector less."""
    with pytest.raises(UsageError, match=rf"`teacher_tap: {advice.replace('+', '[+]')}`"):
        built(width_s, width_t, tap=tap)
    vectors, varying = int(advice[-1]) + 1, {"cls": 191, "cls+patch_mean": 383, "patch_mean+last_2": 191}[tap]
    assert vectors * varying >= width_s
    assert vectors == 2 or (vectors - 1) * varying < width_s


def test_first_channels_leaves_the_others_free() -> None:
    """A student of 9 channels against 7: the first 7 are taught, the last two get no gradient."""
    made, seen = fitted(9, 7, on_wider_student="first_channels", temperature=1.0)
    s, t = rows(2, 6, 9).requires_grad_(), rows(3, 6, 7)
    loss = total(made, s, t)
    loss.backward()
    expected = ((numbers(s)[:, :7] - pts(projection(numbers(seen), numbers(t), 7), 1.0, 3.0)) ** 2).mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert s.grad is not None
    assert bool((s.grad[:, :7] != 0).all())
    assert not bool(s.grad[:, 7:].any())
    assert not list(made.parameters())


def test_projector_takes_a_wider_student_to_the_teachers_width() -> None:
    """A linear layer 9 -> 7 learns with the student; a student that is narrow enough gets none."""
    made, seen = fitted(9, 7, on_wider_student="projector", temperature=1.0)
    s, t = rows(2, 6, 9).requires_grad_(), rows(3, 6, 7)
    layer = made.matches[0].projector
    loss = total(made, s, t)
    loss.backward()
    answer = numbers(s) @ numbers(layer.weight).T + numbers(layer.bias)
    expected = ((answer - pts(projection(numbers(seen), numbers(t), 7), 1.0, 3.0)) ** 2).mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert s.grad is not None
    assert layer.weight.grad is not None
    assert isinstance(fitted(4, 7, on_wider_student="projector")[0].matches[0].projector, nn.Identity)


def test_too_few_rows_are_refused() -> None:
    """Ten rows a direction are needed, and the message counts."""
    made = built(4, 7)
    with pytest.raises(UsageError, match=r"39 rows .* too few for a basis of 4 directions: 10 a direction are needed, 40"):
        made.fit(({TAP: rows(1, 39, 7)},))
    made.fit(({TAP: rows(1, 40, 7)},))


@pytest.mark.parametrize("kind", ["svd_pts", "svd_std_sorted"])
def test_directions_that_do_not_vary_are_refused_where_they_would_be_scaled_up(kind: str) -> None:
    """A vector joined with itself has half as many directions as channels: 3 of the 5 that are asked for."""
    seen = rows(1, 400, 3).repeat(1, 2)
    with pytest.raises(UsageError, match=r"do not fill 5 directions: .*; 3 directions do|direction 5 .* hardly varies"):
        built(5, 6, target=kind).fit(({TAP: seen},))
    built(5, 6, target="svd").fit(({TAP: seen},))


@pytest.mark.parametrize("kind", ["raw", "standardise"])
def test_targets_of_the_teachers_width_need_a_student_of_that_width(kind: str) -> None:
    """Both widths are named; equal ones are taken."""
    with pytest.raises(UsageError, match=rf"`target: {kind}` keeps all 7 channels of vit's cls\+patch_mean, .* pre_act has 4"):
        built(4, 7, target=kind)
    made, _ = fitted(7, 7, target=kind)
    assert made.matches[0].target(rows(3, 6, 7)).shape == (6, 7)


def test_targets_stay_exact_under_mixed_precision() -> None:
    """The projection runs in float32 under bfloat16 autocast: small coefficients of features with a large mean survive."""
    made, _ = fitted(4, 7)
    t = rows(3, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made.matches[0].target(t)
    assert torch.equal(mixed, made.matches[0].target(t))

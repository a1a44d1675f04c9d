"""CustomKD: who learns in which phase, through which head, and the numbers worked out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec
from edgekd.core.errors import UsageError

S, T, K, B = 6, 4, 3, 8
LABELS = [0, -1, 1, 2, -1, -1, 0, -1]


class Student(nn.Module):
    """A student of one layer and a head, with dropout and batch norm to notice its mode by."""

    def __init__(self, width: int = S, classes: int = K) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.head = nn.Linear(width, classes)

    def features(self, x_BD: Tensor) -> dict[str, Tensor]:
        pre_logits_BD = self.backbone(x_BD)
        return {"pre_logits": pre_logits_BD, "logits": self.head(pre_logits_BD)}


def criterion_of(*, widths_t: tuple[int, ...] = (T,), width_s: int = S, classes: int = K, **options: object) -> nn.Module:
    method = parts.load("method", "customkd")(**options)
    student = FeatureSpec(name="s", shapes={"pre_logits": (width_s,), "logits": (classes,)})
    teachers = tuple(
        FeatureSpec(
            name=f"t{i}",
            shapes={tap: (width if tap == method.teacher_tap else classes,) for tap in method.needs().teacher_taps},
        )
        for i, width in enumerate(widths_t)
    )
    return method.build(student, teachers, classes)


def batch(labels: list[int], *, mix: float = 1.0, partner: list[int] | None = None) -> Batch:
    count = len(labels)
    return Batch(
        image_BCHW=torch.rand(count, 3, 4, 4),
        label_B=torch.tensor(labels),
        index_B=torch.arange(count),
        view_B=torch.zeros(count, dtype=torch.int64),
        mix=mix,
        partner_B=None if partner is None else torch.tensor(partner),
    )


def answers(
    count: int = B, widths: tuple[int, ...] = (T,), *, seed: int = 1, probe: bool = False
) -> tuple[dict[str, Tensor], ...]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for width in widths:
        one = {"pooled": torch.randn(count, width, generator=draw)}
        if probe:
            one["probe_logits"] = torch.randn(count, K, generator=draw)
        found.append(one)
    return tuple(found)


def labelled_passes(teachers: tuple[dict[str, Tensor], ...], label_B: Tensor, *, split: int = 4):
    def labelled() -> Iterator[tuple[tuple[dict[str, Tensor], ...], Tensor]]:
        for index_B in torch.arange(len(label_B)).split(split):
            yield tuple({tap: value[index_B] for tap, value in one.items()} for one in teachers), label_B[index_B]

    return labelled


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def identity_case() -> tuple[nn.Module, nn.Linear, tuple[dict[str, Tensor], ...]]:
    """Return the criterion with P = I, a head W = I without bias, and f_t = (1, 0)."""
    criterion = criterion_of(width_s=2, widths_t=(2,), classes=2, standardise=False)
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        criterion.bridges[0].customise.weight.copy_(torch.eye(2))
        criterion.bridges[0].customise.bias.zero_()
        head.weight.copy_(torch.eye(2))
    return criterion, head, ({"pooled": torch.tensor([[1.0, 0.0]])},)


# ---------------------------------------------------------------------------------------------------- worked out by hand
def test_the_first_phase_gives_the_numbers_worked_out_by_hand() -> None:
    """f_t = (1, 0), P = W = I, class 0: CE is ln(1 + 1/e); dP = W^T (p - y) f_t^T; after a step of rate 1 CE is 0.194609."""
    criterion, head, teachers = identity_case()
    weight = criterion.bridges[0].customise.weight.requires_grad_(True)
    loss, right = criterion.customisation(head, teachers, torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert float(loss.detach()) == pytest.approx(0.313262, abs=1e-6)
    assert float(right) == 1.0
    loss.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[-0.268941, 0.0], [0.268941, 0.0]]), atol=1e-6, rtol=0)
    assert head.weight.grad is None
    with torch.no_grad():
        weight -= weight.grad
    after, _ = criterion.customisation(head, teachers, torch.tensor([0]))
    assert float(after.detach()) == pytest.approx(0.194609, abs=1e-6)
    (customised_BD,) = criterion.customised(teachers)
    torch.testing.assert_close(customised_BD, torch.tensor([[1.268941, -0.268941]]), atol=1e-6, rtol=0)


def test_the_customised_term_gives_the_number_worked_out_by_hand() -> None:
    """(.5, .5) against (1.268941, -.268941) is an MSE of 0.591271, and the entropy of (.75, .25) is 0.562335."""
    criterion, _, teachers = identity_case()
    with torch.no_grad():
        criterion.bridges[0].customise.weight.copy_(torch.tensor([[1.268941, 0.0], [-0.268941, 1.0]]))
    student = {"pre_logits": torch.tensor([[0.5, 0.5]]), "logits": torch.tensor([[math.log(3), 0.0]])}
    parts_ = criterion(student, teachers, batch([-1])).parts
    assert float(parts_["customised"]) == pytest.approx(0.591271, abs=1e-6)
    assert float(parts_["entropy"]) == pytest.approx(0.562335, abs=1e-6)


def test_the_sum_is_that_of_the_formula() -> None:
    """Two teachers, all four terms, odd weights, partly labelled: the same as a float64 derivation in numpy."""
    weights = {"customised_weight": 0.7, "feature_weight": 1.3, "label_weight": 0.9, "entropy_weight": 0.4}
    criterion = criterion_of(widths_t=(T, 5), **weights)
    teachers = answers(widths=(T, 5))
    criterion.fit(answers(64, widths=(T, 5), seed=9))
    student = {"pre_logits": torch.randn(B, S), "logits": torch.randn(B, K)}
    losses = criterion(student, teachers, batch(LABELS))

    def array(value: Tensor) -> np.ndarray:
        return value.detach().double().numpy()

    own, logits, label = array(student["pre_logits"]), array(student["logits"]), np.array(LABELS)
    near, far = [], []
    for bridge, one, rows in zip(criterion.bridges, teachers, answers(64, widths=(T, 5), seed=9), strict=True):
        seen = array(rows["pooled"])
        target = (array(one["pooled"]) - seen.mean(0)) / seen.std(0)
        customised = target @ array(bridge.customise.weight).T + array(bridge.customise.bias)
        near.append(((own - customised) ** 2).mean())
        far.append(((own @ array(bridge.general.weight).T + array(bridge.general.bias) - target) ** 2).mean())
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    known = label >= 0
    ce = -log_p[known, label[known]].mean()
    entropy = -(np.exp(log_p) * log_p).sum(axis=1)[~known].mean()
    expected = {"customised": np.mean(near), "feature": np.mean(far), "ce": ce, "entropy": entropy}
    for name, value in expected.items():
        assert float(losses.parts[name]) == pytest.approx(value, rel=1e-5), name
    total = 0.7 * expected["customised"] + 1.3 * expected["feature"] + 0.9 * ce + 0.4 * entropy
    assert float(losses.total.detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"), [("mse", 0.591271), ("smooth_l1", 0.2956355), ("cosine", 1 - 0.7071068 * 0.770932)]
)
def test_the_distance_is_an_option(kind: str, expected: float) -> None:
    """Both errors are 0.768941: half its square for smooth L1; the cosine is 0.5 / (0.7071068 x 1.297127)."""
    criterion, _, teachers = identity_case()
    criterion.method = criterion.method.model_copy(update={"distance": kind})
    with torch.no_grad():
        criterion.bridges[0].customise.weight.copy_(torch.tensor([[1.268941, 0.0], [-0.268941, 1.0]]))
    student = {"pre_logits": torch.tensor([[0.5, 0.5]]), "logits": torch.zeros(1, 2)}
    found = float(criterion(student, teachers, batch([-1])).parts["customised"])
    assert found == pytest.approx(expected, abs=1e-5)


# --------------------------------------------------------------------------------------------- who learns, in which phase
@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_in_the_first_phase_only_p_changes(projector: str) -> None:
    """Student (its head, its batch statistics, its mode), Q, the statistics and the teachers' features stay as they were."""
    criterion, student = criterion_of(projector=projector), Student()
    teachers, label_B = answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    given = [value.clone() for one in teachers for value in one.values()]
    before, student_before = snapshot(criterion), snapshot(student)
    told = criterion.begin_epoch(student, labelled_passes(teachers, label_B))
    assert {name.split(".")[2] for name in changed(criterion, before)} == {"customise"}
    assert changed(criterion, before) == {name for name in before if ".customise." in name}
    assert changed(student, student_before) == set()
    assert student.training
    assert all(parameter.grad is None for module in (criterion, student) for parameter in module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(given, (v for one in teachers for v in one.values()), strict=True))
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert set(told) == {"customise_ce", "customise_top1"}


def second_phase(criterion: nn.Module, student: Student, labels: list[int], **mixed: object) -> set[str]:
    """Take one AdamW step with weight decay over all trained weights; return what of student and criterion changed."""
    learner = nn.ModuleDict({"student": student, "criterion": criterion})
    before = snapshot(learner)
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    teachers = answers(len(labels))
    criterion(student.features(torch.randn(len(labels), 5)), teachers, batch(labels, **mixed)).total.backward()
    optimiser.step()
    assert all(value.grad is None for one in teachers for value in one.values())
    return {name for name in changed(learner, before) if "running" not in name and "batches" not in name}


def test_in_the_second_phase_p_stays_and_the_others_learn() -> None:
    """Backbone, head and Q change; P and the teachers' statistics do not, and P is in no optimiser of the loop."""
    criterion, student = criterion_of(), Student()
    moved = second_phase(criterion, student, LABELS)
    assert {name for name in moved if "criterion" in name} == {
        "criterion.bridges.0.general.weight",
        "criterion.bridges.0.general.bias",
    }
    assert {"student.head.weight", "student.head.bias", "student.backbone.0.weight"} <= moved
    assert not any(parameter.requires_grad for parameter in criterion.bridges[0].customise.parameters())


def test_p_stays_in_the_second_phase_after_a_first_one_too() -> None:
    """What the first phase switches on, it switches off again."""
    criterion, student = criterion_of(), Student()
    criterion.begin_epoch(student, labelled_passes(answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
    assert not any(".customise." in name for name in second_phase(criterion, student, LABELS))


def test_the_features_alone_do_not_move_the_head() -> None:
    """With neither cross entropy nor entropy the head stays, also under weight decay; Q and the backbone learn."""
    moved = second_phase(criterion_of(label_weight=0.0, entropy_weight=0.0), Student(), LABELS)
    assert not any("head" in name for name in moved)
    assert {"student.backbone.0.weight", "criterion.bridges.0.general.weight"} <= moved


@pytest.mark.parametrize(("off", "kept"), [("customised_weight", "feature"), ("feature_weight", "customised")])
def test_each_feature_term_can_be_left_out(off: str, kept: str) -> None:
    """Without a1 or a2 the total is the other's alone, and the term left out is still in the log."""
    criterion = criterion_of(label_weight=0.0, entropy_weight=0.0, **{off: 0.0})
    losses = criterion({"pre_logits": torch.randn(B, S), "logits": torch.randn(B, K)}, answers(), batch(LABELS))
    assert float(losses.total.detach()) == pytest.approx(float(losses.parts[kept]))
    assert {"customised", "feature"} <= set(losses.parts)


# ------------------------------------------------------------------------------------------------------ the first phase
def test_p_learns_to_be_classified_by_the_students_head() -> None:
    """Some hundred passes over separable features: the frozen head classifies P(f_t) rightly, from chance."""
    criterion, student = criterion_of(customise_lr=0.05), Student()
    label_B = torch.arange(30) % K
    teachers = ({"pooled": torch.eye(T)[label_B] * 3 + 0.3 * torch.randn(30, T)},)
    told = [criterion.begin_epoch(student, labelled_passes(teachers, label_B, split=10)) for _ in range(40)]
    assert told[-1]["customise_ce"] < 0.3 < told[0]["customise_ce"]
    assert told[-1]["customise_top1"] == 1.0


def test_the_log_is_the_mean_over_the_images() -> None:
    """A last, smaller batch counts by its images; a rate of almost nothing leaves P where the numbers were taken."""
    criterion, student = criterion_of(customise_lr=1e-12), Student()
    teachers, label_B = answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    told = criterion.begin_epoch(student, labelled_passes(teachers, label_B, split=7))
    loss, right = criterion.customisation(student.head, teachers, label_B)
    assert told["customise_ce"] == pytest.approx(float(loss), rel=1e-5)
    assert told["customise_top1"] == pytest.approx(float(right))


def test_p_and_its_optimiser_go_on_from_epoch_to_epoch() -> None:
    """Two epochs are two more steps of one AdamW, not two first steps: moments and P are kept."""
    teachers, label_B = answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    criterion, student = criterion_of(customise_lr=0.1), Student()
    weight = criterion.bridges[0].customise.weight
    bias = criterion.bridges[0].customise.bias
    expected = [weight.detach().clone().requires_grad_(True), bias.detach().clone().requires_grad_(True)]
    by_hand = torch.optim.AdamW(expected, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        criterion.begin_epoch(student, labelled_passes(teachers, label_B, split=8))
        logits = (
            teachers[0]["pooled"] @ expected[0].T + expected[1]
        ) @ student.head.weight.detach().T + student.head.bias.detach()
        by_hand.zero_grad()
        nn.functional.cross_entropy(logits, label_B).backward()
        by_hand.step()
        torch.testing.assert_close(weight, expected[0])
        torch.testing.assert_close(bias, expected[1])


def test_p_follows_the_head_as_it_is_now() -> None:
    """The head is looked up at every epoch: another head gives P another gradient."""
    results = []
    for factor in (1.0, -1.0):
        torch.manual_seed(3)
        criterion, student = criterion_of(), Student()
        with torch.no_grad():
            student.head.weight.mul_(factor)
        criterion.begin_epoch(student, labelled_passes(answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
        results.append(criterion.bridges[0].customise.weight.detach().clone())
    assert not torch.equal(*results)


def test_a_random_head_is_frozen_and_not_the_students() -> None:
    """With `head: random` P learns by another head, which never changes, while the student's own still learns its labels."""
    torch.manual_seed(3)
    random, student = criterion_of(head="random"), Student()
    own = criterion_of()
    own.bridges.load_state_dict(random.bridges.state_dict())
    before = snapshot(random.random_head)
    passes = labelled_passes(answers(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    told = random.begin_epoch(student, passes), own.begin_epoch(student, passes)
    assert told[0]["customise_ce"] != pytest.approx(told[1]["customise_ce"], rel=1e-3)
    assert not torch.equal(random.bridges[0].customise.weight, own.bridges[0].customise.weight)
    moved = second_phase(random, student, LABELS)
    assert changed(random.random_head, before) == set()
    assert "student.head.weight" in moved
    assert own.random_head is None


def test_the_turns_are_options() -> None:
    """`customise_every: 2` leaves every second epoch out, beginning with the first; `customise_epochs` repeats the pass."""
    label_B = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    calls = []

    def labelled() -> Iterator[tuple[tuple[dict[str, Tensor], ...], Tensor]]:
        calls.append(1)
        yield answers(), label_B

    criterion, student = criterion_of(customise_every=2, customise_epochs=3), Student()
    counted = []
    for _ in range(4):
        before = snapshot(criterion)
        told = criterion.begin_epoch(student, labelled)
        counted.append((len(calls), bool(told), bool(changed(criterion, before))))
    assert counted == [(3, True, True), (3, False, False), (6, True, True), (6, False, False)]


def test_a_first_phase_without_images_says_nothing() -> None:
    """Nothing to learn from: P stays, and no number is made up."""
    criterion = criterion_of()
    before = snapshot(criterion)
    assert criterion.begin_epoch(Student(), lambda: iter(())) == {}
    assert changed(criterion, before) == set()


def test_every_teacher_has_its_own_p_and_q() -> None:
    """Two teachers of different widths: both customised features have the student's width, and both P learn."""
    criterion, student = criterion_of(widths_t=(T, 5)), Student()
    before = snapshot(criterion)
    criterion.begin_epoch(student, labelled_passes(answers(widths=(T, 5)), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
    assert {name.split(".")[1] for name in changed(criterion, before)} == {"0", "1"}
    assert [tuple(f.shape) for f in criterion.customised(answers(widths=(T, 5)))] == [(B, S), (B, S)]


# ----------------------------------------------------------------------------------------------------- the second phase
def gradient(labels: list[int], *, of: str, **mixed: object) -> Tensor:
    """Return which images' logits get a gradient from one of the two terms alone."""
    options = {"customised_weight": 0.0, "feature_weight": 0.0, "label_weight": 0.0, "entropy_weight": 0.0, of: 1.0}
    criterion = criterion_of(**options)
    logits_BK = torch.randn(len(labels), K, requires_grad=True)
    student = {"pre_logits": torch.randn(len(labels), S), "logits": logits_BK}
    criterion(student, answers(len(labels)), batch(labels, **mixed)).total.backward()
    return logits_BK.grad.abs().sum(dim=1) > 0


def test_labels_teach_the_labelled_and_entropy_the_unlabelled() -> None:
    """Cross entropy reaches exactly the images with a label, entropy exactly those without."""
    known = torch.tensor(LABELS) >= 0
    assert torch.equal(gradient(LABELS, of="label_weight"), known)
    assert torch.equal(gradient(LABELS, of="entropy_weight"), ~known)


def test_a_blend_with_a_labelled_image_is_not_unlabelled() -> None:
    """Under mixup the entropy is that of blends of two unlabelled images."""
    reached = gradient([-1, -1, 0, -1], of="entropy_weight", mix=0.7, partner=[1, 2, 3, 0])
    assert reached.tolist() == [True, False, False, True]


@pytest.mark.parametrize("labels", [[0, 1, 2, 0], [-1] * 4, [0, -1, -1, -1]])
@pytest.mark.parametrize("logits", ["none", "kl", "dkd", "dist", "logit_standard"])
def test_batches_of_any_labels_give_finite_numbers(labels: list[int], logits: str) -> None:
    """All labelled, none labelled, one labelled, with every logits term: no NaN in loss, parts and gradients."""
    criterion, student = criterion_of(logits=logits), Student()
    losses = criterion(student.features(torch.randn(4, 5)), answers(4, probe=True), batch(labels))
    losses.total.backward()
    assert all(math.isfinite(float(part)) for part in losses.parts.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in student.parameters() if p.grad is not None)
    assert math.isfinite(float(losses.total.detach()))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.130812), (2.0, 0.145363), (None, 0.149458)])
def test_the_logits_term_is_that_of_the_method_of_its_name(temperature: float | None, expected: float) -> None:
    """KL from the probe's (ln 3, 0) to (0, 0), times T^2, at the temperature given or at the 4 of softened logits."""
    weights = {"customised_weight": 0.0, "feature_weight": 0.0, "label_weight": 0.0, "entropy_weight": 0.0}
    criterion = criterion_of(logits="kl", logits_weight=2.0, temperature=temperature, classes=2, **weights)
    teachers = ({"pooled": torch.randn(1, T), "probe_logits": torch.tensor([[math.log(3), 0.0]])},)
    losses = criterion({"pre_logits": torch.randn(1, S), "logits": torch.zeros(1, 2)}, teachers, batch([-1]))
    assert float(losses.parts["kl"]) == pytest.approx(expected, abs=1e-6)
    assert float(losses.total) == pytest.approx(2 * expected, abs=2e-6)


def test_the_probe_is_asked_for_only_where_it_is_matched() -> None:
    """The teacher's tap may be joined of several; the probe costs nothing unless there is a logits term."""
    cls = parts.load("method", "customkd")
    needs = cls(teacher_tap="cls+patch_mean").needs()
    assert (needs.student_taps, needs.teacher_taps, needs.labels) == (("pre_logits", "logits"), ("cls+patch_mean",), True)
    assert cls(logits="dkd").needs().teacher_taps == ("pooled", "probe_logits")


def test_the_log_shows_a_collapse_and_targets_out_of_reach() -> None:
    """All answers one class: the mean answer has no entropy. A floor that half of P(f_t) lies below: a share of one half."""
    criterion, _, _ = identity_case()
    teachers = ({"pooled": torch.tensor([[1.0, -1.0], [-1.0, 1.0]])},)
    student = {"pre_logits": torch.tensor([[0.0, 2.0], [1.0, 3.0]]), "logits": torch.tensor([[1e4, 0.0], [1e4, 0.0]])}
    collapsed = criterion(student, teachers, batch([-1, -1])).parts
    assert float(collapsed["mean_entropy"]) == pytest.approx(0, abs=1e-6)
    assert float(collapsed["below_floor"]) == 0.5
    sure_but_diverse = {**student, "logits": torch.tensor([[1e4, 0.0], [0.0, 1e4]])}
    spread = criterion(sure_but_diverse, teachers, batch([-1, -1])).parts
    assert float(spread["mean_entropy"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(spread["entropy"]) == pytest.approx(0, abs=1e-6)


def test_teacher_features_are_standardised_by_the_training_images() -> None:
    """After `fit`, tiny and huge channels weigh the same: a Q of zeros has an error of one, the targets' variance."""
    criterion = criterion_of(projector="linear")
    rows = answers(256, seed=4)[0]["pooled"] * torch.tensor([0.01, 1.0, 10.0, 100.0]) + 5
    criterion.fit(({"pooled": rows},))
    with torch.no_grad():
        for parameter in criterion.bridges[0].general.parameters():
            parameter.zero_()
    student = {"pre_logits": torch.randn(256, S), "logits": torch.randn(256, K)}
    assert float(criterion(student, ({"pooled": rows},), batch([-1] * 256)).parts["feature"]) == pytest.approx(1.0, abs=1e-4)
    plain = criterion_of(standardise=False)
    plain.fit(({"pooled": rows},))
    assert float(plain(student, ({"pooled": rows},), batch([-1] * 256)).parts["feature"]) > 1000


def test_a_map_is_refused() -> None:
    """A map cannot go through a projector of vectors, and the message says which taps can."""
    method = parts.load("method", "customkd")(teacher_tap="map")
    with pytest.raises(UsageError, match=r"'map' of vit has shape \(8, 3, 3\), a vector is needed(.|\n)*pooled"):
        method.build(
            FeatureSpec(name="s", shapes={"pre_logits": (S,), "logits": (K,)}),
            (FeatureSpec(name="vit", shapes={"map": (8, 3, 3)}),),
            K,
        )


def test_a_real_students_head_is_what_its_tap_feeds(tmp_path: Path) -> None:
    """The head of a timm MobileNetV3, applied to the tap `pre_logits` in evaluation, gives its logits."""
    from edgekd.distilling.models import build

    student = build("mobilenetv3_small_050", weights="random", size=32, classes=K).eval()
    with torch.no_grad():
        found = student.features(torch.rand(2, 3, 32, 32), ("pre_logits", "logits"))
        torch.testing.assert_close(student.head(found["pre_logits"]), found["logits"])

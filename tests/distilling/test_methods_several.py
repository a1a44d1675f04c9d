"""Methods that learn from several teachers: what they compute, who is trained by what, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling import losses

B, N, K, WIDTH_S = 6, 300, 5, 8
WIDTHS = (12, 9, 16)
LABELS = [0, 1, 2, 3, 4, -1]


def rows(seed: int, *shape: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def batch(labels: list[int] = LABELS) -> Batch:
    return Batch(
        image_BCHW=torch.zeros(len(labels), 3, 4, 4),
        label_B=torch.tensor(labels),
        index_B=torch.arange(len(labels)),
        view_B=torch.zeros(len(labels), dtype=torch.int64),
    )


def needs_of(name: str, **options: Any) -> Needs:
    needs: Needs = parts.load("method", name)(**options).needs()
    return needs


def made(name: str, *, teachers: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    method = parts.load("method", name)(**options)
    needs = method.needs()
    widths = {"logits": K}
    student = FeatureSpec(name="s", shapes={tap: (widths.get(tap, WIDTH_S),) for tap in needs.student_taps})
    specs = tuple(
        FeatureSpec(name=f"vit{i}", shapes={tap: (K if "logits" in tap else WIDTHS[i],) for tap in taps})
        for i, taps in enumerate(needs.taps_of(teachers))
    )
    return method.build(student, specs, K)


def answers(method: Any, *, teachers: int = 3, count: int = B, seed: int = 1) -> tuple[dict[str, Tensor], ...]:
    return tuple(
        {tap: rows(100 * seed + 10 * i + j, count, K if "logits" in tap else WIDTHS[i]) for j, tap in enumerate(taps)}
        for i, taps in enumerate(method.needs().taps_of(teachers))
    )


def student_of(method: Any, *, seed: int = 0, grad: bool = False) -> dict[str, Tensor]:
    widths = {"logits": K}
    taps = method.needs().student_taps
    return {tap: rows(seed + i, B, widths.get(tap, WIDTH_S)).requires_grad_(grad) for i, tap in enumerate(taps)}


def labelled(method: Any, count: int = 40, *, teachers: int = 3) -> Any:
    label_N = torch.arange(count) % K
    return lambda: iter([(answers(method, teachers=teachers, count=count, seed=5), label_N)])


# ---------------------------------------------------------------------------------------------------- ensemble of logits
def test_an_ensemble_teaches_the_mean_of_softened_probabilities() -> None:
    """CE on the labels plus T^2 KL from the mean of the softmaxes, in float64 numpy."""
    criterion = made("ensemble", temperature=2.0, weight=3.0, label_weight=0.5)
    taught, own = answers(criterion.method), student_of(criterion.method)
    found = criterion(own, taught, batch())
    z = own["logits"].double().numpy() / 2
    log_s = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    p = np.mean([torch.softmax(one["probe_logits@pooled"].double() / 2, dim=1).numpy() for one in taught], axis=0)
    kd = 4 * (p * (np.log(p) - log_s)).sum(axis=1).mean()
    z1 = 2 * z
    log_1 = z1 - np.log(np.exp(z1).sum(axis=1, keepdims=True))
    ce = -np.mean([log_1[i, label] for i, label in enumerate(LABELS) if label >= 0])
    assert float(found.total.detach()) == pytest.approx(0.5 * ce + 3 * kd, rel=1e-5)
    assert set(found.parts) == {"ce", "kd"}


def test_one_teacher_in_an_ensemble_is_kd() -> None:
    """Whatever the weighting: the loss is that of the method kd."""
    for weighting in ("equal", "confidence", "select", "gate"):
        for average in ("probabilities", "logits"):
            criterion = made("ensemble", teachers=1, weighting=weighting, average=average)
            own, taught = student_of(criterion.method), answers(criterion.method, teachers=1)
            expected = losses.cross_entropy(own["logits"], batch()) + losses.kl(
                own["logits"], taught[0]["probe_logits@pooled"], temperature=4.0
            )
            assert float(criterion(own, taught, batch()).total.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("weighting", ["fixed", "similarity"])
def test_given_weights_are_normalised(average: str, weighting: str) -> None:
    """3 and 1 are .75 and .25, and the order of the teachers goes along."""
    options = {"average": average, "weighting": weighting}
    one = made("ensemble", teachers=2, weights=(3.0, 1.0), **options)
    other = made("ensemble", teachers=2, weights=(0.25, 0.75), **options)
    own, taught = student_of(one.method), answers(one.method, teachers=2)
    first, second = one(own, taught, batch()), other(own, taught[::-1], batch())
    assert float(first.total.detach()) == pytest.approx(float(second.total.detach()), rel=1e-5)
    assert float(first.parts["weight_1"]) == pytest.approx(0.75)


def test_the_surest_teacher_may_be_the_only_one() -> None:
    """`select` takes for each image the one of least entropy; `standardise` decides before the weights do."""
    criterion = made("ensemble", teachers=2, weighting="select", temperature=1.0, label_weight=0.0)
    own = student_of(criterion.method)
    sure, flat = 9 * torch.nn.functional.one_hot(torch.arange(B) % K, K).float(), torch.zeros(B, K)
    tap = "probe_logits@pooled"
    taught = ({tap: torch.cat([sure[:3], flat[3:]])}, {tap: torch.cat([flat[:3], sure[3:]])})
    found = criterion(own, taught, batch())
    assert float(found.total.detach()) == pytest.approx(float(losses.kl(own["logits"], sure, temperature=1.0)), rel=1e-5)
    loud = made("ensemble", teachers=2, standardise=True, average="logits", temperature=1.0, label_weight=0.0)
    quiet_and_loud = ({tap: sure}, {tap: 1000 * sure})
    z_scores = (sure - sure.mean(1, keepdim=True)) / sure.std(1, keepdim=True)
    expected = losses.kl(own["logits"], z_scores, temperature=1.0)
    assert float(loud(own, quiet_and_loud, batch()).total.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_gate_learns_from_the_mixtures_cross_entropy_alone() -> None:
    """Without labels it gets nothing, whatever the divergence; with them what numpy says, and the student's feature nothing."""
    criterion = made("ensemble", weighting="gate", weight=10.0)
    own, taught = student_of(criterion.method, grad=True), answers(criterion.method)
    criterion(own, taught, batch([-1] * B)).total.backward()
    assert criterion.gate.weight.grad is None or float(criterion.gate.weight.grad.abs().max()) == 0
    assert own["logits"].grad is not None
    assert float(own["logits"].grad.abs().sum()) > 0
    criterion.zero_grad()
    criterion(own, taught, batch()).total.backward()
    assert own["pre_logits"].grad is None
    gate = torch.nn.functional.softmax(criterion.gate(own["pre_logits"].detach()).double(), dim=1).detach().numpy()
    p = np.stack([torch.softmax(one["probe_logits@pooled"].double(), dim=1).numpy() for one in taught])
    gradient = np.zeros((3, B))
    for i, label in enumerate(LABELS):
        if label >= 0:
            right = p[:, i, label]
            gradient[:, i] = -(gate[i] * (right / (gate[i] @ right) - 1)) / 5
    expected = gradient @ own["pre_logits"].detach().double().numpy()
    np.testing.assert_allclose(criterion.gate.weight.grad.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_similarity_weights_are_found_on_the_labelled_images_once() -> None:
    """Linear CKA of each teacher's pooled features with the labels, normalised; kept in the state."""
    criterion = made("ensemble", weighting="similarity")
    assert criterion.method.needs().teacher_taps == ("probe_logits@pooled", "pooled")
    label_N = torch.arange(40) % K
    one_hot = torch.nn.functional.one_hot(label_N, K).double()
    taught = list(answers(criterion.method, count=40, seed=5))
    taught[1]["pooled"] = torch.cat([one_hot, one_hot[:, :4]], dim=1).float()
    told = criterion.begin_epoch(torch.nn.Linear(1, 1), lambda: iter([(tuple(taught), label_N)]))
    cka = np.array([float(losses.linear_cka(one["pooled"].double(), one_hot)) for one in taught])
    np.testing.assert_allclose(criterion.weight_V.numpy(), cka / cka.sum(), rtol=1e-5)
    assert told["weight_2"] > 0.5
    assert criterion.begin_epoch(torch.nn.Linear(1, 1), lambda: iter([])) == {}
    again = made("ensemble", weighting="similarity")
    again.load_state_dict(criterion.state_dict())
    assert torch.equal(again.weight_V, criterion.weight_V)


@pytest.mark.parametrize(("name", "options"), [("ensemble", {}), ("unic", {"drop": 0.0})])
def test_noise_is_for_training_alone(name: str, options: dict[str, Any]) -> None:
    """In training every step differs, in evaluation none does."""
    criterion, plain = made(name, noise=0.5, **options), made(name, **options)
    for one in (criterion, plain):
        if hasattr(one, "fit"):
            one.fit(answers(one.method, count=N, seed=3))
    own, taught = student_of(criterion.method), answers(criterion.method)
    values = [float(criterion(own, taught, batch()).total.detach()) for _ in range(3)]
    assert len(set(values)) == 3
    criterion.eval()
    still = [float(criterion(own, taught, batch()).total.detach()) for _ in range(2)]
    assert still[0] == still[1]
    assert still[0] == pytest.approx(float(plain(own, taught, batch()).total.detach()), rel=1e-6)


def test_an_ensemble_of_sub_teachers_asks_for_each_by_name() -> None:
    """A list for a teacher makes several of it, and each has its own probe."""
    options: dict[str, Any] = {"probe_tap": (("cls", "exit_2", "pooled#1", "cls~1"), "pooled")}
    needs = needs_of("ensemble", **options)
    vit = ("probe_logits@cls", "probe_logits@exit_2", "probe_logits@pooled#1", "probe_logits@cls~1")
    assert needs.taps_of(2) == (vit, ("probe_logits@pooled",))
    criterion = made("ensemble", teachers=2, label_weight=0.0, **options)
    own, taught = student_of(criterion.method), answers(criterion.method, teachers=2)
    every = torch.stack([value for one in taught for value in one.values()])
    assert len(every) == 5
    q = torch.softmax(every / 4, dim=2).mean(dim=0)
    expected = losses.kl_to(own["logits"], q, temperature=4.0)
    assert float(criterion(own, taught, batch()).total.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_of_other_classes_is_named() -> None:
    """By its name and its number, before anything is trained."""
    method = parts.load("method", "ensemble")(head="own")
    specs = (FeatureSpec(name="vit", shapes={"logits": (K,)}), FeatureSpec(name="mobilenet", shapes={"logits": (1000,)}))
    with pytest.raises(UsageError, match=r"mobilenet \(2\) logits answers over 1000 outputs(.|\n)*head: probe"):
        method.build(FeatureSpec(name="s", shapes={"logits": (K,)}), specs, K)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weighting": "fixed"}, "needs `weights`"),
        ({"weights": (1.0, 2.0)}, "`weights` mean nothing"),
        ({"head": "own", "probe_tap": "cls"}, "`head: own` asks for none"),
        ({"weighting": "fixed", "weights": (1.0, 0.0)}, "greater than 0"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: dict[str, Any], why: str) -> None:
    """Nothing that was asked is ignored."""
    with pytest.raises(ValueError, match=why):
        parts.load("method", "ensemble")(**options)


# -------------------------------------------------------------------------------------------------- ensemble of features
def test_unic_is_cosine_and_smooth_l1_of_standardised_teachers() -> None:
    """Mean over teachers when none is dropped; the projection by hand."""
    criterion = made("unic", projector="linear", cosine_weight=0.9)
    criterion.eval()
    seen = answers(criterion.method, count=N, seed=3)
    criterion.fit(seen)
    own, taught = student_of(criterion.method), answers(criterion.method)
    expected = []
    for match, fitted, said in zip(criterion.matches, seen, taught, strict=True):
        x, m, s = (v["pooled"].double().numpy() for v in (said, fitted, fitted))
        target = (x - m.mean(axis=0)) / s.std(axis=0)
        answer = own["pooled"].double().numpy() @ match.projector.weight.detach().double().numpy().T
        answer += match.projector.bias.detach().double().numpy()
        cosine = (answer * target).sum(axis=1) / np.linalg.norm(answer, axis=1) / np.linalg.norm(target, axis=1)
        far = np.abs(answer - target)
        huber = np.where(far < 1, far**2 / 2, far - 0.5).mean(axis=1)
        expected.append((0.9 * (1 - cosine) + 0.1 * huber).mean())
    assert float(criterion(own, taught, batch()).total.detach()) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(("name", "options"), [("unic", {"drop": 0.9}), ("feature", {"drop": 0.9, "label_weight": 0.0})])
def test_dropping_keeps_each_images_hardest_teacher(name: str, options: dict[str, Any]) -> None:
    """At .9 the loss is nearly that of the hardest teachers, never below the mean; in evaluation it is the mean."""
    criterion = made(name, **options)
    criterion.fit(answers(criterion.method, count=N, seed=3))
    own, taught = student_of(criterion.method), answers(criterion.method)
    own_BD = own["pooled"]
    each = torch.stack(
        [m.each(own_BD, one["pooled"]) for m, one in zip(criterion.matches, taught, strict=True)], dim=1
    ).detach()
    values = [float(criterion(own, taught, batch()).total.detach()) for _ in range(30)]
    assert np.mean(values) > float(each.mean())
    hardest = float(each.max(dim=1).values.mean())
    assert abs(np.mean(values) - hardest) < abs(hardest - float(each.mean())) / 2
    assert len({round(value, 6) for value in values}) > 1
    criterion.eval()
    assert float(criterion(own, taught, batch()).total.detach()) == pytest.approx(float(each.mean()), rel=1e-5)


def test_every_criterion_of_a_run_drops_the_same_teachers() -> None:
    """Drawn from the run's seed alone, and leaves the global generator as it was."""
    sequences = []
    for _ in range(2):
        criterion = made("unic")
        criterion.fit(answers(criterion.method, count=N, seed=3))
        before = torch.get_rng_state()
        own, taught = student_of(criterion.method), answers(criterion.method)
        sequences.append([float(criterion(own, taught, batch()).total.detach()) for _ in range(5)])
        assert torch.equal(torch.get_rng_state(), before)
    assert sequences[0] == sequences[1]


def test_phi_s_targets_have_equal_variances_and_stay_correlated() -> None:
    """Two channels of variances 9 and 1 become 1 and 1 with covariance .8 (the reference's vector)."""
    criterion = made("unic", teachers=1, target="phi_s")
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(500, 2))
    seen = (seen - seen.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(seen.T, bias=True))).T * [3.0, 1.0]
    method = parts.load("method", "unic")(target="phi_s")
    spec = FeatureSpec(name="t", shapes={"pooled": (2,)})
    criterion = method.build(FeatureSpec(name="s", shapes={"pooled": (WIDTH_S,)}), (spec,), K)
    criterion.fit(({"pooled": torch.tensor(seen, dtype=torch.float32)},))
    target = criterion.matches[0].target(torch.tensor(seen, dtype=torch.float32)).double().numpy()
    np.testing.assert_allclose(np.abs(np.cov(target.T, bias=True)), [[1, 0.8], [0.8, 1]], atol=1e-4)


@pytest.mark.parametrize("name", ["feature", "unic", "feed", "similarity_preserving", "kdep", "specmatch"])
def test_feature_methods_weigh_their_teachers(name: str) -> None:
    """A weight of 3 beside 1 counts three quarters; without weights all are equal."""
    options: dict[str, Any] = {"label_weight": 0.0} | ({"target": "learned"} if name == "kdep" else {})
    singles = []
    for weights in ((1.0, 1e-9), (1e-9, 1.0), (3.0, 1.0), None):
        criterion = made(name, teachers=2, weights=weights, weight=1.0, **options).eval()
        if hasattr(criterion, "fit"):
            criterion.fit(answers(criterion.method, teachers=2, count=N, seed=3))
        singles.append(
            float(criterion(student_of(criterion.method), answers(criterion.method, teachers=2), batch()).total.detach())
        )
    one, other, weighed, even = singles
    assert weighed == pytest.approx(0.75 * one + 0.25 * other, rel=1e-4)
    assert even == pytest.approx(0.5 * one + 0.5 * other, rel=1e-4)
    assert one != pytest.approx(other, rel=1e-3)
    with pytest.raises(UsageError, match="3 weights are given, and 2 are needed"):
        made(name, teachers=2, weights=(1.0, 1.0, 1.0), **options)


@pytest.mark.parametrize("name", ["feature", "unic", "feed", "kdep", "customkd", "log_euclidean", "amalgamation"])
def test_each_teacher_may_have_a_tap_of_its_own(name: str) -> None:
    """A list gives one a teacher, a list in it several of that teacher; another number of teachers is refused."""
    taps = (("cls", "patch_mean"), "pooled")
    needs = needs_of(name, teacher_tap=taps)
    first, second = needs.taps_of(2)
    assert (first[:2], second[:1]) == (("cls", "patch_mean"), ("pooled",))
    options: dict[str, Any] = {"target": "learned"} if name == "kdep" else {}
    criterion = made(name, teachers=2, teacher_tap=taps, **options)
    assert len(criterion.voices) == 3
    if hasattr(criterion, "fit"):
        criterion.fit(answers(criterion.method, teachers=2, count=N, seed=3))
    own = student_of(criterion.method, grad=True)
    criterion(own, answers(criterion.method, teachers=2), batch()).total.backward()
    assert any(value.grad is not None and float(value.grad.abs().sum()) > 0 for value in own.values())
    with pytest.raises(UsageError, match=r"2 teachers, and there are 3"):
        made(name, teachers=3, teacher_tap=taps, **options)


def test_feed_learns_maps_by_convolutions() -> None:
    """The student's map is averaged to the teacher's grid; `mean` divides by the number of its elements."""
    values = []
    for scale in ("sum", "mean"):
        torch.manual_seed(0)
        method = parts.load("method", "feed")(student_tap="map", teacher_tap="grid_2", label_weight=0.0, scale=scale)
        student, teacher = FeatureSpec(name="s", shapes={"map": (4, 5, 5)}), FeatureSpec(name="t", shapes={"grid_2": (6, 2, 2)})
        criterion = method.build(student, (teacher,), K)
        own, taught = rows(1, B, 4, 5, 5).requires_grad_(), rows(2, B, 6, 2, 2)
        total = criterion({"map": own}, ({"grid_2": taught},), batch()).total
        total.backward()
        assert own.grad is not None
        values.append(float(total.detach()))
    assert values[0] == pytest.approx(24 * values[1], rel=1e-5)
    with pytest.raises(UsageError, match=r"student_tap: map"):
        parts.load("method", "feed")(student_tap="map").build(
            FeatureSpec(name="s", shapes={"map": (4, 5, 5)}), (FeatureSpec(name="t", shapes={"pooled": (6,)}),), K
        )


def test_log_euclidean_sums_over_matrices_of_so_many_images() -> None:
    """Batches are cut so that no matrix has more images than channels; features count from 0 up, at unit length."""
    criterion = made("log_euclidean", label_weight=0.0, images=4, eps=0.05)
    own, taught = student_of(criterion.method), answers(criterion.method)

    def inner(x: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(x.double().relu(), dim=1)
        return unit @ unit.T

    expected = [
        sum(
            float(losses.log_euclidean(inner(own["pooled"][cut]), inner(one["pooled"][cut]), eps=0.05))
            for cut in (slice(0, 4), slice(4, 6))
        )
        / B
        for one in taught
    ]
    assert float(criterion(own, taught, batch()).total.detach()) == pytest.approx(np.mean(expected), rel=1e-5)


def test_alpha_prefers_the_teacher_that_agrees_with_the_labels() -> None:
    """By 1 / the distance of its matrix from the labels'; found once, and part of the state."""
    criterion = made("log_euclidean", alpha="labels", images=8)
    label_N = torch.arange(40) % K
    taught = list(answers(criterion.method, count=40, seed=5))
    taught[1]["pooled"] = torch.nn.functional.pad(torch.nn.functional.one_hot(label_N, K).float(), (0, 4)) + 0.01
    told = criterion.begin_epoch(torch.nn.Linear(1, 1), lambda: iter([(tuple(taught), label_N)]))
    assert sum(told.values()) == pytest.approx(1, rel=1e-5)
    assert told["alpha_2"] > 0.6
    assert criterion.begin_epoch(torch.nn.Linear(1, 1), lambda: iter([])) == {}
    assert torch.equal(criterion.state_dict()["weight_V"], criterion.weight_V)


# ------------------------------------------------------------------------------------------------ heterogeneous teachers
def test_amalgamation_is_the_sum_of_its_terms() -> None:
    """MMD in the common space, reconstruction of standardised features, and the divergence from the probes' mean."""
    criterion = made("amalgamation", mmd_weight=2.0, reconstruction_weight=3.0, logits_weight=5.0, sigmas=(0.5, 1.0))
    criterion.fit(answers(criterion.method, count=N, seed=3))
    own, taught = student_of(criterion.method), answers(criterion.method)
    found = criterion(own, taught, batch())
    space = criterion.amalgam
    h_s = space.extractor(space.own(own["pooled"]))
    standard = [target(one["pooled"]) for target, one in zip(criterion.targets, taught, strict=True)]
    h_t = [space.extractor(aligner(x)) for aligner, x in zip(space.aligners, standard, strict=True)]
    mmds = sum(float(losses.mmd(h_s, h, sigmas=(0.5, 1.0)).detach()) for h in h_t)
    errors = sum(float((d(h) - x).square().mean().detach()) for d, h, x in zip(space.decoders, h_t, standard, strict=True))
    q = torch.stack([torch.softmax(one["probe_logits"], dim=1) for one in taught]).mean(dim=0)
    kd = float(losses.kl_to(own["logits"], q, temperature=1.0))
    assert float(found.total.detach()) == pytest.approx(2 * mmds + 3 * errors + 5 * kd, rel=1e-4)
    assert {name: float(term) for name, term in found.parts.items()} == {
        "mmd": pytest.approx(mmds, rel=1e-4),
        "reconstruction": pytest.approx(errors, rel=1e-4),
        "kd": pytest.approx(kd, rel=1e-4),
    }


def test_the_packed_representation_learns_from_reconstruction_alone() -> None:
    """Without it the encoder gets no gradient, however far the student is; the adaptor does."""
    criterion = made("layerwise_amalgamation", reconstruction_weight=0.0, logits="none")
    criterion.fit(answers(criterion.method, count=N, seed=3))
    criterion(student_of(criterion.method), answers(criterion.method), batch()).total.backward()
    packed = criterion.amalgam
    assert packed.encoder.weight.grad is None or float(packed.encoder.weight.grad.abs().max()) == 0
    assert float(packed.adaptor.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("logits", ["concatenated", "per_teacher"])
def test_teachers_of_consecutive_classes_speak_with_their_own_logits(logits: str) -> None:
    """2 and 3 outputs are the student's 5; softened together, or each by itself, which ignores a louder teacher."""
    method = parts.load("method", "amalgamation")(logits=logits, mmd_weight=0.0, reconstruction_weight=0.0)
    specs = tuple(FeatureSpec(name=f"t{k}", shapes={"pooled": (4,), "logits": (k,)}) for k in (2, 3))
    student = FeatureSpec(name="s", shapes={"pooled": (WIDTH_S,), "logits": (K,)})
    criterion = method.build(student, specs, K)
    criterion.fit(tuple({"pooled": rows(i, N, 4)} for i in range(2)))
    own = {"pooled": rows(7, B, WIDTH_S), "logits": rows(8, B, K)}
    said = [rows(9, B, 2), rows(10, B, 3)]
    found = float(
        criterion(own, tuple({"pooled": rows(i, B, 4), "logits": z} for i, z in enumerate(said)), batch()).total.detach()
    )
    if logits == "concatenated":
        expected = losses.kl(own["logits"], torch.cat(said, dim=1), temperature=1.0)
    else:
        first = losses.kl(own["logits"][:, :2], said[0], temperature=1.0)
        expected = (first + losses.kl(own["logits"][:, 2:], said[1], temperature=1.0)) / 2
    assert found == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(UsageError, match=r"t2 2 \+ t3 3 = 5 are not the data's 7 classes"):
        method.build(student, specs, 7)


# ------------------------------------------------------------------------------------ several teachers of kdep, customkd
def test_kdep_has_a_basis_for_each_teacher() -> None:
    """The loss of two teachers is the mean of the losses of one each."""
    alone = []
    for index in range(2):
        single = made("kdep", teachers=1, dim=4)
        spec = FeatureSpec(name="t", shapes={"cls+patch_mean": (WIDTHS[index],)})
        single = single.method.build(FeatureSpec(name="s", shapes={"pre_act": (WIDTH_S,)}), (spec,), K)
        both = made("kdep", teachers=2, dim=4)
        seen, said = answers(both.method, teachers=2, count=N, seed=3), answers(both.method, teachers=2)
        single.fit((seen[index],))
        alone.append(float(single(student_of(both.method), (said[index],), batch()).total.detach()))
    both.fit(seen)
    assert float(both(student_of(both.method), said, batch()).total.detach()) == pytest.approx(np.mean(alone), rel=1e-5)
    with pytest.raises(ValueError, match="one number a batch"):
        parts.load("method", "kdep")(drop=0.5, loss="spectral")


def test_customkd_weighs_and_drops_its_teachers_in_both_feature_terms() -> None:
    """Weights go to both; dropping leaves the same teachers out of both, and evaluation none."""
    singles = []
    for weights in ((1.0, 1e-9), (1e-9, 1.0), (3.0, 1.0)):
        criterion = made("customkd", teachers=2, weights=weights)
        criterion.fit(answers(criterion.method, teachers=2, count=N, seed=3))
        found = criterion(student_of(criterion.method), answers(criterion.method, teachers=2), batch())
        singles.append((float(found.parts["customised"]), float(found.parts["feature"])))
    for term in range(2):
        one, other, weighed = (values[term] for values in singles)
        assert weighed == pytest.approx(0.75 * one + 0.25 * other, rel=1e-4)
    dropping, plain = made("customkd", drop=0.9), made("customkd")
    for criterion in (dropping, plain):
        criterion.fit(answers(criterion.method, count=N, seed=3))
    own, taught = student_of(plain.method), answers(plain.method)
    values = [float(dropping(own, taught, batch()).total.detach()) for _ in range(20)]
    mean = float(plain(own, taught, batch()).total.detach())
    assert np.mean(values) > mean
    dropping.eval()
    assert float(dropping(own, taught, batch()).total.detach()) == pytest.approx(mean, rel=1e-6)


def test_each_customised_teacher_has_a_projector_that_only_its_phase_trains() -> None:
    """After a first phase every P has moved and nothing else; after a second phase's step no P has a gradient."""
    criterion = made("customkd", teachers=2)
    criterion.fit(answers(criterion.method, teachers=2, count=N, seed=3))
    student = torch.nn.Module()
    student.head = torch.nn.Linear(WIDTH_S, K)
    before = {name: value.clone() for name, value in criterion.state_dict().items()}
    head = student.head.weight.detach().clone()
    criterion.begin_epoch(student, labelled(criterion.method, teachers=2))
    moved = {name for name, value in criterion.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"bridges.{i}.customise.{p}" for i in range(2) for p in ("weight", "bias")}
    assert torch.equal(student.head.weight, head)
    criterion(student_of(criterion.method, grad=True), answers(criterion.method, teachers=2), batch()).total.backward()
    assert all(bridge.customise.weight.grad is None for bridge in criterion.bridges)
    assert all(float(bridge.general.weight.grad.abs().sum()) > 0 for bridge in criterion.bridges)

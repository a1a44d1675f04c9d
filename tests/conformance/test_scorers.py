"""Every registered scorer keeps its contract."""

import copy
import math
from typing import Any

import pytest
import torch

from edgekd.core import parts
from edgekd.core.contracts import Student
from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Look, Scorer, Sight
from edgekd.searching.initialising import initialise
from edgekd.searching.sight import sight_of

FORMS: dict[str, tuple[dict[str, Any], ...]] = {
    "relation_similarity": ({}, {"of": "vector", "centre": True}),
    "semantic_similarity": ({}, {"form": "grad_cam", "grid": 2}),
    "zen": ({}, {"form": "batch_norm"}),
    "affinity": ({"grid": 2},),
}
CASES = [(name, options) for name in parts.names("scorer") for options in FORMS.get(name, ({},))]
IMAGE = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 1, 2, 0, 1])


def scorer(name: str, options: dict[str, Any]) -> Scorer:
    part = parts.load("scorer", name)(**options)
    assert isinstance(part, Scorer)
    return part


def look(genome: str = "1-1-1", *, seed: int = 0, teacher: Sight | None = None, latency_ms: float | None = 2.0) -> Look:
    student = parts.load("student", "cifar_resnet")(genome=genome, size=8)
    assert isinstance(student, Student)
    network = student.build(3, start=False)
    initialise(network, "kaiming", seed=seed)
    sight, deviations = sight_of(network, IMAGE, LABEL)
    return Look(
        module=network,
        image_BCHW=IMAGE,
        student=sight,
        teacher=teacher,
        normal_deviations=deviations,
        parameters=sum(p.numel() for p in network.parameters()),
        macs=1000 * len(genome),
        latency_ms=latency_ms,
    )


def test_the_ones_that_the_house_promises_are_there() -> None:
    """DisWOT's two, their width-free forms, and the baselines that must stand beside them."""
    assert {
        *("semantic_similarity", "relation_similarity", "class_similarity", "affinity", "channel_correlation"),
        *("zen", "synflow", "parameters", "macs", "latency"),
    } <= set(parts.names("scorer"))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_score_is_a_number_that_repeats_and_leaves_nothing_behind(name: str, options: dict[str, Any]) -> None:
    """Finite, the same again; weights, gradients and whether the network trains are as before."""
    made, teacher = scorer(name, options), look("2-1-1", seed=7).student
    shown = look(teacher=teacher)
    before = copy.deepcopy(shown.module.state_dict())
    first = made.value(shown)
    assert math.isfinite(first)
    assert made.value(shown) == first
    assert all(parameter.grad is None for parameter in shown.module.parameters())
    weights = {key: value for key, value in shown.module.state_dict().items() if "running" not in key and "batches" not in key}
    assert all(torch.equal(value, before[key]) for key, value in weights.items())
    assert shown.module.training


@pytest.mark.parametrize(("name", "options"), CASES)
def test_it_says_truly_whether_it_depends_on_the_weights(name: str, options: dict[str, Any]) -> None:
    """Another initialisation gives another value exactly where the contract says so."""
    made, teacher = scorer(name, options), look("2-1-1", seed=7).student
    one, two = (made.value(look(seed=seed, teacher=teacher)) for seed in (0, 1))
    assert (one != two) == made.initialised


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_network_is_its_own_best_student(name: str, options: dict[str, Any]) -> None:
    """Every distance to a teacher is 0 for the teacher itself, and the score is below 0 for another network."""
    made = scorer(name, options)
    if not made.needs_teacher:
        assert math.isfinite(made.value(look()))
        return
    teacher = look("2-1-1", seed=7).student
    assert made.value(look("2-1-1", seed=7, teacher=teacher)) == pytest.approx(0, abs=1e-12)
    assert made.value(look(teacher=teacher)) < -1e-6
    with pytest.raises(UsageError, match="add `teachers:`"):
        made.value(look())


@pytest.mark.parametrize("name", parts.names("scorer"))
def test_it_has_help_and_a_weight(name: str) -> None:
    """One line without import; 1 by default, 0 to be reported only."""
    assert 20 < len(parts.help_line("scorer", name)) <= 100
    assert scorer(name, {}).weight == 1
    assert scorer(name, {"weight": 0.0}).weight == 0
    with pytest.raises(ValueError, match="no_such_option"):
        scorer(name, {"no_such_option": 1})


def test_latency_is_not_guessed() -> None:
    """Without a latency the scorer says what to add."""
    with pytest.raises(UsageError, match=r"search\.latency"):
        scorer("latency", {}).value(look(latency_ms=None))


def test_larger_networks_have_more_synflow_and_zen() -> None:
    """Both grow with depth, which is why size must stand beside them."""
    for name in ("synflow", "zen"):
        small, large = (scorer(name, {}).value(look(genome)) for genome in ("1-1-1", "3-3-3"))
        assert large > small

"""Several teachers as one: mixtures, weights, noise and dropping, against the reference's numbers and numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgekd.distilling import ensembles
from edgekd.distilling.ensembles import (
    average_logits,
    average_probabilities,
    by_confidence,
    drop_teachers,
    gated,
    noisy,
    noisy_features,
    standardised,
)
from edgekd.distilling.losses import kl, kl_to

TWO = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64).log()


def logits(seed: int, teachers: int = 3, images: int = 4, classes: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(teachers, images, classes)) * 2)


def cross_entropy(q: Tensor, student: tuple[float, float] = (0.7, 0.3)) -> float:
    return -float((q * torch.tensor(student, dtype=torch.float64).log()).sum())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixtures_match_the_published_vectors() -> None:
    """H(mean of (.9, .1) and (.5, .5); (.7, .3)) is .610864; with a gate of .75 and .25 it is .526135."""
    assert cross_entropy(average_probabilities(TWO, temperature=1.0)) == pytest.approx(0.610864, abs=1e-6)
    gate = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    assert cross_entropy(gated(TWO, gate)) == pytest.approx(0.526135, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_divergences_and_the_divergence_from_the_mean_teach_alike(temperature: float) -> None:
    """Their student gradients are equal; the values differ by what does not depend on the student."""
    taught, differences, gradients = logits(1), [], []
    for seed in (2, 3):
        student = logits(seed, teachers=1)[0].requires_grad_()
        averaged = torch.stack([kl(student, one, temperature=temperature) for one in taught]).mean()
        mixed = kl_to(student, average_probabilities(taught, temperature=temperature), temperature=temperature)
        gradients.append([torch.autograd.grad(loss, student)[0] for loss in (averaged, mixed)])
        differences.append(float((averaged - mixed).detach()))
    for of_mean, of_mixture in gradients:
        torch.testing.assert_close(of_mean, of_mixture, rtol=1e-10, atol=1e-13)
    assert differences[0] == pytest.approx(differences[1], rel=1e-9)
    assert differences[0] > 0.01


def test_an_equal_gate_is_the_average_and_one_teacher_is_itself() -> None:
    """1/T for each gives the mean of probabilities, a one for one teacher that teacher's softmax."""
    taught = logits(4)
    even = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(gated(taught, even, temperature=2.0), average_probabilities(taught, temperature=2.0))
    second = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).expand(4, -1)
    torch.testing.assert_close(gated(taught, second), torch.softmax(taught[1], dim=1))
    torch.testing.assert_close(average_logits(taught, second), taught[1])
    torch.testing.assert_close(average_logits(taught), taught.mean(dim=0))


@given(st.permutations([0, 1, 2]))
def test_the_order_of_teachers_does_not_matter(order: list[int]) -> None:
    """Mixtures and their weights go along with the teachers."""
    taught, gate = logits(5), torch.softmax(logits(6, images=3, classes=3)[0][:, [0, 1, 2]], dim=1)[:1].expand(4, -1)
    torch.testing.assert_close(
        average_probabilities(taught[order], temperature=2.0), average_probabilities(taught, temperature=2.0)
    )
    torch.testing.assert_close(gated(taught[order], gate[:, order]), gated(taught, gate))
    torch.testing.assert_close(by_confidence(taught[order], tau=0.5), by_confidence(taught, tau=0.5)[:, order])


def test_the_average_of_probabilities_is_not_that_of_logits() -> None:
    """A mixture keeps what one teacher is sure of; a product does not."""
    taught = torch.tensor([[[8.0, 0.0, 0.0]], [[0.0, 0.0, 8.0]]])
    mixture = average_probabilities(taught, temperature=1.0)[0]
    product = torch.softmax(average_logits(taught)[0], dim=0)
    assert float(mixture[1]) < 0.001
    assert float(product[1]) == pytest.approx(1 / (1 + 2 * math.exp(4)), rel=1e-5)


def test_who_is_sure_counts() -> None:
    """Weights are exp(-entropy / tau), normalised; towards tau 0 the surest alone, towards infinity all alike."""
    entropies = [-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)), math.log(2)]
    expected = np.exp(-np.array(entropies) / 0.5)
    np.testing.assert_allclose(by_confidence(TWO, tau=0.5)[0].numpy(), expected / expected.sum(), rtol=1e-9)
    assert float(by_confidence(TWO, tau=1e-3)[0, 0]) == pytest.approx(1.0)
    assert float(by_confidence(TWO, tau=1e6)[0, 0]) == pytest.approx(0.5, abs=1e-6)


def test_standardised_logits_forget_scale_and_offset() -> None:
    """(1, 2, 3) becomes (-1, 0, 1), as it does times 100 plus 7; logits that do not vary become 0."""
    taught = torch.tensor([[[1.0, 2.0, 3.0]], [[107.0, 207.0, 307.0]], [[5.0, 5.0, 5.0]]])
    expected = torch.tensor([[[-1.0, 0.0, 1.0]], [[-1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(standardised(taught), expected, rtol=1e-5, atol=1e-5)


def test_a_gate_gets_a_gradient_and_the_teachers_none() -> None:
    """Learned gates are trained through the mixture."""
    taught, gate = logits(7).requires_grad_(), torch.full((4, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    gated(taught, gate).square().sum().backward()
    assert gate.grad is not None
    assert float(gate.grad.abs().sum()) > 0
    assert taught.grad is None
    assert not average_probabilities(taught, temperature=1.0).requires_grad


@pytest.mark.parametrize("gate", [[[0.5, 0.2]], [[1.5, -0.5]]])
def test_weights_that_are_none_are_refused(gate: list[list[float]]) -> None:
    """They must be at least 0 and sum to 1, and be of as many images and teachers as the logits."""
    with pytest.raises(ValueError, match="sum to 1"):
        gated(TWO, torch.tensor(gate))
    with pytest.raises(ValueError, match="images x teachers"):
        gated(TWO, torch.ones(2, 1))
    with pytest.raises(ValueError, match="teachers x images x classes"):
        average_probabilities(TWO[0], temperature=1.0)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.floats(0, 0.99))
def test_no_image_loses_all_its_teachers(seed: int, teachers: int, images: int, probability: float) -> None:
    """The one with the largest loss always stays; weights of those that stay are equal and sum to 1 over the batch."""
    losses = torch.from_numpy(np.random.default_rng(seed).random((images, teachers)))
    weight = drop_teachers(losses, probability=probability, generator=generator(seed))
    assert bool((weight.gather(1, losses.argmax(dim=1, keepdim=True)) > 0).all())
    assert float(weight.sum()) == pytest.approx(1.0)
    assert len(set(weight[weight > 0].tolist())) == 1


def test_teachers_are_dropped_as_often_as_asked() -> None:
    """Of the teachers that may be dropped, 30 % are (20,000 draws: six standard errors); with probability 0 none is."""
    losses = torch.tensor([[3.0, 1.0, 2.0]]).expand(10_000, -1)
    weight = drop_teachers(losses, probability=0.3, generator=generator())
    dropped = float((weight[:, 1:] == 0).double().mean())
    assert dropped == pytest.approx(0.3, abs=6 * math.sqrt(0.3 * 0.7 / 20_000))
    assert bool((weight[:, 0] > 0).all())
    whole = drop_teachers(losses, probability=0.0, generator=generator())
    assert float((whole * losses).sum()) == pytest.approx(2.0, rel=1e-5)


def test_dropping_is_drawn_by_the_generator_alone() -> None:
    """The same generator drops the same teachers, another does not; no gradient flows to the weights."""
    losses = torch.from_numpy(np.random.default_rng(0).random((40, 3))).requires_grad_()
    first, again, other = (drop_teachers(losses, probability=0.5, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad


def test_noise_is_relative_and_meets_a_share_of_the_images() -> None:
    """z (1 + sigma xi): about half of the images, by about sigma; zeros stay; sigma 0 changes nothing."""
    values = torch.full((4000, 8), 3.0)
    values[:, 0] = 0.0
    found = noisy(values, sigma=0.1, share=0.5, generator=generator())
    touched = (found != values).any(dim=1)
    assert float(touched.double().mean()) == pytest.approx(0.5, abs=0.05)
    ratio = found[touched][:, 1:] / 3
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(ratio.std()) == pytest.approx(0.1, rel=0.05)
    assert bool((found[:, 0] == 0).all())
    assert torch.equal(noisy(values, sigma=0.0, share=0.5, generator=generator()), values)


def test_noise_on_features_is_in_deviations() -> None:
    """f + sigma xi: zeros are moved as far as threes; about half of the images are."""
    values = torch.tensor([0.0, 3.0]).repeat(4000, 4)
    found = noisy_features(values, sigma=0.2, share=0.5, generator=generator()) - values
    touched = (found != 0).any(dim=1)
    assert float(touched.double().mean()) == pytest.approx(0.5, abs=0.05)
    for column in range(2):
        assert float(found[touched][:, column].std()) == pytest.approx(0.2, rel=0.1)


def test_the_names_that_the_house_promises() -> None:
    """Pure functions of several teachers are in one place."""
    assert {"average_probabilities", "gated", "unify", "drop_teachers"} <= set(ensembles.__all__)

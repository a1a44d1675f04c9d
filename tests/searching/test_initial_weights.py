"""What a student is before training: fresh weights by the seed, its size, and what it sees."""

from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core import parts
from edgekd.searching.counting import size_of
from edgekd.searching.initialising import initialise
from edgekd.searching.sight import fit_probe, map_gradient, sight_of


def resnet(genome: str, size: int = 32) -> Any:
    return parts.load("student", "cifar_resnet")(genome=genome, size=size)


@pytest.mark.parametrize(("genome", "parameters", "macs"), [("1-1-1", 83_568, 12.5), ("7-7-7", 666_864, 97.4)])
def test_sizes_are_those_of_the_published_table(genome: str, parameters: int, macs: float) -> None:
    """The table leaves out stem BN (32), shortcut BN (64 + 128) and the head's biases (100)."""
    found = size_of(resnet(genome), 100)
    assert found.parameters == parameters + 32 + 64 + 128 + 100
    assert found.macs / 1e6 == pytest.approx(macs, abs=0.05)


def test_weights_follow_the_seed_and_nothing_else() -> None:
    """Whatever the network did before; batch norms forget their statistics."""
    one, two = resnet("1-1-1").build(10), resnet("1-1-1").build(10)
    two.train().features(torch.rand(4, 3, 32, 32), ("logits",))
    for network in (one, two):
        initialise(network, "kaiming", seed=5)
    assert all(torch.equal(a, two.state_dict()[key]) for key, a in one.state_dict().items() if "batches" not in key)
    initialise(two, "kaiming", seed=6)
    assert not torch.equal(one.model.classifier.weight, two.model.classifier.weight)


@pytest.mark.parametrize(("kind", "deviation"), [("kaiming", (2 / (64 * 9)) ** 0.5), ("gaussian", 1.0)])
def test_the_two_initialisations(kind: Any, deviation: float) -> None:
    """Deviation sqrt(2 / fan_in), or 1."""
    network = resnet("1-1-1").build(10)
    initialise(network, kind, seed=0)
    weight = network.model.body[-1].conv2.weight.detach()
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    assert float(network.model.classifier.bias.detach().abs().max()) == 0


def test_how_classes_weigh_the_map_is_grad_cams() -> None:
    """With pooling and one linear layer behind the map, it is the layer's weight over the number of positions."""
    network = resnet("1-1-1", 16).build(5).train()
    found = map_gradient(network, torch.rand(3, 3, 16, 16))
    assert found.shape == (5, 64)
    torch.testing.assert_close(found, network.model.classifier.weight.detach() / 16, rtol=1e-4, atol=1e-7)


def test_deviations_are_those_of_the_batch() -> None:
    """The first batch norm's: root of the mean variance over channels of what the stem's convolution gives, in numpy."""
    network, image = resnet("1-1-1", 8).build(3), torch.rand(6, 3, 8, 8)
    _, deviations = sight_of(network, image, torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        given = network.model.stem[0](network.prepared(image)).double().numpy()
    assert deviations[0] == pytest.approx(np.sqrt(given.var(axis=(0, 2, 3), ddof=1).mean()), rel=1e-5)
    assert len(deviations) == 1 + 6 + 2


def test_a_probe_separates_what_can_be_separated() -> None:
    """On the pooled features of a frozen model; the same images are classified by weight and bias alone."""

    class Colours:
        def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
            return {taps[0]: 50 * image_BCHW.mean(dim=(2, 3)) + 7}

    dice = torch.Generator().manual_seed(0)
    label = torch.arange(30) % 3
    image = torch.rand(30, 3, 4, 4, generator=dice) * 0.2 + torch.eye(3)[label].view(30, 3, 1, 1)
    weight, bias = fit_probe(Colours(), list(image.split(8)), label, 3)  # type: ignore[arg-type]
    feature = Colours().features(image, ("pooled",))["pooled"].double()
    assert torch.equal((feature @ weight.T + bias).argmax(dim=1), label)

"""Linear probe and nearest neighbours."""

import numpy as np
import pytest
import torch

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import DataError
from edgekd.distilling.probes import LinearProbe, ProbedTeacher, knn_top1


def test_the_probe_is_at_the_minimum_of_its_objective() -> None:
    """The gradient of cross entropy plus l2/2 |W|^2, derived in float64 numpy, vanishes at the fitted weights."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)) * [1, 5, 0.1, 2] + 3, rng.integers(0, 3, 60)
    probe = LinearProbe.fit(torch.tensor(x), torch.tensor(y), classes=3, l2=0.05)
    z = (x - x.mean(0)) / x.std(0)
    w, b = probe.linear.weight.double().numpy(), probe.linear.bias.double().numpy()
    logits = z @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = p - np.eye(3)[y]
    assert np.abs(error.T @ z / len(x) + 0.05 * w).max() < 1e-5
    assert np.abs(error.mean(0)).max() < 1e-5


def test_a_channel_that_never_varies_does_not_break_the_probe() -> None:
    """A constant channel is ignored; separable classes are told apart."""
    x = torch.tensor([[0.0, 9.0], [1.0, 9.0], [10.0, 9.0], [11.0, 9.0]])
    probe = LinearProbe.fit(x, torch.tensor([0, 0, 1, 1]), classes=2)
    assert probe(x).argmax(1).tolist() == [0, 0, 1, 1]
    assert all(bool(torch.isfinite(p).all()) for p in probe.parameters())


def test_a_folded_probe_answers_the_same_without_standardising() -> None:
    """One linear layer on the features as they are gives the probe's logits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator) * torch.tensor([1.0, 9.0, 0.1, 3.0, 1.0]) + 4
    probe = LinearProbe.fit(x, torch.arange(40) % 3, classes=3)
    weight_KD, bias_K = probe.folded()
    assert (tuple(weight_KD.shape), tuple(bias_K.shape)) == ((3, 5), (3,))
    torch.testing.assert_close(x @ weight_KD.T + bias_K, probe(x), rtol=1e-4, atol=1e-4)


def test_a_probe_needs_two_classes() -> None:
    """One class cannot be told from anything."""
    with pytest.raises(DataError, match="at least two classes"):
        LinearProbe.fit(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), classes=2)


def test_neighbours_vote_by_cosine_not_by_length() -> None:
    """Scaling features changes nothing; the nearest direction wins."""
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    test = torch.tensor([[100.0, 1.0], [0.001, 0.01]])
    assert knn_top1(train, labels, test, torch.tensor([0, 1]), k=2) == 1.0
    assert knn_top1(train, labels, test, torch.tensor([1, 1]), k=2) == 0.5


def test_votes_are_weighted_by_closeness() -> None:
    """One very near neighbour outvotes two far ones: exp(1 / 0.07) against 2 exp(0.6 / 0.07)."""
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    assert knn_top1(train, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), k=3) == 1.0


class Frozen:
    """A teacher whose features are the images' channel means; remembers which taps it was asked for."""

    name, licence, weights_sha256, size_px, parameters, precision = "fake", "none", "0" * 64, (8, 8), 7, "bf16"

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def to(self, device: torch.device) -> "Frozen":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return FeatureSpec(name=self.name, shapes=dict.fromkeys(taps, (3,)))

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        self.asked.append(taps)
        return {tap: image_BCHW.mean((2, 3)) for tap in taps}


def test_a_probed_teacher_has_one_tap_more() -> None:
    """`probe_logits` is the probe of the pooled features, asked for once; all else is the teacher's own, precision included."""
    generator = torch.Generator().manual_seed(0)
    frozen = Frozen()
    probe = LinearProbe.fit(torch.randn(12, 3, generator=generator), torch.arange(12) % 4, classes=4)
    probed = ProbedTeacher(frozen, probe)
    image = torch.rand(2, 3, 8, 8, generator=generator)
    found = probed.features(image, ("probe_logits", "cls"))
    assert list(found) == ["probe_logits", "cls"]
    torch.testing.assert_close(found["probe_logits"], probe(image.mean((2, 3))))
    probed.features(image, ("pooled", "probe_logits"))
    probed.features(image, ("cls",))
    assert frozen.asked == [("cls", "pooled"), ("pooled",), ("cls",)]
    assert probed.spec(("probe_logits", "cls")).shapes == {"probe_logits": (4,), "cls": (3,)}
    assert (probed.precision, probed.size_px, probed.weights_sha256) == ("bf16", (8, 8), "0" * 64)

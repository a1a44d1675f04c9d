"""Linear probe and nearest neighbours."""

import numpy as np
import pytest
import torch

from edgekd.core.errors import DataError
from edgekd.distilling.probes import LinearProbe, knn_top1


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

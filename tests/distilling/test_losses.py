"""Losses against numbers worked out by hand or in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.contracts import Batch
from edgekd.distilling.losses import cross_entropy, feature_mse, kl_divergence, standardise

LN3 = math.log(3)


def batch(labels: list[int], *, mix: float = 1.0, partners: list[int] | None = None) -> Batch:
    n = len(labels)
    return Batch(
        image_BCHW=torch.zeros(n, 3, 1, 1),
        label_B=torch.tensor(labels),
        index_B=torch.arange(n),
        view_B=torch.zeros(n, dtype=torch.int64),
        mix=mix,
        partner_B=None if partners is None else torch.tensor(partners),
    )


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.130812), (2.0, 0.145363), (4.0, 0.149458)])
def test_kl_matches_the_published_vectors(temperature: float, expected: float) -> None:
    """KL of z_t = (ln 3, 0) from z_s = 0 times T^2 is the reference figure at each temperature."""
    kl = kl_divergence(torch.zeros(1, 2), torch.tensor([[LN3, 0.0]]), temperature=temperature)
    assert float(kl) == pytest.approx(expected, abs=1e-6)


def test_kl_has_a_direction() -> None:
    """KL(p||q) and KL(q||p) differ; the teacher is the first."""
    kl = kl_divergence(torch.tensor([[LN3, 0.0]]), torch.zeros(1, 2), temperature=1.0)
    assert float(kl) == pytest.approx(0.143841, abs=1e-6)


def test_kl_is_a_mean_over_the_batch_and_a_sum_over_classes() -> None:
    """Repeating the batch changes nothing; the value equals a float64 derivation."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    log_p = teacher / 2 - np.log(np.exp(teacher / 2).sum(1, keepdims=True))
    log_q = student / 2 - np.log(np.exp(student / 2).sum(1, keepdims=True))
    expected = 4 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    s, t = torch.tensor(student), torch.tensor(teacher)
    assert float(kl_divergence(s, t, temperature=2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(kl_divergence(s.repeat(3, 1), t.repeat(3, 1), temperature=2.0)) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=9), st.floats(0.5, 8))
def test_kl_of_a_model_with_itself_is_nothing(logits: list[float], temperature: float) -> None:
    """KL(p||p) = 0 for any logits and temperature."""
    z = torch.tensor([logits])
    assert float(kl_divergence(z, z.clone(), temperature=temperature)) == pytest.approx(0, abs=1e-4)


def test_mse_matches_the_published_vector() -> None:
    """The mean of the squares of 1, 2, 3, 4 is 7.5."""
    assert float(feature_mse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2))) == 7.5


def test_cross_entropy_counts_labelled_images_only() -> None:
    """Unknown labels neither add to the loss nor to its mean."""
    logits = torch.tensor([[1.0, 0.0], [50.0, 0.0]])
    assert float(cross_entropy(logits, batch([0, -1]))) == pytest.approx(0.313262, abs=1e-6)


def test_cross_entropy_of_an_unlabelled_batch_is_zero_with_a_gradient() -> None:
    """A batch without labels gives exactly 0 and can still be differentiated."""
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, batch([-1, -1, -1]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) == 0.0


def test_mixup_weighs_the_two_labels() -> None:
    """With mix 0.25 the loss is a quarter of the own label's and three quarters of the partner's."""
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    own0, own1 = 0.313262, 1.313262
    loss = cross_entropy(logits, batch([0, 1], mix=0.25, partners=[0, 0]))
    assert float(loss) == pytest.approx(0.25 * (own0 + own1) / 2 + 0.75 * own0, abs=1e-6)


def test_smoothing_spreads_the_label() -> None:
    """Smoothing e gives (1 - e) CE + e times the mean of the negative log probabilities."""
    logits = torch.tensor([[1.0, 0.0]])
    expected = 0.9 * 0.313262 + 0.1 * (0.313262 + 1.313262) / 2
    assert float(cross_entropy(logits, batch([0]), smoothing=0.1)) == pytest.approx(expected, abs=1e-6)


def test_standardised_channels_have_unit_variance_and_constants_stay_finite() -> None:
    """(x - mean) / std per channel; a channel that never varies becomes zero, not infinite."""
    features = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    out = standardise(features, features.mean(0), features.std(0, unbiased=False))
    assert out.tolist() == [[-1.0, 0.0], [1.0, 0.0]]

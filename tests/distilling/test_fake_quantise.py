"""distilling/fake_quantise.py: what a student feels while it is rounded, and that nothing of it is left."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.plan import Duration, Train
from edgekd.distilling import fake_quantise
from edgekd.distilling.fake_quantise import rounded_input, rounded_weight
from edgekd.testing import TinyStudent


def by_hand(weight: np.ndarray) -> np.ndarray:
    """Round to 127 steps of each output channel's largest weight, in float64."""
    step = np.abs(weight).reshape(len(weight), -1).max(axis=1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
    return np.round(weight / step) * step


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (8, 1, 5, 5), (10, 16)])
def test_weights_are_rounded_for_each_output_channel(shape: tuple[int, ...]) -> None:
    """Against float64, for convolutions, depthwise ones and linear layers; a channel of zeros stays zeros."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(-4, shape[0] - 4).view(
        -1, *[1] * (len(shape) - 1)
    )
    expected = by_hand(weight.double().numpy())
    np.testing.assert_allclose(rounded_weight(weight).numpy(), expected, rtol=1e-5)
    assert all(len(np.unique(channel)) <= 255 for channel in expected)
    weight[3] = 0
    assert not rounded_weight(weight)[3].any()


def test_rounding_commutes_with_folding_batch_norm() -> None:
    """Scaled channel by channel, a convolution has the same levels: what is learned is what is exported."""
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    gain = torch.tensor([0.3, -2.0, 1.0, 7.0, -0.01, 0.5]).double().view(-1, 1, 1, 1)
    np.testing.assert_allclose(rounded_weight((weight * gain).float()), rounded_weight(weight.float()) * gain, rtol=1e-4)


def test_inputs_by_hand() -> None:
    """Between -1 and 1.55 a step is 0.01 and zero is on it; beyond the ends is cut off, and has no gradient."""
    value = torch.tensor([-1.004, -3.0, 0.0, 0.0149, 1.55, 2.0], requires_grad=True)
    rounded = rounded_input(value, low=-1.0, high=1.55)
    np.testing.assert_allclose(rounded.detach().numpy(), [-1.0, -1.0, 0.0, 0.01, 1.55, 1.55], atol=1e-6)
    rounded.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert rounded_input(torch.zeros(3), low=0.0, high=0.0).tolist() == [0.0, 0.0, 0.0]
    assert float(rounded_input(torch.tensor([0.0]), low=2.0, high=3.0)) == 0.0  # zero is always one of the levels


def test_a_student_is_rounded_between_begin_and_end_and_as_before_afterwards() -> None:
    """Same names, same weights, same answers; in between the answers differ a little, and weights get gradients."""
    student = TinyStudent().build(3)
    before = copy.deepcopy(student.state_dict())
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    student.eval()
    clean = student(image).detach()
    fake_quantise.begin(student)
    felt = student(image).detach()
    assert 0 < float((felt - clean).abs().max()) < 0.1 * float(clean.abs().max())
    assert torch.equal(student(image), felt)  # ranges rest in evaluation
    student.train()
    student(image).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in student.named_parameters() if "original" in n)
    for key, value in student.state_dict().items():  # batch norm has seen a batch: put its statistics back
        if "running" in key:
            value.copy_(before[key])
    student.eval()
    fake_quantise.end(student)
    after = student.state_dict()
    assert sorted(after) == sorted(before)
    for key, value in after.items():
        if "num_batches" not in key:
            assert torch.equal(value, before[key]), key
    assert torch.equal(student(image), clean)
    assert not any(module._forward_pre_hooks for module in student.modules())


def test_ranges_follow_the_batches() -> None:
    """The first batch gives the range, later ones pull it by a twentieth; in evaluation it stays."""
    layer = nn.Linear(2, 1)
    fake_quantise.begin(layer)
    (hook,) = layer._forward_pre_hooks.values()
    layer(torch.tensor([[-1.0, 3.0]]))
    assert hook.range == (-1.0, 3.0)  # type: ignore[attr-defined]
    layer(torch.tensor([[-2.0, 5.0]]))
    assert hook.range == pytest.approx((-1.05, 3.1))  # type: ignore[attr-defined]
    layer.eval()
    layer(torch.tensor([[-9.0, 9.0]]))
    assert hook.range == pytest.approx((-1.05, 3.1))  # type: ignore[attr-defined]


def test_averaged_weights_are_refused() -> None:
    """A moving average would be of weights under other names."""
    with pytest.raises(ValueError, match="leave one of them out"):
        Train(duration=Duration(steps=1), ema=0.99, fake_quantise=True)

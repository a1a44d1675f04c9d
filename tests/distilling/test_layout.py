"""distilling/layout.py: channels last, and the one kind of convolution that would not survive it on CPU."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distilling import fake_quantise
from edgekd.distilling.layout import put_channels_last


def image_BCHW(channels: int) -> torch.Tensor:
    image = torch.rand(8, channels, 80, 80, generator=torch.Generator().manual_seed(0))
    return image.contiguous(memory_format=torch.channels_last)


def gradient_by_hand(convolution: nn.Conv2d, image: torch.Tensor) -> np.ndarray:
    """The gradient of the mean square of a strided 1x1 convolution's answers, in float64: 2/N sum y x."""
    weight_OC = convolution.weight.detach().double().numpy()[:, :, 0, 0]
    seen_BCHW = image.double().numpy()[:, :, ::2, ::2]
    answer_BOHW = np.einsum("oc,bchw->bohw", weight_OC, seen_BCHW)
    return 2 / answer_BOHW.size * np.einsum("bohw,bchw->oc", answer_BOHW, seen_BCHW)


@pytest.mark.parametrize("channels", [2, 3, 4, 8, 15, 16, 24])
def test_a_strided_pointwise_convolution_learns_what_it_should(channels: int) -> None:
    """With fewer than 16 channels oneDNN would write where it must not."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(channels, 48, 1, stride=2, bias=False))
    put_channels_last(student)
    for _ in range(3):
        student.zero_grad()
        student(image_BCHW(channels)).square().mean().backward()
    expected_OC = gradient_by_hand(student[0], image_BCHW(channels))
    np.testing.assert_allclose(student[0].weight.grad[:, :, 0, 0].numpy(), expected_OC, rtol=1e-4, atol=1e-7)


def test_it_learns_so_while_it_is_rounded() -> None:
    """Trained on for int8, the gradient is that of the float convolution but for the rounding."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2, bias=False))
    put_channels_last(student)
    expected_OC = gradient_by_hand(student[0], image_BCHW(3))
    fake_quantise.begin(student)
    student(image_BCHW(3)).square().mean().backward()
    found_OC = student[0].parametrizations.weight.original.grad[:, :, 0, 0].numpy()
    np.testing.assert_allclose(found_OC, expected_OC, atol=0.02 * np.abs(expected_OC).max())


def test_all_others_have_their_channels_last() -> None:
    """Also what was copied: an average of the weights keeps the layout, and is asked in the same way."""
    student = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1, stride=2))
    put_channels_last(student)
    copied = copy.deepcopy(student)
    answers = [one(image_BCHW(3)) for one in (student, copied)]
    assert torch.equal(*answers)
    assert student[0](image_BCHW(3)).is_contiguous(memory_format=torch.channels_last)
    assert [layer.weight.stride()[1] for layer in copied] == [1, 1, 1]
    assert copied[2].weight.stride() == (8, 1, 1, 1)
    assert copied[0].weight.stride() == (27, 1, 9, 3)

"""A block on its way to a device: through the real runtime, in this process and in one of its own."""

from typing import Any

import pytest
import torch
from torch import nn

from edgekd.block_timing import Stopwatch
from edgekd.core import parts


def stopwatch(device: str | None, *, iterations: int = 5) -> Stopwatch:
    backend: Any = parts.load("backend", "onnxruntime")()
    made: Any = None if device is None else parts.load("device", device)()
    return Stopwatch(backend, made, threads=1, iterations=iterations)


@pytest.mark.parametrize("device", [None, "local"])
def test_a_block_with_any_channels_is_timed(device: str | None) -> None:
    """Forty channels in, a map out: no image and no logits, and still as many inferences as were asked for."""
    block = nn.Sequential(nn.Conv2d(40, 16, 1), nn.BatchNorm2d(16), nn.Hardswish())
    watch = stopwatch(device)
    with watch.ready():
        (found,) = watch((block, (40, 7, 7)))
    assert found.iterations == 5
    assert 0 < found.low_ms <= found.p50_ms <= found.high_ms


def test_several_are_timed_in_turns_with_what_is_beside_them() -> None:
    """The larger of two takes longer; the time of those beside them lies between theirs; in this process nothing is beside."""
    small, large = (nn.Conv2d(8, 8, 1), (8, 7, 7)), (nn.Conv2d(64, 64, 3), (64, 56, 56))
    watch = stopwatch("local", iterations=40)
    with watch.ready(small, large):
        found = watch(small, large)
    assert found[0].p50_ms < found[1].p50_ms
    assert all(one.beside_ms is not None and found[0].p50_ms < one.beside_ms < found[1].p50_ms for one in found)
    with watch.ready():
        assert watch(small)[0].beside_ms is None
    with stopwatch(None).ready(small):
        assert stopwatch(None)(small)[0].beside_ms is None


def test_what_was_timed_elsewhere_is_not_taken_for_this() -> None:
    """Another way to the device, another count or another option of the backend is another table."""
    identities = [stopwatch(None).identity, stopwatch("local").identity, stopwatch(None, iterations=6).identity]
    half: Any = parts.load("backend", "onnxruntime")(precision="fp16")
    identities.append(Stopwatch(half, None, threads=1, iterations=5).identity)
    assert len({str(identity) for identity in identities}) == 4
    assert stopwatch(None).identity == identities[0]


def test_modules_are_timed_as_deployed() -> None:
    """In evaluation mode and without gradients."""
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5)).train()
    stopwatch(None, iterations=1)((block, (3, 4, 4)))
    assert not block.training
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert torch.is_grad_enabled()

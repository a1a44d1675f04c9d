"""exporting/activations.py: what is seen of a graph's tensors, and the ranges that calibrators make of it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.exporting import activations
from edgekd.exporting.activations import Seen, by_average, by_minmax, by_mse, by_percentile, observe

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)


def graph(opset: int = 18) -> onnx.ModelProto:
    """Return a convolution and a ReLU over images of 8 x 8."""
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["out"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 8, 8])
    made = helper.make_graph(nodes, "g", [image], [out], [numpy_helper.from_array(WEIGHT, "weight")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def convolved(image_BCHW: np.ndarray) -> np.ndarray:
    padded = np.pad(image_BCHW.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, WEIGHT.astype(np.float64))


@pytest.mark.parametrize("opset", [13, 18])
def test_extremes_means_and_samples_are_those_of_the_tensors(opset: int) -> None:
    """Over batches of different sizes, against a float64 convolution; opset 18 has another form of the mean."""
    batches = [RANDOM.random((size, 3, 8, 8)).astype(np.float32) for size in (3, 5, 1)]
    seen = observe(graph(opset), ["image", "map", "out"], batches, threads=1)
    image = np.concatenate(batches).astype(np.float64)
    for name, expected in (("image", image), ("map", convolved(image)), ("out", np.maximum(convolved(image), 0))):
        assert seen[name].low == pytest.approx(expected.min(), abs=1e-5)
        assert seen[name].high == pytest.approx(expected.max(), abs=1e-5)
        each = expected.reshape(len(expected), -1)
        assert (seen[name].mean_low, seen[name].mean_high) == pytest.approx((each.min(1).mean(), each.max(1).mean()), abs=1e-5)
        np.testing.assert_allclose(seen[name].mean_C, expected.mean(axis=(0, 2, 3)), atol=1e-5)
        flat = np.concatenate([part.reshape(-1) for part in np.split(expected, [3, 8])])
        assert np.abs(seen[name].sample_S[:, None] - flat[None]).min(axis=1).max() < 1e-5  # each is one of the numbers
        assert 50 * 9 <= len(seen[name].sample_S) <= len(flat)


def test_without_images_nothing_is_known() -> None:
    """An empty calibration set is a mistake, not a range of nothing."""
    with pytest.raises(ValueError, match="no images"):
        observe(graph(), ["map"], [], threads=1)


def seen_of(numbers: np.ndarray) -> Seen:
    low, high = float(numbers.min()), float(numbers.max())
    return Seen(low=low, high=high, mean_low=low / 2, mean_high=high / 4, sample_S=numbers, mean_C=np.zeros(1))


def test_minmax_is_the_range() -> None:
    """The simplest calibrator."""
    assert by_minmax(seen_of(np.array([-2.0, 0.5, 7.0]))) == (-2.0, 7.0)


def test_average_is_the_range_of_one_image() -> None:
    """What a few images reach does not count for all of them."""
    assert by_average(seen_of(np.array([-2.0, 0.5, 8.0]))) == (-1.0, 2.0)


def test_percentile_cuts_both_ends_evenly() -> None:
    """Of the numbers 0..1000, 99 % lie in 5..995."""
    low, high = by_percentile(seen_of(np.arange(1001.0)), percent=99.0)
    assert (low, high) == pytest.approx((5.0, 995.0))


def test_mse_gives_up_an_outlier_and_nothing_else() -> None:
    """Held against the error of each share by hand, with 16 levels; without outliers next to nothing is cut off."""
    with_outlier = np.append(RANDOM.normal(size=20_000), [-9.0, 9.0])
    even = np.append(RANDOM.random(5000), 0.0)

    def error(share: float, numbers: np.ndarray) -> float:
        low, high = share * numbers.min(), share * numbers.max()
        step = (high - low) / 15
        return float(((np.clip(np.rint((numbers - low) / step), 0, 15) * step + low - numbers) ** 2).mean())

    for numbers in (with_outlier, even):
        best = min(activations._CLIPPED, key=lambda share: error(share, numbers))
        assert by_mse(seen_of(numbers), levels=16) == pytest.approx((best * numbers.min(), best * numbers.max()))
    assert by_mse(seen_of(with_outlier), levels=16)[1] < 0.6 * 9
    assert by_mse(seen_of(even), levels=16)[1] > 0.9


def test_mse_of_a_constant_is_its_range() -> None:
    """A tensor that is zero everywhere divides nothing by zero."""
    assert by_mse(seen_of(np.zeros(100))) == (0.0, 0.0)

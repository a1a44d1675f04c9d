"""exporting/onnx_int8.py: schemes become graphs that answer nearly alike, layers are ranked, biases are corrected."""

from itertools import islice

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.contracts import Calibration
from edgekd.core.errors import UsageError
from edgekd.exporting import graph, onnx_int8
from edgekd.exporting.activations import Seen
from edgekd.exporting.onnx_int8 import OnnxQuantiser, Scheme, rounded, squeeze_and_excite
from edgekd.testing import tiny_exportable

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.random((4, 3, 16, 16)).astype(np.float32) for _ in range(3)]
CALIBRATION = Calibration(batches=lambda: iter(IMAGES), judged=lambda: iter([]), max_drop=1.0, threads=1)


def run(model: onnx.ModelProto, image_BCHW: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image_BCHW})[0])


@pytest.fixture(scope="module")
def quantiser() -> OnnxQuantiser:
    return OnnxQuantiser(graph.to_onnx(tiny_exportable(metadata={"fact": "one"})), CALIBRATION)


def test_every_scheme_of_the_grid_is_int8_and_answers_nearly_alike(quantiser: OnnxQuantiser) -> None:
    """Each has int8 weights, keeps the interface, and its logits stay within a tenth of their range."""
    clean_BK = run(quantiser.model, IMAGES[0])
    attempts = quantiser.grid()
    assert attempts[0].name == "naive"
    assert len({attempt.name for attempt in attempts}) == len(attempts) >= 6
    for scheme in quantiser._schemes.values():
        model = quantiser.quantised(scheme)
        kinds = {tensor.data_type for tensor in model.graph.initializer}
        assert TensorProto.INT8 in kinds
        assert np.abs(run(model, IMAGES[0]) - clean_BK).max() < 0.1 * np.ptp(clean_BK)


def test_activations_are_unsigned_or_symmetric(quantiser: OnnxQuantiser) -> None:
    """uint8 has zero points of its own; int8 is symmetric: all its zero points are 0, as TensorRT wants them."""
    for scheme, kind in ((Scheme(), np.uint8), (Scheme(activations="int8"), np.int8)):
        model = quantiser.quantised(scheme)
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        zeros = [tensors[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert zeros
        assert {zero.dtype for zero in zeros} == {np.dtype(kind)}
        if kind is np.int8:
            assert all(not zero.any() for zero in zeros)


def test_layers_kept_in_float_have_no_int8_weight(quantiser: OnnxQuantiser) -> None:
    """The first convolution is left as it was, the others are not."""
    first, *others = quantiser.layers
    model = quantiser.quantised(Scheme(keep_float=(first,)))
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    weighted = {node.name: node.input[1] in floats for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert weighted[first]
    assert not any(weighted[name] for name in others if name in weighted)


def test_a_layer_to_keep_that_is_not_there_is_named_with_those_that_are(quantiser: OnnxQuantiser) -> None:
    """The message lists what `keep_float` may name."""
    with pytest.raises(UsageError, match=f"there is no layer 'conv_99'; there are {quantiser.layers[0]}"):
        OnnxQuantiser(graph.to_onnx(tiny_exportable()), CALIBRATION, keep_float=("conv_99",))


def test_the_most_sensitive_layer_comes_first_and_is_kept_first() -> None:
    """A convolution with one huge weight among small ones loses most to a scale per tensor."""
    model = graph.to_onnx(tiny_exportable())
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4 and array.shape[1] == 1:
            spoilt = array.copy()
            spoilt[0, 0, 0, 0] = 300.0 * np.abs(array).max()
            tensor.CopyFrom(numpy_helper.from_array(spoilt, tensor.name))
    quantiser = OnnxQuantiser(model, CALIBRATION)
    depthwise = next(node.name for node in quantiser.model.graph.node if node.op_type == "Conv" and _groups(node) > 1)
    assert quantiser.by_sensitivity(Scheme(weights="tensor"))[0] == depthwise
    quantiser.grid()
    attempts = list(quantiser.careful("naive"))
    usual, layers = attempts[:2], attempts[2:]
    assert [attempt.name for attempt in usual] == ["naive, ends in float", "naive, products only"]
    assert usual[1].options["operators"] == "weighted"
    assert [attempt.kept_float for attempt in layers] == [2**i for i in range(len(layers))]
    assert layers[0].name == "naive, 1 layers in float"


def test_squeeze_and_excite_goes_back_to_float_before_single_layers() -> None:
    """Where a student has it, it is among the first exceptions that a search tries."""
    import timm

    module = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    quantiser = OnnxQuantiser(graph.to_onnx(tiny_exportable(module)), CALIBRATION)
    quantiser.grid()
    names = [attempt.name for attempt in islice(quantiser.careful("average"), 3)]
    assert names == ["average, ends in float", "average, squeeze in float", "average, products only"]


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def test_rounding_by_hand() -> None:
    """Per channel each row has its own step of 1/127 of its largest; per tensor one step serves all."""
    weight = np.array([[[[1.27, 0.004]]], [[[0.0127, -0.00634]]]])
    np.testing.assert_allclose(rounded(weight, per_channel=True), [[[[1.27, 0.0]]], [[[0.0127, -0.0063]]]], atol=1e-9)
    np.testing.assert_allclose(rounded(weight, per_channel=False), [[[[1.27, 0.0]]], [[[0.01, -0.01]]]], atol=1e-9)
    assert not rounded(np.zeros((2, 1, 3, 3)), per_channel=True).any()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_corrected_biases_give_back_the_mean_of_the_output(groups: int) -> None:
    """With rounded weights the mean output is off; with the corrected bias it is that of the float convolution."""
    weight = RANDOM.normal(size=(8, 4 // groups, 1, 1)).astype(np.float32) * np.array([1, 30] * 4).reshape(8, 1, 1, 1)
    weight = weight.astype(np.float32)
    bias = RANDOM.normal(size=8).astype(np.float32)
    image = (3 + RANDOM.random((2, 4, 5, 5))).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 5, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8, 5, 5])
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    made = helper.make_graph([node], "g", [x], [y], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = run(model, image).mean(axis=(0, 2, 3))
    seen = {
        "x": Seen(low=0.0, high=4.0, mean_low=0.0, mean_high=4.0, sample_S=image.reshape(-1), mean_C=image.mean(axis=(0, 2, 3)))
    }
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    onnx_int8._correct_biases(corrected, seen, per_channel=False)
    for one in (model, corrected):
        lossy = numpy_helper.from_array(rounded(weight.astype(np.float64), per_channel=False).astype(np.float32), "w")
        one.graph.initializer[0].CopyFrom(lossy)
    off, mended = (np.abs(run(one, image).mean(axis=(0, 2, 3)) - expected).max() for one in (model, corrected))
    assert mended < 1e-3 < off


def test_squeeze_and_excite_is_found_and_a_head_is_not() -> None:
    """The nodes from the pooling to the product are it; the pooling before the classifier is followed by no product."""
    names = ["pool", "down", "up", "gate", "times"]
    nodes = [
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"], name="pool"),
        helper.make_node("Conv", ["pooled", "w"], ["less"], name="down"),
        helper.make_node("Conv", ["less", "w"], ["more"], name="up"),
        helper.make_node("HardSigmoid", ["more"], ["gated"], name="gate"),
        helper.make_node("Mul", ["map", "gated"], ["weighed"], name="times"),
        helper.make_node("GlobalAveragePool", ["weighed"], ["head"], name="last_pool"),
        helper.make_node("Flatten", ["head"], ["logits"], name="flat"),
    ]
    value = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 4, 5, 5])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), dtype=np.float32), "w")
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [out], [weight]))
    assert sorted(squeeze_and_excite(model)) == sorted(names)

"""Foreign classifiers in the house's form: whatever they are fed and answer, they say what they said before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekd.core.contracts import Exportable
from edgekd.core.errors import MachineError, UsageError
from edgekd.exporting import adapting, foreign, graph
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.exporting.foreign import Contract

SIZE, CLASSES = (8, 12), 4
PIXELS_BHWC = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
IMAGE_BCHW = np.ascontiguousarray(PIXELS_BHWC.transpose(0, 3, 1, 2) / np.float32(255), dtype=np.float32)


def classifier(
    *,
    dtype: int = TensorProto.FLOAT,
    layout: str = "NCHW",
    batch: int | str = "N",
    names: tuple[str, str] = ("x", "y"),
    tail: str = "",
    inner: str = "map",
    opset: int = 13,
    size: tuple[int | str, int | str] = SIZE,
) -> ModelProto:
    """Return a small classifier whose answers depend on the order of channels, rows and columns."""
    fed, answer = names
    random = np.random.default_rng(1)
    floating = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    kernel = numpy_helper.from_array(random.normal(size=(6, 3, 3, 3)).astype(floating), "kernel")
    head = numpy_helper.from_array(random.normal(size=(6, CLASSES)).astype(floating), "head")
    nodes, last = [], fed
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [last], ["cast"], to=TensorProto.FLOAT))
        last = "cast"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], ["turned"], perm=[0, 3, 1, 2]))
        last = "turned"
    nodes += [
        helper.make_node("Conv", [last, "kernel"], [inner], strides=[2, 2]),
        helper.make_node("Relu", [inner], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores" if tail else answer]),
    ]
    if tail == "Softmax":
        nodes.append(helper.make_node("Softmax", ["scores"], [answer], axis=1))
    if tail == "Unsqueeze":
        axes = numpy_helper.from_array(np.array([2, 3]), "axes")
        nodes.append(helper.make_node("Unsqueeze", ["scores", "axes"], [answer]))
    sides = [batch, 3, *size] if layout == "NCHW" else [batch, *size, 3]
    answers = [batch, CLASSES, 1, 1] if tail == "Unsqueeze" else [batch, CLASSES]
    weights = [kernel, head, *([axes] if tail == "Unsqueeze" else [])]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(fed, dtype, sides)],
        [helper.make_tensor_value_info(answer, dtype if floating == np.float16 else TensorProto.FLOAT, answers)],
        weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def mean_std(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[], Any]:
    def feed() -> Any:
        scaled = (PIXELS_BHWC / 255.0 - np.array(mean)) / np.array(std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)

    return feed


def caffe() -> Any:
    """Blue first, 0 to 255, less Caffe's means."""
    moved = PIXELS_BHWC[..., ::-1].astype(np.float64) - np.array([103.939, 116.779, 123.68])
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2), dtype=np.float32)


IMAGENET = mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# Name -> the model, its contract, what the model itself has to be fed, and what becomes of its answer.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[], Any]]] = {
    "float-nchw": ({}, {}, IMAGENET),
    "own-mean": ({}, HALVES, mean_std((0.5,) * 3, (0.5,) * 3)),
    "plain": ({}, {"range": (0.0, 1.0)}, mean_std((0.0,) * 3, (1.0,) * 3)),
    "minus-one-to-one": ({}, {"range": (-1.0, 1.0)}, mean_std((0.5,) * 3, (0.5,) * 3)),
    "to-255": ({}, {"range": (0.0, 255.0)}, lambda: PIXELS_BHWC.transpose(0, 3, 1, 2).astype(np.float32)),
    "caffe": (
        {},
        {"range": (0.0, 255.0), "channels": "BGR", "mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0)},
        caffe,
    ),
    "uint8-nhwc": ({"dtype": TensorProto.UINT8, "layout": "NHWC"}, {}, lambda: PIXELS_BHWC),
    "uint8-nchw-bgr": (
        {"dtype": TensorProto.UINT8},
        {"channels": "BGR"},
        lambda: np.ascontiguousarray(PIXELS_BHWC[..., ::-1].transpose(0, 3, 1, 2)),
    ),
    "float-nhwc": ({"layout": "NHWC"}, {}, lambda: np.ascontiguousarray(IMAGENET().transpose(0, 2, 3, 1))),
    "house-names": ({"names": ("image", "logits")}, {}, IMAGENET),
    "house-name-inside": ({"inner": "logits"}, {}, IMAGENET),
    "extra-axes": ({"tail": "Unsqueeze"}, {}, IMAGENET),
    "free-size": ({"size": ("h", "w")}, {"size": SIZE}, IMAGENET),
    "old-opset": ({"opset": 9}, {}, IMAGENET),
}


def own_answers(model: ModelProto, feed: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: feed})[0].reshape(len(feed), -1)


def exportable(model: ModelProto, contract: dict[str, Any], folder: Path) -> Exportable:
    path = folder / "came.onnx"
    onnx.save(model, path)
    interface, wanted, _ = foreign.understand(model, Contract(**contract))
    module = adapting.module_of(path, interface, size_px=wanted.size_px, classes=CLASSES)
    sample_BCHW = torch.zeros(2, 3, *wanted.size_px)
    return Exportable(module=module, input=wanted, classes=tuple("abcd"), metadata={}, sample_BCHW=sample_BCHW)


@pytest.mark.parametrize("case", CASES)
def test_an_adapted_model_answers_as_it_did_before(case: str, tmp_path: Path) -> None:
    """The artifact through its session, and the file behind a student's interface, fed with the house's image."""
    options, contract, feed = CASES[case]
    model = classifier(**options)
    expected_BK = own_answers(model, feed())
    given = exportable(model, contract, tmp_path)
    written = OnnxRuntime().export(given, tmp_path)
    with OnnxRuntime().open(tmp_path, written.files, threads=1) as session:
        adapted_BK = session.run(IMAGE_BCHW)
    with torch.no_grad():
        came_BK = given.module.features(torch.from_numpy(IMAGE_BCHW), ("logits",))["logits"].numpy()
    assert np.ptp(expected_BK, axis=0).min() > 0.01
    np.testing.assert_allclose(adapted_BK, expected_BK, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(came_BK, expected_BK, rtol=1e-4, atol=2e-4)
    assert [(spec.name, spec.dtype) for spec in (*written.inputs, *written.outputs)] == [
        ("image", "float32"),
        ("logits", "float32"),
    ]


def test_bytes_come_back_as_they_were(tmp_path: Path) -> None:
    """All 256 of them: division by 255 and back loses none."""
    pixels_BHWC = np.arange(256, dtype=np.uint8)[: 8 * 12 * 2].reshape(1, 8, 24, 1).repeat(3, axis=3)[:, :, :12]
    pixels_BHWC = np.concatenate([pixels_BHWC, 255 - pixels_BHWC])
    model = classifier(dtype=TensorProto.UINT8, layout="NHWC")
    given = exportable(model, {}, tmp_path)
    written = OnnxRuntime().export(given, tmp_path)
    with OnnxRuntime().open(tmp_path, written.files, threads=1) as session:
        found_BK = session.run(np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2) / np.float32(255), dtype=np.float32))
    np.testing.assert_array_equal(found_BK, own_answers(model, pixels_BHWC))


def test_probabilities_become_logits(tmp_path: Path) -> None:
    """Their softmax is what the model answered."""
    model = classifier(tail="Softmax")
    given = exportable(model, {"answers": "probabilities"}, tmp_path)
    written = OnnxRuntime().export(given, tmp_path)
    with OnnxRuntime().open(tmp_path, written.files, threads=1) as session:
        logits_BK = session.run(IMAGE_BCHW)
    softmax_BK = np.exp(logits_BK) / np.exp(logits_BK).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax_BK, own_answers(model, IMAGENET()), atol=1e-6)
    np.testing.assert_allclose(given.module(torch.from_numpy(IMAGE_BCHW)).numpy(), logits_BK, atol=1e-4)


def test_half_precision_goes_in_and_float32_comes_out(tmp_path: Path) -> None:
    """The images are rounded to float16 once, at the model's own door."""
    model = classifier(dtype=TensorProto.FLOAT16)
    given = exportable(model, {}, tmp_path)
    with pytest.raises(UsageError, match="halved already"):
        OnnxRuntime().export(given, tmp_path)
    written = OnnxRuntime(precision="original").export(given, tmp_path)
    assert written.outputs[0].dtype == "float32"
    with OnnxRuntime().open(tmp_path, written.files, threads=1) as session:
        found_BK = session.run(IMAGE_BCHW)
    np.testing.assert_allclose(found_BK, own_answers(model, IMAGENET().astype(np.float16)), atol=0.02)


def test_a_fixed_batch_is_kept_and_filled(tmp_path: Path) -> None:
    """Five images through a model of three: the last two come with one that is thrown away."""
    model = classifier(batch=3)
    given = exportable(model, {}, tmp_path)
    free = own_answers(classifier(), IMAGENET())
    np.testing.assert_allclose(given.module(torch.from_numpy(IMAGE_BCHW)).numpy(), free, rtol=1e-4, atol=2e-4)
    assert OnnxRuntime().export(given, tmp_path).inputs[0].shape == (3, 3, *SIZE)
    with pytest.raises(UsageError, match="batches of 3 and no others"):
        OnnxRuntime(batch=2).export(given, tmp_path)


def test_a_free_batch_can_be_fixed(tmp_path: Path) -> None:
    """As for a student of our own."""
    written = OnnxRuntime(batch=2).export(exportable(classifier(), {}, tmp_path), tmp_path)
    assert (written.inputs[0].shape[0], written.outputs[0].shape[0]) == (2, 2)


def test_openvino_takes_the_same_graph(tmp_path: Path) -> None:
    """And answers the same."""
    model = classifier(layout="NHWC", dtype=TensorProto.UINT8)
    written = OpenVino().export(exportable(model, {}, tmp_path), tmp_path)
    with OpenVino().open(tmp_path, written.files, threads=1) as session:
        np.testing.assert_allclose(session.run(IMAGE_BCHW), own_answers(model, PIXELS_BHWC), rtol=1e-3, atol=0.05)


def test_what_openvino_cannot_read_is_said_so(tmp_path: Path) -> None:
    """Operators of com.microsoft, for instance; no traceback."""
    model = classifier()
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.microsoft", "NhwcMaxPool"
    given = exportable(classifier(), {}, tmp_path)
    given.module.onnx_graph = model
    with pytest.raises(UsageError, match="cannot read this model"):
        OpenVino().export(given, tmp_path)


def test_a_quantised_model_keeps_its_own_precision(tmp_path: Path) -> None:
    """It cannot become fp32 by being called so; and a student of our own is not `original`."""
    from edgekd.testing import tiny_exportable

    quantised = classifier()
    nodes = list(quantised.graph.node)
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.uint8(128), "zero")
    quantised.graph.initializer.extend([scale, zero])
    nodes[0].input[0] = "back"
    there = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["there"])
    back = helper.make_node("DequantizeLinear", ["there", "scale", "zero"], ["back"])
    del quantised.graph.node[:]
    quantised.graph.node.extend([there, back, *nodes])
    given = exportable(quantised, {}, tmp_path)
    assert graph.has_own_precision(quantised)
    for backend in (OnnxRuntime(), OnnxRuntime(precision="fp16"), OpenVino()):
        with pytest.raises(UsageError, match="halved already"):
            backend.export(given, tmp_path)
    assert OnnxRuntime(precision="original").export(given, tmp_path).files
    with pytest.raises(UsageError, match="for imported models"):
        OnnxRuntime(precision="original").export(tiny_exportable(), tmp_path)


# ---------------------------------------------------------------------------------------------------------- understanding
def two_inputs() -> ModelProto:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def two_outputs() -> ModelProto:
    model = classifier()
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 6]))
    return model


def with_output(*sides: int | str) -> ModelProto:
    model = classifier()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, sides))
    return model


def integer_output() -> ModelProto:
    model = classifier()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


@pytest.mark.parametrize(
    ("model", "contract", "said"),
    [
        (two_inputs(), {}, "2 inputs: x, z"),
        (two_outputs(), {}, "2 outputs: y, flat"),
        (classifier(), {"input": "nobody"}, "no input 'nobody'; it has x"),
        (classifier(size=("h", "w")), {}, "does not say how large images are"),
        (classifier(), {"size": 9}, "the contract says images of 9 x 9, the input 'x' takes 8 x 12"),
        (classifier(dtype=TensorProto.UINT8), {"mean": (0.5, 0.5, 0.5)}, "normalises by itself"),
        (classifier(), {"range": (1.0, 0.0)}, "from a smaller to a larger"),
        (classifier(), {"std": (0.0, 1.0, 1.0)}, "every `std` is above 0"),
        (classifier(dtype=TensorProto.INT32), {}, "images are float32, float16 or uint8"),
        (with_output("N", 4, 8, 12), {}, "one number for each class"),
        (integer_output(), {}, "logits are float32 or float16"),
    ],
)
def test_what_is_left_open_or_contradicts_is_the_users_to_say(model: ModelProto, contract: dict[str, Any], said: str) -> None:
    """Nothing is guessed where the file has two readings."""
    with pytest.raises(UsageError, match=said):
        foreign.understand(model, Contract(**contract))


def test_an_axis_of_three_channels_is_needed() -> None:
    """Grey images and videos are not understood."""
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(UsageError, match="where three channels are"):
        foreign.understand(model, Contract())


def test_a_named_output_of_several_is_taken(tmp_path: Path) -> None:
    """The others are left out of the artifact."""
    given = exportable(two_outputs(), {"output": "y"}, tmp_path)
    assert [spec.name for spec in OnnxRuntime().export(given, tmp_path).outputs] == ["logits"]


def test_what_is_assumed_is_said() -> None:
    """And nothing is, where the contract says all."""
    whole = {"resize": 9, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    assert foreign.understand(classifier(), Contract(**whole))[2] == []
    _, wanted, assumed = foreign.understand(classifier(), Contract())
    assert wanted.resize_px == round(12 / 0.875)
    assert wanted.mean == (0.485, 0.456, 0.406)
    assert ["ImageNet's" in line for line in assumed] == [True, False]


def test_an_operator_set_too_old_is_refused() -> None:
    """Before opset 7 operators did not broadcast."""
    model = classifier(opset=6)
    interface, wanted, _ = foreign.understand(model, Contract())
    with pytest.raises(UsageError, match="opset 6"):
        adapting.adapt(model, interface, size_px=wanted.size_px, classes=CLASSES)


def test_a_model_that_cannot_run_is_said_so(tmp_path: Path) -> None:
    """A size that the graph inside does not take is found when it is asked."""
    model = classifier(size=("h", "w"))
    given = exportable(model, {"size": (2, 2)}, tmp_path)
    with pytest.raises(MachineError, match="onnxruntime cannot run it"):
        given.module(torch.zeros(1, 3, 2, 2))

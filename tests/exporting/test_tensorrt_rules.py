"""What TensorRT's ONNX parser reads, and where it wants Q and DQ: graphs built by hand, each breaking one rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import UsageError
from edgekd.exporting import graph, tensorrt_ops, tensorrt_qdq
from edgekd.testing import tiny_exportable, tiny_student

Node = onnx.NodeProto


def model_of(
    nodes: list[Node], constants: dict[str, Any] | None = None, *, opset: int = 18, domain: str = ""
) -> onnx.ModelProto:
    """Return a graph `image` -> `logits` of these nodes."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    made = helper.make_graph(nodes, "g", [image], [logits], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid(domain, opset)])


# --------------------------------------------------------------------------------------------------------------- operators
@pytest.mark.parametrize("opset", [17, 18])
def test_what_edgekd_exports_is_read(opset: int) -> None:
    """By both of torch's exporters, in float32 and in float16."""
    model = graph.to_onnx(tiny_exportable(tiny_student()), opset=opset)
    for one in (model, graph.half(model)):
        assert tensorrt_ops.unreadable(one) == ()
        assert tensorrt_qdq.misplaced(one) == ()


def test_the_table_is_of_real_operators() -> None:
    """Every name is an operator of ONNX, but for the few that the parser knows from before or beside it."""
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert tensorrt_ops.SUPPORTED - known == {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    assert len(tensorrt_ops.SUPPORTED) == 159


@pytest.mark.parametrize(
    ("nodes", "constants", "because"),
    [
        ([helper.make_node("NonMaxUnpool", ["image"], ["logits"])], {}, "not supported"),
        ([helper.make_node("Det", ["image"], ["logits"])], {}, "not supported"),
        ([helper.make_node("Gelu", ["image"], ["logits"], domain="com.microsoft")], {}, "domain is com.microsoft"),
        ([helper.make_node("MaxPool", ["image"], ["logits", "where"], kernel_shape=[2, 2])], {}, "indices"),
        ([helper.make_node("AveragePool", ["image"], ["logits"], kernel_shape=[2])], {}, "two and three dimensions"),
        ([helper.make_node("MaxPool", ["image"], ["logits"], kernel_shape=[2, 2], dilations=[2, 1])], {}, "dilations"),
        (
            [helper.make_node("Resize", ["image", "", "s"], ["logits"], mode="cubic")],
            {"s": np.ones(4, np.float32)},
            "mode cubic",
        ),
        (
            [helper.make_node("Resize", ["image", "", "s"], ["logits"], antialias=1)],
            {"s": np.ones(4, np.float32)},
            "antialiasing",
        ),
        ([helper.make_node("ReduceMean", ["image", "image"], ["logits"])], {}, "axes image are not constant"),
        ([helper.make_node("TopK", ["image", "k"], ["logits", "i"], sorted=0)], {"k": np.array([1])}, "sorted"),
        ([helper.make_node("Add", ["image", "c"], ["logits"])], {"c": np.ones(1, np.uint16)}, "type is uint16"),
    ],
)
def test_what_the_parser_would_refuse_is_named(nodes: list[Node], constants: dict[str, Any], because: str) -> None:
    """One finding with the node and the reason; nothing else is found in the graph."""
    (found,) = tensorrt_ops.unreadable(model_of(nodes, constants))
    assert because in found.because
    with pytest.raises(UsageError, match=r"cannot read this student \(docs/operators.md of onnx-tensorrt"):
        tensorrt_ops.check(model_of(nodes, constants))


def test_an_opset_beyond_the_table_is_refused() -> None:
    """The newest that the table knows is read, one more is not; an older parser can be asked for."""
    relu = [helper.make_node("Relu", ["image"], ["logits"])]
    assert tensorrt_ops.unreadable(model_of(relu, opset=24)) == ()
    assert tensorrt_ops.unreadable(model_of(relu, opset=25))[0].operator == "opset 25"
    assert tensorrt_ops.unreadable(model_of(relu, opset=8))[0].operator == "opset 8"
    assert tensorrt_ops.unreadable(model_of(relu, opset=21), latest_opset=20)[0].because == "the parser reads opset 9 to 20"


def test_graphs_inside_of_nodes_and_functions_are_looked_into() -> None:
    """A branch of an `If`; a local function's body, whose own name is no unknown operator."""
    inner = helper.make_graph(
        [helper.make_node("Det", ["image"], ["x"])], "b", [], [helper.make_tensor_value_info("x", 1, None)]
    )
    branch = helper.make_node("If", ["c"], ["logits"], then_branch=inner, else_branch=inner)
    assert len(tensorrt_ops.unreadable(model_of([branch], {"c": np.array(True)}))) == 2
    model = model_of([helper.make_node("Mine", ["image"], ["logits"], domain="own")])
    body = [helper.make_node("Det", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Mine", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    assert [one.operator for one in tensorrt_ops.unreadable(model)] == ["Det"]


# -------------------------------------------------------------------------------------------------------------- Q and DQ
SCALE, ZERO = np.float32(0.05), np.int8(0)
WEIGHT_OIHW = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)


def pair(source: str, name: str, scale: str, zero: str, **attributes: int) -> list[Node]:
    """Return Q and DQ behind a tensor; `name` is what the DQ makes."""
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}_int8"], name=f"{name}_q", **attributes),
        helper.make_node("DequantizeLinear", [f"{name}_int8", scale, zero], [name], name=f"{name}_dq", **attributes),
    ]


def conv(*extra: Node, image: str = "x", weight: str = "w", output: str = "logits") -> list[Node]:
    """Return a convolution whose two inputs are quantised, as TensorRT wants it, and what follows."""
    nodes = [*pair("image", "x", "scale", "zero"), *pair("weight", "w", "scales", "zeros", axis=0)]
    return [*nodes, helper.make_node("Conv", [image, weight], [output], name="conv"), *extra]


def constants(**changed: Any) -> dict[str, Any]:
    given = {"scale": SCALE, "zero": ZERO, "scales": np.full(4, 0.02, np.float32), "zeros": np.zeros(4, np.int8)}
    return {**given, "weight": WEIGHT_OIHW, **changed}


def test_the_recommended_placement_breaks_no_rule() -> None:
    """Symmetric int8, one scale for the image, one for each output channel of the weight, ReLU right behind."""
    relu = helper.make_node("Relu", ["y"], ["logits"])
    assert tensorrt_qdq.misplaced(model_of(conv(relu, output="y"), constants())) == ()
    tensorrt_qdq.check(model_of(conv(), constants()))


def stored_weight(axis: int, scales: int) -> onnx.ModelProto:
    """Return a graph whose weight is kept as int8 with a DQ alone."""
    weight = helper.make_node("DequantizeLinear", ["stored", "scales", "zeros"], ["w"], name="w_dq", axis=axis)
    nodes = [*pair("image", "x", "scale", "zero"), weight, helper.make_node("Conv", ["x", "w"], ["logits"], name="conv")]
    changed = {"scales": np.full(scales, 0.02, np.float32), "zeros": np.zeros(scales, np.int8)}
    return model_of(nodes, constants(stored=np.ones((4, 3, 3, 3), np.int8), **changed))


def test_a_weight_kept_as_int8_is_as_good() -> None:
    """A DQ alone over a constant is what quantisers write."""
    assert tensorrt_qdq.misplaced(stored_weight(0, 4)) == ()


BROKEN: dict[str, tuple[Callable[[], onnx.ModelProto], str, bool]] = {
    "uint8": (lambda: model_of(conv(), constants(zero=np.uint8(0))), "type", True),
    "zero point": (lambda: model_of(conv(), constants(zero=np.int8(3))), "zero point", True),
    "zero point of one channel": (
        lambda: model_of(conv(), constants(zeros=np.array([0, 0, 1, 0], np.int8))),
        "zero point",
        True,
    ),
    "scale of zero": (lambda: model_of(conv(), constants(scale=np.float32(0))), "scale", True),
    "scale of a channel not finite": (
        lambda: model_of(conv(), constants(scales=np.array([1, 1, np.inf, 1], np.float32))),
        "scale",
        True,
    ),
    "activation by channel": (
        lambda: model_of(conv(), constants(scale=np.full(3, 0.1, np.float32), zero=np.zeros(3, np.int8))),
        "activation scales",
        True,
    ),
    "weight along input channels": (lambda: stored_weight(1, 3), "weight scales", True),
    "weight with one scale": (
        lambda: model_of(conv(), constants(scales=np.float32(0.02), zeros=np.int8(0))),
        "weight scales",
        False,
    ),
    "image left in float": (lambda: model_of(conv(image="image"), constants()), "product inputs", False),
    "weight left in float": (lambda: model_of(conv(weight="weight"), constants()), "product inputs", False),
    "pair before ReLU": (
        lambda: model_of(
            conv(*pair("y", "z", "scale", "zero"), helper.make_node("Relu", ["z"], ["logits"]), output="y"), constants()
        ),
        "fusion",
        False,
    ),
    "pair before batch norm": (
        lambda: model_of(
            conv(
                *pair("y", "z", "scale", "zero"),
                helper.make_node("BatchNormalization", ["z", "b", "b", "b", "b"], ["logits"]),
                output="y",
            ),
            constants(b=np.ones(4, np.float32)),
        ),
        "fusion",
        False,
    ),
    "Q without DQ": (
        lambda: model_of([helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["logits"])], constants()),
        "pairing",
        True,
    ),
    "DQ without Q": (
        lambda: model_of([helper.make_node("DequantizeLinear", ["image", "scale", "zero"], ["logits"])], constants()),
        "pairing",
        True,
    ),
    "zero point left out": (
        lambda: model_of(
            [
                helper.make_node("QuantizeLinear", ["image", "scale"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "scale"], ["logits"]),
            ],
            constants(),
        ),
        "type",
        True,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_rule_is_found_and_no_other(case: str) -> None:
    """What TensorRT would not build is refused; what costs speed or accuracy only is said."""
    make, rule, refused = BROKEN[case]
    found = tensorrt_qdq.misplaced(make())
    assert found
    assert {(one.rule, one.refused) for one in found} == {(rule, refused)}
    if refused:
        with pytest.raises(UsageError, match="TensorRT cannot build this int8 graph"):
            tensorrt_qdq.check(make())
    else:
        tensorrt_qdq.check(make())


def test_a_bias_in_int32_is_refused() -> None:
    """onnxruntime quantises biases to int32 unless told otherwise; TensorRT's DQ takes int8."""
    bias = helper.make_node("DequantizeLinear", ["b", "scales", "zeros32"], ["bias"], name="bias_dq")
    nodes = [*pair("image", "x", "scale", "zero"), *pair("weight", "w", "scales", "zeros", axis=0), bias]
    nodes.append(helper.make_node("Conv", ["x", "w", "bias"], ["logits"], name="conv"))
    model = model_of(nodes, constants(b=np.ones(4, np.int32), zeros32=np.zeros(4, np.int32)))
    (found,) = tensorrt_qdq.misplaced(model)
    assert (found.rule, found.node, found.refused) == ("type", "bias_dq", True)


@pytest.mark.parametrize(("transposed", "axis", "right"), [(1, 0, True), (1, 1, False), (0, 1, True), (0, 0, False)])
def test_output_channels_of_a_gemm_depend_on_its_transposition(transposed: int, axis: int, right: bool) -> None:
    """Rows of a transposed weight, columns of one that is not."""
    shape = (5, 7) if transposed else (7, 5)
    weight = helper.make_node("DequantizeLinear", ["stored", "scales", "zeros"], ["w"], name="w_dq", axis=axis)
    nodes = [*pair("image", "x", "scale", "zero"), weight]
    nodes.append(helper.make_node("Gemm", ["x", "w"], ["logits"], name="gemm", transB=transposed))
    sides = shape[axis]
    changed = {"scales": np.full(sides, 0.1, np.float32), "zeros": np.zeros(sides, np.int8)}
    found = tensorrt_qdq.misplaced(model_of(nodes, constants(stored=np.ones(shape, np.int8), **changed)))
    assert ([one.rule for one in found] == []) == right

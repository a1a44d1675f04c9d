"""What TensorRT's ONNX parser reads, so that a graph can be refused here instead of on the target.

The table follows docs/operators.md of onnx/onnx-tensorrt at commit 7c51a63a (TensorRT 11.1, opset 9 to 24), which is the
parser that NVIDIA/TensorRT 11.1 was released with. The same file for TensorRT 10.15 has one operator less, `Swish`; that for
10.1 (commit 96e78110) stops at opset 20. Beyond the operator's name only what an image classifier may hold is checked:
pooling in two or three dimensions, resizing, constant axes, and the types of tensors; `tensorrt_qdq` checks quantisation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

SOURCE = "docs/operators.md of onnx-tensorrt 7c51a63a, TensorRT 11.1"
FIRST_OPSET, LAST_OPSET = 9, 24
MOST_SHOWN = 5

_ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu "
    "Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod "
    "Mul Neg Not Or PRelu ParametricSoftplus Pow Reciprocal Relu Round ScaledTanh Selu Shrink Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
_PRODUCTS = "Attention Conv ConvTranspose DeformConv Einsum Gemm MatMul"
_POOLING = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool RoiAlign"
_REDUCTIONS = (
    "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare TopK"
)
_NORMALISING = (
    "BatchNormalization GroupNormalization Hardmax ImageScaler InstanceNormalization LRN LayerNormalization LogSoftmax "
    "LpNormalization MeanVarianceNormalization RMSNormalization Softmax"
)
_SHAPING = (
    "Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND GridSample "
    "NonMaxSuppression NonZero OneHot Pad Range Reshape Resize ReverseSequence Scatter ScatterElements ScatterND Shape Size "
    "Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu Unsqueeze Upsample"
)
_OTHER = (
    "BlackmanWindow DequantizeLinear Dropout GRU HammingWindow HannWindow If LSTM Loop QuantizeLinear RNN RandomNormal "
    "RandomNormalLike RandomUniform RandomUniformLike RotaryEmbedding STFT Scan"
)
SUPPORTED = frozenset(
    " ".join((_ELEMENTWISE, _PRODUCTS, _POOLING, _REDUCTIONS, _NORMALISING, _SHAPING, _OTHER)).split(),
)
"""The operators of the standard domain that the parser reads, some only in part (`_RESTRICTED`)."""

# TensorProto.DataType: float, int8, int32, int64, bool, float16, double (cast to float), bfloat16, fp8 (e4m3fn), int4, fp4.
_TENSOR_TYPES = {1, 3, 6, 7, 9, 10, 11, 16, 17, 22, 23}
_UINT8 = 2
_RESIZE_MODES = {"nearest", "linear"}
_RESIZE_COORDINATES = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
_LONGEST_TOP_K = 3840


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A node (or a tensor) that the parser would refuse, and why."""

    node: str
    operator: str
    because: str


def unreadable(model: "ModelProto", *, latest_opset: int = LAST_OPSET) -> tuple[Unreadable, ...]:
    """Return what TensorRT's ONNX parser would refuse in a graph, by the table; nothing found is no promise that it builds."""
    found = list(_opset(model, latest_opset))
    functions = {(function.domain, function.name) for function in model.functions}
    for graph in (model.graph, *model.functions):
        found += _nodes(graph, functions)
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    ports = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    wrong = {name: kind for name, kind in constants.items() if kind not in _TENSOR_TYPES}
    wrong |= {name: kind for name, kind in ports.items() if kind not in _TENSOR_TYPES | {_UINT8}}
    found += [
        Unreadable(node=name, operator="tensor", because=f"its type is {_type_name(kind)}") for name, kind in wrong.items()
    ]
    return tuple(found)


def check(model: "ModelProto", *, latest_opset: int = LAST_OPSET) -> None:
    """Raise `UsageError` naming the first nodes that TensorRT's ONNX parser would refuse."""
    found = unreadable(model, latest_opset=latest_opset)
    if found:
        shown = "; ".join(f"{one.operator} {one.node}: {one.because}" for one in found[:MOST_SHOWN])
        more = f"; and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise UsageError(
            f"TensorRT's ONNX parser cannot read this student ({SOURCE}): {shown}{more}",
            mend="choose another student, or another `opset`",
        )


def _opset(model: "ModelProto", latest: int) -> Iterator[Unreadable]:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not FIRST_OPSET <= entry.version <= latest:
            because = f"the parser reads opset {FIRST_OPSET} to {latest}"
            yield Unreadable(node="the graph", operator=f"opset {entry.version}", because=because)


def _nodes(graph: Any, functions: set[tuple[str, str]]) -> Iterator[Unreadable]:
    constant = {tensor.name for tensor in getattr(graph, "initializer", ())}
    constant |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    for node in graph.node:
        name = node.name or next(iter(node.output), "")
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in ("", "ai.onnx"):
            yield Unreadable(node=name, operator=node.op_type, because=f"its domain is {node.domain}, which needs a plug-in")
        elif node.op_type not in SUPPORTED:
            yield Unreadable(node=name, operator=node.op_type, because="this operator is not supported")
        elif node.op_type in _RESTRICTED and (because := _RESTRICTED[node.op_type](node, constant)):
            yield Unreadable(node=name, operator=node.op_type, because=because)
        for inner in _inner_graphs(node):
            yield from _nodes(inner, functions)


def _inner_graphs(node: "NodeProto") -> "Iterator[GraphProto]":
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


# ------------------------------------------------------------------------------------------------------------ restrictions
def _pooling(node: "NodeProto", _constant: set[str]) -> str:
    attributes = _attributes(node)
    if len(attributes.get("kernel_shape", (1, 1))) not in (2, 3):
        return "only two and three dimensions can be pooled"
    if any(step != 1 for step in attributes.get("dilations", ())):
        return "pooling with dilations is not supported"
    return "its output of indices is not supported" if len(node.output) > 1 and node.output[1] else ""


def _resize(node: "NodeProto", _constant: set[str]) -> str:
    attributes = _attributes(node)
    mode = attributes.get("mode", b"nearest").decode()
    coordinates = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode not in _RESIZE_MODES:
        return f"mode {mode} is not supported, only {' and '.join(sorted(_RESIZE_MODES))}"
    if coordinates not in _RESIZE_COORDINATES:
        return f"coordinates {coordinates} are not supported"
    if attributes.get("antialias"):
        return "antialiasing is not supported"
    policy = attributes.get("keep_aspect_ratio_policy", b"stretch").decode()
    return "" if policy == "stretch" else f"aspect ratio policy {policy} is not supported"


def _constant_axes(node: "NodeProto", constant: set[str]) -> str:
    given = node.input[1] if len(node.input) > 1 else ""
    return f"its axes {given} are not constant" if given and given not in constant else ""


def _top_k(node: "NodeProto", _constant: set[str]) -> str:
    return "" if _attributes(node).get("sorted", 1) == 1 else f"`sorted` must be 1 (and k below {_LONGEST_TOP_K})"


def _first_output_only(node: "NodeProto", _constant: set[str]) -> str:
    return "only its first output is supported" if any(node.output[1:]) else ""


def _constant_value(node: "NodeProto", _constant: set[str]) -> str:
    wrong = {attribute.name for attribute in node.attribute} & {"sparse_value", "value_string", "value_strings"}
    return f"a constant given as {', '.join(sorted(wrong))} is not supported" if wrong else ""


def _scatter_nd(node: "NodeProto", _constant: set[str]) -> str:
    reduction = _attributes(node).get("reduction", b"none").decode()
    return "" if reduction == "none" else f"reduction {reduction} is not supported"


_RESTRICTED: "dict[str, Callable[[NodeProto, set[str]], str]]" = {
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _pooling),
    **dict.fromkeys((name for name in SUPPORTED if name.startswith("Reduce")), _constant_axes),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "CumSum"), _constant_axes),
    "Resize": _resize,
    "TopK": _top_k,
    "LayerNormalization": _first_output_only,
    "Constant": _constant_value,
    "ScatterND": _scatter_nd,
}


def _attributes(node: "NodeProto") -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _type_name(kind: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(kind)).lower() if kind in onnx.TensorProto.DataType.values() else f"type {kind}"

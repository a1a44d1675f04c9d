"""Where TensorRT wants QuantizeLinear and DequantizeLinear (Q and DQ) in an int8 graph, and where they hurt.

TensorRT quantises symmetrically: int8 with zero point 0. It fuses a DQ in front of a product, the product itself, what follows
it (bias, batch normalisation, activation) and the Q behind into one int8 kernel; a Q/DQ pair in between tears that apart.
The rules follow "Working with Quantized Types" and "Explicit Quantization" of NVIDIA's TensorRT documentation (10.16 and 11.4)
and the operator table named in `tensorrt_ops`. Pure functions; nothing is repaired.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    Array = np.ndarray[Any, Any]

MOST_SHOWN = 5
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED_BEHIND = ("BatchNormalization", "Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid")
_INT8 = 3  # TensorProto.DataType
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
Rule = Literal["type", "zero point", "scale", "pairing", "weight scales", "activation scales", "product inputs", "fusion"]


@dataclass(frozen=True, kw_only=True)
class Misplaced:
    """A broken rule: at which node, in words. What is `refused` does not build; the rest builds and loses speed or accuracy."""

    rule: Rule
    node: str
    because: str
    refused: bool


def misplaced(model: "ModelProto") -> tuple[Misplaced, ...]:
    """Return every broken rule of a graph, in the order of its nodes; a graph without Q and DQ breaks none."""
    wiring = _Wiring(model)
    found: list[Misplaced] = []
    for node in model.graph.node:
        if node.op_type in (_Q, _DQ):
            found += _of_pair(node, wiring)
        elif node.op_type in _PRODUCTS:
            found += _of_product(node, wiring)
    return tuple(found)


def check(model: "ModelProto") -> None:
    """Raise `UsageError` if TensorRT would not build the graph as it is quantised."""
    found = [one for one in misplaced(model) if one.refused]
    if found:
        shown = "; ".join(f"{one.node}: {one.because}" for one in found[:MOST_SHOWN])
        more = f"; and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise UsageError(
            f"TensorRT cannot build this int8 graph: {shown}{more}",
            mend="quantise weights and activations symmetrically to int8 in pairs of Q and DQ, and leave biases in float",
        )


class _Wiring:
    """Who makes and who reads each tensor, and the values of those that are constant."""

    def __init__(self, model: "ModelProto") -> None:
        from onnx import numpy_helper

        self.constant: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        self.outputs = {value.name for value in model.graph.output}
        for node in model.graph.node:
            self.maker |= dict.fromkeys(node.output, node)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
                self.constant |= {node.output[0]: value} if value is not None else {}
        self._to_array = numpy_helper.to_array

    def value(self, name: str) -> "Array | None":
        """Return a constant tensor's numbers; None if it is not there or not constant."""
        return cast("Array", self._to_array(self.constant[name])) if name in self.constant else None

    def quantised_from(self, name: str) -> "NodeProto | None":
        """Return the DQ that makes a tensor, if one does."""
        maker = self.maker.get(name)
        return maker if maker is not None and maker.op_type == _DQ else None

    def is_weight(self, name: str) -> bool:
        """Say whether a tensor is constant, or constant behind Q and DQ."""
        while name in self.maker and self.maker[name].op_type in (_Q, _DQ):
            name = self.maker[name].input[0]
        return name in self.constant


def _of_pair(node: "NodeProto", wiring: _Wiring) -> Iterator[Misplaced]:
    yield from _of_type(node, wiring)
    yield from _of_scale(node, wiring)
    if node.op_type == _Q:
        wrong = sorted({reader.op_type for reader in wiring.readers.get(node.output[0], []) if reader.op_type != _DQ})
        wrong += ["the graph's output"] if node.output[0] in wiring.outputs else []
        if wrong:
            yield _broken("pairing", node, f"its int8 output goes to {', '.join(wrong)} and not through DequantizeLinear")
    elif node.input[0] not in wiring.constant and getattr(wiring.maker.get(node.input[0]), "op_type", "") != _Q:
        yield _broken("pairing", node, "it reads a tensor that no QuantizeLinear made")


def _of_type(node: "NodeProto", wiring: _Wiring) -> Iterator[Misplaced]:
    tensor = wiring.constant.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    stated = {attribute.name: attribute.i for attribute in node.attribute}
    stored = wiring.constant.get(node.input[0]) if node.op_type == _DQ else None
    kind = tensor.data_type if tensor is not None else stated.get("output_dtype") or (stored.data_type if stored else None)
    if kind is None and node.op_type == _Q:
        yield _broken("type", node, "without a zero point it quantises to uint8, and only int8 is supported")
    elif kind is not None and kind != _INT8:
        yield _broken("type", node, f"it is of type {_type_name(kind)}, and only int8 is supported")
    if tensor is not None and np.any(wiring.value(node.input[2])):
        yield _broken("zero point", node, "its zero point is not 0: only symmetric quantisation is supported")
    if len(node.input) > 2 and node.input[2] and tensor is None:
        yield _broken("zero point", node, "its zero point is not constant")


def _of_scale(node: "NodeProto", wiring: _Wiring) -> Iterator[Misplaced]:
    scale = wiring.value(node.input[1])
    if scale is None:
        yield _broken("scale", node, "its scale is not constant")
    elif not (np.isfinite(scale.astype(np.float64)).all() and (scale > 0).all()):
        yield _broken("scale", node, "its scale is not positive and finite")
    elif scale.size > 1 and not wiring.is_weight(node.input[0]):
        yield _broken("activation scales", node, "an activation takes one scale, not one for each channel")


def _of_product(node: "NodeProto", wiring: _Wiring) -> Iterator[Misplaced]:
    made = [wiring.quantised_from(name) for name in node.input[:2]]
    if not any(made):
        return
    if not all(made):
        which = "weight" if made[0] is not None else "image"
        because = f"its {which} input is not quantised, so it computes in float"
        yield Misplaced(rule="product inputs", node=_name(node), because=because, refused=False)
    yield from _of_weight(node, wiring)
    for follower in _behind_q_and_dq(node, wiring):
        because = f"Q and DQ stand between it and {follower.op_type} {_name(follower)}, which keeps the two from being fused"
        yield Misplaced(rule="fusion", node=_name(node), because=because, refused=False)


def _of_weight(node: "NodeProto", wiring: _Wiring) -> Iterator[Misplaced]:
    pair = wiring.quantised_from(node.input[1])
    if pair is None or not wiring.is_weight(node.input[1]):
        return
    scale, shape = wiring.value(pair.input[1]), _shape(pair.input[0], wiring)
    wanted = _output_axis(node, len(shape))
    if scale is None:
        return
    if scale.size == 1 and shape[wanted] > 1:
        because = "its weight has one scale in all; one for each output channel keeps more accuracy"
        yield Misplaced(rule="weight scales", node=_name(node), because=because, refused=False)
    elif scale.size > 1:
        axis = next((attribute.i for attribute in pair.attribute if attribute.name == "axis"), 1)
        if axis % len(shape) != wanted or scale.size != shape[wanted]:
            because = (
                f"its weight has {scale.size} scales along axis {axis}; output channels are {shape[wanted]} along {wanted}"
            )
            yield _broken("weight scales", node, because)


def _output_axis(node: "NodeProto", axes: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return 1 if node.op_type == "ConvTranspose" else axes - 1


def _shape(name: str, wiring: _Wiring) -> tuple[int, ...]:
    while name not in wiring.constant:
        name = wiring.maker[name].input[0]
    return tuple(wiring.constant[name].dims)


def _behind_q_and_dq(node: "NodeProto", wiring: _Wiring) -> "Iterator[NodeProto]":
    for quantiser in wiring.readers.get(node.output[0], []):
        pairs = wiring.readers.get(quantiser.output[0], []) if quantiser.op_type == _Q else []
        for pair in pairs:
            yield from (f for f in wiring.readers.get(pair.output[0], []) if f.op_type in _FUSED_BEHIND)


def _broken(rule: Rule, node: "NodeProto", because: str) -> Misplaced:
    return Misplaced(rule=rule, node=_name(node), because=because, refused=True)


def _name(node: "NodeProto") -> str:
    return node.name or next(iter(node.output), node.op_type)


def _type_name(kind: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(kind)).lower()

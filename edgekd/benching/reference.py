"""The pinned reference model: a small CNN, the same bytes everywhere, that runs beside whatever is measured.

Two sessions on two days, or two machines of one kind, are compared through it: what made everything faster made it faster too.
It is ten depthwise-separable blocks at 224 x 224, as the students are made of, with 109 million multiplications; it knows
nothing, and its weights are drawn from a fixed bit stream.
"""

import hashlib
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import IntegrityError
from edgekd.core.records import InputContract

if TYPE_CHECKING:
    import numpy as np

SHA256 = "32b2b5c8a5969531af0d6d4dc90aabafe7ba7c97bd3bcd449bfff903fae430dd"
FILE = "reference.onnx"
CONTRACT = InputContract(size_px=(224, 224), resize_px=256, interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
BACKENDS = ("onnxruntime", "openvino")
"""The backends whose runner takes an ONNX file; others are measured without a reference."""

_SEED = 20_260_101
_BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1), (512, 2), (512, 1))  # channels, stride
_CLASSES = 100


@cache
def reference_model() -> bytes:
    """Return the ONNX file; raise `IntegrityError` if this machine's onnx does not make the pinned bytes."""
    content = build()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise IntegrityError(
            f"the reference model came out as {found[:12]}, not as the pinned {SHA256[:12]}",
            mend="install the onnx version of constraints.txt, or measure with `reference: false`",
        )
    return content


def build() -> bytes:
    """Return the serialised model, from nothing but the constants of this file."""
    from onnx import TensorProto, helper

    nodes, weights = list[Any](), list[Any]()
    taken, channels = "image", 3

    def convolve(kind: str, out: int, *, kernel: int, stride: int, group: int) -> None:
        nonlocal taken, channels
        name = f"{len(weights)}_{kind}"
        fan_in = channels // group * kernel * kernel
        drawn = _noise((out, channels // group, kernel, kernel), stream=len(weights)) * math.sqrt(2 / fan_in)
        weights.append(helper.make_tensor(name, TensorProto.FLOAT, drawn.shape, drawn.tobytes(), raw=True))
        pad = kernel // 2
        sides: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": group}
        nodes.append(helper.make_node("Conv", [taken, name], [f"{name}_out"], name=name, **sides))
        nodes.append(helper.make_node("Relu", [f"{name}_out"], [f"{name}_relu"], name=f"{name}_relu"))
        taken, channels = f"{name}_relu", out

    convolve("stem", 16, kernel=3, stride=2, group=1)
    for out, stride in _BLOCKS:
        convolve("depthwise", channels, kernel=3, stride=stride, group=channels)
        convolve("pointwise", out, kernel=1, stride=1, group=1)
    nodes.append(helper.make_node("GlobalAveragePool", [taken], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    head = _noise((channels, _CLASSES), stream=len(weights)) / math.sqrt(channels)
    weights.append(helper.make_tensor("head", TensorProto.FLOAT, head.shape, head.tobytes(), raw=True))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"], name="classify"))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", _CLASSES])
    graph = helper.make_graph(nodes, "edgekd_reference_1", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="edgekd")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _noise(shape: tuple[int, ...], *, stream: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return numbers of unit variance: sums of four uniform ones from a bit stream that numpy promises never to change."""
    import numpy as np

    count = math.prod(shape)
    raw = np.random.PCG64(_SEED + stream).random_raw(4 * count).reshape(4, count)
    uniform = (raw >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    drawn: np.ndarray[Any, np.dtype[np.float32]] = (uniform.sum(axis=0) * math.sqrt(3)).astype("<f4").reshape(shape)
    return drawn

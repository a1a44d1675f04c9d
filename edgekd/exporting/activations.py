"""What flows through an ONNX graph: range, sample and channel means of each tensor, seen while real images pass.

One pass serves every calibrator. The reductions are nodes added to the graph, so no whole tensor leaves the runtime.

Axes: B batch, C channels, H height, W width, S sampled numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

    Array = np.ndarray[Any, Any]

SAMPLES_PER_IMAGE = 128
_CLIPPED = np.linspace(1.0, 0.3, 29)  # shares of the full range that `by_mse` tries
_CHANNELS_AXIS = 1
_PARTS = ("lows", "highs", "sample", "mean")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one tensor: its extremes, an even sample of its numbers, its mean in each channel (axis 1).

    `mean_low` and `mean_high` are the extremes of one image, on average over images.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    sample_S: "Array"
    mean_C: "Array"


def observe(model: "ModelProto", tensors: Sequence[str], batches: Iterable["Array"], *, threads: int) -> dict[str, Seen]:
    """Run image_BCHW batches through a float32 graph and return what was seen of each of these tensors.

    Raises `ValueError` without any batch.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    watched = _with_reductions(model, tensors)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [f"{tensor}/{part}" for tensor in tensors for part in _PARTS]
    seen: list[list[Array]] = []
    weights: list[int] = []
    for image_BCHW in batches:
        seen.append(session.run(names, {source: image_BCHW}))
        weights.append(len(image_BCHW))
    if not seen:
        raise ValueError("no images to observe")
    columns = dict(zip(names, zip(*seen, strict=True), strict=True))
    return {
        tensor: Seen(
            low=float(np.concatenate(columns[f"{tensor}/lows"]).min()),
            high=float(np.concatenate(columns[f"{tensor}/highs"]).max()),
            mean_low=float(np.concatenate(columns[f"{tensor}/lows"]).mean()),
            mean_high=float(np.concatenate(columns[f"{tensor}/highs"]).mean()),
            sample_S=np.concatenate([part.reshape(-1) for part in columns[f"{tensor}/sample"]]),
            mean_C=np.average(np.stack(columns[f"{tensor}/mean"]), axis=0, weights=weights),
        )
        for tensor in tensors
    }


# -------------------------------------------------------------------------------------------------------------- calibrators
def by_minmax(seen: Seen) -> tuple[float, float]:
    """Return the whole range that was seen."""
    return seen.low, seen.high


def by_average(seen: Seen) -> tuple[float, float]:
    """Return the range of one image, on average: what only a few images reach does not cost all of them their levels."""
    return seen.mean_low, seen.mean_high


def by_percentile(seen: Seen, *, percent: float = 99.9) -> tuple[float, float]:
    """Return the range that holds `percent` of the numbers, the rest cut off evenly at both ends."""
    rest = (100 - percent) / 2
    low, high = np.percentile(seen.sample_S, [rest, 100 - rest])
    return float(low), float(high)


def by_mse(seen: Seen, *, levels: int = 256) -> tuple[float, float]:
    """Return the range, shrunk from the whole one, whose `levels` equal steps reproduce the sample best in squared error."""
    sample_S = seen.sample_S.astype(np.float64)
    best, least = (seen.low, seen.high), np.inf
    for share in _CLIPPED:
        low, high = share * min(seen.low, 0.0), share * max(seen.high, 0.0)
        step = (high - low) / (levels - 1) or 1.0
        rounded_S = np.clip(np.round((sample_S - low) / step), 0, levels - 1) * step + low
        error = float(np.mean((rounded_S - sample_S) ** 2))
        if error < least:
            best, least = (low, high), error
    return best


CALIBRATORS: Mapping[str, Callable[[Seen], tuple[float, float]]] = {
    "minmax": by_minmax,
    "average": by_average,
    "percentile": by_percentile,
    "mse": by_mse,
}


def _with_reductions(model: "ModelProto", tensors: Sequence[str]) -> "ModelProto":
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    opset = _opset(watched)
    constants: dict[str, Sequence[int]] = {"watch/flat": [-1], "watch/start": [0], "watch/end": [2**62], "watch/channels": [1]}

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    for tensor in tensors:
        shape = shapes[tensor]
        per_image = int(np.prod(shape[1:])) or 1
        # An odd step that shares no factor with rows or channels would be ideal; odd is enough to wander through both.
        constants[f"{tensor}/step"] = [max(1, per_image // SAMPLES_PER_IMAGE) | 1]
        flat = node("Reshape", [tensor, "watch/flat"], f"{tensor}/flattened")
        rows = node("Flatten", [tensor], f"{tensor}/rows", axis=1)
        for kind, part in (("ReduceMin", "lows"), ("ReduceMax", "highs")):
            graph.node.append(_reduced(kind, rows, f"{tensor}/{part}", [1], opset=opset, constants=constants))
        node("Slice", [flat, "watch/start", "watch/end", "watch/start", f"{tensor}/step"], f"{tensor}/sample")
        axes = [axis for axis in range(len(shape)) if axis != _CHANNELS_AXIS]
        graph.node.append(_reduced("ReduceMean", tensor, f"{tensor}/mean", axes, opset=opset, constants=constants))
        for part in _PARTS:
            graph.output.append(helper.make_tensor_value_info(f"{tensor}/{part}", TensorProto.FLOAT, None))
    for name, numbers in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(numbers, dtype=np.int64), name))
    return watched


def _reduced(kind: str, source: str, output: str, axes: list[int], *, opset: int, constants: dict[str, Sequence[int]]) -> Any:
    from onnx import helper

    if opset < 18:  # the axes became an input
        return helper.make_node(kind, [source], [output], axes=axes, keepdims=0)
    constants[f"{output}/axes"] = axes
    return helper.make_node(kind, [source, f"{output}/axes"], [output], keepdims=0)


def _opset(model: "ModelProto") -> int:
    return cast(int, next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))

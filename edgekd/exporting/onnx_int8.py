"""int8 ONNX graphs by onnxruntime's quantiser: QDQ form, ranges and exceptions as a scheme says.

Axes: C channels (of a convolution's input, or of its output where the weight says so).
"""

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekd.core.contracts import Attempt, Calibration, ExportedFiles
from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract
from edgekd.exporting import graph, inspect, pixels
from edgekd.exporting.activations import CALIBRATORS, Seen, observe
from edgekd.exporting.interface import INPUT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_WEIGHTED: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
_PASSING = ("Add", "Mul", "Concat", "Clip", "Relu", "GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean", "HardSigmoid")
_MOVING = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Resize", "Split", "Slice", "Sigmoid")
_QUANTISED = (*_WEIGHTED, *_PASSING, *_MOVING)
_MODEL = "model.onnx"
_PROBED = 3  # batches on which the sensitivity of layers is measured


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to make a graph int8. `keep_float` names nodes, `operators: weighted` leaves all but products in float.

    With `fused`, as TensorRT wants it, what goes into a product is quantised and what comes out is not, nor are biases: the
    runtime fuses them, and the activation behind, into one kernel.
    """

    weights: Literal["channel", "tensor"] = "channel"
    activations: Literal["uint8", "int8"] = "uint8"
    ranges: Literal["minmax", "average", "percentile", "mse"] = "minmax"
    bias_correction: bool = False
    operators: Literal["all", "weighted"] = "all"
    keep_float: tuple[str, ...] = ()
    fused: bool = False


_SIGNED = Scheme(activations="int8", operators="weighted", fused=True)
FUSED: dict[str, Scheme] = {
    "naive": replace(_SIGNED, weights="tensor"),
    "minmax": _SIGNED,
    "average": replace(_SIGNED, ranges="average"),
    "average + bias correction": replace(_SIGNED, ranges="average", bias_correction=True),
    "percentile": replace(_SIGNED, ranges="percentile"),
    "mse + bias correction": replace(_SIGNED, ranges="mse", bias_correction=True),
}
"""The grid of a runtime that fuses what follows a product and takes signed int8 only."""


class OnnxQuantiser:
    """A float32 graph that was calibrated once, and is quantised by as many schemes as asked."""

    def __init__(
        self,
        model: "ModelProto",
        calibration: Calibration,
        *,
        takes: InputContract | None = None,
        keep_float: Sequence[str] = (),
        schemes: Mapping[str, Scheme] | None = None,
        check: "Callable[[ModelProto], None]" = lambda _model: None,
    ) -> None:
        """Prepare the graph, which takes floats; what is written takes the bytes of the contract `takes`, if there is one.

        No scheme touches the nodes `keep_float`, and one that is not there raises `UsageError`. `schemes` take the place of the
        grid, and `check` may refuse a graph before it is written.
        """
        import onnxruntime  # type: ignore[import-untyped]

        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self.model = _prepared(model)
        self._properties = {entry.key: entry.value for entry in model.metadata_props}
        self._calibration = calibration
        self._takes = takes
        self._kept = tuple(keep_float)
        self._asked, self._check = schemes, check
        known = {node.name for node in self.model.graph.node}
        if unknown := [name for name in keep_float if name not in known]:
            raise UsageError(f"`keep_float`: there is no layer {unknown[0]!r}; there are {', '.join(self.layers)}")

    def grid(self) -> tuple[Attempt, ...]:
        """Return the declared candidates: today's default path of the library first, then what usually holds."""
        self._schemes = dict(self._asked) if self._asked is not None else self._usual()
        return tuple(self._attempt(name, scheme) for name, scheme in self._schemes.items())

    def _usual(self) -> dict[str, Scheme]:
        schemes = {
            "naive": Scheme(weights="tensor", activations="int8"),
            "minmax": Scheme(),
            "average": Scheme(ranges="average"),
            "average + bias correction": Scheme(ranges="average", bias_correction=True),
            "percentile + bias correction": Scheme(ranges="percentile", bias_correction=True),
            "mse + bias correction": Scheme(ranges="mse", bias_correction=True),
        }
        if platform.machine().lower() not in ("x86_64", "amd64"):  # where products of signed numbers are not the slower ones
            schemes["average + bias correction, signed"] = Scheme(ranges="average", bias_correction=True, activations="int8")
        return schemes

    def careful(self, best: str) -> Iterator[Attempt]:
        """Yield the scheme `best` with the usual exceptions, then with the most sensitive 1, 2, 4, 8 ... layers in float."""
        scheme = self._schemes[best]
        ends = (self.layers[0], self.layers[-1])
        yield self._attempt(f"{best}, ends in float", replace(scheme, keep_float=(*scheme.keep_float, *ends)))
        if squeezes := squeeze_and_excite(self.model):
            yield self._attempt(f"{best}, squeeze in float", replace(scheme, keep_float=(*scheme.keep_float, *squeezes)))
        if scheme.operators != "weighted":
            yield self._attempt(f"{best}, products only", replace(scheme, operators="weighted"))
        ranked = self.by_sensitivity(scheme)
        count = 1
        while count < len(ranked):
            kept = (*scheme.keep_float, *ranked[:count])
            yield self._attempt(f"{best}, {count} layers in float", replace(scheme, keep_float=kept))
            count *= 2

    def by_sensitivity(self, scheme: Scheme) -> tuple[str, ...]:
        """Return the layers, first the one whose quantisation alone disturbs the logits most."""
        batches = list(islice(self._calibration.batches(), _PROBED))
        threads = self._calibration.threads
        clean_BK = _run(self.model, batches, threads=threads)

        def disturbance(layer: str) -> float:
            return float(np.square(_run(self.quantised(scheme, only=[layer]), batches, threads=threads) - clean_BK).sum())

        apart = {layer: disturbance(layer) for layer in self.layers}
        return tuple(sorted(self.layers, key=lambda layer: -apart[layer]))

    def _attempt(self, name: str, scheme: Scheme) -> Attempt:
        options = {
            "weights": f"int8 per {scheme.weights}",
            "activations": scheme.activations,
            "ranges": scheme.ranges,
            "bias correction": "yes" if scheme.bias_correction else "no",
            "operators": scheme.operators,
        }

        def write(folder: Path) -> ExportedFiles:
            import onnx

            model = graph.stripped(self.quantised(scheme))
            if self._takes is not None:
                model = pixels.with_bytes(model, self._takes)
            onnx.helper.set_model_props(model, self._properties)
            self._check(model)
            (folder / _MODEL).write_bytes(graph.serialized(model))
            inspect.written_here(folder / _MODEL)
            inputs, outputs = graph.interface(model)
            return ExportedFiles(files=(_MODEL,), inputs=inputs, outputs=outputs, opset=graph.opset_of(model))

        return Attempt(name=name, options=options, write=write, kept_float=len({*scheme.keep_float, *self._kept}))

    @cached_property
    def seen(self) -> dict[str, Seen]:
        """Return what flows through the graph's quantisable tensors."""
        return observe(self.model, _activations(self.model), self._calibration.batches(), threads=self._calibration.threads)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the nodes with weights, in the order in which they run."""
        weights = {tensor.name for tensor in self.model.graph.initializer}
        return tuple(
            node.name
            for node in self.model.graph.node
            if node.op_type in _WEIGHTED and any(name in weights for name in node.input[1:2])
        )

    def quantised(self, scheme: Scheme, *, only: Sequence[str] = ()) -> "ModelProto":
        """Return an int8 copy of the graph; `only` names the nodes to quantise, by default all that the scheme takes."""
        import onnx

        with graph.onnxruntime_tools():
            from onnxruntime.quantization import QuantType  # type: ignore[import-untyped]
            from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData  # type: ignore[import-untyped]
            from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # type: ignore[import-untyped]

        ranges = {name: CALIBRATORS[scheme.ranges](seen) for name, seen in self.seen.items()}
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        if scheme.bias_correction:
            _correct_biases(copy, self.seen, per_channel=scheme.weights == "channel")
        quantiser = QDQQuantizer(
            copy,
            scheme.weights == "channel",
            False,
            QuantType.QInt8,
            QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, {k: (np.float32(lo), np.float32(hi)) for k, (lo, hi) in ranges.items()}),
            list(only),
            [*scheme.keep_float, *self._kept],
            list(_QUANTISED if scheme.operators == "all" else _WEIGHTED),
            {
                "ActivationSymmetric": scheme.activations == "int8",
                "WeightSymmetric": True,
                "QDQKeepRemovableActivations": False,
                "QuantizeBias": not scheme.fused,
                "OpTypesToExcludeOutputQuantization": list(_WEIGHTED) if scheme.fused else [],
            },
        )
        quantiser.quantize_model()
        quantised: ModelProto = quantiser.model.model
        return quantised


def squeeze_and_excite(model: "ModelProto") -> tuple[str, ...]:
    """Return the nodes between each pooling of a map to 1 x 1 and the product that weighs the map by it."""
    consumers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    found: list[str] = []
    for start in model.graph.node:
        if start.op_type not in ("GlobalAveragePool", "ReduceMean"):
            continue
        path, frontier = [start], [start]
        while frontier:
            node = frontier.pop()
            for follower in (f for name in node.output for f in consumers.get(name, [])):
                if follower.op_type != "Mul" and follower not in path:
                    frontier.append(follower)
                path.append(follower)
        if any(
            (node.op_type == "Mul" and node.input[0] == start.input[0]) or start.input[0] in node.input for node in path[1:]
        ):
            found += [node.name for node in path if node.name]
    return tuple(dict.fromkeys(found))


def _prepared(model: "ModelProto") -> "ModelProto":
    """Return the graph with constants folded, shapes inferred and every node named, as the quantiser wants it."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        prepared = onnx.shape_inference.infer_shapes(onnx.load(path))
    for number, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return prepared


def _run(model: "ModelProto", batches: Sequence["np.ndarray[Any, Any]"], *, threads: int) -> "np.ndarray[Any, Any]":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT: image_BCHW})[0] for image_BCHW in batches])


def _activations(model: "ModelProto") -> tuple[str, ...]:
    import onnx

    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.type.tensor_type.shape.dim
    }
    constant = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in _QUANTISED:
            found |= dict.fromkeys(name for name in (*node.input, *node.output) if name in floats and name not in constant)
    return tuple(found)


def _correct_biases(model: "ModelProto", seen: Mapping[str, Seen], *, per_channel: bool) -> None:
    """Add to each convolution's bias what rounding its weights takes from the mean of its output.

    Nagel et al. 2019, section 4.2, with the means that were seen instead of those of batch normalisation.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[0] not in seen:
            continue
        weight, bias = tensors.get(node.input[1]), tensors.get(node.input[2])
        if weight is None or bias is None:
            continue
        weight_OCHW = numpy_helper.to_array(weight).astype(np.float64)
        lost_OC = (weight_OCHW - rounded(weight_OCHW, per_channel=per_channel)).sum(axis=(2, 3))
        outputs, inputs = lost_OC.shape
        groups = len(seen[node.input[0]].mean_C) // inputs
        mean_GC = seen[node.input[0]].mean_C.reshape(groups, inputs)
        shift_O = (lost_OC.reshape(groups, outputs // groups, inputs) * mean_GC[:, None]).sum(axis=2).reshape(-1)
        corrected = (numpy_helper.to_array(bias) + shift_O).astype(np.float32)
        bias.CopyFrom(numpy_helper.from_array(corrected, bias.name))


def rounded(weight_OCHW: "np.ndarray[Any, Any]", *, per_channel: bool) -> "np.ndarray[Any, Any]":
    """Return weights as symmetric int8 reproduces them, with a scale for each output channel or for the whole tensor."""
    axes = tuple(range(1, weight_OCHW.ndim)) if per_channel else None
    scale = np.abs(weight_OCHW).max(axis=axes, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1.0)
    found: np.ndarray[Any, Any] = np.clip(np.round(weight_OCHW / scale), -127, 127) * scale
    return found

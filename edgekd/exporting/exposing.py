"""Exported graphs that show what every node computed, for `edgekd export --bisect`: ONNX through onnxruntime, and OpenVINO.

A tensor is known by the name that it has in the float32 ONNX graph; conversion to float16, quantisation (QDQ, FakeQuantize) and
OpenVINO's reader keep it. What a quantiser puts behind a tensor is found by following the graph, not by guessing names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import MachineError, UsageError
from edgekd.exporting import inspect

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

_ERRORS_ONLY = 3


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node of the float32 graph: its tensor, its own name, its operator, and the tensors that it reads."""

    tensor: str
    node: str
    op: str
    reads: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A graph that shows tensors: `computed` and `quantised` map a tensor's name to the key it is asked by.

    `operators` says which ONNX operator makes a tensor, empty where the graph has other ones.
    `run(keys, image)` returns the logits first, then the arrays of these keys.
    """

    computed: Mapping[str, str]
    quantised: Mapping[str, str]
    run: "Callable[[Sequence[str], Array], list[Array]]"
    runtime: str
    operators: Mapping[str, str]


def steps_of(model: "onnx.ModelProto") -> tuple[Step, ...]:
    """Return the nodes of an ONNX graph that depend on its input, in order of computation, one for each tensor."""
    graph = model.graph
    alive = {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if alive.intersection(node.input):
            outputs = [name for name in node.output if name]
            alive.update(outputs)
            reads = tuple(name for name in node.input if name)
            found += [Step(tensor=name, node=node.name, op=node.op_type, reads=reads) for name in outputs]
    return tuple(found)


def shown_by(path: Path, *, precision: str) -> Shown:
    """Return the graph of an artifact's first file; raise `UsageError` for a format whose tensors cannot be shown."""
    if path.suffix == ".onnx":
        return shown_by_onnx(inspect.read(path).model)
    if path.suffix == ".xml":
        return shown_by_openvino(path, precision=precision)
    raise UsageError(
        f"{path}: the tensors inside of it cannot be shown; they can in .onnx (onnxruntime) and .xml (OpenVINO)",
        mend="export the same student to onnxruntime and look there",
    )


def shown_by_onnx(model: "onnx.ModelProto") -> Shown:
    """Return an ONNX graph that shows its tensors through onnxruntime, as written: no optimisation changes a node."""
    import onnxruntime  # type: ignore[import-untyped]

    steps = steps_of(model)
    logits = model.graph.output[0].name
    computed = {step.tensor: step.tensor for step in steps}
    quantised = dict(_dequantised(model))
    sessions: dict[tuple[str, ...], Any] = {}

    def run(keys: "Sequence[str]", image: "Array") -> "list[Array]":
        asked = tuple(dict.fromkeys((logits, *keys)))
        if asked not in sessions:
            sessions[asked] = _open_onnx(model, asked)
        found = dict(zip(asked, sessions[asked].run(asked, {model.graph.input[0].name: image}), strict=True))
        return [found[key] for key in (logits, *keys)]

    return Shown(
        computed=computed,
        quantised=quantised,
        run=run,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        operators={step.tensor: step.op for step in steps},
    )


def _open_onnx(model: "onnx.ModelProto", keys: Sequence[str]) -> Any:
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # type: ignore[import-untyped]

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    own = {value.name for value in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=key) for key in keys if key not in own)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # waiting threads spin, and on a busy machine that takes ten times as long
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (native.Fail, native.InvalidGraph, native.NotImplemented, native.InvalidArgument) as error:
        raise MachineError(f"onnxruntime cannot show the tensors of this graph: {str(error).splitlines()[0]}") from error


def _dequantised(model: "onnx.ModelProto") -> Iterator[tuple[str, str]]:
    """Yield (tensor, what its consumers read of it) for every tensor that is quantised and dequantised at once."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            yield sources[node.input[0]], node.output[0]


def shown_by_openvino(path: Path, *, precision: str = "fp32") -> Shown:
    """Return an OpenVINO graph that shows its tensors, computed in the precision in which the artifact is run."""
    import openvino  # type: ignore[import-untyped]

    from edgekd.exporting.backends._openvino_runner import precision_hint

    core = openvino.Core()
    model = core.read_model(path)
    computed, quantised = _openvino_tensors(model)
    own = {_key_of(port.get_node().input(0).get_source_output()): index for index, port in enumerate(model.outputs)}
    logits = next(iter(own))
    count = len(model.outputs)
    hint = precision_hint(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    compiled: dict[tuple[str, ...], Any] = {}

    def run(keys: "Sequence[str]", image: "Array") -> "list[Array]":
        chosen = tuple(key for key in keys if key not in own)
        if chosen not in compiled:
            compiled[chosen] = core.compile_model(_with_outputs(core, path, chosen), "CPU", {"INFERENCE_PRECISION_HINT": hint})
        request = compiled[chosen].create_infer_request()
        request.infer([image])
        places = own | {key: count + index for index, key in enumerate(chosen)}
        found = {key: request.get_output_tensor(places[key]).data.copy() for key in (logits, *keys)}
        return [found[key] for key in (logits, *keys)]

    runtime = f"openvino {openvino.__version__.partition('-')[0]}"
    return Shown(computed=computed, quantised=quantised, run=run, runtime=runtime, operators={})


def _openvino_tensors(model: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return what each named tensor is computed by, and what a FakeQuantize makes of it: `<operator's name>:<port>`."""
    computed: dict[str, str] = {}
    quantised: dict[str, str] = {}
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in ("Constant", "Parameter", "Result"):
            continue
        if kind == "FakeQuantize":
            source = op.input(0).get_source_output()
            if source.get_node().get_type_name() != "Constant" and _gives_back_what_it_takes(op):
                quantised |= dict.fromkeys(source.get_names(), _key_of(op.output(0)))
            continue
        for port in op.outputs():
            computed |= dict.fromkeys(port.get_names(), _key_of(port))
    return computed, quantised


def _gives_back_what_it_takes(fake_quantize: Any) -> bool:
    """Tell a FakeQuantize that rounds in place from one that answers with levels, as OpenVINO reads a QuantizeLinear."""
    ends = [fake_quantize.input(index).get_source_output().get_node() for index in range(1, 5)]
    if any(end.get_type_name() != "Constant" for end in ends):
        return False
    low_in, high_in, low_out, high_out = (end.get_data() for end in ends)
    return bool((low_in == low_out).all() and (high_in == high_out).all())


def _key_of(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _with_outputs(core: Any, path: Path, keys: Sequence[str]) -> Any:
    model = core.read_model(path)
    named = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
    for key in keys:
        name, _, port = key.rpartition(":")
        model.add_outputs([named[name].output(int(port))])
    return model

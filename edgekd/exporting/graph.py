"""ONNX graphs: traced from the student, stripped to what a device needs, halved, read back. The runtimes share them.

The same weights give the same bytes: what torch notes in a file (source paths, stack traces, symbol names) is removed.
Imports of torch and onnx stand inside the functions, so that listing backends stays cheap.
"""

import hashlib
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from edgekd.core.contracts import Exportable
from edgekd.core.errors import UsageError
from edgekd.core.records import TensorSpec
from edgekd.exporting.interface import FREE_BATCH, INPUT, OUTPUT, Batch, outputs_of, properties, sample_of

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto
    from torch import nn

DEFAULT_OPSET = 18
_OLDEST_OF_DYNAMO = 18  # asked for less, torch's newer exporter writes 18 without saying so
_HALVES = (10, 16)  # TensorProto.DataType: float16, bfloat16
_CHATTER = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed. Please remove usage of this function"),
)
_traces: "WeakKeyDictionary[nn.Module, tuple[str, bytes]]" = WeakKeyDictionary()


def to_onnx(
    exportable: Exportable, *, opset: int = DEFAULT_OPSET, batch: Batch = "dynamic", output: str = OUTPUT
) -> "ModelProto":
    """Return the student as a checked float32 ONNX graph that carries its classes, input contract and metadata.

    The trace is remembered as long as the module lives: several artifacts of one student trace it once. A module that came as
    a graph (`onnx_graph`) is not traced: its graph keeps its opset and its precision. Raises `UsageError` if the student cannot
    be traced or torch wrote another opset than was asked.
    """
    import onnx

    if (given := _given(exportable.module, batch)) is not None:
        onnx.helper.set_model_props(given, properties(exportable))
        return given
    outputs = outputs_of(exportable, output)
    key = _trace_key(exportable, opset, batch, outputs)
    known = _traces.get(exportable.module)
    if known is None or known[0] != key:
        known = (key, serialized(stripped(_trace(exportable, opset, batch, outputs))))
        _traces[exportable.module] = known
    model = onnx.load_model_from_string(known[1])
    onnx.helper.set_model_props(model, properties(exportable))
    found = opset_of(model)
    if found != opset:
        raise UsageError(
            f"opset {opset} was asked for and torch wrote opset {found}",
            mend=f"set `opset: {found}`, or leave it out for {DEFAULT_OPSET}",
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def half(model: "ModelProto") -> "ModelProto":
    """Return a copy of a float32 graph that stores and computes in float16, with float32 input and output."""
    import onnx
    from onnxscript import ir

    convert = _float16_converter()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sorted_again = ir.from_proto(convert(copy, keep_io_types=True))
    sorted_again.graph.sort()  # the converter appends its casts at the end, which onnx's checker refuses
    halved = stripped(ir.to_proto(sorted_again))
    onnx.helper.set_model_props(halved, {prop.key: prop.value for prop in model.metadata_props})
    onnx.checker.check_model(halved, full_check=True)
    return halved


def check_precision(exportable: Exportable, model: "ModelProto", precision: str) -> None:
    """Raise `UsageError` if a graph that came with a precision of its own is asked for another, or a traced one for its own."""
    came = hasattr(exportable.module, "onnx_graph")
    if precision == "original" and not came:
        raise UsageError("`precision: original` is for imported models; this student has weights in float32")
    if precision != "original" and came and has_own_precision(model):
        raise UsageError(
            f"the imported model is quantised or halved already, so it cannot become {precision}", mend="precision: original"
        )


def has_own_precision(model: "ModelProto") -> bool:
    """Say whether a graph holds quantised operators or half-precision weights."""
    quantised = any("Quantize" in node.op_type or node.op_type.startswith(("QLinear", "QGemm")) for node in model.graph.node)
    return quantised or any(tensor.data_type in _HALVES for tensor in model.graph.initializer)


def serialized(model: "ModelProto") -> bytes:
    """Return the graph's bytes; the same graph has the same bytes."""
    return bytes(model.SerializeToString(deterministic=True))


def opset_of(model: "ModelProto") -> int | None:
    """Return the version of the standard operator set that a graph was written for."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def interface(model: "ModelProto") -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the graph's inputs and outputs as the file states them."""
    inputs = tuple(_spec(value.name, value.type) for value in model.graph.input)
    return inputs, tuple(_spec(value.name, value.type) for value in model.graph.output)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence the warnings that torch's exporters give about torch's own insides; all others come through."""
    with warnings.catch_warnings():
        for category, message in _CHATTER:
            warnings.filterwarnings("ignore", message, category)
        yield


def free_batch(batch: Batch) -> Any:
    """Return `dynamic_shapes` for torch.export: the batch axis free, or None for a fixed batch."""
    import torch

    return ({0: torch.export.Dim(FREE_BATCH, min=1)},) if batch == "dynamic" else None


def _given(module: "nn.Module", batch: Batch) -> "ModelProto | None":
    """Return a copy of the graph that a module came as, with the batch axis asked for; None for all others."""
    import onnx

    if not hasattr(module, "onnx_graph"):
        return None
    given = onnx.ModelProto()
    given.CopyFrom(module.onnx_graph)
    for value in (*given.graph.input, *given.graph.output):
        side = value.type.tensor_type.shape.dim[0]
        if side.dim_param and batch != "dynamic":
            side.dim_value = batch
        elif batch not in ("dynamic", side.dim_value):
            raise UsageError(f"the model takes batches of {side.dim_value} and no others", mend="leave `batch` out")
    return given


def _trace(exportable: Exportable, opset: int, batch: Batch, outputs: tuple[str, ...]) -> "ModelProto":
    import torch

    sample = (sample_of(exportable, batch),)
    try:
        with quiet_torch(), torch.no_grad():
            if opset >= _OLDEST_OF_DYNAMO:
                return _dynamo(exportable.module, sample, opset, batch, outputs)
            return _torchscript(exportable.module, sample, opset, batch, outputs)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(
            f"this student cannot be exported to ONNX opset {opset}: {reason}",
            mend=f"try `opset: {DEFAULT_OPSET}`, or another student",
        ) from error


def _dynamo(module: "nn.Module", sample: Any, opset: int, batch: Batch, outputs: tuple[str, ...]) -> "ModelProto":
    import torch

    program = torch.onnx.export(
        module,
        sample,
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_shapes=free_batch(batch),
    )
    if program is None:
        raise RuntimeError("torch returned no program")
    return program.model_proto


def _torchscript(module: "nn.Module", sample: Any, opset: int, batch: Batch, outputs: tuple[str, ...]) -> "ModelProto":
    import onnx
    import torch

    written: Any = io.BytesIO()
    free = {name: {0: FREE_BATCH} for name in (INPUT, *outputs)} if batch == "dynamic" else None
    torch.onnx.export(
        module,
        sample,
        written,
        dynamo=False,
        verbose=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_axes=free,
    )
    return onnx.load_model_from_string(written.getvalue())


def stripped(model: "ModelProto") -> "ModelProto":
    """Remove in place what a tool noted for its own debugging; it names files of this machine and differs from run to run.

    Intermediate shapes go too: torch's stand for the weights before folding, and tools that read them stumble.
    """
    graph = model.graph
    del graph.value_info[:]
    del model.metadata_props[:]
    holders = [graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions]
    holders += [node for function in model.functions for node in function.node]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
    model.doc_string = ""
    return model


def _trace_key(exportable: Exportable, opset: int, batch: Batch, outputs: tuple[str, ...]) -> str:
    module = exportable.module
    modes = [part.training for part in module.modules()]
    digest = hashlib.sha256(
        f"{opset} {batch} {' '.join(outputs)} {tuple(exportable.sample_BCHW.shape)} {modes} {module}".encode()
    )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _spec(name: str, kind: "TypeProto") -> TensorSpec:
    import onnx

    tensor = kind.tensor_type
    shape = tuple(side.dim_param or int(side.dim_value) for side in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(name=name, shape=shape, dtype=dtype)


def _float16_converter() -> Any:
    with onnxruntime_tools():
        from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]
    return convert_float_to_float16


@contextmanager
def onnxruntime_tools() -> Iterator[None]:
    """Let onnxruntime's tools be imported, which find one another through `sys.path`, and leave no trace of that there.

    The folder that they would add for good holds a `models` and a `benchmark` that would shadow other people's.
    """
    import onnxruntime  # type: ignore[import-untyped]

    before = list(sys.path)
    sys.path.append(str(Path(onnxruntime.__file__).parent / "transformers"))
    try:
        yield
    finally:
        sys.path[:] = before

"""OpenVINO."""

from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from edgekd.core.contracts import Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.core.records import TensorSpec
from edgekd.exporting import inspect
from edgekd.exporting.interface import (
    FREE_BATCH,
    Batch,
    Inputs,
    Resize,
    check_input,
    check_resize,
    fed_as,
    properties,
    refuse_int8,
)

if TYPE_CHECKING:
    import numpy as np

_XML, _BIN = "model.xml", "model.bin"
_DEVICE = "CPU"
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8", "i8": "int8", "u8": "int8"}
_COMPUTING = {"Convolution", "FullyConnected", "MatMul"}


class OpenVino(Backend):
    """OpenVINO on the CPU, at exactly the precision asked: it is never left to run bf16 by itself.

    The student goes through the same ONNX graph as onnxruntime's: one trace for both, and a difference between the two is a
    difference between runtimes, not between converters. fp16 stores float16 weights; they are computed in float16 where
    the CPU has it and in float32 elsewhere, and the artifact says which. `inputs: uint8` and `resize: inside` mean what they
    mean for onnxruntime.
    """

    requires = ("openvino",)
    extra = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    quantise: Quantise | None = None
    batch: Batch = "dynamic"
    inputs: Inputs = "float"
    resize: Resize = "outside"

    @model_validator(mode="after")
    def _resizes_bytes_only(self) -> Self:
        check_resize(inputs=self.inputs, resize=self.resize)
        return self

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write the graph (.xml) and its weights (.bin)."""
        need_packages(self)
        refuse_int8(self)
        exportable = fed_as(exportable, inputs=self.inputs, resize=self.resize)
        return self._save(self._model(exportable), exportable, folder)

    def quantiser(self, exportable: Exportable, calibration: Calibration) -> Quantiser:
        """Return NNCF's post-training quantisation, beside what onnxruntime's quantiser makes of the same graph."""
        need_packages(self)
        from edgekd.exporting import graph
        from edgekd.exporting.onnx_int8 import OnnxQuantiser
        from edgekd.exporting.openvino_int8 import OpenVinoQuantiser

        kept = (self.quantise or Quantise()).keep_float
        exportable = fed_as(exportable, inputs=self.inputs, resize=self.resize)
        takes = exportable.input.of_bytes() if exportable.input.takes_bytes else None
        qdq = OnnxQuantiser(graph.to_onnx(exportable, batch=self.batch), calibration, takes=takes, keep_float=kept)

        def save(model: Any, folder: Path) -> ExportedFiles:
            return self._save(model, exportable, folder)

        return OpenVinoQuantiser(
            self._model(exportable), qdq, calibration, save, takes_bytes=takes is not None, keep_float=kept
        )

    def _model(self, exportable: Exportable) -> Any:
        import openvino  # type: ignore[import-untyped]

        from edgekd.exporting import graph, pixels

        onnx_model = graph.to_onnx(exportable, batch=self.batch)
        graph.check_precision(exportable, onnx_model, self.precision)
        if exportable.input.takes_bytes:
            onnx_model = pixels.with_bytes(onnx_model, exportable.input.of_bytes())
        try:
            model = openvino.Core().read_model(graph.serialized(onnx_model))
        except RuntimeError as error:
            raise UsageError(f"openvino {openvino.__version__} cannot read this model: {_reason(error)}") from error
        _name_by_position(model)
        return model

    def _save(self, model: Any, exportable: Exportable, folder: Path) -> ExportedFiles:
        import openvino

        from edgekd.exporting import pixels
        from edgekd.exporting.graph import DEFAULT_OPSET

        if exportable.input.resize_inside:
            pixels.resize_in_openvino(model, exportable.input)
        _name_by_position(model)  # once more, for what a quantiser has added
        for key, value in properties(exportable).items():
            model.set_rt_info(value, ["edgekd", key])
        try:
            openvino.save_model(model, folder / _XML, compress_to_fp16=self.precision == "fp16")
        except RuntimeError as error:
            raise MachineError(f"{folder / _XML}: openvino cannot write it: {_reason(error)}") from error
        return ExportedFiles(
            files=(_XML, _BIN),
            inputs=tuple(pixels.spec_of_photographs(_spec(port)) for port in model.inputs),
            outputs=tuple(_spec(port) for port in model.outputs),
            opset=DEFAULT_OPSET,
        )

    def inspect(self, folder: Path, files: Sequence[str]) -> None:
        """Read an ONNX file as untrusted input; openvino would take one under any name, so anything else has to be its own."""
        path = folder / files[0]
        if path.suffix == inspect.SUFFIX:
            inspect.check(path)
        elif not inspect.is_xml(path):
            raise IntegrityError(f"{path}: is not a graph that openvino wrote", mend="export it again")

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> "_Session":
        """Compile the graph for latency, one stream, with the precision pinned."""
        need_packages(self)
        self.inspect(folder, files)
        return _Session(folder / files[0], precision=self.precision, threads=threads)


class _Session:
    def __init__(self, path: Path, *, precision: str, threads: int) -> None:
        import openvino

        core = openvino.Core()
        hint = precision_hint(precision, core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))
        wanted = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
        }
        try:
            self._compiled: Any = core.compile_model(core.read_model(path), _DEVICE, wanted)
        except RuntimeError as error:
            raise MachineError(f"{path}: openvino {openvino.__version__} cannot load it: {_reason(error)}") from error
        self._check_taken(path, hint=hint, threads=threads)
        self.executed_on = "+".join(self._compiled.get_property("EXECUTION_DEVICES"))
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        self._request: Any = self._compiled.create_infer_request()
        image = _spec(self._compiled.inputs[0])
        self._shape, self._dtype = image.shape, image.dtype

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in, read from the compiled graph."""
        layers = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        # The kernel's name ends in what it computes in; `runtimePrecision` may name the type of stored weights instead.
        kernels = [_plain(layer["primitiveType"]) for layer in layers if _plain(layer["layerType"]) in _COMPUTING]
        found = {_PRECISIONS.get(name, name) for name in (kernel.rpartition("_")[2] for kernel in kernels)}
        return "+".join(sorted(found)) or "unknown"

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        check_input(image_BCHW, self._shape, self._dtype)
        if self._request is None:
            raise RuntimeError("this session is closed")
        self._request.infer([image_BCHW], share_inputs=True)
        logits_BK: np.ndarray[Any, Any] = self._request.get_output_tensor(0).data.copy()
        return logits_BK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._request = None
        self._compiled = None

    def _check_taken(self, path: Path, *, hint: str, threads: int) -> None:
        taken_threads = self._compiled.get_property("INFERENCE_NUM_THREADS")
        taken_hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if (taken_threads, taken_hint) != (threads, hint):
            raise MachineError(
                f"{path}: asked for {threads} threads and {hint}, openvino took {taken_threads} and {taken_hint}",
                mend="ask for no more threads than this machine has cores",
            )


def precision_hint(precision: str, capabilities: Collection[str]) -> str:
    """Return what to pin: float16 only on a CPU that computes it, else float32; asked for it elsewhere, openvino takes bf16."""
    return "f16" if precision == "fp16" and "FP16" in capabilities else "f32"


def _name_by_position(model: Any) -> None:
    # Layers without a name of their own get a number that counts on through the process: the same weights, other bytes.
    for position, layer in enumerate(model.get_ordered_ops()):
        if layer.get_friendly_name() == layer.get_name():
            layer.set_friendly_name(f"{layer.get_type_name()}_{position}")


def _spec(port: Any) -> TensorSpec:
    shape = tuple(side.get_length() if side.is_static else FREE_BATCH for side in port.get_partial_shape())
    return TensorSpec(name=port.get_any_name(), shape=shape, dtype=port.get_element_type().to_dtype().name)


def _plain(value: Any) -> str:
    return str(value.value if hasattr(value, "value") else value)


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

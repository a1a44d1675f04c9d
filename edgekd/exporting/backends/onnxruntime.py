"""ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgekd.core.contracts import Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.errors import MachineError
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.exporting import inspect
from edgekd.exporting.interface import INPUT, Batch, Inputs, Resize, check_input, check_resize, fed_as, refuse_int8

if TYPE_CHECKING:
    import numpy as np

_MODEL = "model.onnx"
_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3
# Which input of a node holds its weights.
_WEIGHTS_AT = dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"), 1)
_WEIGHTS_AT |= dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3) | dict.fromkeys(("MatMulIntegerToFloat",), 1)
_PRECISIONS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 16: "bf16"}  # TensorProto.DataType
_COMPLAINTS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException")


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU: one self-contained .onnx file that most other runtimes can read too.

    `inputs: uint8` takes photographs as bytes (batch, height, width, RGB) and scales them inside; with `resize: inside` they
    may have any size, and the graph resizes and crops like Pillow, to a level of 255.
    `precision: original` is for imported models that are quantised or halved already: they stay as they came.
    """

    requires = ("onnxruntime",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    precision: Literal["fp32", "fp16", "int8", "original"] = "fp32"
    quantise: Quantise | None = None
    batch: Batch = "dynamic"
    opset: Annotated[int, Field(ge=11, le=24)] = 18
    inputs: Inputs = "float"
    resize: Resize = "outside"

    @model_validator(mode="after")
    def _resizes_bytes_only(self) -> Self:
        check_resize(inputs=self.inputs, resize=self.resize)
        return self

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write one ONNX file; fp16 stores and computes in float16 and keeps float32 input and output."""
        need_packages(self)
        refuse_int8(self)
        from edgekd.exporting import graph, pixels

        exportable = fed_as(exportable, inputs=self.inputs, resize=self.resize)
        model = graph.to_onnx(exportable, opset=self.opset, batch=self.batch)
        graph.check_precision(exportable, model, self.precision)
        if self.precision == "fp16":
            model = graph.half(model)
        if exportable.input.takes_bytes:
            model = pixels.with_bytes(model, exportable.input)
        (folder / _MODEL).write_bytes(graph.serialized(model))
        inspect.written_here(folder / _MODEL)
        inputs, outputs = graph.interface(model)
        return ExportedFiles(files=(_MODEL,), inputs=inputs, outputs=outputs, opset=graph.opset_of(model))

    def quantiser(self, exportable: Exportable, calibration: Calibration) -> Quantiser:
        """Return onnxruntime's own quantiser: static, QDQ."""
        need_packages(self)
        from edgekd.exporting import graph
        from edgekd.exporting.onnx_int8 import OnnxQuantiser

        exportable = fed_as(exportable, inputs=self.inputs, resize=self.resize)
        model = graph.to_onnx(exportable, opset=self.opset, batch=self.batch)
        graph.check_precision(exportable, model, self.precision)
        takes = exportable.input if exportable.input.takes_bytes else None
        return OnnxQuantiser(model, calibration, takes=takes, keep_float=(self.quantise or Quantise()).keep_float)

    def inspect(self, folder: Path, files: Sequence[str]) -> None:
        """Read the file as untrusted input, unless this process has just written it."""
        inspect.check(folder / files[0])

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> "_Session":
        """Load the file on the CPU provider and on no other."""
        need_packages(self)
        self.inspect(folder, files)
        return _Session(folder / files[0], threads=threads)


class _Session:
    executed_on = "CPU"

    def __init__(self, path: Path, *, threads: int) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._path = path
        self._threads = threads
        self._session: Any = _load(path, threads=threads)
        image = self._session.get_inputs()[0]
        self._shape = tuple(image.shape)
        self._dtype = "uint8" if image.type == "tensor(uint8)" else "float32"
        self._output = self._session.get_outputs()[0].name
        self._precision = ""

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in; looked up when asked, it costs a second load.

        Where the CPU provider has no float16 kernel it widens the weights and computes in float32.
        """
        if not self._precision:
            self._precision = _executed_precision(self._path)
        return self._precision

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        check_input(image_BCHW, self._shape, self._dtype)
        if self._session is None:
            raise RuntimeError("this session is closed")
        try:
            answer_BK: np.ndarray[Any, Any] = self._session.run([self._output], {INPUT: image_BCHW})[0]
        except complaints() as error:
            raise MachineError(f"{self._path}: {self.runtime} cannot run it: {str(error).splitlines()[0]}") from error
        return answer_BK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._session = None


def _load(path: Path, *, threads: int, optimised: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS, enable_fallback=0)
    except complaints() as error:
        raise MachineError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {str(error).splitlines()[0]}",
            mend="export it again with this onnxruntime, or with an older `opset`",
        ) from error
    if session.get_providers() != _PROVIDERS:
        raise MachineError(f"{path}: asked for {_PROVIDERS}, onnxruntime took {session.get_providers()}")
    return session


def load_session(path: Path, *, threads: int) -> Any:
    """Return onnxruntime's own session of a file, for models with other inputs and outputs than the house's."""
    inspect.check(path)
    return _load(path, threads=threads)


def complaints() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises when it cannot load or run a model; its errors have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # type: ignore[import-untyped]

    return (RuntimeError, *(getattr(native, name) for name in _COMPLAINTS))


def _executed_precision(path: Path) -> str:
    """Return the types of the weights that reach the kernels in the graph that the session runs, widest first."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / _MODEL
        _load(path, threads=1, optimised=optimised)
        graph = onnx.load(optimised).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if node.op_type == "Cast":
            types[node.output[0]] = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        elif node.output and node.input:
            types[node.output[0]] = types.get(node.input[0], 0)
    used = [types.get(node.input[_WEIGHTS_AT[node.op_type]], 0) for node in graph.node if node.op_type in _WEIGHTS_AT]
    found = [_PRECISIONS.get(kind, f"type {kind}") for kind in sorted(used)]
    return "+".join(dict.fromkeys(found)) or "unknown"

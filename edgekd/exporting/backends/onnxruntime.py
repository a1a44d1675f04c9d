"""ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgekd.core.contracts import Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.exporting import inspect
from edgekd.exporting.backends import _onnxruntime_runner
from edgekd.exporting.interface import Batch, Inputs, Resize, check_resize, fed_as, refuse_int8
from edgekd.exporting.running import RunnerSession, explained

_MODEL = "model.onnx"


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU: one self-contained .onnx file that most other runtimes can read too.

    `inputs: uint8` takes photographs as bytes (batch, height, width, RGB) and scales them inside; with `resize: inside` they
    may have any size, and the graph resizes and crops like Pillow, to a level of 255.
    `precision: original` is for imported models that are quantised or halved already: they stay as they came.
    """

    requires = ("onnxruntime",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    several_outputs: ClassVar[bool] = True
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

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> RunnerSession:
        """Load the file on the CPU provider and on no other."""
        need_packages(self)
        self.inspect(folder, files)
        return RunnerSession(_onnxruntime_runner, folder, files, threads=threads, options={})

    def runner_file(self) -> Path:
        """Return the file that opens ONNX models without edgekd."""
        return Path(_onnxruntime_runner.__file__)


def load_session(path: Path, *, threads: int) -> Any:
    """Return onnxruntime's own session of a file, for models with other inputs and outputs than the house's."""
    inspect.check(path)
    with explained(_onnxruntime_runner):
        return _onnxruntime_runner.load(str(path), threads=threads)


def complaints() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises when it cannot load or run a model; its errors have no class in common."""
    return _onnxruntime_runner.complaints()

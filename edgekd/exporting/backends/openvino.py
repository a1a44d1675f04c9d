"""OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from edgekd.core.contracts import Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.core.records import TensorSpec
from edgekd.exporting import inspect
from edgekd.exporting.backends import _openvino_runner
from edgekd.exporting.backends._openvino_runner import reason
from edgekd.exporting.interface import (
    FREE_BATCH,
    Batch,
    Inputs,
    Resize,
    check_resize,
    fed_as,
    properties,
    refuse_int8,
)
from edgekd.exporting.running import RunnerSession

_XML, _BIN = "model.xml", "model.bin"


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
    several_outputs: ClassVar[bool] = True
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
            raise UsageError(f"openvino {openvino.__version__} cannot read this model: {reason(error)}") from error
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
            raise MachineError(f"{folder / _XML}: openvino cannot write it: {reason(error)}") from error
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

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> RunnerSession:
        """Compile the graph for latency, one stream, with the precision pinned."""
        need_packages(self)
        self.inspect(folder, files)
        return RunnerSession(_openvino_runner, folder, files, threads=threads, options={"precision": self.precision})

    def runner_file(self) -> Path:
        """Return the file that opens models with OpenVINO without edgekd."""
        return Path(_openvino_runner.__file__)


def _name_by_position(model: Any) -> None:
    # Layers without a name of their own get a number that counts on through the process: the same weights, other bytes.
    for position, layer in enumerate(model.get_ordered_ops()):
        if layer.get_friendly_name() == layer.get_name():
            layer.set_friendly_name(f"{layer.get_type_name()}_{position}")


def _spec(port: Any) -> TensorSpec:
    shape = tuple(side.get_length() if side.is_static else FREE_BATCH for side in port.get_partial_shape())
    return TensorSpec(name=port.get_any_name(), shape=shape, dtype=port.get_element_type().to_dtype().name)

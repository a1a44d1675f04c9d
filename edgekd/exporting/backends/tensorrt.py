"""TensorRT."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field

from edgekd.core import gpu, parts
from edgekd.core.contracts import Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.exporting.interface import INPUT, OUTPUT, Batch, check_input, refuse_int8

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edgekd.exporting.tensorrt_build import BuildSettings

_MODEL = "model.onnx"
_PARITY_BATCH = 8  # what the export stage feeds at once to a free batch axis


class TensorRt(Backend):
    """TensorRT on an NVIDIA GPU: an ONNX file that is checked here, the engine is built where it runs.

    The artifact is the ONNX graph: engines fit one kind of GPU and one version of TensorRT, and are native code. The engine is
    built when the artifact is first opened on a machine with a GPU, and kept in edgekd's cache folder for that machine alone.
    Where there is no GPU, graph and quantisation are held against what TensorRT reads, and the artifact is recorded as not
    executed. `max_batch` and `best_batch` are the optimisation profile of a free batch axis. `runner: trtexec` works without
    TensorRT's Python bindings; answers come through trtexec, latencies do not. int8 is symmetric, with Q and DQ in the graph;
    without a GPU its candidates are chosen by what onnxruntime answers to the same graph.
    """

    requires = ("tensorrt",)
    extra = "tensorrt"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    quantise: Quantise | None = None
    batch: Batch = "dynamic"
    max_batch: Annotated[int, Field(ge=_PARITY_BATCH, le=1024)] = 32
    best_batch: Annotated[int, Field(ge=1, le=1024)] = 1
    opset: Annotated[int, Field(ge=13, le=24)] = 18
    optimisation_level: Annotated[int, Field(ge=0, le=5)] = 3
    workspace_mib: Annotated[int, Field(ge=1)] | None = None
    runner: Literal["python", "trtexec"] = "python"

    def packages(self) -> tuple[str, ...]:
        """Return TensorRT's bindings, which trtexec does without."""
        return self.requires if self.runner == "python" else ()

    def cannot_run_here(self) -> str:
        """Return that there is no GPU, and what to do on the machine that has one."""
        missing = gpu.unavailable()
        if not missing:
            return ""
        install = "pip install 'edgekd[tensorrt]'" if self.runner == "python" else "NVIDIA's TensorRT packages"
        return (
            f"{missing}, and a TensorRT engine is built where it runs. On the target: {install}, copy the run folder (and"
            f" its images) there, and run `edgekd export RUN`, `edgekd bench RUN`, `edgekd report RUN`"
        )

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write the ONNX graph; fp16 is a graph in float16 with float32 input and output. The engine is not built yet."""
        if not self.cannot_run_here():
            need_packages(self)
        refuse_int8(self)
        from edgekd.exporting import graph

        model = graph.to_onnx(exportable, opset=self.opset, batch=self.batch)
        if self.precision == "fp16":
            model = graph.half(model)
        return self.write(model, folder)

    def write(self, model: "ModelProto", folder: Path) -> ExportedFiles:
        """Write an ONNX graph, quantised or not; raise `UsageError` if TensorRT would not read it or not build it."""
        from edgekd.exporting import graph, tensorrt_ops, tensorrt_qdq

        tensorrt_ops.check(model)
        tensorrt_qdq.check(model)
        (folder / _MODEL).write_bytes(graph.serialized(model))
        inputs, outputs = graph.interface(model)
        return ExportedFiles(files=(_MODEL,), inputs=inputs, outputs=outputs, opset=graph.opset_of(model))

    def quantiser(self, exportable: Exportable, calibration: Calibration) -> Quantiser:
        """Return onnxruntime's own quantiser, held to what TensorRT builds: symmetric int8 in front of products alone."""
        need_packages(self.stand_in())
        from edgekd.exporting import graph, tensorrt_ops, tensorrt_qdq
        from edgekd.exporting.onnx_int8 import FUSED, OnnxQuantiser

        def check(model: "ModelProto") -> None:
            tensorrt_ops.check(model)
            tensorrt_qdq.check(model)

        model = graph.to_onnx(exportable, opset=self.opset, batch=self.batch)
        keep_float = (self.quantise or Quantise()).keep_float
        return OnnxQuantiser(model, calibration, keep_float=keep_float, schemes=FUSED, check=check)

    def stand_in(self) -> Backend:
        """Return onnxruntime, which takes the same graph with its Q and DQ."""
        return cast(Backend, parts.load("backend", "onnxruntime")())

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> "_Session | _TrtexecSession":
        """Load the engine for this GPU, and build it first if this machine has not yet; it uses no threads of the CPU."""
        need_packages(self)
        from edgekd.exporting.tensorrt_engine import read_graph

        onnx, shape = read_graph(folder / files[0])
        settings = self._settings(shape)
        if self.runner == "trtexec":
            return _TrtexecSession(onnx, settings, shape)
        return _Session(onnx, settings, shape)

    def _settings(self, shape: tuple[int | str, ...]) -> "BuildSettings":
        from edgekd.exporting.tensorrt_build import BuildSettings

        fixed = shape[0] if isinstance(shape[0], int) else None
        if fixed is None and self.best_batch > self.max_batch:
            raise UsageError(f"best_batch is {self.best_batch}, more than max_batch {self.max_batch}")
        one_image = tuple(side for side in shape[1:] if isinstance(side, int))
        batches = (fixed,) * 3 if fixed is not None else (1, self.best_batch, self.max_batch)
        smallest, best, largest = ((batch, *one_image) for batch in batches)
        return BuildSettings(
            input=INPUT,
            smallest=smallest,
            best=best,
            largest=largest,
            optimisation_level=self.optimisation_level,
            workspace_mib=self.workspace_mib,
        )


class _Session:
    """An engine and its context on one stream. Input and output go through pinned memory, which copies enqueue from."""

    def __init__(self, onnx: bytes, settings: "BuildSettings", shape: tuple[int | str, ...]) -> None:
        import tensorrt as trt  # type: ignore[import-not-found]

        from edgekd.exporting import tensorrt_build, tensorrt_engine
        from edgekd.exporting.gpu_memory import Stream

        facts = gpu.facts()
        self.runtime = f"tensorrt {trt.__version__}"
        self.executed_on = str(facts)
        self._trt, self._shape, self._largest = trt, shape, settings.largest[0]
        engine = tensorrt_engine.by_bindings(trt, onnx, settings, gpu=asdict(facts))
        self._stream = Stream()
        try:
            self._engine: Any = tensorrt_build.load(trt, engine)
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise MachineError("TensorRT could not make an execution context", mend="free some of the GPU's memory")
            classes = int(self._engine.get_tensor_shape(OUTPUT)[1])
            self._image, self._logits = (self._stream.buffer(s) for s in (settings.largest, (self._largest, classes)))
            for name, buffer in ((INPUT, self._image), (OUTPUT, self._logits)):
                self._check(self._context.set_tensor_address(name, buffer.address), f"take a buffer for {name}")
        except BaseException:
            self._stream.__exit__(None, None, None)
            raise

    @property
    def executed_precision(self) -> str:
        """Return what the engine's inspector says that convolutions and matrix products take; looked up when asked."""
        from edgekd.exporting import tensorrt_build

        return tensorrt_build.executed_precision(self._trt, self._engine)

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        check_input(image_BCHW, self._shape)
        _check_batch(len(image_BCHW), self._largest)
        if self._context is None:
            raise RuntimeError("this session is closed")
        batch, stream = len(image_BCHW), self._stream
        stream.use()
        self._image.array[:batch] = image_BCHW
        self._check(self._context.set_input_shape(INPUT, tuple(image_BCHW.shape)), f"take a batch of {batch}")
        self._image.to_device(stream, image_BCHW.nbytes)
        self._check(self._context.execute_async_v3(stream.number), "run the engine")
        self._logits.to_host(stream, self._logits.array[:batch].nbytes)
        stream.synchronise()
        logits_BK: np.ndarray[Any, Any] = self._logits.array[:batch].copy()
        return logits_BK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._context is not None:
            self._stream.synchronise()
            self._context = self._engine = None
            self._stream.__exit__(kind, value, trace)

    @staticmethod
    def _check(done: bool, what: str) -> None:
        if not done:
            raise MachineError(f"TensorRT could not {what}", mend="export it again on this machine")


class _TrtexecSession:
    """Answers through trtexec, one process a batch: good for parity and accuracy, useless for timing."""

    cannot_be_timed = "trtexec starts a process for every batch; time the engine with trtexec itself, or use `runner: python`"
    executed_precision = "unknown"

    def __init__(self, onnx: bytes, settings: "BuildSettings", shape: tuple[int | str, ...]) -> None:
        from edgekd.exporting import tensorrt_engine, trtexec

        self._program = trtexec.find()
        facts = gpu.facts()
        self.executed_on = str(facts)
        self._shape, self._largest = shape, settings.largest[0]
        engine, version = tensorrt_engine.by_trtexec(self._program, onnx, settings, gpu=asdict(facts))
        self.runtime = f"trtexec {version}"
        self._files = ExitStack()
        self._engine: Path | None = self._files.enter_context(tensorrt_engine.private_file("model.engine", engine))

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        from edgekd.exporting import trtexec

        check_input(image_BCHW, self._shape)
        _check_batch(len(image_BCHW), self._largest)
        if self._engine is None:
            raise RuntimeError("this session is closed")
        return trtexec.ask(self._program, engine=self._engine, input=INPUT, image_BCHW=image_BCHW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._engine = None
        self._files.close()


def _check_batch(batch: int, largest: int) -> None:
    if batch > largest:
        raise UsageError(
            f"this artifact takes at most {largest} images at once, not {batch}",
            mend=f"set `max_batch: {batch}` and export again",
        )

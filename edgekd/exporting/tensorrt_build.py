"""An ONNX graph into a TensorRT engine, through TensorRT's Python API; and what an engine says of itself.

Written against both major versions that are in use. What differs between them, of what is called here:

              TensorRT 10                                   TensorRT 11
network       weakly typed unless STRONGLY_TYPED is set     always strongly typed, the flag is accepted
precision     BuilderFlag.FP16, INT8, ...                   gone; the graph's own types hold, as they do here in both
inspector     layers carry "Format/Datatype"                layers carry "Format" and "DataType"

Strongly typed means that TensorRT computes in the types that the graph states: a float16 graph is fp16, Q and DQ are int8, and
nothing is chosen behind the user's back. TF32, which is on by default, is switched off for the same reason.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.core.errors import MachineError

_LINES_KEPT = 20
_LINES_SHOWN = 3
_TYPES = {
    "fp32": ("fp32", "float"),
    "fp16": ("fp16", "half"),
    "bf16": ("bf16", "bfloat16"),
    "int8": ("int8",),
    "fp8": ("fp8",),
}
_COMPUTING = ("conv", "gemm", "matrixmultiply", "matmul")


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What an engine is built for: its input and the smallest, best and largest shape of it; equal shapes need no profile."""

    input: str
    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]
    optimisation_level: int = 3
    workspace_mib: int | None = None

    def as_facts(self) -> dict[str, object]:
        """Return the settings as plain JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A serialised engine, and the timing cache with what its build found out added."""

    engine: bytes
    timing_cache: bytes


def build(trt: Any, onnx: bytes, settings: BuildSettings, *, timing_cache: bytes = b"") -> Built:
    """Build an engine with the module `trt`; raise `MachineError` with TensorRT's own words if it cannot."""
    log = recorder(trt)
    builder = _started(trt.Builder, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, onnx)
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.smallest != settings.largest:
        profile = builder.create_optimization_profile()
        profile.set_shape(settings.input, min=settings.smallest, opt=settings.best, max=settings.largest)
        if config.add_optimization_profile(profile) < 0:
            raise _error("takes no engine for these shapes", log)
    config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _error("could not build an engine", log)
    return Built(engine=bytes(memoryview(engine)), timing_cache=bytes(memoryview(config.get_timing_cache().serialize())))


def load(trt: Any, engine: bytes) -> Any:
    """Return the engine of bytes that were built here; plug-ins and host code inside of it stay switched off."""
    log = recorder(trt)
    loaded = _started(trt.Runtime, log).deserialize_cuda_engine(engine)
    if loaded is None:
        raise _error("cannot load the engine that it built", log, mend="delete edgekd's folder of engines")
    return loaded


def executed_precision(trt: Any, engine: Any) -> str:
    """Return the types that an engine's convolutions and matrix products take, as its inspector says, or `unknown`."""
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return precision_of(told)


def precision_of(told: str) -> str:
    """Return the types of the first inputs of convolutions and products in an inspector's JSON, of either major version."""
    try:
        layers = json.loads(told).get("Layers", [])
    except (ValueError, AttributeError):
        return "unknown"
    found = {kind for layer in layers if isinstance(layer, dict) for kind in _layer_types(layer)}
    return "+".join(sorted(found)) or "unknown"


def _layer_types(layer: dict[str, Any]) -> Iterator[str]:
    kind = str(layer.get("LayerType", "")).lower()
    inputs = layer.get("Inputs") or [{}]
    if any(word in kind for word in _COMPUTING) and isinstance(inputs[0], dict):
        words = str(inputs[0].get("DataType") or inputs[0].get("Format/Datatype", "")).lower().split()
        yield from (name for name, spellings in _TYPES.items() if set(spellings) & set(words))


def recorder(trt: Any) -> Any:
    """Return a logger that keeps TensorRT's last warnings and errors (`lines`) and prints nothing."""

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=_LINES_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append(msg)

    return Recorder()


def _started(kind: Any, log: Any) -> Any:
    try:
        return kind(log)
    except (
        TypeError
    ) as error:  # what the bindings raise where the library behind them returns nothing, without a usable GPU say
        raise _error("cannot start", log, mend="look at `nvidia-smi`; TensorRT and driver must fit one another") from error


def _parse(trt: Any, network: Any, log: Any, onnx: bytes) -> None:
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = [f"node {error.node()} {error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        log.lines.extend(said)
        raise _error("cannot read the ONNX graph", log, mend="try another `opset`, or another student")


def _error(what: str, log: Any, *, mend: str = "try a lower `optimisation_level`, or another student") -> MachineError:
    said = "; ".join(list(log.lines)[-_LINES_SHOWN:]) or "it gave no reason"
    return MachineError(f"TensorRT {what}: {said}", mend=mend)

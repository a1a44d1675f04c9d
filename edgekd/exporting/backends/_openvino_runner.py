"""Opens a model with OpenVINO: a file of its own, for Python 3.9 with numpy and openvino, here and on devices."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_DEVICE = "CPU"
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8", "i8": "int8", "u8": "int8"}
_COMPUTING = {"Convolution", "FullyConnected", "MatMul"}
FREE_AXIS = "batch"


class Refusal(Exception):
    """What openvino cannot do, and how to mend it; `exit_code` is 4: the runtime."""

    def __init__(self, message: str, *, mend: str = "", exit_code: int = 4) -> None:
        super().__init__(message)
        self.message, self.mend, self.exit_code = message, mend, exit_code


class Session:
    """A model compiled for latency, one stream, with the precision pinned; it has no switch for spinning."""

    host_readable = True
    spin = None

    def __init__(self, path: str, *, precision: str, threads: int) -> None:
        import openvino  # type: ignore[import-untyped, unused-ignore]

        core = openvino.Core()
        hint = precision_hint(precision, core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))
        wanted = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
        }
        try:
            model = core.read_model(path)
            start_ns = time.perf_counter_ns()
            self.compiled: Any = core.compile_model(model, _DEVICE, wanted)
            self.compile_ns = time.perf_counter_ns() - start_ns
        except RuntimeError as error:
            raise Refusal(f"{path}: openvino {openvino.__version__} cannot load it: {reason(error)}") from error
        self._check_taken(path, hint=hint, threads=threads)
        self.executed_on = "+".join(self.compiled.get_property("EXECUTION_DEVICES"))
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        self.session_options = {key.lower(): str(value) for key, value in wanted.items()}
        self._request: Any = self.compiled.create_infer_request()
        self._tensor = openvino.Tensor
        self._outputs = range(len(self.compiled.outputs))
        image = self.compiled.inputs[0]
        sides = image.get_partial_shape()
        self.shape = tuple(side.get_length() if side.is_static else FREE_AXIS for side in sides)
        self.dtype = str(image.get_element_type().to_dtype().name)

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in, read from the compiled graph."""
        layers = [node.get_rt_info() for node in self.compiled.get_runtime_model().get_ops()]
        # The kernel's name ends in what it computes in; `runtimePrecision` may name the type of stored weights instead.
        kernels = [_plain(layer["primitiveType"]) for layer in layers if _plain(layer["layerType"]) in _COMPUTING]
        found = {_PRECISIONS.get(name, name) for name in (kernel.rpartition("_")[2] for kernel in kernels)}
        return "+".join(sorted(found)) or "unknown"

    def run(self, batch: Any) -> Any:
        """Return the model's answers to a batch of the model's own type."""
        # Not `infer([batch])`: looking up what was given and gathering the answers costs tens of microseconds in Python.
        contiguous = batch if batch.flags.c_contiguous else batch.copy()
        self._request.set_input_tensor(self._tensor(contiguous, shared_memory=True))
        self._request.infer(share_outputs=True)
        return [self._request.get_output_tensor(index).data.copy() for index in self._outputs]

    def close(self) -> None:
        """Free the runtime's memory."""
        self._request = None
        self.compiled = None

    def _check_taken(self, path: str, *, hint: str, threads: int) -> None:
        taken_threads = self.compiled.get_property("INFERENCE_NUM_THREADS")
        taken_hint = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if (taken_threads, taken_hint) != (threads, hint):
            raise Refusal(
                f"{path}: asked for {threads} threads and {hint}, openvino took {taken_threads} and {taken_hint}",
                mend="ask for no more threads than this machine has cores",
            )


def load_runtime() -> None:
    """Import openvino, without the package that would tell its maker of each import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: F401


def open(folder: str, files: Sequence[str], *, threads: int, options: Mapping[str, Any]) -> Session:
    """Compile the first of the files; of the options `precision` counts."""
    return Session(os.path.join(folder, files[0]), precision=str(options.get("precision", "fp32")), threads=threads)


def precision_hint(precision: str, capabilities: Collection[str]) -> str:
    """Return what to pin: float16 only on a CPU that computes it, else float32; asked for it elsewhere, openvino takes bf16."""
    return "f16" if precision == "fp16" and "FP16" in capabilities else "f32"


def reason(error: RuntimeError) -> str:
    """Return the last line of what openvino says, which is the one that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _plain(value: Any) -> str:
    return str(value.value if hasattr(value, "value") else value)

"""Opens an ONNX file with ONNX Runtime: a file of its own, for Python 3.9 with numpy and onnxruntime, here and on devices."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3
# Which input of a node holds its weights.
_WEIGHTS_AT = dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"), 1)
_WEIGHTS_AT.update(dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3))
_WEIGHTS_AT["MatMulIntegerToFloat"] = 1
_PRECISIONS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 16: "bf16"}  # TensorProto.DataType
_COMPLAINTS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException")


class Refusal(Exception):
    """What onnxruntime cannot do, and how to mend it; `exit_code` is 4: the runtime."""

    def __init__(self, message: str, *, mend: str = "", exit_code: int = 4) -> None:
        super().__init__(message)
        self.message, self.mend, self.exit_code = message, mend, exit_code


class Session:
    """A loaded model on the CPU provider and on no other."""

    executed_on = "CPU"
    host_readable = True
    compile_ns = None

    def __init__(self, path: str, *, threads: int, spin: bool) -> None:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]

        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.spin = spin
        self._path = path
        self._complaints = complaints()
        self._session = load(path, threads=threads, spin=spin)
        image = self._session.get_inputs()[0]
        self.shape = tuple(image.shape)
        self.dtype = "uint8" if image.type == "tensor(uint8)" else "float32"
        self._name = image.name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.session_options = {
            "providers": ",".join(self._session.get_providers()),
            "intra_op_num_threads": str(threads),
            "inter_op_num_threads": "1",
            "allow_spinning": str(int(spin)),
            "set_denormal_as_zero": "0",
            "graph_optimization_level": "all",
        }
        self._precision = ""

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in; looked up when asked, it costs a second load.

        Where the CPU provider has no float16 kernel it widens the weights and computes in float32.
        """
        if not self._precision:
            self._precision = executed_precision(self._path)
        return self._precision

    def run(self, batch: Any) -> Any:
        """Return the model's answers to a batch."""
        try:
            return self._session.run(self._outputs, {self._name: batch})
        except self._complaints as error:
            raise Refusal(f"{self._path}: {self.runtime} cannot run it: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Free the runtime's memory."""
        self._session = None


def load_runtime() -> None:
    """Import onnxruntime."""
    import onnxruntime  # noqa: F401


def open(folder: str, files: Sequence[str], *, threads: int, options: Mapping[str, Any]) -> Session:
    """Load the first of the files; of the options `spin` counts, whether idle threads wait busily for work."""
    return Session(os.path.join(folder, files[0]), threads=threads, spin=bool(options.get("spin", True)))


def load(path: str, *, threads: int, spin: bool = True, optimised: str = "") -> Any:
    """Return onnxruntime's own session of a file; with `optimised` it also writes the graph that it runs there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    if optimised:
        options.optimized_model_filepath = optimised
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS, enable_fallback=0)
    except complaints() as error:
        raise Refusal(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {str(error).splitlines()[0]}",
            mend="export it again with this onnxruntime, or with an older `opset`",
        ) from error
    if session.get_providers() != _PROVIDERS:
        raise Refusal(f"{path}: asked for {_PROVIDERS}, onnxruntime took {session.get_providers()}")
    return session


def complaints() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises when it cannot load or run a model; its errors have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # type: ignore[import-untyped, unused-ignore]

    return (RuntimeError, *(getattr(native, name) for name in _COMPLAINTS))


def executed_precision(path: str) -> str:
    """Return the types of the weights that reach the kernels in the graph that the session runs, widest first."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = os.path.join(folder, "model.onnx")
        load(path, threads=1, optimised=optimised)
        with _opened(optimised) as file:
            graph = _message(_first(file.read(), 7))  # ModelProto.graph
    types = {_text(tensor, 8): _number(tensor, 2) for tensor in map(_message, graph.get(5, []))}  # name, data_type
    used = []
    for node in map(_message, graph.get(1, [])):  # in topological order
        inputs = [bytes(name).decode() for name in node.get(1, [])]
        outputs = [bytes(name).decode() for name in node.get(2, [])]
        kind = _text(node, 4)
        if kind == "Cast":
            attributes = [_message(attribute) for attribute in node.get(5, [])]
            types[outputs[0]] = next(_number(a, 3) for a in attributes if _text(a, 1) == "to")
        elif outputs and inputs:
            types[outputs[0]] = types.get(inputs[0], 0)
        if kind in _WEIGHTS_AT:
            used.append(types.get(inputs[_WEIGHTS_AT[kind]], 0))
    found = [_PRECISIONS.get(kind, f"type {kind}") for kind in sorted(used)]
    return "+".join(dict.fromkeys(found)) or "unknown"


# ---------------------------------------------------------------- just enough of protobuf: a device need not have `onnx`
Message = Mapping[int, "list[Any]"]


def _message(data: Any) -> Message:
    found: dict[int, list[Any]] = {}
    for number, value in _fields(memoryview(data)):
        found.setdefault(number, []).append(value)
    return found


def _first(data: Any, number: int) -> Any:
    return next(value for found, value in _fields(memoryview(data)) if found == number)


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield number, data[at : at + length]
        at += length


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _text(message: Message, number: int) -> str:
    return bytes(message[number][0]).decode() if number in message else ""


def _number(message: Message, number: int) -> int:
    return int(message[number][0]) if number in message else 0


def _opened(path: str) -> Any:
    import builtins

    return builtins.open(path, "rb")

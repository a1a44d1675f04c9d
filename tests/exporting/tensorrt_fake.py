"""A `tensorrt` module and a CUDA driver that only pretend, so that every call of the backend is exercised without a GPU.

The module offers exactly what tensorrt_signatures.json recorded from the real one: another name, or a call that the real
signature would not take, is an error. Its "engine" is the ONNX graph and onnxruntime computes; nothing here says anything about
TensorRT's answers or speed. The driver does no work before `cuStreamSynchronize`, so an answer that is read too early is wrong,
and it refuses threads that have not made its context theirs.
"""

import ctypes
import inspect
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from edgekd.core import gpu

SIGNATURES = json.loads(Path(__file__).with_name("tensorrt_signatures.json").read_text(encoding="utf-8"))
VERSIONS = tuple(SIGNATURES)
NAMES_IN_LAYERS = {"float": "FP32", "float16": "FP16"}


# ----------------------------------------------------------------------------------------------------------------- driver
class FakeCuda:
    """libcuda as far as edgekd calls it: memory is the host's, work waits for the stream to be synchronised."""

    INVALID_CONTEXT, NO_DEVICE = 201, 100

    def __init__(self, *, name: str = "Fake GPU", uuid: bytes = b"0123456789abcdef", devices: int = 1) -> None:
        self.name, self.uuid, self.devices = name, uuid, devices
        self.memory: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.streams = self.contexts = self.synchronised = 0
        self.current = set[int]()
        self.fails: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: self.fails.get(name) or getattr(self, f"_{name}")(*arguments) or 0

    def _cuInit(self, flags: Any) -> None:
        assert flags.value == 0

    def _cuGetErrorString(self, code: Any, text: Any) -> None:
        text._obj.value = f"fake error {code.value}".encode()

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cuDeviceGet(self, device: Any, ordinal: Any) -> None:
        device._obj.value = ordinal.value

    def _cuDeviceGetName(self, text: Any, length: Any, device: Any) -> None:
        text.value = self.name.encode()

    def _cuDeviceGetUuid(self, raw: Any, device: Any) -> None:
        raw.raw = self.uuid

    def _cuDeviceTotalMem_v2(self, size: Any, device: Any) -> None:
        size._obj.value = 8 << 30

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 13020

    def _cuDeviceGetAttribute(self, value: Any, number: Any, device: Any) -> None:
        value._obj.value = {75: 8, 76: 7}[number.value]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        context._obj.value = 77
        self.contexts += 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> None:
        self.contexts -= 1

    def _cuCtxSetCurrent(self, context: Any) -> None:
        assert context.value == 77
        self.current.add(threading.get_ident())

    def _cuStreamCreate(self, stream: Any, flags: Any) -> int:
        assert flags.value == 1
        stream._obj.value = 1234
        self.streams += 1
        return self._in_context()

    def _cuStreamDestroy_v2(self, stream: Any) -> int:
        self.streams -= 1
        return self._in_context()

    def _cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        return self._allocate(self.memory, address, size)

    def _cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> int:
        return self._allocate(self.host, address, size)

    def _cuMemFree_v2(self, address: Any) -> int:
        del self.memory[address.value]
        return self._in_context()

    def _cuMemFreeHost(self, address: Any) -> int:
        del self.host[address.value]
        return self._in_context()

    def _cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(to.value, source.value, size.value, stream)

    def _cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(to.value, source.value, size.value, stream)

    def _cuStreamSynchronize(self, stream: Any) -> int:
        while self.queue:
            self.queue.pop(0)()
        self.synchronised += 1
        return self._in_context()

    def array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 numbers of the device's memory."""
        assert 4 * int(np.prod(shape)) <= len(self.memory[address])
        return np.frombuffer(self.memory[address], dtype=np.float32, count=int(np.prod(shape))).reshape(shape)

    def _in_context(self) -> int:
        return 0 if threading.get_ident() in self.current else self.INVALID_CONTEXT

    def _allocate(self, book: dict[int, Any], address: Any, size: Any) -> int:
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        book[address._obj.value] = buffer
        return self._in_context()

    def _copy(self, to: int, source: int, size: int, stream: Any) -> int:
        assert stream.value == 1234
        held = {**self.memory, **self.host}
        assert size <= len(held[to])
        assert size <= len(held[source])
        self.queue.append(lambda: ctypes.memmove(to, source, size) and None)
        return self._in_context()


# -------------------------------------------------------------------------------------------------------------- behaviour
class Behaviour:
    """What the fake's methods do, by class and name; parameters are called as in the real signatures."""

    def __init__(self, fake: ModuleType, cuda: FakeCuda) -> None:
        self.fake, self.cuda = fake, cuda

    def Builder_create_network(self, me: Any, flags: int = 0) -> Any:
        assert flags == 1 << self.fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED, "the network must be strongly typed"
        return SimpleNamespace(onnx=None)

    def Builder_create_builder_config(self, me: Any) -> Any:
        config = self.fake.IBuilderConfig()
        config._flags, config._profiles, config._cache = {self.fake.BuilderFlag.TF32}, [], None
        return config

    def Builder_create_optimization_profile(self, me: Any) -> Any:
        return self.fake.IOptimizationProfile()

    def Builder_build_serialized_network(self, me: Any, network: Any, config: Any) -> bytearray | None:
        self.fake.builds += 1
        if self.fake.refuses:
            me._logger.log(self.fake.ILogger.ERROR, self.fake.refuses)
            return None
        shapes = config._profiles[0]._shapes if config._profiles else None
        config._cache._content += b"+timed"
        settings = {"shapes": shapes, "tf32": bool(config._flags), "level": config.builder_optimization_level}
        return bytearray(json.dumps(settings).encode() + b"\n" + network.onnx)

    def IBuilderConfig_clear_flag(self, me: Any, flag: int) -> None:
        me._flags.remove(flag)

    def IBuilderConfig_set_memory_pool_limit(self, me: Any, pool: int, pool_size: int) -> None:
        self.fake.workspace_bytes = pool_size

    def IBuilderConfig_add_optimization_profile(self, me: Any, profile: Any) -> int:
        me._profiles.append(profile)
        return len(me._profiles) - 1

    def IBuilderConfig_create_timing_cache(self, me: Any, serialized_timing_cache: bytes) -> Any:
        cache = self.fake.ITimingCache()
        cache._content = bytes(serialized_timing_cache)
        return cache

    def IBuilderConfig_set_timing_cache(self, me: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        me._cache = cache
        return True

    def IBuilderConfig_get_timing_cache(self, me: Any) -> Any:
        return me._cache

    def ITimingCache_serialize(self, me: Any) -> bytearray:
        return bytearray(me._content)

    def IOptimizationProfile_set_shape(self, me: Any, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        assert all(low <= best <= high for low, best, high in zip(min, opt, max, strict=True))
        me._shapes = [list(min), list(opt), list(max)]

    def OnnxParser_parse(self, me: Any, model: bytes, path: str | None = None) -> bool:
        try:
            onnxruntime.InferenceSession(bytes(model), providers=["CPUExecutionProvider"])
        except (native.Fail, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented) as error:
            me._errors = [str(error).splitlines()[0]]
            return False
        me._network.onnx = bytes(model)
        return True

    def OnnxParser_get_error(self, me: Any, index: int) -> Any:
        error = self.fake.ParserError()
        error._text = me._errors[index]
        return error

    def ParserError_desc(self, me: Any) -> str:
        return str(me._text)

    def ParserError_node(self, me: Any) -> int:
        return 7

    def ParserError_node_name(self, me: Any) -> str:
        return "node_7"

    def ParserError_node_operator(self, me: Any) -> str:
        return "Conv"

    def Runtime_deserialize_cuda_engine(self, me: Any, serialized_engine: bytes) -> Any:
        settings, _, onnx = bytes(serialized_engine).partition(b"\n")
        engine = self.fake.ICudaEngine()
        engine._settings, engine._onnx = json.loads(settings), onnx
        engine._run = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        return engine

    def ICudaEngine_create_engine_inspector(self, me: Any) -> Any:
        inspector = self.fake.EngineInspector()
        inspector._engine = me
        return inspector

    def ICudaEngine_create_execution_context(self, me: Any) -> Any:
        context = self.fake.IExecutionContext()
        context._engine, context._addresses, context._shape = me, {}, None
        return context

    def ICudaEngine_get_tensor_shape(self, me: Any, name: str) -> tuple[int, ...]:
        (port,) = [p for p in (*me._run.get_inputs(), *me._run.get_outputs()) if p.name == name]
        return tuple(side if isinstance(side, int) else -1 for side in port.shape)

    def EngineInspector_get_engine_information(self, me: Any, format: int) -> str:  # noqa: A002
        weights = {tensor.data_type for tensor in onnx.load_model_from_string(me._engine._onnx).graph.initializer}
        kind = (
            "int8" if b"QuantizeLinear" in me._engine._onnx else "float16" if onnx.TensorProto.FLOAT16 in weights else "float"
        )
        if self.fake.__version__.startswith("10."):
            told = {"Format/Datatype": f"Row major linear {NAMES_IN_LAYERS.get(kind, 'Int8')} format"}
        else:
            told = {"Format": "Row major linear (kLINEAR)", "DataType": {"float": "Float", "float16": "Half"}.get(kind, "Int8")}
        layers = [{"Name": "cast", "LayerType": "Reformat"}, {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [told]}]
        return json.dumps({"Layers": layers})

    def IExecutionContext_set_tensor_address(self, me: Any, name: str, memory: int) -> bool:
        me._addresses[name] = memory
        return True

    def IExecutionContext_set_input_shape(self, me: Any, name: str, shape: tuple[int, ...]) -> bool:
        shapes = me._engine._settings["shapes"]
        wanted = self.ICudaEngine_get_tensor_shape(me._engine, name)
        fits = (
            all(low <= side <= high for low, side, high in zip(shapes[0], shape, shapes[2], strict=True))
            if shapes
            else (tuple(shape) == wanted)
        )
        me._shape = tuple(shape) if fits else None
        return fits

    def IExecutionContext_execute_async_v3(self, me: Any, stream_handle: int) -> bool:
        assert stream_handle == 1234
        shape, engine, addresses = me._shape, me._engine, me._addresses
        classes = engine._run.get_outputs()[0].shape[1]

        def work() -> None:
            (logits_BK,) = engine._run.run(["logits"], {"image": self.cuda.array(addresses["image"], shape)})
            self.cuda.array(addresses["logits"], (shape[0], classes))[:] = logits_BK

        self.cuda.queue.append(work)
        return shape is not None


# ----------------------------------------------------------------------------------------------------------------- module
def bind(overloads: list[list[str]], arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by name, as the first overload that takes them names them; TypeError if none does."""
    for overload in overloads:
        given = [
            inspect.Parameter(
                name.rstrip("="),
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if name.endswith("=") else inspect.Parameter.empty,
            )
            for name in overload
        ]
        try:
            return dict(inspect.Signature(given).bind(*arguments, **options).arguments)
        except TypeError:
            continue
    raise TypeError(f"no overload of {overloads} takes {arguments} {options}")


def fake_module(version: str, cuda: FakeCuda) -> Any:
    """Return a module that has what the real one of this version has, as far as it was recorded."""
    recorded: dict[str, Any] = SIGNATURES[version]
    fake: Any = ModuleType("tensorrt")
    fake.__version__, fake.__spec__ = version, ModuleSpec("tensorrt", None)
    fake.used, fake.builds, fake.refuses, fake.workspace_bytes = set[tuple[str, str]](), 0, "", None
    behaviour = Behaviour(fake, cuda)
    for name, members in recorded["enums"].items():
        values = {
            member: property(lambda _, n=name, m=member, v=value: fake.used.add((n, m)) or v)
            for member, value in members.items()
        }
        setattr(fake, name, type(name, (), values)())
    for name, members in recorded["classes"].items():
        setattr(fake, name, _class(fake, name, members, behaviour))
    return fake


def _class(fake: Any, name: str, members: dict[str, Any], behaviour: Behaviour) -> type:
    properties = {member for member, kind in members.items() if kind == "property"}

    def method(member: str, overloads: list[list[str]]) -> Any:
        def call(me: Any, *arguments: Any, **options: Any) -> Any:
            fake.used.add((name, member))
            bound = bind(overloads, arguments, options)
            if member == "__init__":
                vars(me).update({f"_{key}": value for key, value in bound.items()})
                return None
            return getattr(behaviour, f"{name}_{member}")(me, **bound)

        return call

    def setter(me: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_") and attribute not in properties and name != "ILogger":
            raise AttributeError(f"{name} has no attribute {attribute}")
        fake.used.add((name, attribute))
        object.__setattr__(me, attribute, value)

    space: dict[str, Any] = {m: method(m, kind) for m, kind in members.items() if isinstance(kind, list)}
    if name == "ILogger":
        space |= {member: member for member, kind in members.items() if kind == "constant"}
        fake.used |= {(name, member) for member in members}
    if name == "OnnxParser":
        space["num_errors"] = property(lambda me: fake.used.add((name, "num_errors")) or len(me._errors))
    return type(name, (), {**space, "__setattr__": setter})


@contextmanager
def installed(version: str = VERSIONS[-1], **options: Any) -> Iterator[Any]:
    """Put module and driver where the backend finds them; gives the module, whose `cuda` is the driver."""
    cuda = FakeCuda(**options)
    module = fake_module(version, cuda)
    module.cuda = cuda
    before, library = sys.modules.get("tensorrt"), gpu._library
    sys.modules["tensorrt"] = module
    gpu._library = lambda: cuda
    try:
        yield module
    finally:
        gpu._library = library
        sys.modules.pop("tensorrt")
        if before is not None:
            sys.modules["tensorrt"] = before

"""The engine of an ONNX graph on this machine: the one that was built here before, or built now and kept.

An engine is found again by everything that it depends on: the graph's sha256, the build's settings, TensorRT's version and the
GPU. Beside each stands a .json with these facts for people; nothing reads it. Builds are not deterministic to the byte, so the
file that parity was found with is kept and used, not built anew.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import host
from edgekd.core.errors import MachineError
from edgekd.core.store import write_text
from edgekd.exporting import tensorrt_build, trtexec
from edgekd.exporting.engine_store import EngineStore, default_folder
from edgekd.exporting.interface import INPUT
from edgekd.exporting.tensorrt_build import BuildSettings

if TYPE_CHECKING:
    from onnx import ModelProto

_ENGINE, _TIMING = "engine", "timing"


def read_graph(path: Path) -> tuple[bytes, tuple[int | str, ...]]:
    """Return an exported graph's bytes and the shape of its images; raise `MachineError` if it is not such a graph."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from edgekd.exporting import graph

    try:
        content = path.read_bytes()
        model: ModelProto = onnx.load_model_from_string(content)
        (image,), _ = graph.interface(model)
    except (OSError, DecodeError, ValueError) as error:
        raise MachineError(f"{path}: is not the graph that was exported: {error}", mend="export it again") from error
    if image.name != INPUT or not all(isinstance(side, int) for side in image.shape[1:]):
        raise MachineError(f"{path}: takes {image.name} of shape {image.shape}, which edgekd did not export")
    return content, image.shape


def by_bindings(trt: Any, onnx: bytes, settings: BuildSettings, *, gpu: Mapping[str, object]) -> bytes:
    """Return the engine through TensorRT's Python module; its timing cache is kept for the next build of any graph."""
    machine = {"tensorrt": trt.__version__, "gpu": dict(gpu)}
    of = {"onnx_sha256": hashlib.sha256(onnx).hexdigest(), "settings": settings.as_facts(), **machine}
    store = _store()
    kept = store.read(_ENGINE, of)
    if kept is not None:
        return kept
    built = tensorrt_build.build(trt, onnx, settings, timing_cache=store.read(_TIMING, machine) or b"")
    store.write(_TIMING, machine, built.timing_cache)
    _keep(store, of, built.engine)
    return built.engine


def by_trtexec(program: str, onnx: bytes, settings: BuildSettings, *, gpu: Mapping[str, object]) -> tuple[bytes, str]:
    """Return the engine through trtexec, and TensorRT's version; raise `MachineError` if trtexec fails or tells no version."""
    version = trtexec.version(trtexec.call([program, "--help"], timeout_s=trtexec.RUN_TIMEOUT_S))
    if not version:
        raise MachineError(f"{program} does not say that it is of TensorRT 10 or later", mend="install TensorRT 10 or 11")
    machine = {"trtexec": version, "gpu": dict(gpu)}
    of = {"onnx_sha256": hashlib.sha256(onnx).hexdigest(), "settings": settings.as_facts(), **machine}
    store = _store()
    kept = store.read(_ENGINE, of)
    if kept is None:
        with private_file("model.onnx", onnx) as model:
            engine, timing = model.with_name("model.engine"), model.with_name("timing.cache")
            timing.write_bytes(store.read(_TIMING, machine) or b"")
            command = trtexec.build_command(program, onnx=model, engine=engine, settings=settings, timing_cache=timing)
            said = trtexec.call(command, timeout_s=trtexec.BUILD_TIMEOUT_S)
            if not engine.is_file():
                raise MachineError(f"{program} wrote no engine; it said last: {said.strip().splitlines()[-1:]}")
            kept = engine.read_bytes()
            if timing.is_file() and timing.stat().st_size:
                store.write(_TIMING, machine, timing.read_bytes())
        _keep(store, of, kept)
    return kept, version


@contextmanager
def private_file(name: str, content: bytes) -> Iterator[Path]:
    """Give a file in a folder that only this user can enter, and that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgekd-tensorrt-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def _store() -> EngineStore:
    return EngineStore(default_folder(host.cache_folder()))


def _keep(store: EngineStore, of: Mapping[str, object], engine: bytes) -> None:
    path = store.write(_ENGINE, of, engine)
    write_text(path.with_name(f"{path.name}.json"), json.dumps({**of, "engine_bytes": len(engine)}, indent=1) + "\n")

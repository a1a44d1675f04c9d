"""Write tensorrt_signatures.json anew: which of TensorRT's Python names edgekd uses, and how each is called, by version.

Run by hand, when the backend calls something new or TensorRT has a new version:

    python record_tensorrt_signatures.py FOLDER_OF_BINDINGS...

Each folder is an unpacked wheel of `tensorrt-cu12-bindings` (10) or `tensorrt-cu13-bindings` (11). The module needs TensorRT's
libraries only to load, not to be looked at: shared objects called libnvinfer, libnvinfer_plugin and libnvonnxparser that define
the nine functions which `nm -D --undefined-only tensorrt.so` lists are enough, on LD_LIBRARY_PATH. One run takes one folder.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

USED: dict[str, tuple[str, ...]] = {
    "Builder": (
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "EngineInspector": ("get_engine_information",),
    "IBuilderConfig": (
        "add_optimization_profile",
        "builder_optimization_level",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "profiling_verbosity",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ICudaEngine": ("create_engine_inspector", "create_execution_context", "get_tensor_shape"),
    "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
    "ILogger": ("__init__", "log", "ERROR", "INTERNAL_ERROR", "WARNING"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "OnnxParser": ("__init__", "parse", "get_error", "num_errors"),
    "ParserError": ("desc", "node", "node_name", "node_operator"),
    "Runtime": ("__init__", "deserialize_cuda_engine"),
}
ENUMS = {
    "BuilderFlag": ("TF32",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "ProfilingVerbosity": ("DETAILED",),
}
SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((self: .*)\) -> ", re.MULTILINE)


def parameters(doc: str) -> list[list[str]]:
    """Return the parameters of every overload without self; one with a default ends in `=`."""
    overloads = []
    for found in SIGNATURE.finditer(doc):
        parts = re.split(r", (?=\w+: )", found[1])[1:]
        overloads.append([part.partition(":")[0] + ("=" if " = " in part else "") for part in parts])
    return overloads


def recorded(trt: Any) -> dict[str, Any]:
    """Return the used names of a module: methods with their overloads, properties and constants by their kind."""
    classes: dict[str, Any] = {}
    for name, members in USED.items():
        cls = getattr(trt, name)
        classes[name] = {}
        for member in members:
            doc = getattr(getattr(cls, member), "__doc__", None) or ""
            if isinstance(vars(cls).get(member), property):
                classes[name][member] = "property"
            else:
                classes[name][member] = parameters(doc) or "constant"
    enums = {name: {m: int(getattr(getattr(trt, name), m)) for m in members} for name, members in ENUMS.items()}
    return {"classes": classes, "enums": enums}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    module = importlib.import_module("tensorrt_bindings")
    path = Path(__file__).with_name("tensorrt_signatures.json")
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[module.__version__] = recorded(module)
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1, sort_keys=True) + "\n", encoding="utf-8")

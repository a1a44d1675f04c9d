"""A torch program as data: the traced operators as JSON, the weights as safetensors.

torch's own archives cannot be opened without trust: their loader unpickles and evaluates text from the file. Here the only
operators that can be named are those of torch's `aten` library that make tensors from values, and a few of Python's; the
weights are plain numbers.

Axes: B batch, C channels, H height, W width, K classes.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekd.core.contracts import Exportable
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.records import TensorSpec
from edgekd.exporting.graph import free_batch, quiet_torch
from edgekd.exporting.interface import FREE_BATCH, INPUT, Batch, outputs_of, properties, sample_of

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

SCHEMA = 1
_PYTHON: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "mod")
}
_ATEN = re.compile(r"aten\.([a-z0-9_]+)\.([A-Za-z0-9_]+)")
_TORCH_NAMES = {  # how arguments that are neither numbers, texts nor tensors are spelled
    "dtype": ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"),
    "layout": ("strided",),
    "memory_format": ("contiguous_format", "channels_last", "preserve_format"),
}


def write(exportable: Exportable, batch: Batch) -> tuple[bytes, bytes]:
    """Trace the student and return (program JSON, weights safetensors); the same weights give the same bytes.

    Raises `UsageError` if the student cannot be traced or uses what a program cannot hold.
    """
    import torch
    from safetensors.torch import save

    sample_BCHW = sample_of(exportable, batch)
    try:
        with quiet_torch(), torch.no_grad():
            traced = torch.export.export(exportable.module, (sample_BCHW,), dynamic_shapes=free_batch(batch))
            answers = exportable.module(sample_BCHW)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"this student cannot be traced by torch.export: {reason}") from error
    tensors = _tensors(traced)
    size: int | str = FREE_BATCH if batch == "dynamic" else batch
    several = answers if isinstance(answers, tuple) else (answers,)
    specs = [
        [name, [size, *answer_BK.shape[1:]], "float32"] for name, answer_BK in zip(outputs_of(exportable), several, strict=True)
    ]
    program = {
        "program": SCHEMA,
        "input": [INPUT, [size, *sample_BCHW.shape[1:]], "float32"],
        "output": specs[0],
        "about": properties(exportable),
        "tensors": sorted(tensors),
        **_steps(traced, known=set(tensors), further=specs[1:]),
    }
    return (json.dumps(program, indent=1, ensure_ascii=False) + "\n").encode(), save(tensors)


class Program:
    """A traced student, ready to run."""

    def __init__(self, text: bytes, weights: bytes) -> None:
        """Read what `write` returned; raise `IntegrityError` for anything else."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("program") != SCHEMA:
                raise IntegrityError(f"not a torch program of schema {SCHEMA}", mend="export it again")
            self.tensors: dict[str, torch.Tensor] = load(weights)
            self.input, self.output = _read_spec(data["input"]), _read_spec(data["output"])
            self._feed = str(data["feed"])
            self._answers = [str(data["answer"]), *(str(entry["answer"]) for entry in data.get("further", []))]
            self.further = tuple(_read_spec(entry["output"]) for entry in data.get("further", []))
            self._steps = [_Step(step) for step in data["steps"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise IntegrityError(f"not a valid torch program: {error}", mend="export it again") from error
        self._check_order()

    def __call__(self, image_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Return logits_BK."""
        return self.answers(image_BCHW)[0]

    def answers(self, image_BCHW: "torch.Tensor") -> "list[torch.Tensor]":
        """Return logits_BK, and those of each further head."""
        values: dict[str, Any] = {**self.tensors, self._feed: image_BCHW}
        for step in self._steps:
            values[step.name] = step.run(values)
            for name in step.last_use_of:
                del values[name]
        return [values[name] for name in self._answers]

    def _check_order(self) -> None:
        """Check that every value is made before it is used, and note where each is used last so that it can be freed."""
        made = {*self.tensors, self._feed}
        last: dict[str, _Step] = {}
        for step in self._steps:
            missing = [name for name in step.uses if name not in made]
            if missing or step.name in made:
                raise IntegrityError(f"not a valid torch program: step {step.name!r} uses {missing} or comes twice")
            made.add(step.name)
            last |= dict.fromkeys([*step.uses, step.name], step)
        for answer in self._answers:
            if answer not in made:
                raise IntegrityError(f"not a valid torch program: nothing makes its answer {answer!r}")
        for name, step in last.items():
            if name not in self.tensors and name not in self._answers:
                step.last_use_of.append(name)


class _Step:
    """One operator call; `args` may hold `_Value`s, which stand for what earlier steps made."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.name = str(data["name"])
        self.uses: list[str] = []
        self.last_use_of: list[str] = []
        self._call = _operator(str(data["call"]))
        self._args = [self._read(arg) for arg in data["args"]]
        self._kwargs = {str(key): self._read(arg) for key, arg in data.get("kwargs", {}).items()}

    def run(self, values: Mapping[str, Any]) -> Any:
        args = [_filled(arg, values) for arg in self._args]
        return self._call(*args, **{key: _filled(arg, values) for key, arg in self._kwargs.items()})

    def _read(self, arg: Any) -> Any:
        if isinstance(arg, list):
            return [self._read(item) for item in arg]
        if not isinstance(arg, dict):
            return arg
        ((kind, name),) = arg.items()
        if kind == "value":
            self.uses.append(str(name))
            return _Value(name)
        return _torch_object(kind, str(name))


class _Value(str):
    """The name of something that an earlier step made."""


def _filled(arg: Any, values: Mapping[str, Any]) -> Any:
    if type(arg) is _Value:
        return values[arg]
    return [_filled(item, values) for item in arg] if type(arg) is list else arg


def _operator(name: str) -> Callable[..., Any]:
    import torch

    if name in _PYTHON:
        return _PYTHON[name]
    matched = _ATEN.fullmatch(name)
    found: Any = getattr(getattr(torch.ops.aten, matched[1], None), matched[2], None) if matched else None
    if not isinstance(found, torch._ops.OpOverload) or not _makes_tensors(found) or _reads_files(found):
        raise IntegrityError(f"a torch program may not call {name!r}: only operators of aten that compute")
    return found


def _makes_tensors(called: Any) -> bool:
    """Tell computing operators from those that assert, print, seed or save; sizes are numbers that reshapes need."""
    schema = called._schema
    return schema.name.startswith("aten::sym_") or any("Tensor" in str(value.type) for value in schema.returns)


def _reads_files(called: Any) -> bool:
    return any(argument.name == "filename" for argument in called._schema.arguments)


def _torch_object(kind: str, name: str) -> Any:
    import torch

    if kind == "device" and name == "cpu":
        return torch.device("cpu")
    if name not in _TORCH_NAMES.get(kind, ()):
        raise IntegrityError(f"a torch program may not hold the {kind} {name!r}")
    return getattr(torch, name)


# --------------------------------------------------------------------------------------------------------------- writing
def _tensors(traced: "ExportedProgram") -> "dict[str, torch.Tensor]":
    """Return the weights and constants that the program uses, by the name that its steps know them by."""
    signature = traced.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    used = {node.name for node in traced.graph.nodes if node.op == "placeholder" and node.users}
    stored: dict[str, Any] = {**traced.constants, **traced.state_dict}
    return {name: stored[key].detach().clone().contiguous() for name, key in names.items() if name in used}


def _steps(traced: "ExportedProgram", *, known: set[str], further: list[list[Any]]) -> dict[str, Any]:
    nodes = list(traced.graph.nodes)
    feeds = [node.name for node in nodes if node.op == "placeholder" and node.name in traced.graph_signature.user_inputs]
    calls = [node for node in nodes if node.op == "call_function" and not _only_asserts(node)]
    made = {*known, *feeds, *(node.name for node in calls)}
    steps = []
    for node in calls:
        step = {"name": node.name, "call": _called(node.target), "args": [_written(arg, made) for arg in node.args]}
        if node.kwargs:
            step["kwargs"] = {key: _written(arg, made) for key, arg in node.kwargs.items()}
        steps.append(step)
    answer, *others = traced.graph_signature.user_outputs
    (feed,) = feeds
    told = [{"output": spec, "answer": other} for spec, other in zip(further, others, strict=True)]
    return {"feed": feed, "steps": steps, "answer": answer, **({"further": told} if told else {})}


def _only_asserts(node: Any) -> bool:
    return hasattr(node.target, "_schema") and not node.target._schema.returns and not node.users


def _called(target: Any) -> str:
    name = str(target)
    if _ATEN.fullmatch(name):
        return name
    for spelled, function in _PYTHON.items():
        if target is function:
            return spelled
    raise UsageError(f"this student calls {name}, which a torch program cannot hold", mend="leave out backend torch")


def _written(arg: Any, made: set[str]) -> Any:
    import torch

    if isinstance(arg, torch.fx.Node) and arg.name in made:
        return {"value": arg.name}
    if isinstance(arg, list | tuple):
        return [_written(item, made) for item in arg]
    if arg is None or isinstance(arg, bool | int | str) or (isinstance(arg, float) and math.isfinite(arg)):
        return arg
    if isinstance(arg, torch.device) and arg.type == "cpu":
        return {"device": "cpu"}
    kind, _, name = f"{type(arg).__name__}.{str(arg).removeprefix('torch.')}".partition(".")
    if name in _TORCH_NAMES.get(kind, ()):
        return {kind: name}
    raise UsageError(f"this student uses {arg!r}, which a torch program cannot hold", mend="leave out backend torch")


def _read_spec(data: Any) -> TensorSpec:
    name, shape, dtype = data
    return TensorSpec(name=name, shape=tuple(shape), dtype=dtype)

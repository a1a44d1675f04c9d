"""A foreign ONNX graph in the form that every exported model has, and the same file as it came behind a student's interface.

The graph itself is not changed. Operators in front of it turn the house's input (image_BCHW, RGB in [0, 1]) into what it takes,
as its contract says, and its answer becomes `logits`. How well that was understood is measured, not believed: an artifact's
parity is with the file as it came, fed by numpy.

Axes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.contracts import Student
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.records import Checkpoint, InputContract
from edgekd.exporting import inspect
from edgekd.exporting.foreign import DTYPES, Interface
from edgekd.exporting.interface import FREE_BATCH, INPUT, OUTPUT

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto
    from torch import nn

    Array = np.ndarray[Any, Any]

OLDEST_OPSET = 7
_OWN = "edgekd/"
_ELEMENTS = {dtype: number for number, dtype in DTYPES.items()}
_SMALLEST = 1e-30  # a probability that a float32 still holds


def adapt(model: "ModelProto", interface: Interface, *, size_px: tuple[int, int], classes: int) -> "ModelProto":
    """Return a copy of the graph with one input `image` (float32 BCHW, RGB in [0, 1]) and one output `logits` (float32 BK)."""
    import onnx
    from onnx import TensorProto, compose, helper

    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    if _opset(adapted) < OLDEST_OPSET:
        raise UsageError(f"the model is of opset {_opset(adapted)}; {OLDEST_OPSET} is the oldest that can be taken")
    fed, answer = interface.input, interface.output
    if {INPUT, OUTPUT} & _names(adapted):
        adapted = compose.add_prefix(adapted, "model/")
        fed, answer = f"model/{fed}", f"model/{answer}"
    graph = adapted.graph
    before, after = _in_front(interface, fed), _behind(interface, answer)
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    batch = interface.batch or FREE_BATCH
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, *size_px]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes]))
    # Before IR 4 weights had to be inputs, too; from then on they need not, and runtimes may fold them.
    adapted.ir_version = max(adapted.ir_version, 4)
    return adapted


def _in_front(interface: Interface, fed: str) -> "list[NodeProto]":
    """Return the operators that turn `image` into what the graph is fed."""
    import numpy as np
    from onnx import helper

    chain = _Chain(INPUT)
    if interface.channels == "BGR":
        chain.add("Gather", np.array([2, 1, 0]), axis=1)
    order = [2, 1, 0] if interface.channels == "BGR" else [0, 1, 2]
    if not interface.is_plain:
        mean, std = (np.array(values, np.float32)[order].reshape(1, 3, 1, 1) for values in (interface.mean, interface.std))
        chain.add("Sub", mean)
        chain.add("Div", std)
    if interface.dtype == "uint8":
        chain.add("Mul", np.float32(255))
        chain.add("Add", np.float32(0.5))  # the cast cuts off, and pixels are back to the whole numbers that they were
    if interface.dtype != "float32":
        chain.add("Cast", to=_ELEMENTS[interface.dtype])
    if interface.layout == "NHWC":
        chain.add("Transpose", perm=[0, 2, 3, 1])
    return [*chain.nodes, helper.make_node("Identity", [chain.last], [fed])]


def _behind(interface: Interface, answer: str) -> "list[NodeProto]":
    """Return the operators that turn the graph's answer into `logits`."""
    import numpy as np
    from onnx import helper

    chain = _Chain(answer)
    chain.add("Flatten", axis=1)
    chain.add("Cast", to=_ELEMENTS["float32"])
    if interface.answers == "probabilities":
        chain.add("Max", np.float32(_SMALLEST))
        chain.add("Log")
    return [*chain.nodes, helper.make_node("Identity", [chain.last], [OUTPUT])]


class _Chain:
    """Operators one behind the other."""

    def __init__(self, first: str) -> None:
        self.last, self.nodes = first, list["NodeProto"]()
        self._start = first

    def add(self, operator: str, constant: Any = None, **attributes: Any) -> None:
        import numpy as np
        from onnx import helper, numpy_helper

        name = f"{_OWN}{self._start}/{operator}"
        inputs = [self.last]
        if constant is not None:
            value = numpy_helper.from_array(np.asarray(constant), name)
            self.nodes.append(helper.make_node("Constant", [], [f"{name}/by"], value=value))
            inputs.append(f"{name}/by")
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.last = name


def _names(model: "ModelProto") -> set[str]:
    graph = model.graph
    found = {name for node in graph.node for name in (*node.input, *node.output)}
    return found | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def _opset(model: "ModelProto") -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


# ------------------------------------------------------------------------------------------------------------- the student
class OnnxModel(Student):
    """A foreign classifier in a student's place: it can be exported and asked, never trained."""

    interface: Interface
    input_as: InputContract

    def build(self, classes: int, *, start: bool = True) -> "nn.Module":  # noqa: ARG002 - the contract's
        """Refuse: there is nothing to train."""
        raise UsageError("an imported ONNX model cannot be trained", mend="export it, measure it, judge it")

    def restore(self, classes: int, weights: Path) -> "nn.Module":
        """Return the file as it came behind a student's interface: image_BCHW in [0, 1] -> logits."""
        return module_of(weights, self.interface, size_px=self.input_as.size_px, classes=classes)

    def input_contract(self) -> InputContract:
        """Return how an image is prepared for it."""
        return self.input_as

    def exportable(self, student: "nn.Module") -> "nn.Module":
        """Return the module itself; `graph.to_onnx` takes its graph instead of tracing it."""
        return student


def student_of(checkpoint: Checkpoint) -> OnnxModel:
    """Return the imported model that a checkpoint stands for, as the export stage takes students."""
    options = {key: value for key, value in checkpoint.student.options.items() if key in Interface.model_fields}
    return OnnxModel(interface=Interface.model_validate(options), input_as=checkpoint.input)


def module_of(path: Path, interface: Interface, *, size_px: tuple[int, int], classes: int) -> "nn.Module":
    """Return a torch module that runs a foreign file through onnxruntime; its `onnx_graph` is the adapted graph."""
    import torch
    from torch import nn

    sound = inspect.read(path)
    asked = _asked(path, interface)

    class Foreign(nn.Module):
        onnx_graph = adapt(sound.model, interface, size_px=size_px, classes=classes)

        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(asked(image_BCHW.numpy()))

        def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
            if taps != ("logits",):
                raise UsageError(f"an imported ONNX model answers with logits alone, not with {', '.join(taps)}")
            return {"logits": self(image_BCHW)}

    return Foreign().eval()


def _asked(path: Path, interface: Interface) -> "Callable[[Array], Array]":
    """Return a function image_BCHW -> logits_BK that prepares in numpy and runs the file as it came."""
    import numpy as np

    from edgekd.exporting.backends.onnxruntime import complaints, load_session

    session = load_session(path, threads=1)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (interface.mean, interface.std))

    def answer(image_BCHW: "Array") -> "Array":
        fed = (image_BCHW - mean) / std
        fed = np.rint(fed * 255) if interface.dtype == "uint8" else fed
        fed = fed[:, ::-1] if interface.channels == "BGR" else fed
        fed = fed.transpose(0, 2, 3, 1) if interface.layout == "NHWC" else fed
        fed = np.ascontiguousarray(fed.astype(interface.dtype))
        size = interface.batch or len(fed)
        chunks = []
        for start in range(0, len(fed), size):
            chunk = fed[start : start + size]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
            try:
                (found,) = session.run([interface.output], {interface.input: filled})
            except complaints() as error:
                raise MachineError(f"{path}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from error
            chunks.append(found.reshape(size, -1)[: len(chunk)].astype(np.float32))
        logits_BK: Array = np.concatenate(chunks)
        if interface.answers == "probabilities":
            return np.asarray(np.log(np.maximum(logits_BK, np.float32(_SMALLEST))))
        return logits_BK

    return answer

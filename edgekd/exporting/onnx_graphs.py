"""What the graphs of an untrusted ONNX file may be: known operators, defined names, no cycles, no bottomless nesting.

Allowed are
- the operators of ONNX itself (`ai.onnx`), by name;
- of `com.microsoft` those that onnxruntime's own optimiser and quantiser write and its CPU provider runs. The domain also holds
  operators that open files (`EPContext`), call into other programs or run a search; no image classifier needs them;
- a model's own functions, if they end: no recursion, and a bounded number of operators when they are written out.

Refused are `ai.onnx.ml` (trees and text, no part of an image classifier), training operators, and every other domain: they
need libraries that edgekd does not load. A domain that is only declared and never used does no harm.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgekd.exporting.onnx_tensors import Tensors, check_type, refused

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

MAX_NODES = 50_000
MAX_DEPTH = 16
MAX_CALLS = 16
MAX_FUNCTIONS = 2_000
MAX_METADATA_BYTES = 16 << 20
MAX_GEOMETRY = 1 << 20  # of a stride, a pad or a kernel's side

STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
# fmt: off
FROM_MICROSOFT = frozenset(
    {
        "Attention", "BiasGelu", "BiasSoftmax", "ConvTransposeWithDynamicPads", "DequantizeLinear",
        "DynamicQuantizeMatMul", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu",
        "GridSample", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "NhwcMaxPool",
        "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
        "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
        "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization", "TransposeMatMul",
    }
)
# fmt: on
# onnxruntime's optimiser writes these into ONNX's own domain.
_BY_ONNXRUNTIME = frozenset({"SimplifiedLayerNormalization", "LayerNormalization"})
_AT_LEAST_ONE = {"strides", "dilations", "kernel_shape", "group", "blocksize"}
_GEOMETRY = {*_AT_LEAST_ONE, "pads", "output_padding", "output_shape"}
# AttributeProto.AttributeType -> the field that holds the value.
_ATTRIBUTES = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
    13: "tp",
    14: "type_protos",
}
_SINGLE = ("f", "i", "s", "t", "g", "sparse_tensor", "tp")
_REPEATED = ("floats", "ints", "strings", "tensors", "graphs", "sparse_tensors", "type_protos")
_Key = tuple[str, str, str]


class Model:
    """Walks through everything in a model once."""

    def __init__(self, model: "ModelProto", tensors: Tensors) -> None:
        self._model, self._tensors = model, tensors
        self._functions: dict[_Key, FunctionProto] = {}
        self._nodes = 0
        self._calls: list[_Key] = []
        self._in_function = False

    def check(self) -> None:
        """Raise `IntegrityError` saying where and why the model must not reach a runtime."""
        self._check_head()
        for function in self._model.functions:
            self._register(function)
        bodies = {key: self._check_function(function) for key, function in self._functions.items()}
        before = self._nodes
        self._calls = []
        self._check_graph(self._model.graph, "graph", depth=0, outer=())
        _check_calls(bodies, self._calls, own_nodes=self._nodes - before)

    def _check_head(self) -> None:
        import onnx

        model = self._model
        if not 3 <= model.ir_version <= onnx.IR_VERSION:
            raise refused("model", f"is of IR version {model.ir_version}; read are 3 to {onnx.IR_VERSION}")
        domains = ["" if entry.domain in STANDARD else entry.domain for entry in model.opset_import]
        if (repeated := _repeated(domains)) is not None:
            raise refused("model", f"imports the operators of {repeated!r} twice")
        if "" not in domains or any(not 1 <= entry.version <= 1000 for entry in model.opset_import):
            raise refused("model", "does not say which version of ONNX's operators it uses, or an impossible one")
        if len(model.training_info):
            raise refused("model", "holds training steps, which no deployed model has")
        if (repeated := _repeated(entry.key for entry in model.metadata_props)) is not None:
            raise refused("model", f"has the metadata {repeated!r} twice")
        if sum(len(entry.key) + len(entry.value) for entry in model.metadata_props) > MAX_METADATA_BYTES:
            raise refused("model", f"its metadata is longer than {MAX_METADATA_BYTES} characters")
        if not model.HasField("graph") or not len(model.graph.node) or not len(model.graph.output):
            raise refused("model", "holds no graph with an operator and an output")

    # ------------------------------------------------------------------------------------------------------------ graphs
    def _check_graph(self, graph: "GraphProto", where: str, *, depth: int, outer: tuple[set[str], ...]) -> set[str]:
        """Check a graph and those inside of it; return the names from further out that it uses."""
        if depth > MAX_DEPTH:
            raise refused(where, f"graphs inside of graphs, more than {MAX_DEPTH} deep")
        if len(graph.sparse_initializer):
            raise refused(where, "holds sparse weights, which are not read here")
        fed = [value.name for value in graph.input]
        stored = [tensor.name for tensor in graph.initializer]
        for names, what in ((fed, "input"), (stored, "weight"), ([value.name for value in graph.output], "output")):
            if "" in names:
                raise refused(where, f"an {what} without a name")
            if (repeated := _repeated(names)) is not None:
                raise refused(where, f"two {what}s are called {repeated!r}")
        for tensor in graph.initializer:
            self._tensors.check(tensor, f"{where}: weight")
        for value in (*graph.input, *graph.output, *graph.value_info):
            top = depth == 0 and value.name in {*fed, *(output.name for output in graph.output)}
            check_type(value.type, f"{where}: value {value.name!r}", only_tensors=top)
        used = self._check_nodes(graph.node, {*fed, *stored}, where, depth=depth, outer=outer)
        made = {*fed, *stored, *(name for node in graph.node for name in node.output)}
        for value in graph.output:
            if value.name not in made:
                used.add(self._from_outer(value.name, outer, f"{where}: output"))
        return used

    def _check_nodes(
        self, nodes: "Sequence[NodeProto]", given: set[str], where: str, *, depth: int, outer: tuple[set[str], ...]
    ) -> set[str]:
        self._count(len(nodes), where)
        made = [name for node in nodes for name in node.output if name]
        if (repeated := _repeated([*given, *made])) is not None:
            raise refused(where, f"the value {repeated!r} is made twice")
        names = {*given, *made}
        if shadowed := next((name for name in sorted(names) if any(name in scope for scope in outer)), ""):
            raise refused(where, f"the value {shadowed!r} is called like one further out")
        if (repeated := _repeated(node.name for node in nodes if node.name)) is not None:
            raise refused(where, f"two operators are called {repeated!r}")
        used, needs = set[str](), list[set[str]]()
        for node in nodes:
            here = f"{where}: {node.op_type[:80]} {node.name[:80]!r}"
            self._check_operator(node, here)
            wanted = {name for name in node.input if name}
            for attribute in node.attribute:
                wanted |= self._check_attribute(attribute, here, depth=depth, outer=(*outer, names))
            if (repeated := _repeated(attribute.name for attribute in node.attribute)) is not None:
                raise refused(here, f"has the attribute {repeated!r} twice")
            used |= {self._from_outer(name, outer, here) for name in wanted - names}
            needs.append(wanted & names)
        _refuse_cycles(nodes, needs, given, where)
        return used

    def _from_outer(self, name: str, outer: tuple[set[str], ...], where: str) -> str:
        if not any(name in scope for scope in outer):
            raise refused(where, f"uses {name!r}, which nothing makes")
        return name

    def _count(self, nodes: int, where: str) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise refused(where, f"more than {MAX_NODES} operators")

    # --------------------------------------------------------------------------------------------------------- operators
    def _check_operator(self, node: "NodeProto", where: str) -> None:
        import onnx

        domain = "" if node.domain in STANDARD else node.domain
        key = (domain, node.op_type, node.overload)
        if key in self._functions:
            self._calls.append(key)
        elif domain == "":
            if not onnx.defs.has(node.op_type) and node.op_type not in _BY_ONNXRUNTIME:
                raise refused(where, "is no operator of ONNX, and the model does not define it")
        elif domain != MICROSOFT:
            raise refused(where, f"is of the domain {domain!r}; allowed are ai.onnx, {MICROSOFT} and the model's own functions")
        elif node.op_type not in FROM_MICROSOFT:
            raise refused(where, f"is none of the operators of {MICROSOFT} that an optimised or quantised classifier has")

    def _check_attribute(self, attribute: "AttributeProto", where: str, *, depth: int, outer: tuple[set[str], ...]) -> set[str]:
        """Check an attribute; return the names from outside that graphs in it use."""
        where = f"{where}: attribute {attribute.name[:80]!r}"
        found = [name for name in _SINGLE if attribute.HasField(name)]
        found += [name for name in _REPEATED if len(getattr(attribute, name))]
        if attribute.ref_attr_name:
            if found or not self._in_function:
                raise refused(where, "refers to an attribute of a function, and holds a value or is in none")
            return set()
        held = _ATTRIBUTES.get(attribute.type)
        if held is None:
            raise refused(where, f"is of the type {attribute.type}, which is not read here")
        if [name for name in found if name != held]:
            raise refused(where, f"holds {', '.join(found)}, its type says {held}")
        values = list(attribute.ints) if held == "ints" else [attribute.i]
        least = 1 if attribute.name in _AT_LEAST_ONE else -MAX_GEOMETRY
        if attribute.name in _GEOMETRY and any(not least <= value <= MAX_GEOMETRY for value in values):
            raise refused(where, f"an impossible value: {values[:8]}")
        for tensor in (*([attribute.t] if held == "t" else []), *attribute.tensors):
            self._tensors.check(tensor, where)
        for kind in (*([attribute.tp] if held == "tp" else []), *attribute.type_protos):
            check_type(kind, where)
        graphs = (*([attribute.g] if held == "g" else []), *attribute.graphs)
        return set[str]().union(*(self._check_graph(graph, where, depth=depth + 1, outer=outer) for graph in graphs))

    # --------------------------------------------------------------------------------------------------------- functions
    def _register(self, function: "FunctionProto") -> None:
        import onnx

        key = ("" if function.domain in STANDARD else function.domain, function.name, function.overload)
        where = f"function {function.name[:80]!r}"
        if key in self._functions or len(self._functions) >= MAX_FUNCTIONS:
            raise refused(where, f"is there twice, or is one of more than {MAX_FUNCTIONS}")
        if (key[0] == "" and onnx.defs.has(function.name)) or key[0].startswith((MICROSOFT, "com.ms.", "ai.onnx")):
            raise refused(where, "takes the place of an operator that the runtime has")
        self._functions[key] = function

    def _check_function(self, function: "FunctionProto") -> tuple[int, list[_Key]]:
        """Check a function's body; return how many operators it has itself and which functions they call."""
        where = f"function {function.name[:80]!r}"
        before = self._nodes
        self._calls, self._in_function = [], True
        named = [*function.input, *function.attribute, *(each.name for each in function.attribute_proto)]
        if (repeated := _repeated(named)) is not None:
            raise refused(where, f"has the input or attribute {repeated!r} twice")
        for attribute in function.attribute_proto:
            self._check_attribute(attribute, where, depth=0, outer=(set(),))
        for value in function.value_info:
            check_type(value.type, f"{where}: value {value.name!r}")
        self._check_nodes(function.node, set(function.input), where, depth=0, outer=())
        made = {*function.input, *(name for node in function.node for name in node.output)}
        if missing := [name for name in function.output if not name or name not in made]:
            raise refused(where, f"answers with {missing[0]!r}, which nothing makes")
        self._in_function = False
        return self._nodes - before, self._calls


def _check_calls(bodies: dict[_Key, tuple[int, list[_Key]]], calls: list[_Key], *, own_nodes: int) -> None:
    """Refuse functions that call themselves, chains of calls that are too long, and models that explode when written out."""
    written_out: dict[_Key, tuple[int, int]] = {}  # how many operators, how many calls deep
    while pending := [key for key in bodies if key not in written_out]:
        ready = [key for key in pending if all(call in written_out for call in bodies[key][1])]
        if not ready:
            raise refused(f"function {pending[0][1][:80]!r}", "calls itself, directly or through others")
        for key in ready:
            own, called = bodies[key]
            depth = 1 + max((written_out[call][1] for call in called), default=0)
            if depth > MAX_CALLS:
                raise refused(f"function {key[1][:80]!r}", f"a chain of more than {MAX_CALLS} calls")
            written_out[key] = (own + sum(written_out[call][0] for call in called), depth)
    if own_nodes + sum(written_out[call][0] for call in calls) > MAX_NODES:
        raise refused("graph", f"more than {MAX_NODES} operators when its functions are written out")


def _refuse_cycles(nodes: "Sequence[NodeProto]", needs: list[set[str]], given: set[str], where: str) -> None:
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in names - given} for names in needs]
    users: list[list[int]] = [[] for _ in nodes]
    for index, makers in enumerate(waits):
        for made_by in makers:
            users[made_by].append(index)
    left = [len(makers) for makers in waits]
    ready = [index for index, count in enumerate(left) if not count]
    done = 0
    while ready:
        done += 1
        for user in users[ready.pop()]:
            left[user] -= 1
            if not left[user]:
                ready.append(user)
    if done < len(nodes):
        stuck = next(node for node, count in zip(nodes, left, strict=True) if count)
        raise refused(where, f"operators wait for one another in a circle, {stuck.op_type[:80]} {stuck.name[:80]!r} among them")


def _repeated(names: Iterable[str]) -> str | None:
    """Return a name that is there twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)

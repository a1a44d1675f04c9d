"""What an ONNX file can try before any runtime sees it, and what honest files look like."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from edgekd.cli import main
from edgekd.core.errors import EdgekdError, IntegrityError, UsageError
from edgekd.exporting import inspect, onnx_graphs, onnx_tensors
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.testing import tiny_exportable

FLOAT = TensorProto.FLOAT
IMAGE_BCHW = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)


def honest() -> ModelProto:
    """Return a small convolutional classifier with its weights as raw bytes."""
    draw = np.random.default_rng(0).normal
    kernel, bias, head = (draw(size=size).astype(np.float32) for size in ((4, 3, 3, 3), (4,), (4, 3)))
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["map"], "conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["positive"], "relu"),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["feature"], "flatten"),
        helper.make_node("MatMul", ["feature", "head"], ["logits"], "head"),
    ]
    image = helper.make_tensor_value_info("image", FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", FLOAT, ["batch", 3])
    weights = [numpy_helper.from_array(a, n) for a, n in ((kernel, "kernel"), (bias, "bias"), (head, "head"))]
    graph = helper.make_graph(nodes, "g", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def saved(folder: Path, model: ModelProto, *, tail: bytes = b"") -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString() + tail)
    return path


def outside(folder: Path, **entries: str) -> Path:
    """Save the honest model with its kernel outside of the file, as these entries say."""
    model = honest()
    kernel = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(kernel.raw_data)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **entries}.items():
        kernel.external_data.add(key=key, value=value)
    return saved(folder, model)


Change = Callable[[ModelProto], Any]


def changed(change: Change) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        model = honest()
        change(model)
        return saved(folder, model)

    return build


def weight(change: Callable[[TensorProto], Any]) -> Callable[[Path], Path]:
    return changed(lambda model: change(model.graph.initializer[0]))


def node(change: Callable[[NodeProto], Any]) -> Callable[[Path], Path]:
    return changed(lambda model: change(model.graph.node[0]))


def with_node(*arguments: Any, **attributes: Any) -> Callable[[Path], Path]:
    return changed(lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes)))


def raw(content: bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / "model.onnx").write_bytes(content)
        return folder / "model.onnx"

    return build


# ------------------------------------------------------------------------------------------------------------ the attacks
def symlinked(folder: Path) -> Path:
    path = outside(folder)
    (folder / "weights.bin").rename(folder / "elsewhere")
    (folder / "weights.bin").symlink_to("elsewhere")
    return path


def behind_symlink(folder: Path) -> Path:
    path = outside(folder, location="sub/weights.bin")
    (folder / "real").mkdir()
    (folder / "weights.bin").rename(folder / "real" / "weights.bin")
    (folder / "sub").symlink_to("real")
    return path


def hard_linked(folder: Path) -> Path:
    path = outside(folder)
    os.link(folder / "weights.bin", folder / "other name")
    return path


def special_file(folder: Path) -> Path:
    path = outside(folder, location="pipe")
    os.mkfifo(folder / "pipe")
    return path


def nested(depth: int) -> ModelProto:
    """Return a model of If inside of If, so many deep."""
    model = honest()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    inner = branch("out0")
    for level in range(1, depth + 1):
        chosen = helper.make_node("If", ["yes"], [f"out{level}"], then_branch=inner, else_branch=branch(f"other{level}"))
        inner = helper.make_graph([chosen], "g", [], [helper.make_value_info(f"out{level}", logits_type())])
    model.graph.node.extend(inner.node)
    return model


def branch(name: str) -> onnx.GraphProto:
    copied = helper.make_node("Identity", ["logits"], [name])
    return helper.make_graph([copied], "g", [], [helper.make_value_info(name, logits_type())])


def logits_type() -> onnx.TypeProto:
    return helper.make_tensor_type_proto(FLOAT, ["batch", 3])


def bottomless(folder: Path) -> Path:
    """A message of 1,700 graphs inside of one another; each length is written by hand, as protobuf refuses to."""
    content = b""
    for tag in (b"\x32", b"\x2a", b"\x0a") * 1700 + (b"\x3a",):  # attribute.g, node.attribute, graph.node; model.graph
        size, length = len(content), b""
        while size >= 128:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        content = tag + length + bytes([size]) + content
    return saved(folder, honest(), tail=content)


def function(name: str, *calls: str, domain: str = "mine") -> onnx.FunctionProto:
    """Return a function that calls others one after the other (or only copies)."""
    nodes = [
        helper.make_node(call, [f"v{i}"], [f"v{i + 1}"], domain="" if call == "Identity" else "mine")
        for i, call in enumerate(calls or ("Identity",))
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    return helper.make_function(domain, name, ["v0"], [f"v{len(nodes)}"], nodes, imports)


def with_functions(*functions: onnx.FunctionProto, call: str | None = None) -> Callable[[Path], Path]:
    def change(model: ModelProto) -> None:
        model.functions.extend(functions)
        model.opset_import.append(helper.make_opsetid("mine", 1))
        name = call or functions[-1].name
        model.graph.node.append(helper.make_node(name, ["logits"], ["more"], domain=functions[-1].domain))

    return changed(change)


def set_dims(*dims: int) -> Callable[[Path], Path]:
    return weight(lambda tensor: (tensor.ClearField("dims"), tensor.dims.extend(dims)))


def set_attribute(name: str, *values: int) -> Callable[[Path], Path]:
    def change(conv: NodeProto) -> None:
        for attribute in conv.attribute:
            if attribute.name == name:
                attribute.ints[:] = values

    return node(change)


def huge_external(folder: Path) -> Path:
    """500 weights that all read the same two gigabytes, of which the disk holds nothing."""
    model = honest()
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(2 << 30)
    for index in range(5):
        tensor = TensorProto(name=f"w{index}", data_type=FLOAT, dims=[1 << 29], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.bin")
        model.graph.initializer.append(tensor)
    return saved(folder, model)


def cycle(model: ModelProto) -> None:
    model.graph.node[1].input[0] = "logits"


def inside_cycle(model: ModelProto) -> None:
    """A graph inside of an operator uses what is made from that operator's own answer."""
    inner = branch("in")
    inner.node[0].input[0] = "after"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner))
    model.graph.node.append(helper.make_node("Relu", ["chosen"], ["after"]))


def twice_stored(tensor: TensorProto) -> None:
    tensor.float_data.extend([0.0] * 108)


def confused_attribute(conv: NodeProto) -> None:
    conv.attribute[0].f = 1.0


def sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(3)


def in_memory(where: str) -> Callable[[Path], Path]:
    return lambda folder: outside(folder, location=where, offset="140000000000000", length="432")


ATTACKS: dict[str, tuple[Callable[[Path], Path], str]] = {
    # external data
    "external-parent": (lambda f: outside(f, location="../secret"), "absolute, or a part"),
    "external-parent-inside": (lambda f: outside(f, location="a/../../secret"), "absolute, or a part"),
    "external-absolute": (lambda f: outside(f, location="/etc/passwd"), "absolute, or a part"),
    "external-windows-drive": (lambda f: outside(f, location="C:/secret"), "one of"),
    "external-windows-share": (lambda f: outside(f, location="\\\\host\\share"), "one of"),
    "external-null-byte": (lambda f: outside(f, location="weights.bin\0.txt"), "control characters"),
    "external-nowhere": (lambda f: outside(f, location=""), "empty"),
    "external-device": (lambda f: outside(f, location="sub/con"), "device's name"),
    "external-symlink": (symlinked, "link or a special file"),
    "external-behind-symlink": (behind_symlink, "behind a link"),
    "external-hard-link": (hard_linked, "hard link"),
    "external-fifo": (special_file, "link or a special file"),
    "external-missing": (lambda f: outside(f, location="gone"), "missing"),
    "external-memory-address": (in_memory("*/_ORT_MEM_ADDR_/*"), "address in memory"),
    "external-memory-address-lower-case": (in_memory("_ort_mem_addr_"), "address in memory"),
    "external-offset-beyond": (lambda f: outside(f, offset="4096"), "needs bytes 4096 to"),
    "external-offset-negative": (lambda f: outside(f, offset="-1"), "not an offset"),
    "external-offset-overflow": (lambda f: outside(f, offset=str(2**64 - 4)), "not an offset"),
    "external-offset-no-number": (lambda f: outside(f, offset="0x10"), "not an offset"),
    "external-length-beyond": (lambda f: outside(f, length="100000"), "and it takes 100000"),
    "external-length-short": (lambda f: outside(f, length="4"), "and it takes 4"),
    "external-unknown-key": (lambda f: outside(f, basepath="/etc"), "none of those"),
    "external-key-twice": (
        weight(lambda t: [t.external_data.add(key="location", value="a") for _ in range(2)] and t.ClearField("raw_data")),
        "says that its data is inside",
    ),
    "external-and-inside": (weight(lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)), "both inside and outside"),
    "external-more-than-memory": (huge_external, "bytes together"),
    # shapes and bytes
    "shape-negative": (set_dims(-4, 3, 3, 3), "a side of its shape is -4"),
    "shape-overflow-to-small": (set_dims(1 << 32, 1 << 32, 27), "more than"),
    "shape-overflow-hidden-by-zero": (set_dims(1 << 40, 1 << 40, 0), "more than"),
    "shape-gigantic": (set_dims(1 << 31), "more than"),
    "shape-many-sides": (set_dims(*[1] * 100), "sides"),
    "shape-larger-than-bytes": (set_dims(400, 3, 3, 3), "needs 43200 bytes, and 432 are there"),
    "shape-smaller-than-bytes": (set_dims(1), "needs 4 bytes, and 432 are there"),
    "input-shape-negative": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3)),
        "a side of its shape is -3",
    ),
    "input-shape-gigantic": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1 << 40)),
        "more than",
    ),
    "bytes-cut": (weight(lambda t: setattr(t, "raw_data", t.raw_data[:-1])), "and 431 are there"),
    "bytes-twice": (weight(twice_stored), "twice"),
    "bytes-in-wrong-field": (weight(lambda t: (t.ClearField("raw_data"), t.int64_data.extend([1] * 108))), "float_data"),
    "bytes-missing": (weight(lambda t: t.ClearField("raw_data")), "and 0 are there"),
    "bytes-as-text": (weight(lambda t: setattr(t, "data_type", TensorProto.STRING)), "text given as raw"),
    "type-unknown": (weight(lambda t: setattr(t, "data_type", 99)), "element type 99"),
    "segment": (weight(lambda t: setattr(t.segment, "end", 9)), "segment"),
    "sparse": (changed(sparse), "sparse"),
    "input-is-a-sequence": (
        changed(lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent()),
        "images and logits are tensors",
    ),
    # operators
    "custom-domain": (node(lambda n: setattr(n, "domain", "evil.ops")), "domain 'evil.ops'"),
    "custom-domain-lookalike": (node(lambda n: setattr(n, "domain", "com.microsoft.nchwc")), "allowed are"),
    "contrib-that-opens-files": (
        with_node("EPContext", ["logits"], ["x"], domain="com.microsoft", ep_cache_context="../x", embed_mode=0),
        "none of the operators",
    ),
    "contrib-that-runs-python": (with_node("PythonOp", ["logits"], ["x"], domain="com.microsoft"), "none of the operators"),
    "trees": (with_node("TreeEnsemble", ["logits"], ["x"], domain="ai.onnx.ml"), "domain 'ai.onnx.ml'"),
    "unknown-operator": (node(lambda n: setattr(n, "op_type", "Conw")), "no operator of ONNX"),
    "attribute-confused": (node(confused_attribute), "its type says ints"),
    "attribute-twice": (node(lambda n: n.attribute.append(n.attribute[0])), "twice"),
    "attribute-of-no-function": (
        node(lambda n: n.attribute.add(name="group", type=AttributeProto.INT, ref_attr_name="x")),
        "refers to an attribute of a function",
    ),
    "attribute-of-unknown-type": (node(lambda n: n.attribute.add(name="x")), "type 0"),
    "attribute-with-outside-data": (
        with_node("Constant", [], ["x"], value=TensorProto(dims=[1], data_type=FLOAT, data_location=TensorProto.EXTERNAL)),
        "external data",
    ),
    "stride-zero": (set_attribute("strides", 0, 0), "impossible value"),
    "pad-gigantic": (set_attribute("pads", 1 << 40, 0, 0, 0), "impossible value"),
    # graphs
    "cycle": (changed(cycle), "circle"),
    "cycle-through-a-graph-inside": (changed(inside_cycle), "circle"),
    "undefined-input": (node(lambda n: n.input.__setitem__(0, "nobody")), "which nothing makes"),
    "undefined-output": (changed(lambda m: setattr(m.graph.output[0], "name", "nobody")), "which nothing makes"),
    "value-made-twice": (with_node("Relu", ["map"], ["logits"]), "made twice"),
    "weight-made-again": (with_node("Relu", ["map"], ["kernel"]), "made twice"),
    "two-weights-of-one-name": (changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])), "two weights"),
    "two-inputs-of-one-name": (changed(lambda m: m.graph.input.append(m.graph.input[0])), "two inputs"),
    "two-operators-of-one-name": (with_node("Relu", ["map"], ["x"], "relu"), "two operators"),
    "nameless-weight": (weight(lambda t: setattr(t, "name", "")), "without a name"),
    "nested-too-deep": (lambda f: saved(f, nested(17)), "more than 16 deep"),
    "nested-bottomless": (bottomless, "not a whole ONNX model"),
    "shadowed-name": (
        changed(lambda m: (m.CopyFrom(nested(1)), m.graph.node[-1].output.__setitem__(0, "out0"))),
        "further out",
    ),
    "too-many-operators": (
        changed(lambda m: m.graph.node.extend([helper.make_node("Relu", ["map"], ["r"])] * 50_001)),
        "more than 50000 operators",
    ),
    "empty-graph": (changed(lambda m: m.graph.ClearField("node")), "holds no graph"),
    # functions
    "function-recursive": (with_functions(function("loop", "loop")), "calls itself"),
    "function-circle": (with_functions(function("a", "b"), function("b", "a")), "calls itself"),
    "function-chain": (
        with_functions(function("f0"), *(function(f"f{i}", f"f{i - 1}") for i in range(1, 17))),
        "more than 16 calls",
    ),
    "function-explosion": (
        with_functions(function("f0"), *(function(f"f{i}", *[f"f{i - 1}"] * 10) for i in range(1, 6))),
        "when its functions are written out",
    ),
    "function-in-place-of-an-operator": (with_functions(function("Relu", domain="")), "takes the place"),
    "function-in-place-of-a-contrib": (with_functions(function("Gelu", domain="com.microsoft")), "takes the place"),
    "function-twice": (with_functions(function("f"), function("f")), "there twice"),
    "function-answers-nothing": (
        with_functions(helper.make_function("mine", "f", ["x"], ["y"], [], [helper.make_opsetid("", 18)])),
        "which nothing makes",
    ),
    # the file
    "ir-from-the-future": (changed(lambda m: setattr(m, "ir_version", 1000)), "IR version 1000"),
    "opset-missing": (changed(lambda m: m.ClearField("opset_import")), "which version"),
    "opset-twice": (changed(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 9))), "twice"),
    "opset-impossible": (changed(lambda m: setattr(m.opset_import[0], "version", -1)), "impossible"),
    "metadata-twice": (changed(lambda m: [m.metadata_props.add(key="a") for _ in range(2)]), "twice"),
    "training": (changed(lambda m: m.training_info.add()), "training steps"),
    "unknown-field": (lambda f: saved(f, honest(), tail=b"\xfa\x07\x04evil"), "does not know"),
    "polyglot": (lambda f: saved(f, honest(), tail=b"PK\x05\x06" + bytes(18)), r"not a whole|does not know"),
    "name-not-utf8": (
        lambda f: raw(honest().SerializeToString().replace(b"positive", b"posit\xffve"))(f),
        "not UTF-8",
    ),
    "zip": (raw(b"PK\x03\x04" + bytes(60)), "zip archive"),
    "pickle": (raw(b"\x80\x04\x95\x00\x00"), "pickle"),
    "gzip": (raw(b"\x1f\x8b\x08" + bytes(60)), "gzip"),
    "elf": (raw(b"\x7fELF" + bytes(60)), "a program"),
    "html": (raw(b"<!DOCTYPE html>"), "HTML page"),
    "lfs-pointer": (raw(b"version https://git-lfs.github.com/spec/v1\n"), "was not fetched"),
    "ort-format": (raw(b"\x20\0\0\0ORTM" + bytes(60)), "another format"),
    "tflite": (raw(b"\x20\0\0\0TFL3" + bytes(60)), "another format"),
    "empty": (raw(b""), "empty"),
    "zeros": (raw(bytes(1000)), "not a whole ONNX model"),
    "cut-off": (lambda f: raw(honest().SerializeToString()[:-100])(f), "not a whole ONNX model"),
}


@pytest.fixture
def _own_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_file_is_refused_for_what_it_tries(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the function and by the command, which exits with 5; the reason is the attack, not another defect of the file."""
    build, reason = ATTACKS[attack]
    path = build(tmp_path)
    with pytest.raises(IntegrityError, match=reason) as caught:
        inspect.read(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["import-onnx", str(path), "--data", "nowhere"])
    told = capsys.readouterr().err
    assert (stopped.value.code, caught.value.exit_code) == (5, 5)
    assert told.startswith(f"error: {path}: ")
    assert "Traceback" not in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("attack", ["external-memory-address", "cycle", "contrib-that-opens-files"])
def test_no_runtime_opens_a_hostile_file(backend: Any, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before the runtime is asked for anything."""
    import onnxruntime
    import openvino

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a runtime opened it")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    monkeypatch.setattr(openvino, "Core", fail)
    path = ATTACKS[attack][0](tmp_path)
    with pytest.raises(IntegrityError):
        backend.open(tmp_path, (path.name,), threads=1)


def test_openvino_opens_nothing_but_its_own_format_under_another_name(tmp_path: Path) -> None:
    """An ONNX file called .xml would be read as one, uninspected."""
    saved(tmp_path, honest()).rename(tmp_path / "model.xml")
    with pytest.raises(IntegrityError, match="not a graph that openvino wrote"):
        OpenVino().open(tmp_path, ("model.xml",), threads=1)


def test_a_file_by_another_name_is_not_read(tmp_path: Path) -> None:
    """onnxruntime takes *.ort for another format, whatever is inside."""
    saved(tmp_path, honest()).rename(tmp_path / "model.ort")
    with pytest.raises(UsageError, match="not called"):
        inspect.read(tmp_path / "model.ort")


@pytest.mark.parametrize("what", ["missing", "folder", "fifo"])
def test_what_is_no_file_is_not_read(what: str, tmp_path: Path) -> None:
    """And nobody waits for a FIFO."""
    if what == "folder":
        (tmp_path / "model.onnx").mkdir()
    if what == "fifo":
        os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(UsageError if what == "missing" else IntegrityError):
        inspect.read(tmp_path / "model.onnx")


def test_a_file_too_large_for_its_format_is_not_read(tmp_path: Path) -> None:
    """More than two gigabytes, of which the disk holds nothing: its size alone refuses it."""
    with saved(tmp_path, honest()).open("r+b") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(IntegrityError, match="external data beside it"):
        inspect.read(tmp_path / "model.onnx")


# ------------------------------------------------------------------------------------------------------------ the honest
def loads(path: Path) -> None:
    with OnnxRuntime().open(path.parent, (path.name,), threads=1) as session:
        assert session.run(IMAGE_BCHW).shape == (2, 3)


def test_an_honest_file_is_read_whole(tmp_path: Path) -> None:
    """Its weights are counted, and it runs."""
    path = saved(tmp_path, honest())
    found = inspect.read(path)
    assert (found.external_files, found.weights_bytes) == ((), 4 * (108 + 4 + 12))
    assert found.model == honest()
    loads(path)


def test_weights_in_a_file_beside_the_model_are_accepted(tmp_path: Path) -> None:
    """As onnx itself writes them, also in a sub-folder."""
    onnx.save(honest(), tmp_path / "model.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    assert inspect.read(tmp_path / "model.onnx").external_files == ("weights.data",)
    loads(tmp_path / "model.onnx")
    model = honest()
    external_data_helper.set_external_data(model.graph.initializer[0], "sub/kernel.bin")
    (tmp_path / "sub").mkdir()
    external_data_helper.save_external_data(model.graph.initializer[0], str(tmp_path))
    model.graph.initializer[0].ClearField("raw_data")
    assert inspect.read(saved(tmp_path, model)).external_files == ("sub/kernel.bin",)
    loads(tmp_path / "model.onnx")


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_what_onnxruntime_quantises_is_accepted(form: str, tmp_path: Path) -> None:
    """Both forms, com.microsoft's operators among them."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = [{"image": IMAGE_BCHW}]

        def get_next(self) -> dict[str, Any] | None:
            return self._left.pop() if self._left else None

    path = saved(tmp_path, honest())
    quantize_static(path, tmp_path / "int8.onnx", Images(), quant_format=QuantFormat[form])
    inspect.read(tmp_path / "int8.onnx")
    loads(tmp_path / "int8.onnx")


def test_what_onnxruntime_optimises_is_accepted(tmp_path: Path) -> None:
    """Fused operators of com.microsoft; the layout of one machine's own is not for passing on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(saved(tmp_path, honest()), options, providers=["CPUExecutionProvider"])
    found = inspect.read(tmp_path / "fused.onnx")
    assert "FusedConv" in {node.op_type for node in found.model.graph.node}


@pytest.mark.parametrize("options", [{}, {"precision": "fp16"}, {"opset": 17}])
def test_our_own_exports_are_accepted(options: dict[str, Any], tmp_path: Path) -> None:
    """By a process that did not write them."""
    OnnxRuntime(**options).export(tiny_exportable(), tmp_path)
    inspect.read(tmp_path / "model.onnx")


def test_graphs_inside_of_graphs_and_functions_are_accepted(tmp_path: Path) -> None:
    """As deep as honest models go, with names from further out."""
    inspect.read(saved(tmp_path, nested(16)))
    inspect.read(with_functions(function("f0"), *(function(f"f{i}", f"f{i - 1}") for i in range(1, 16)))(tmp_path))


def test_values_of_every_kind_are_accepted(tmp_path: Path) -> None:
    """Each element type in its own field and as raw bytes, empty and scalar shapes."""
    model = honest()
    skipped = {"UNDEFINED", "STRING", "FLOAT6E2M3", "FLOAT6E3M2"}
    for name, kind in TensorProto.DataType.items():
        if name not in skipped:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            values = np.array([0, 1, 1], dtype=dtype)
            model.graph.initializer.append(helper.make_tensor(f"{name}_typed", kind, (3,), values))
            model.graph.initializer.append(numpy_helper.from_array(values, f"{name}_raw"))
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, (2,), [b"a", b"b"]))
    model.graph.initializer.append(helper.make_tensor("scalar", FLOAT, (), [1.0]))
    model.graph.initializer.append(helper.make_tensor("nothing", FLOAT, (0, 3), []))
    inspect.read(saved(tmp_path, model))


def test_a_domain_that_is_declared_and_not_used_does_no_harm(tmp_path: Path) -> None:
    """Converters declare all that they know."""
    model = honest()
    model.opset_import.append(helper.make_opsetid("com.example.never", 1))
    inspect.read(saved(tmp_path, model))


def test_the_operators_of_com_microsoft_that_are_allowed_exist() -> None:
    """A misspelt name would refuse an honest model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    known = {schema.name for schema in native.get_all_operator_schema() if schema.domain == onnx_graphs.MICROSOFT}
    assert known >= onnx_graphs.FROM_MICROSOFT


# ---------------------------------------------------------------------------------------------------------------- memory
def test_a_sound_file_is_read_once_until_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that opening costs nothing after inspecting; another file, or other external data, is read again."""
    onnx.save(honest(), tmp_path / "model.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    read, seen = inspect.read, []
    monkeypatch.setattr(inspect, "read", lambda path: seen.append(path) or read(path))
    path = tmp_path / "model.onnx"
    for _ in range(2):
        inspect.check(path)
    assert len(seen) == 1
    os.utime(tmp_path / "weights.data", (1, 1))
    inspect.check(path)
    assert len(seen) == 2
    (tmp_path / "weights.data").rename(tmp_path / "moved")
    (tmp_path / "weights.data").symlink_to("moved")
    with pytest.raises(IntegrityError, match="link"):
        inspect.check(path)
    inspect.written_here(path)
    inspect.check(path)
    assert len(seen) == 3


# -------------------------------------------------------------------------------------------------------------- any damage
CONTENT = honest().SerializeToString()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(1, 255)), min_size=1, max_size=3),
    end=st.one_of(st.just(len(CONTENT)), st.integers(0, len(CONTENT))),
)
def test_any_damage_is_refused_or_the_model_still_loads(
    flips: list[tuple[int, int]], end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed or cut off: a model that the runtime takes, or an error that edgekd explains; never another exception."""
    content = bytearray(CONTENT)
    for where, by in flips:
        content[where] ^= by
    folder = tmp_path_factory.mktemp("damage")
    path = raw(bytes(content[:end]))(folder)
    try:
        with OnnxRuntime().open(folder, (path.name,), threads=1) as session:
            session.run(IMAGE_BCHW)
    except EdgekdError as error:
        assert error.exit_code in (2, 4, 5)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No random file is a model."""
    with pytest.raises(IntegrityError):
        inspect.read(raw(content)(tmp_path_factory.mktemp("bytes")))


@pytest.mark.parametrize("dims", [(2, 3), (0,), (), (7, 1, 1)])
def test_the_elements_of_a_shape_are_counted(dims: tuple[int, ...]) -> None:
    """As numpy counts them."""
    assert onnx_tensors.checked_shape(dims, FLOAT, "here") == np.zeros(dims).size

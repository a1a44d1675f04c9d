"""ONNX graphs: what is in the file, what is not, and that it is the file that was asked for."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.core.records import TensorSpec
from edgekd.exporting import graph
from edgekd.testing import TinyStudent, tiny_exportable, tiny_student

IMAGE_BCHW = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)


def logits(model: onnx.ModelProto, image_BCHW: np.ndarray = IMAGE_BCHW) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image_BCHW})[0]


def eager(module: nn.Module, image_BCHW: np.ndarray = IMAGE_BCHW) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(image_BCHW)).numpy()


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return graph.to_onnx(tiny_exportable(metadata={"weights_sha256": "ab"}))


def test_the_graph_answers_like_torch(model: onnx.ModelProto) -> None:
    """Float32 in, float32 out, equal up to the order of the sums."""
    np.testing.assert_allclose(logits(model), eager(tiny_student()), rtol=0, atol=1e-6)


def test_batch_norms_are_folded_into_the_convolutions(model: onnx.ModelProto) -> None:
    """A deployed student has no batch norm left to compute."""
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 2
    assert "BatchNormalization" not in kinds


def test_the_file_tells_its_classes_and_contract(model: onnx.ModelProto) -> None:
    """Whoever finds the file alone can prepare an image and name the answer."""
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(about["classes"]) == ["class_0", "class_1", "class_2"]
    assert json.loads(about["input"])["mean"] == [0.485, 0.456, 0.406]
    assert about["weights_sha256"] == "ab"


def test_nothing_of_torchs_debugging_stays_in_the_file(model: onnx.ModelProto) -> None:
    """No source paths, no stack traces, no module names: they tell about this machine and change from run to run."""
    content = graph.serialized(model)
    for word in (b"stack_trace", b'File "', b".py", b"site-packages", str(Path(__file__).parent).encode(), b"namespace"):
        assert word not in content
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert not model.graph.value_info


def test_remarks_are_removed_wherever_an_exporter_puts_them() -> None:
    """Graph, nodes, inputs, weights and functions can each carry a remark; none survives."""
    remark = "File /home/somebody/train.py"
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1,), doc_string=remark)
    node = onnx.helper.make_node("Relu", ["image"], ["logits"], doc_string=remark)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=(0,), doc_string=remark)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [value], [value], [weight], doc_string=remark, value_info=[value]),
        doc_string=remark,
        functions=[onnx.helper.make_function("d", "f", ["x"], ["y"], [node], [onnx.helper.make_opsetid("", 18)])],
    )
    assert b"somebody" in graph.serialized(model)
    assert b"somebody" not in graph.serialized(graph.stripped(model))


def test_the_batch_is_free_or_fixed_as_asked(model: onnx.ModelProto) -> None:
    """The interface is read back from the file."""
    fixed = graph.to_onnx(tiny_exportable(), batch=3)
    assert graph.interface(model) == (
        (TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32"),),
        (TensorSpec(name="logits", shape=("batch", 3), dtype="float32"),),
    )
    assert [spec.shape for side in graph.interface(fixed) for spec in side] == [(3, 3, 16, 16), (3, 3)]
    assert logits(model, IMAGE_BCHW[:1]).shape == (1, 3)
    np.testing.assert_allclose(logits(fixed), eager(tiny_student()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("opset", "batch"), [(11, "dynamic"), (11, 2), (17, "dynamic"), (21, "dynamic")])
def test_older_and_newer_opsets_are_written_as_asked(opset: int, batch: Any) -> None:
    """Below 18 the older exporter writes them; the version is the file's own, and the answers stay."""
    model = graph.to_onnx(tiny_exportable(), opset=opset, batch=batch)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    assert graph.opset_of(model) == opset
    np.testing.assert_allclose(logits(model, IMAGE_BCHW[:2]), eager(tiny_student(), IMAGE_BCHW[:2]), rtol=0, atol=1e-6)


def test_an_operator_that_an_opset_does_not_have_is_one_message() -> None:
    """Attention came with opset 14: asked for 11, the message names the opset and what to do, without torch's traceback."""

    class Attends(nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            rows = image_BCHW[:, :, :3].mean(dim=1)
            return nn.functional.scaled_dot_product_attention(rows, rows, rows)[:, 0, :3]

    with pytest.raises(UsageError, match=r"cannot be exported to ONNX opset 11: .*scaled_dot_product") as raised:
        graph.to_onnx(tiny_exportable(Attends().eval()), opset=11)
    assert "opset: 18" in raised.value.mend


def test_another_opset_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto) -> None:
    """An exporter that writes what it likes does not get through."""
    monkeypatch.setattr(graph, "_trace", lambda *_: model)
    with pytest.raises(UsageError, match=r"opset 20 was asked for and torch wrote opset 18(.|\n)*set `opset: 18`"):
        graph.to_onnx(tiny_exportable(), opset=20)


def test_the_same_weights_give_the_same_bytes() -> None:
    """Two builds of the same student, traced apart, are one file."""
    one, other = (graph.serialized(graph.to_onnx(tiny_exportable(tiny_student()))) for _ in range(2))
    assert one == other


def test_several_artifacts_of_a_student_trace_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second graph comes from memory, with its own metadata."""
    module = tiny_student()
    graph.to_onnx(tiny_exportable(module), opset=17)
    monkeypatch.setattr(graph, "_trace", lambda *_: pytest.fail("traced twice"))
    again = graph.to_onnx(tiny_exportable(module, metadata={"new": "fact"}), opset=17)
    assert {prop.key for prop in again.metadata_props} == {"classes", "input", "new"}


@pytest.mark.parametrize("what", ["weight", "buffer", "layer"])
def test_a_changed_student_is_traced_anew(what: str) -> None:
    """Memory never hands out an older student."""
    module = tiny_student()
    graph.to_onnx(tiny_exportable(module), opset=17)
    with torch.no_grad():
        if what == "weight":
            module.head.weight.mul_(2)
        elif what == "buffer":
            module.mean.add_(0.25)
        else:
            module.body[2] = nn.ReLU().eval()
    again = graph.to_onnx(tiny_exportable(module), opset=17)
    np.testing.assert_allclose(logits(again), eager(module), rtol=0, atol=1e-6)


def test_half_stores_float16_behind_a_float32_interface(model: onnx.ModelProto) -> None:
    """All weights are halved, input, output and metadata stay, and the original graph is untouched."""
    before = graph.serialized(model)
    halved = graph.half(model)
    assert graph.serialized(model) == before
    assert graph.interface(halved) == graph.interface(model)
    assert {prop.key: prop.value for prop in halved.metadata_props} == {p.key: p.value for p in model.metadata_props}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    kinds = [tensor.data_type for tensor in halved.graph.initializer if tensor.data_type in floats]
    assert set(kinds) == {onnx.TensorProto.FLOAT16}
    assert not halved.graph.value_info
    np.testing.assert_allclose(logits(halved), eager(tiny_student()), rtol=0, atol=5e-3)
    assert not np.array_equal(logits(halved), logits(model))


def test_half_leaves_the_import_path_alone(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter's package puts its folder, with a module called `models`, on the path; afterwards it is gone."""
    for name in [name for name in sys.modules if name.startswith("onnxruntime.transformers")]:
        monkeypatch.delitem(sys.modules, name)
    before = list(sys.path)
    graph.half(model)
    assert sys.path == before


class _AsksForItsPixels(nn.Module):
    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return image_BCHW.mean((2, 3)) if image_BCHW.sum() > 0 else image_BCHW.amax((2, 3))


def test_a_student_that_cannot_be_traced_is_one_message(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback of torch's, but its reason and what to try."""
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(UsageError, match="cannot be exported to ONNX opset 18") as raised:
        graph.to_onnx(tiny_exportable(_AsksForItsPixels().eval()))
    assert "\n" not in raised.value.message
    assert "another student" in raised.value.mend


def test_only_torchs_own_chatter_is_silenced() -> None:
    """Known warnings about torch's insides are dropped, an unknown one comes through."""
    with graph.quiet_torch():
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use something", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="something else"):
            warnings.warn("something else", FutureWarning, stacklevel=1)


def test_a_trained_students_statistics_matter() -> None:
    """The tiny student's batch norms are not the identity: without folding them the graph would be wrong."""
    with_statistics, without = TinyStudent().build(3).eval(), TinyStudent().build(3, start=False).eval()
    without.load_state_dict(with_statistics.state_dict() | _fresh_statistics(without))
    assert np.abs(eager(with_statistics) - eager(without)).max() > 1e-2


def _fresh_statistics(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in net.state_dict().items() if "running" in key}

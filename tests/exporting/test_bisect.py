"""Finding the node that departs: graphs in which one node was broken on purpose."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from edgekd.core.console import Console
from edgekd.core.contracts import Backend
from edgekd.core.errors import EvidenceError, UsageError
from edgekd.core.records import Artifact, Checkpoint, MadeBy
from edgekd.core.side_records import Bisection
from edgekd.core.store import read_record
from edgekd.exporting import bisect, exposing, graph, noise, stage
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.exporting.backends.torch import Torch
from edgekd.testing import TinySource, TinyStudent

CONSOLE = Console(quiet=True)
RNG = np.random.default_rng(0)
WEIGHTS = {f"w{i}": (RNG.normal(size=(4, 4, 3, 3)) / 6).astype(np.float32) for i in range(4)}
IMAGES = [RNG.random((1, 4, 8, 8), dtype=np.float32) for _ in range(6)]


def chain(**changed: np.ndarray) -> onnx.ModelProto:
    """Return four convolutions, each with a ReLU: x -> c0 -> r0 -> c1 -> ... -> logits; `changed` replaces weights."""
    nodes, before = [], "image"
    for i in range(4):
        nodes.append(helper.make_node("Conv", [before, f"w{i}"], [f"c{i}"], f"conv_{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu_{i}"))
        before = f"r{i}"
    nodes.append(helper.make_node("ReduceMean", [before, "axes"], ["logits"], "pool", keepdims=0))
    weights = [numpy_helper.from_array(value, name) for name, value in (WEIGHTS | changed).items()]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 4, 8, 8))],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 4))],
            [*weights, helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def look(exported: exposing.Shown, precision: str, *, reference: onnx.ModelProto | None = None) -> tuple:
    """Return (tensors, the first that departs, the sentence)."""
    model = reference or chain()
    steps, expected = exposing.steps_of(model), noise.EXPECTED[precision]
    found = noise.measure(steps, exposing.shown_by_onnx(model), exported, [(image, image) for image in IMAGES])
    tensors = noise.judge(found, steps, expected)
    return tensors, next((one for one in tensors if one.departs), None), noise.said_of(tensors, found, expected)


# ------------------------------------------------------------------------------------------------------------------ numbers
def test_sqnr_is_signal_power_over_error_power() -> None:
    """(3, 4) against (3, 4.5): 10 log10(25 / 0.25) = 20 dB; a second image is added to both powers, not averaged in dB."""
    sums = noise.Sums()
    sums.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert sums.sqnr_db == pytest.approx(20)
    sums.add(np.array([5.0, 0.0]), np.array([5.0, 0.0]))
    assert sums.sqnr_db == pytest.approx(10 * math.log10(50 / 0.25))
    assert sums.max_abs == 0.5


def test_equal_tensors_have_no_figure_and_errors_without_signal_a_low_one() -> None:
    """No error is not infinitely many decibels in a record; an error where nothing should be is -200."""
    same, none = noise.Sums(), noise.Sums()
    same.add(np.ones(3), np.ones(3))
    none.add(np.zeros(3), np.ones(3))
    assert (same.sqnr_db, none.sqnr_db) == (None, -200)


def test_nan_and_infinity_count_only_where_float32_has_none() -> None:
    """What both sides lack is no departure; the finite rest is still measured."""
    sums = noise.Sums()
    sums.add(np.array([np.inf, 1.0, 2.0, 10.0]), np.array([np.inf, np.nan, np.inf, 11.0]))
    assert (sums.non_finite, sums.sqnr_db) == (2, pytest.approx(20))


# ------------------------------------------------------------------------------------------------------------- broken graphs
@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_one_scaled_weight_is_found(broken: int) -> None:
    """A convolution without bias and half as much again has an error of half the signal: 6.02 dB, at that node first."""
    wrong = chain(**{f"w{broken}": WEIGHTS[f"w{broken}"] * np.float32(1.5)})
    tensors, first, said = look(exposing.shown_by_onnx(wrong), "fp32")
    assert (first.tensor, first.node, first.op, first.form) == (f"c{broken}", f"conv_{broken}", "Conv", "computed")
    assert first.sqnr_db == pytest.approx(10 * math.log10(4), abs=0.01)
    assert [one.sqnr_db for one in tensors[: 2 * broken]] == [None] * (2 * broken)
    assert f"Conv conv_{broken} is the first to depart" in said
    assert noise.worst(tensors)[0] == first


def test_a_sound_graph_has_no_departure() -> None:
    """The same graph is exact in every tensor; its float16 form loses what float16 loses, in no node too much."""
    tensors, first, said = look(exposing.shown_by_onnx(chain()), "fp32")
    assert (first, {one.sqnr_db for one in tensors}, len(tensors)) == (None, {None}, 9)
    assert said == "No node departs: the logits have an SQNR of exact."
    tensors, first, _ = look(exposing.shown_by_onnx(graph.half(chain())), "fp16")
    assert first is None
    assert len(tensors) == 9
    assert all(55 < one.sqnr_db < 85 for one in tensors)


def test_an_overflow_in_float16_is_found_where_it_happens() -> None:
    """Activations of some 10^6 fit in float32 and not in float16; what follows brings them back to size."""
    wide = {
        "w1": WEIGHTS["w1"] * np.float32(1e6),
        "w2": WEIGHTS["w2"] * np.float32(1e-3),
        "w3": WEIGHTS["w3"] * np.float32(1e-3),
    }
    tensors, first, said = look(exposing.shown_by_onnx(graph.half(chain(**wide))), "fp16", reference=chain(**wide))
    assert (first.tensor, first.departs) == ("c1", True)
    assert first.non_finite > 0
    assert f"{first.non_finite:,} values of c1 are NaN or infinite" in said
    assert noise.worst(tensors)[0].non_finite > 0


def test_an_error_that_grows_slowly_blames_no_single_node() -> None:
    """Every convolution 3 % too large: the logits are far off in the end, and the sentence says that no one node is."""
    slow = {name: (value * np.float32(1.03)) for name, value in WEIGHTS.items()}
    strict = noise.Expected(ceiling_db=65, step_db=40, floor_db=22)
    model = chain()
    steps = exposing.steps_of(model)
    found = noise.measure(steps, exposing.shown_by_onnx(model), exposing.shown_by_onnx(chain(**slow)), [(i, i) for i in IMAGES])
    tensors = noise.judge(found, steps, strict)
    first = next(one for one in tensors if one.departs)
    assert first.tensor in ("c2", "c3")  # (1.03^n - 1) is 24.2 dB at two, 20.6 dB at three convolutions
    assert "the error grew slowly" in noise.said_of(tensors, found, strict)


# ----------------------------------------------------------------------------------------------------------------- quantised
class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(IMAGES)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.left, None)
        return None if image is None else {"image": image}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("qdq")
    onnx.save(chain(), folder / "fp32.onnx")
    quantize_static(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        _Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(folder / "int8.onnx")


def test_a_sound_int8_graph_has_no_departure(quantised: onnx.ModelProto) -> None:
    """What a quantiser folds away (a ReLU whose range begins at 0) is compared with what it became."""
    tensors, first, _ = look(exposing.shown_by_onnx(quantised), "int8")
    assert first is None
    assert {one.tensor for one in tensors} >= {"r0", "r1", "r2", "r3"}
    assert {one.form for one in tensors} == {"computed", "quantised"}
    assert all(one.sqnr_db > 25 for one in tensors if one.sqnr_db is not None)


def test_one_wrong_activation_range_is_found(quantised: onnx.ModelProto) -> None:
    """The scale of one tensor at a fortieth cuts its values off: its node computes well, its quantised form departs."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(quantised)
    (scale,) = {
        node.input[1] for node in wrong.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in ("r1", "c1")
    }
    for tensor in wrong.graph.initializer:
        if tensor.name == scale:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(40), scale))
    tensors, first, said = look(exposing.shown_by_onnx(wrong), "int8")
    assert (first.tensor, first.form) == ("r1", "quantised")
    assert first.sqnr_db < 2
    assert "its quantised range" in said
    assert all(one.sqnr_db is None or one.sqnr_db > 25 for one in tensors[: tensors.index(first)])


# ------------------------------------------------------------------------------------------------------------------ openvino
def openvino_of(model: onnx.ModelProto, folder: Path, change: Callable | None = None) -> exposing.Shown:
    import openvino

    read = openvino.Core().read_model(model.SerializeToString())
    if change is not None:
        change(read)
    openvino.save_model(read, folder / "model.xml", compress_to_fp16=False)
    return exposing.shown_by(folder / "model.xml", precision="fp32")


def test_openvinos_tensors_are_found_by_the_onnx_names(tmp_path: Path) -> None:
    """Every tensor has its counterpart, and a scaled weight is found as in the ONNX graph."""
    tensors, first, _ = look(openvino_of(chain(), tmp_path), "fp32")
    assert (len(tensors), first) == (9, None)
    _, first, _ = look(openvino_of(chain(w2=WEIGHTS["w2"] * np.float32(1.5)), tmp_path), "fp32")
    assert (first.tensor, first.sqnr_db) == ("c2", pytest.approx(6.02, abs=0.01))


def test_openvinos_wrong_range_is_found(tmp_path: Path) -> None:
    """A FakeQuantize that cuts off is told from the node before it; one that answers with levels is not compared."""
    from openvino import opset13 as op

    def quantise(model: object) -> None:
        for layer in model.get_ordered_ops():
            if layer.get_type_name() == "Relu" and "r1" in layer.output(0).get_names():
                readers = list(layer.output(0).get_target_inputs())
                low, high = (op.constant(np.float32(value)) for value in (0.0, 0.02))
                rounded = op.fake_quantize(layer, low, high, low, high, 256)
                for reader in readers:
                    reader.replace_source_output(rounded.output(0))

    tensors, first, _ = look(openvino_of(chain(), tmp_path, quantise), "int8")
    assert (first.tensor, first.form) == ("r1", "quantised")
    assert [one.form for one in tensors].count("quantised") == 1


# -------------------------------------------------------------------------------------------------------------- the command
def artifact_of(
    write_checkpoint: Callable[..., tuple[Checkpoint, Path]], folder: Path, backend: Backend, net: nn.Module | None = None
) -> tuple[Artifact, Bisection]:
    """Export a tiny student, and look where it departs."""
    source, student = TinySource(), TinyStudent()
    checkpoint, where = write_checkpoint(source, student, net)
    made_by = MadeBy(version="0")
    reference = stage.Reference(checkpoint=checkpoint, folder=where, student=student, source=source, threads=1, console=CONSOLE)
    artifact = stage.export(
        reference=reference, backend=backend, folder=folder, threads=1, from_={}, made_by=made_by, console=CONSOLE
    )
    return artifact, bisect.examine(
        artifact=artifact,
        folder=folder,
        backend=backend,
        exportable=reference.exportable,
        images=source.val(),
        made_by=made_by,
        console=CONSOLE,
    )


def overflowing() -> nn.Module:
    """Return a tiny student whose first activations are a million times larger, and whose next weights as much smaller."""
    net = TinyStudent().build(3).eval()
    with torch.no_grad():
        net.body[0].weight *= 1e7
        net.body[1].running_var.fill_(1.0)
    return net


@pytest.mark.parametrize(
    "backend",
    [
        OnnxRuntime(),
        OnnxRuntime(precision="fp16", inputs="uint8"),
        OnnxRuntime(batch=4),
        OpenVino(inputs="uint8", resize="inside"),
    ],
    ids=["fp32", "fp16 of bytes", "fixed batch", "openvino of photographs"],
)
def test_a_sound_artifact_leaves_a_record_that_says_so(
    write_checkpoint: Callable[..., tuple[Checkpoint, Path]], tmp_path: Path, backend: Backend
) -> None:
    """The record stands beside the artifact, names it by digest, and every tensor of the float32 graph was found."""
    artifact, found = artifact_of(write_checkpoint, tmp_path / "a", backend)
    assert read_record(Bisection, tmp_path / "a" / "bisect.json") == found
    assert found.from_ == {"artifact": artifact.digest()}
    assert (found.first, found.unmatched, len(found.images)) == (None, 0, 9)
    assert found.finding.startswith("No node departs")
    assert all(value is None or value > 30 for value in (found.traced_db, found.shown_db, found.deployed_db))


def test_an_artifact_that_overflows_is_explained(
    write_checkpoint: Callable[..., tuple[Checkpoint, Path]], tmp_path: Path
) -> None:
    """The first convolution is named; a runtime that computes wider than the file says hides it, and that is said."""
    artifact, found = artifact_of(write_checkpoint, tmp_path / "a", OnnxRuntime(precision="fp16"), overflowing())
    assert bisect.is_due(artifact)
    assert found.first.op == "Conv"
    assert found.first.non_finite > 0
    assert found.first in found.tensors
    assert len(found.worst) <= 10
    assert artifact.parity.non_finite > 0 or "computes wider" in found.finding


def test_a_format_that_shows_nothing_is_refused(
    write_checkpoint: Callable[..., tuple[Checkpoint, Path]], tmp_path: Path
) -> None:
    """torch's program has no tensors to show; the message says where one can look."""
    with pytest.raises(UsageError, match="cannot be shown"):
        artifact_of(write_checkpoint, tmp_path / "a", Torch())


def test_flipped_images_are_looked_at_first(write_checkpoint: Callable[..., tuple[Checkpoint, Path]], tmp_path: Path) -> None:
    """Where an artifact fails is where one looks; the rest is spread over the whole set."""
    artifact, _ = artifact_of(write_checkpoint, tmp_path / "a", OnnxRuntime())
    many = TinySource(val_images=60).val()
    flip = {"image": many.samples[41].id, "torch_class": "", "runtime_class": "", "label": "class_0"}
    parity = artifact.parity.model_validate({**artifact.parity.model_dump(), "flips": (flip,)})
    chosen = bisect.chosen_images(artifact.model_copy(update={"parity": parity}), many)
    assert chosen[0] == 41
    assert len(chosen) == len(set(chosen)) == 16
    assert 0 in chosen
    with pytest.raises(EvidenceError, match="no validation images"):
        bisect.chosen_images(artifact, TinySource(val_images=0).val())


def test_a_tracer_at_fault_and_a_fused_kernel_are_named() -> None:
    """What no shown tensor can explain is said: the float32 graph that departs from torch, the deployed graph from its own."""
    good, bad = noise.Sums(), noise.Sums()
    good.add(np.ones(4), np.ones(4))
    bad.add(np.ones(4), -np.ones(4))
    expected = noise.EXPECTED["int8"]
    assert "tracing is at fault" in bisect._finding("Said.", bad, good, good, expected)
    assert "fused kernel" in bisect._finding("Said.", good, good, bad, expected)
    assert "computes wider" in bisect._finding("Said.", good, bad, good, expected)
    assert bisect._finding("Said.", good, good, good, expected) == "Said."

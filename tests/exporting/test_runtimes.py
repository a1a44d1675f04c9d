"""What only one runtime has: precisions that a CPU lacks, threads, providers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekd.core.contracts import Backend
from edgekd.core.errors import MachineError
from edgekd.exporting.backends import _onnxruntime_runner, _openvino_runner
from edgekd.exporting.backends._openvino_runner import precision_hint
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.testing import tiny_exportable, tiny_student

NET = tiny_student()


def exported(backend: Backend, folder: Path) -> tuple[str, ...]:
    return backend.export(tiny_exportable(NET), folder).files


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=lambda one: type(one).__name__)
def test_a_batch_in_another_order_of_memory_is_answered_alike(backend: Backend, tmp_path: Path) -> None:
    """Images that lie in memory with their channels last are the same images."""
    files = exported(backend, tmp_path)
    with backend.open(tmp_path, files, threads=1) as session:
        image_BHWC = np.random.default_rng(0).random((1, *session.shape[2:], 3), dtype=np.float32)
        image_BCHW = image_BHWC.transpose(0, 3, 1, 2)
        assert not image_BCHW.flags.c_contiguous
        assert np.array_equal(session.run(image_BCHW), session.run(np.ascontiguousarray(image_BCHW)))


# --------------------------------------------------------------------------------------------------------------- openvino
@pytest.mark.parametrize(
    ("precision", "capabilities", "hint"),
    [
        ("fp32", {"FP32", "BF16"}, "f32"),
        ("fp32", {"FP32", "FP16", "BF16"}, "f32"),
        ("fp16", {"FP32", "FP16", "BF16"}, "f16"),
        ("fp16", {"FP32", "BF16"}, "f32"),
        ("fp16", set(), "f32"),
    ],
)
def test_openvino_is_never_left_to_choose_bf16(precision: str, capabilities: set[str], hint: str) -> None:
    """Float16 where the CPU computes it, float32 everywhere else: asked for f16 without it, openvino takes bf16."""
    assert precision_hint(precision, capabilities) == hint


def test_openvino_fp32_is_pinned_and_executed_in_fp32(tmp_path: Path) -> None:
    """Left alone it computes in bf16 on a CPU that has it; the compiled model of an fp32 artifact is told f32 and says fp32."""
    import openvino

    files = exported(OpenVino(), tmp_path)
    with OpenVino().open(tmp_path, files, threads=1) as session:
        assert session._session.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        assert session.executed_precision == "fp32"
    core = openvino.Core()
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        alone = core.compile_model(core.read_model(tmp_path / "model.xml"), "CPU")
        assert alone.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"


def test_openvino_names_the_precision_that_its_kernels_compute_in(tmp_path: Path) -> None:
    """The answer is the compiled graph's: float16 weights on a CPU without float16 are computed in float32."""
    import openvino

    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with OpenVino(precision="fp16").open(tmp_path, exported(OpenVino(precision="fp16"), tmp_path), threads=1) as session:
        assert session.executed_precision == ("fp16" if "FP16" in can else "fp32")


def test_openvino_shows_bf16_when_it_runs_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned to bf16 on purpose, the record would say so; where the CPU has none, openvino refuses the pin and so do we."""
    import openvino

    files = exported(OpenVino(), tmp_path)
    monkeypatch.setattr(_openvino_runner, "precision_hint", lambda *_: "bf16")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with OpenVino().open(tmp_path, files, threads=1) as session:
            assert "bf16" in session.executed_precision
    else:
        with pytest.raises(MachineError, match="asked for 1 threads and bf16"):
            OpenVino().open(tmp_path, files, threads=1)


def test_openvino_with_fewer_threads_than_asked_is_refused(tmp_path: Path) -> None:
    """It takes as many as there are cores without a word; a figure for 1000 threads must not be one for 2."""
    files = exported(OpenVino(), tmp_path)
    with pytest.raises(MachineError, match="asked for 1000 threads and f32, openvino took"):
        OpenVino().open(tmp_path, files, threads=1000)


def test_openvino_halves_the_weights_on_disk(tmp_path: Path) -> None:
    """Float16 is for the size of the file even where it is not for speed."""
    sizes = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        exported(OpenVino(precision=precision), folder)
        sizes[precision] = (folder / "model.bin").stat().st_size
    assert sizes["fp16"] < 0.7 * sizes["fp32"]


def test_openvino_writes_the_same_bytes_twice_in_one_process(tmp_path: Path) -> None:
    """It numbers nameless layers through the whole process; the file does not."""
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        contents.append([(tmp_path / name / file).read_bytes() for file in exported(OpenVino(), tmp_path / name)])
    assert contents[0] == contents[1]


# ------------------------------------------------------------------------------------------------------------ onnxruntime
def test_onnxruntime_gets_exactly_the_threads_asked(tmp_path: Path) -> None:
    """The pool for one operator has them; operators do not run beside one another."""
    files = exported(OnnxRuntime(), tmp_path)
    for threads in (1, 2):
        with OnnxRuntime().open(tmp_path, files, threads=threads) as session:
            options = session._session._session.get_session_options()
            assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_onnxruntime_on_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that falls back to another one is an error, not a slower figure."""
    files = exported(OnnxRuntime(), tmp_path)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["SomeProvider", "CPUExecutionProvider"])
    with pytest.raises(MachineError, match=r"asked for \['CPUExecutionProvider'\], onnxruntime took \['SomeProvider'"):
        OnnxRuntime().open(tmp_path, files, threads=1)


def test_onnxruntime_says_that_it_widens_float16(tmp_path: Path) -> None:
    """The CPU provider has no float16 convolution on most machines; the executed precision is the kernels', not the file's."""
    backend = OnnxRuntime(precision="fp16")
    with backend.open(tmp_path, exported(backend, tmp_path), threads=1) as session:
        session.run(np.zeros((1, 3, 16, 16), np.float32))
        assert session.executed_precision in ("fp32", "fp16")
        assert session.executed_precision == session.executed_precision


@pytest.mark.parametrize(("cast_to", "expected"), [(None, "fp16"), (TensorProto.FLOAT, "fp32"), (TensorProto.BFLOAT16, "bf16")])
def test_the_executed_precision_follows_the_weights_to_the_kernel(
    cast_to: int | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float16 weights that a cast widens on their way reach the product in the cast's type."""
    weight = helper.make_tensor("stored", TensorProto.FLOAT16, (2, 2), np.ones((2, 2), np.float16))
    casts = [] if cast_to is None else [helper.make_node("Cast", ["stored"], ["widened"], to=cast_to)]
    turned = helper.make_node("Transpose", ["widened" if casts else "stored"], ["turned"])
    product = helper.make_node("MatMul", ["image", "turned"], ["logits"])
    image = helper.make_tensor_value_info("image", cast_to or TensorProto.FLOAT16, (1, 2))
    logits = helper.make_tensor_value_info("logits", cast_to or TensorProto.FLOAT16, (1, 2))
    graph = helper.make_graph([*casts, turned, product], "g", [image], [logits], [weight])

    def load(path: str, *, threads: int, spin: bool = True, optimised: str = "") -> Any:
        onnx.save(helper.make_model(graph), optimised)

    monkeypatch.setattr(_onnxruntime_runner, "load", load)
    assert _onnxruntime_runner.executed_precision(str(tmp_path / "model.onnx")) == expected


def test_onnxruntime_writes_the_opset_asked(tmp_path: Path) -> None:
    """The record's opset is the file's."""
    written = OnnxRuntime(opset=17).export(tiny_exportable(NET), tmp_path)
    assert written.opset == 17
    assert [entry.version for entry in onnx.load(tmp_path / "model.onnx").opset_import] == [17]

"""The TensorRT backend: what it writes without a GPU, and its calls of both major versions, through a fake."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd.core import gpu, parts
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.store import sha256_of
from edgekd.exporting import tensorrt_build
from edgekd.exporting.backends.tensorrt import TensorRt
from edgekd.testing import tiny_exportable, tiny_student

NET = tiny_student()
IMAGE_BCHW = np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture(params=["10.16.1.11", "11.4.0.106"])
def trt(request: pytest.FixtureRequest, tensorrt_fake: ModuleType) -> Iterator[Any]:
    with tensorrt_fake.installed(request.param) as module:
        yield module


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    TensorRt().export(tiny_exportable(NET), folder)
    return folder


def answer(folder: Path, image_BCHW: np.ndarray = IMAGE_BCHW, **options: Any) -> np.ndarray:
    with TensorRt(**options).open(folder, ("model.onnx",), threads=1) as session:
        return session.run(image_BCHW)


# -------------------------------------------------------------------------------------------------------------- without GPU
def test_without_a_gpu_the_graph_is_written_and_the_way_is_told(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Driver missing: the reason, the pip line and the commands for the target; the graph needs no TensorRT."""

    def none() -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(gpu, "_library", none)
    reason = TensorRt().cannot_run_here()
    for part in (
        "no NVIDIA driver",
        "libcuda.so.1",
        "built where it runs",
        "pip install 'edgekd[tensorrt]'",
        "edgekd export RUN",
    ):
        assert part in reason
    onnx.checker.check_model(onnx.load(exported / "model.onnx"), full_check=True)


def test_with_a_gpu_the_missing_package_is_an_error_with_the_pip_line(tensorrt_fake: ModuleType, tmp_path: Path) -> None:
    """On the target nothing is left unexecuted for want of a package: exit 4 and the command."""
    with tensorrt_fake.installed(), pytest.MonkeyPatch.context() as patch:
        find = importlib.util.find_spec
        patch.setattr(parts.importlib.util, "find_spec", lambda name: None if name == "tensorrt" else find(name))
        assert TensorRt().cannot_run_here() == ""
        with pytest.raises(MachineError, match=r"tensorrt, which is not installed(.|\n)*pip install 'edgekd\[tensorrt\]'"):
            TensorRt().export(tiny_exportable(NET), tmp_path)
        assert TensorRt(runner="trtexec").packages() == ()


def test_fp16_is_a_graph_in_float16(tmp_path: Path) -> None:
    """Strongly typed: precision is in the graph; input and output stay float32."""
    written = TensorRt(precision="fp16").export(tiny_exportable(NET), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {t.data_type for t in graph.initializer if len(t.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert {spec.dtype for spec in (*written.inputs, *written.outputs)} == {"float32"}


# ----------------------------------------------------------------------------------------------------------------- the calls
def test_the_calls_are_those_that_were_recorded(trt: Any, exported: Path, tensorrt_fake: ModuleType) -> None:
    """In build, load, run and inspection nothing is called that the real module has not; nothing recorded is unused."""
    with TensorRt(workspace_mib=64).open(exported, ("model.onnx",), threads=1) as session:
        session.run(IMAGE_BCHW)
        assert session.executed_precision == "fp32"
        assert (session.runtime, session.executed_on) == (f"tensorrt {trt.__version__}", "Fake GPU (compute capability 8.7)")
    model = onnx.load(exported / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, exported / "model.onnx")
    with pytest.raises(MachineError, match=r"cannot read the ONNX graph: (.|\n)*node 7 Conv node_7: "):
        answer(exported)
    recorded = tensorrt_fake.SIGNATURES[trt.__version__]
    names = {(c, m) for kind in ("classes", "enums") for c, members in recorded[kind].items() for m in members}
    assert names - trt.used == set()
    assert trt.workspace_bytes == 64 << 20


def test_a_call_that_the_real_module_would_not_take_is_noticed(trt: Any) -> None:
    """The fake can fail: a wrong parameter, a name that only the other major has, an attribute that does not exist."""
    with pytest.raises(TypeError, match="no overload"):
        trt.Builder(log=None)
    with pytest.raises(AttributeError):
        _ = trt.BuilderFlag.FP16
    with pytest.raises(AttributeError, match="max_workspace_size"):
        trt.IBuilderConfig().max_workspace_size = 1


def test_batches_within_the_profile_are_answered_and_others_refused(trt: Any, exported: Path) -> None:
    """1 to max_batch, in one engine; beyond it is told which option to change."""
    with TensorRt(max_batch=8, best_batch=2).open(exported, ("model.onnx",), threads=1) as session:
        for batch in (1, 5, 8):
            image_BCHW = np.random.default_rng(batch).random((batch, 3, 16, 16), dtype=np.float32)
            assert session.run(image_BCHW).shape == (batch, 3)
        with pytest.raises(UsageError, match="at most 8 images at once, not 9"):
            session.run(np.zeros((9, 3, 16, 16), np.float32))
    assert trt.builds == 1
    with pytest.raises(UsageError, match="best_batch is 16, more than max_batch 8"):
        answer(exported, max_batch=8, best_batch=16)


def test_an_answer_is_read_after_the_stream_was_waited_for(trt: Any, exported: Path) -> None:
    """The fake driver works only when it is synchronised: right numbers mean that nobody read before."""
    import torch

    with torch.no_grad():
        expected_BK = NET(torch.from_numpy(IMAGE_BCHW)).numpy()
    np.testing.assert_allclose(answer(exported), expected_BK, rtol=0, atol=1e-5)
    assert trt.cuda.synchronised >= 1


def test_another_thread_can_run_the_session(trt: Any, exported: Path) -> None:
    """CUDA's context belongs to a thread; the export stage opens in one and runs in another."""
    from concurrent.futures import ThreadPoolExecutor

    with TensorRt().open(exported, ("model.onnx",), threads=1) as session, ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(session.run, IMAGE_BCHW).result(), session.run(IMAGE_BCHW))


def test_everything_is_given_back(trt: Any, exported: Path) -> None:
    """Buffers on both sides, stream and context; also where opening fails halfway."""
    answer(exported)
    trt.cuda.fails["cuMemHostAlloc"] = 2
    with pytest.raises(MachineError, match="cuMemHostAlloc: error 2, fake error 2"):
        answer(exported)
    assert (trt.cuda.memory, trt.cuda.host, trt.cuda.streams, trt.cuda.contexts) == ({}, {}, 0, 0)


def test_a_driver_that_fails_while_running_is_one_message(trt: Any, exported: Path) -> None:
    """An asynchronous error comes up where the stream is waited for."""
    with TensorRt().open(exported, ("model.onnx",), threads=1) as session:
        trt.cuda.fails["cuStreamSynchronize"] = 700
        with pytest.raises(MachineError, match="cuStreamSynchronize: error 700"):
            session.run(IMAGE_BCHW)
        trt.cuda.fails.clear()


def test_tensorrts_own_words_come_through(trt: Any, exported: Path) -> None:
    """A build that fails says what TensorRT logged."""
    trt.refuses = "Could not find any implementation for node conv_0."
    with pytest.raises(MachineError, match=r"could not build an engine: Could not find any implementation for node conv_0\."):
        answer(exported)


def test_a_library_that_does_not_start_is_one_message(trt: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bindings raise a TypeError of pybind11 then; the user gets the reason and no traceback."""

    def nothing(_log: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", nothing)
    with pytest.raises(MachineError, match="TensorRT cannot start"):
        answer(exported)


def test_an_int8_graph_is_taken_and_runs(trt: Any, tmp_path: Path) -> None:
    """A graph with explicit Q and DQ from a quantiser goes the same way; the engine's inspector says int8."""
    model = quantised(tmp_path)
    (tmp_path / "int8").mkdir()
    written = TensorRt().write(model, tmp_path / "int8")
    with TensorRt().open(tmp_path / "int8", written.files, threads=1) as session:
        assert session.run(IMAGE_BCHW).shape == (5, 3)
        assert session.executed_precision == "int8"


def test_an_int8_graph_that_would_not_build_is_refused(tmp_path: Path) -> None:
    """uint8 activations, as onnxruntime's quantiser makes them by default, never reach the target."""
    with pytest.raises(UsageError, match=r"cannot read this student|cannot build this int8 graph"):
        TensorRt().write(quantised(tmp_path, symmetric=False), tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def quantised(folder: Path, *, symmetric: bool = True) -> onnx.ModelProto:
    """Return the tiny student as onnxruntime's static quantiser makes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from edgekd.exporting import graph

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"image": IMAGE_BCHW}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    onnx.save(graph.to_onnx(tiny_exportable(NET)), folder / "float.onnx")
    kind = QuantType.QInt8 if symmetric else QuantType.QUInt8
    quantize_static(
        folder / "float.onnx",
        folder / "quantised.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return onnx.load(folder / "quantised.onnx")


# --------------------------------------------------------------------------------------------------------------- the engines
def test_an_engine_is_built_once_for_what_it_depends_on(trt: Any, exported: Path, own_cache: Path) -> None:
    """The same again is kept; other settings, another graph or another GPU are built anew. The timing cache grows."""
    answer(exported)
    answer(exported)
    assert trt.builds == 1
    answer(exported, optimisation_level=1)
    assert trt.builds == 2
    trt.cuda.uuid = b"another-gpu-0000"
    answer(exported)
    assert trt.builds == 3
    (facts, *_) = [json.loads(path.read_text()) for path in own_cache.glob("*.engine.json")]
    assert facts["onnx_sha256"] == sha256_of(exported / "model.onnx")
    assert facts["tensorrt"] == trt.__version__
    assert facts["gpu"]["name"] == "Fake GPU"
    assert any(b"+timed+timed" in path.read_bytes() for path in own_cache.glob("*.timing"))


def test_another_version_builds_its_own(exported: Path, tensorrt_fake: ModuleType) -> None:
    """An engine fits one version of TensorRT."""
    for version in tensorrt_fake.VERSIONS:
        with tensorrt_fake.installed(version) as module:
            answer(exported)
            assert module.builds == 1


def test_a_tampered_engine_is_never_loaded(trt: Any, exported: Path, own_cache: Path) -> None:
    """One byte changed: integrity, exit 5, and TensorRT has not seen it."""
    answer(exported)
    (engine,) = own_cache.glob("*.engine")
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    trt.used.clear()
    with pytest.raises(IntegrityError, match="not built by this install on this machine"):
        answer(exported)
    assert ("Runtime", "deserialize_cuda_engine") not in trt.used


# ------------------------------------------------------------------------------------------------------------- the inspector
@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (
            {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized Int8 format"}]},
            "int8",
        ),
        ({"LayerType": "gemm", "Inputs": [{"Format": "Row major linear (kLINEAR)", "DataType": "Half"}]}, "fp16"),
        ({"LayerType": "CaskGemmConvolution", "Inputs": [{"DataType": "Float"}]}, "fp32"),
        ({"LayerType": "Reformat", "Inputs": [{"DataType": "Half"}]}, "unknown"),
        ({"LayerType": "CaskConvolution", "Inputs": []}, "unknown"),
        ("only a name, as without detailed verbosity", "unknown"),
    ],
)
def test_the_inspectors_words_of_both_majors(layer: Any, precision: str) -> None:
    """10 writes type and format in one field, 11 in two; what is not a product or says nothing counts for nothing."""
    assert tensorrt_build.precision_of(json.dumps({"Layers": [layer]})) == precision


def test_mixed_precisions_are_all_named() -> None:
    """A float first layer in an int8 engine is told."""
    layers = [{"LayerType": "conv", "Inputs": [{"DataType": kind}]} for kind in ("Int8", "Float", "Int8")]
    assert tensorrt_build.precision_of(json.dumps({"Layers": layers})) == "fp32+int8"
    assert tensorrt_build.precision_of("no JSON") == "unknown"

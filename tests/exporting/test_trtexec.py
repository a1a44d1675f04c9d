"""trtexec: the commands as lists of arguments, what it answers, and the backend through a program that stands in for it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import MachineError
from edgekd.exporting import trtexec
from edgekd.exporting.backends.tensorrt import TensorRt
from edgekd.exporting.tensorrt_build import BuildSettings
from edgekd.testing import tiny_exportable, tiny_student

FREE = BuildSettings(input="image", smallest=(1, 3, 16, 16), best=(4, 3, 16, 16), largest=(32, 3, 16, 16), workspace_mib=64)
FIXED = BuildSettings(input="image", smallest=(2, 3, 16, 16), best=(2, 3, 16, 16), largest=(2, 3, 16, 16), optimisation_level=5)
HOSTILE = Path("/x; rm -rf ~/$(id)`id`\n& model.onnx")


def test_the_build_command_is_strongly_typed_and_runs_nothing() -> None:
    """A profile for a free batch axis, none for a fixed one; no TF32, no precision flag, which 11 does not have."""
    command = trtexec.build_command(
        "trtexec", onnx=Path("m.onnx"), engine=Path("m.engine"), settings=FREE, timing_cache=Path("t.cache")
    )
    assert command == [
        "trtexec",
        "--onnx=m.onnx",
        "--saveEngine=m.engine",
        "--timingCacheFile=t.cache",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        "--profilingVerbosity=detailed",
        "--builderOptimizationLevel=3",
        "--memPoolSize=workspace:64",
        "--minShapes=image:1x3x16x16",
        "--optShapes=image:4x3x16x16",
        "--maxShapes=image:32x3x16x16",
    ]
    fixed = trtexec.build_command("trtexec", onnx=Path("m"), engine=Path("e"), settings=FIXED, timing_cache=Path("t"))
    assert not [argument for argument in fixed if "Shapes" in argument or "memPool" in argument]
    assert "--builderOptimizationLevel=5" in fixed


def test_timing_means_the_same_in_both_majors() -> None:
    """11 leaves copies out, spins and uses CUDA graphs by default, 10 does not: each is said."""
    command = trtexec.time_command("trtexec", engine=Path("e"), input="image", shape=(1, 3, 16, 16), times=Path("t.json"))
    assert {"--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--shapes=image:1x3x16x16"} <= set(command)


def test_no_shell_ever_sees_a_path() -> None:
    """A hostile file name is one argument, as it is."""
    command = trtexec.build_command("trtexec", onnx=HOSTILE, engine=Path("e"), settings=FREE, timing_cache=Path("t"))
    assert command[1] == f"--onnx={HOSTILE}"
    said = trtexec.call([sys.executable, "-c", "import sys; print(sys.argv[1])", command[1]], timeout_s=60)
    assert said == f"--onnx={HOSTILE}\n"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --help", "10.16.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec", "10.3.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110400] [b106] # trtexec", "11.4.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec", ""),
        ("usage: something else", ""),
    ],
)
def test_the_version_is_read_from_the_banner(said: str, version: str) -> None:
    """8.6 wrote its digits otherwise and is too old; what says nothing is not guessed."""
    assert trtexec.version(said) == version


def test_a_program_that_fails_or_hangs_is_one_message() -> None:
    """Its last words, or how long was waited."""
    with pytest.raises(MachineError, match=r"failed with exit code 3; it said last:\n    no engine"):
        trtexec.call([sys.executable, "-c", "print('no engine'); raise SystemExit(3)"], timeout_s=60)
    with pytest.raises(MachineError, match=r"did not end within 0\.2 s"):
        trtexec.call([sys.executable, "-c", "import time; time.sleep(30)"], timeout_s=0.2)
    with pytest.raises(MachineError, match="cannot be started"):
        trtexec.call(["/no/such/program"], timeout_s=1)


def test_answers_are_read_as_trtexec_writes_them(tmp_path: Path) -> None:
    """Rows of an image each; NaN and infinity in C++'s spelling are numbers too, and are for the parity check to judge."""
    text = '[\n  { "name" : "logits"\n  , "dimensions" : "2x3"\n  , "values" : [ 1.5, -2, nan, -nan, inf, -inf ]\n  }\n]\n'
    (tmp_path / "answers.json").write_text(text)
    expected = [[1.5, -2.0, np.nan], [np.nan, np.inf, -np.inf]]
    np.testing.assert_array_equal(trtexec.read_answers(tmp_path / "answers.json", 2), np.array(expected, np.float32))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[1, 2]", '[{"name": "logits", "dimensions": "2x3", "values": [1]}]', '[{"dimensions": "6", "values": [1]}]'],
)
def test_other_answers_are_refused(tmp_path: Path, text: str) -> None:
    """Nothing, several outputs, other shapes."""
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(MachineError):
        trtexec.read_answers(tmp_path / "answers.json", 2)


def test_a_missing_program_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names where it looked and the other way."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(trtexec, "_PLACES", ("/nowhere/trtexec",))
    with pytest.raises(MachineError, match=r"trtexec is not here(.|\n)*runner: python"):
        trtexec.find()


# ----------------------------------------------------------------------------------------------------------- the backend
STAND_IN = """#!{python}
import json, sys
import numpy as np
given = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec")
if "saveEngine" in given:
    open({log!r}, "a").write("build\\n")
    open(given["saveEngine"], "wb").write(open(given["onnx"], "rb").read())
    open(given["timingCacheFile"], "ab").write(b"timed")
if "loadEngine" in given:
    import onnxruntime
    shape = [int(s) for s in given["shapes"].partition(":")[2].split("x")]
    image = np.fromfile(given["loadInputs"].partition(":")[2], np.float32).reshape(shape)
    session = onnxruntime.InferenceSession(given["loadEngine"], providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {{"image": image}})
    rows = ", ".join(f"{{v:g}}" for v in logits.ravel())
    said = '[ {{"name": "logits", "dimensions": "%dx%d", "values": [%s]}} ]' % (*logits.shape, rows)
    open(given["exportOutput"], "w").write(said)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorrt_fake: ModuleType) -> Iterator[Any]:
    """Put a stand-in for trtexec on PATH, which computes with onnxruntime, and a GPU that only pretends."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "trtexec").write_text(STAND_IN.format(python=sys.executable, log=str(tmp_path / "log")))
    (folder / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with tensorrt_fake.installed():
        yield tmp_path


def test_a_device_without_bindings_answers_through_trtexec(program: Path) -> None:
    """Built once, kept like any other engine; the answers are the engine's, to six digits."""
    import torch

    net, image_BCHW = tiny_student(), np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)
    (program / "a").mkdir()
    backend = TensorRt(runner="trtexec")
    written = backend.export(tiny_exportable(net), program / "a")
    with torch.no_grad():
        expected_BK = net(torch.from_numpy(image_BCHW)).numpy()
    for _ in range(2):
        with backend.open(program / "a", written.files, threads=1) as session:
            np.testing.assert_allclose(session.run(image_BCHW), expected_BK, rtol=1e-5, atol=1e-5)
            assert (session.runtime, session.executed_precision) == ("trtexec 10.3.0", "unknown")
            assert "a process for every batch" in session.cannot_be_timed
        with pytest.raises(RuntimeError, match="closed"):
            session.run(image_BCHW)
    assert (program / "log").read_text() == "build\n"
    facts = json.loads(next((program / "cache" / "tensorrt").glob("*.json")).read_text())
    assert facts["trtexec"] == "10.3.0"

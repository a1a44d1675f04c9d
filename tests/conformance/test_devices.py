"""Every registered device keeps the device's contract."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.benching.protocol import Inputs, judge
from edgekd.core import parts
from edgekd.core.contracts import Device, Samples, TimingPlan
from edgekd.core.errors import IntegrityError
from edgekd.core.parts import PartRef
from edgekd.core.records import Accuracy, Artifact, DeviceFacts, InputContract, MadeBy, Parity, TensorSpec
from edgekd.core.store import file_ref

SIZE_PX = 8


@pytest.fixture(params=parts.names("device"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(name: str, request: pytest.FixtureRequest) -> Device:
    """Return the device; one over ssh is this machine again, by a real sshd and a Python with numpy and the runtime alone."""
    options = request.getfixturevalue("over_ssh") if name == "ssh" else {}
    part = parts.load("device", name)(**options)
    assert isinstance(part, Device)
    return part


@pytest.fixture
def over_ssh(trusted: Any, ssh_world: ModuleType, ssh_root: Path) -> dict[str, Any]:
    """Return the options of a device over ssh."""
    return {
        "host": ssh_world.HOST,
        "config": trusted.ssh_config,
        "python": sys.executable,
        "root": str(ssh_root),
        "lease": f"conformance-{os.getpid()}",
    }


@pytest.fixture(scope="module")
def ssh_root(ssh_world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what `edgekd device setup` makes."""
    root = tmp_path_factory.mktemp("device")
    ssh_world.target_environment(root, ("numpy", "onnxruntime"))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the smallest ONNX model worth the name: the mean colour, three logits."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Reshape", ["pooled", "shape"], ["logits"]),
        ],
        "mean_colour",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([0, 3], np.int64), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "onnxruntime-fp32"
    path.mkdir()
    onnx.save_model(model, path / "model.onnx")
    return path


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    reference = file_ref(folder / "model.onnx", folder=folder)
    return Artifact(
        made_by=MadeBy(version="0"),
        backend=PartRef(use="onnxruntime"),
        precision="fp32",
        executed_precision="unknown",
        executed_on="CPU",
        runtime="onnxruntime",
        files=(reference,),
        size_bytes=reference.size_bytes,
        inputs=(TensorSpec(name="image", shape=("batch", 3, SIZE_PX, SIZE_PX), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=("batch", 3), dtype="float32"),),
        opset=18,
        classes=("red", "green", "blue"),
        input=InputContract(
            size_px=(SIZE_PX, SIZE_PX), resize_px=SIZE_PX, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        parity=Parity(images=1, max_abs=0, mean_abs=0, logit_cosine_mean=1, logit_cosine_min=1, top1_agreements=1, flips=()),
        accuracy=Accuracy(images=1, top1_correct=1, top5_correct=None, predictions=reference),
    )


@pytest.fixture
def plan(tmp_path: Path, name: str) -> TimingPlan:
    if name == "ssh":
        pytest.skip("it measures by way of its workbench alone")
    images_npy = tmp_path / "images.npy"
    np.save(images_npy, np.random.default_rng(0).random((32, 3, SIZE_PX, SIZE_PX), dtype=np.float32))
    return TimingPlan(batch=2, threads=1, workers=2, warmup=3, iterations=40, images_npy=images_npy)


def test_devices_are_registered() -> None:
    """The suite runs over something, the machine at hand among it."""
    assert "local" in parts.names("device")


def test_help_is_one_line(name: str) -> None:
    """One line of help without import, short enough for a list."""
    assert 20 < len(parts.help_line("device", name)) <= 100


def test_importing_it_imports_no_runtime(name: str) -> None:
    """The controller must be light: no torch and no runtime come with a device."""
    code = (
        f"import sys; from edgekd.core import parts; parts.load('device', {name!r});"
        "print(sorted({'torch', 'onnxruntime', 'openvino', 'timm'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


def test_reference_and_identity_lead_back_to_it(name: str, device: Device) -> None:
    """A recipe can name it with every option written out, and its identity fits into JSON."""
    ref = PartRef.model_validate_json(device.ref().model_dump_json())
    assert ref.use == name
    assert parts.load("device", ref.use)(**ref.options) == device
    assert json.loads(json.dumps(device.identity()))["use"] == name


def test_an_unknown_option_is_refused(name: str) -> None:
    """A misspelt option is an error, never ignored."""
    with pytest.raises(ValueError, match="no_such_option"):
        parts.load("device", name)(no_such_option=1)


def test_facts_are_a_record_with_a_name_for_files(device: Device) -> None:
    """The facts survive JSON, and their name can stand in a file name."""
    facts = device.facts()
    assert DeviceFacts.model_validate_json(facts.model_dump_json()) == facts
    assert facts.name
    assert Path(facts.name).name == facts.name
    assert "@" not in facts.name


def test_default_threads_fit_the_machine(device: Device) -> None:
    """At least one thread, at most one for each usable core."""
    assert 1 <= device.default_threads() <= device.facts().usable_cores


def test_it_times_a_real_model(device: Device, artifact: Artifact, folder: Path, plan: TimingPlan) -> None:
    """Each fresh worker answers exactly the samples asked for, from the runtime asked for, and hides nothing."""
    answers = device.time(artifact, folder, plan)
    assert isinstance(answers, Iterator)
    found = list(answers)
    assert all(isinstance(one, Samples) for one in found)
    assert [len(one.worker.infer_ns) for one in found] == [40, 40]
    assert all(time_ns > 0 for one in found for time_ns in (one.worker.load_ns, one.worker.first_ns, *one.worker.infer_ns))
    assert {one.worker.warmup_iterations for one in found} == {3}
    assert all(one.runtime.startswith("onnxruntime ") for one in found)
    assert {one.executed_on for one in found} == {"CPU"}
    judgement = judge(found, artifact=artifact, facts=device.facts(), threads=plan.threads, inputs=Inputs(images=32))
    assert not [reason for reason in judgement.untrusted_because if reason.startswith(("too-few", "executed-on"))]


def test_a_broken_model_is_refused_in_one_message(device: Device, artifact: Artifact, folder: Path, plan: TimingPlan) -> None:
    """It names the file and is no traceback; what is no model at all does not reach the runtime."""
    (folder / "model.onnx").write_bytes(b"\x08\x01 not a model")
    with pytest.raises(IntegrityError, match=r"model\.onnx: is not a whole ONNX model"):
        list(device.time(artifact, folder, plan))


def test_it_can_be_left_after_the_first_worker(device: Device, artifact: Artifact, folder: Path, plan: TimingPlan) -> None:
    """Who has seen enough closes the iterator; the rest is not run."""
    answers = device.time(artifact, folder, plan)
    assert len(next(answers).worker.infer_ns) == 40
    answers.close()  # type: ignore[attr-defined]
    assert list(answers) == []

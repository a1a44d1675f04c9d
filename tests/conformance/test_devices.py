"""Every registered device keeps the device's contract."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.benching.answers import samples_of
from edgekd.benching.inputs import Fed
from edgekd.benching.subjects import Load, Subject, plan_of
from edgekd.core import parts
from edgekd.core.contracts import ArmName, Backend, Device, Workbench
from edgekd.core.errors import MachineError
from edgekd.core.parts import PartRef
from edgekd.core.records import DeviceFacts

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
def images_npy(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).random((32, 3, SIZE_PX, SIZE_PX), dtype=np.float32))
    return path


def plan_for(bench: Workbench, folder: Path, images_npy: Path) -> dict[str, Any]:
    """Return a short plan for the model in `folder`, brought to the device."""
    fed = Fed(inputs_npy=images_npy, photographs_npz=None, images=32, sha256="0" * 64, constant=False, synthetic=True)
    subject = Subject(
        arm=ArmName(artifact="onnxruntime-fp32", arm="candidate"),
        backend=cast("Backend", parts.load("backend", "onnxruntime")()),
        folder=folder,
        files=("model.onnx",),
        digest="0" * 64,
        contract=None,
    )
    return plan_of(subject, fed, Load(batch=2, threads=1), bench) | {"warmup": 3, "iterations": 40}


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
    assert facts.name == device.known_as()
    assert Path(facts.name).name == facts.name
    assert "@" not in facts.name


def test_default_threads_fit_the_machine(device: Device) -> None:
    """At least one thread, at most one for each usable core."""
    assert 1 <= device.default_threads() <= device.facts().usable_cores


def test_it_times_a_real_model(device: Device, folder: Path, images_npy: Path) -> None:
    """Each fresh worker answers exactly the samples asked for, from the runtime asked for, without edgekd on the device."""
    with device.ready() as bench:
        plan = plan_for(bench, folder, images_npy)
        assert plan["runner"], "the device needs the file that opens the runtime"
        found = [bench.work(plan, timeout_s=120) for _ in range(2)]
    for one in found:
        columns = samples_of(one, whose="w")
        assert len(columns["infer"]) == 40
        assert (columns["infer"] > 0).all()
        assert one["load_ns"] > 0
        assert one["first_ns"] > 0
        assert one["cpu_ns"] >= 0
        assert one["runtime"].startswith("onnxruntime ")
        assert (one["executed_on"], one["session_options"]["intra_op_num_threads"]) == ("CPU", "1")


def test_its_state_can_be_told_and_watched(device: Device) -> None:
    """A fingerprint that names what it does not know, and samples in order of time."""
    with device.ready() as bench:
        with bench.telemetry() as log:
            found = bench.fingerprint()
        assert len(found.fields) >= 40
        assert len(found.device_class) == len(found.device_state) == 64
        times = [row.at_ns for row in log.rows]
        assert times == sorted(times)


def test_a_broken_model_is_refused_in_one_message(device: Device, folder: Path, images_npy: Path) -> None:
    """It names the file and is no traceback."""
    (folder / "model.onnx").write_bytes(b"\x08\x01 not a model")
    with device.ready() as bench, pytest.raises(MachineError, match=r"model\.onnx: onnxruntime .* cannot load it"):
        bench.work(plan_for(bench, folder, images_npy), timeout_s=120)

"""`edgekd bench` of a finished run on a device over ssh, which has numpy and the runtime and nothing else."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgekd.core.records import Measurement
from edgekd.core.store import read_record

Call = Callable[..., tuple[int, str, str]]


def test_a_run_is_measured_over_ssh_and_once(
    finished: Path, edgekd: Call, trusted: Any, ssh_world: ModuleType, tmp_path: Path
) -> None:
    """Samples, fingerprint and telemetry are the device's; a second time nothing is done, though it cannot be reached."""
    root = tmp_path / "device"
    root.mkdir()
    ssh_world.target_environment(root, ("numpy", "onnxruntime"))
    config = trusted.config_for(trusted.port, "ssh_config-bench")
    options = f"host: {ssh_world.HOST}, name: lab, config: {config}, python: {sys.executable}, root: {root}"
    device = f"bench.devices=[{{use: ssh, {options}, lease: bench-{os.getpid()}}}]"
    sets = ["--set", device, "--set", "bench.rounds=3", "--set", "bench.iterations=40"]
    run = finished / "run"
    code, _, err = edgekd("bench", run, *sets)
    assert code == 0, err
    record = read_record(Measurement, run / "measurements" / "onnxruntime-fp32@lab.json")
    assert record.device.name == "lab"
    assert record.fingerprint is not None
    assert len(record.fingerprint.fields) >= 40
    assert record.telemetry is not None
    assert len(record.workers) == 3
    with np.load(run / "measurements" / record.samples.path, allow_pickle=False) as samples:
        assert (samples["infer"] > 0).all()
        assert len(samples["infer"]) >= 120
    trusted.config_for(ssh_world.free_port(), "ssh_config-bench")
    code, _, err = edgekd("bench", run, *sets)
    assert (code, "onnxruntime-fp32@lab: kept" in err) == (0, True), err

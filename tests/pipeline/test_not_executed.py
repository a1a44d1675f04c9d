"""A recipe that exports for TensorRT: inconclusive where there is no GPU, done anew where there is one."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekd.core import gpu
from edgekd.core.records import Artifact
from edgekd.core.store import RunFolder, read_record

EdgeKD = Callable[..., tuple[int, str, str]]


def test_without_a_gpu_it_is_inconclusive_and_on_the_target_it_runs(
    experiment: Path, edgekd: EdgeKD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorrt_fake: ModuleType
) -> None:
    """Exit 3 and the way to the target; there, `edgekd export` runs what was left, and the figures are the runtime's."""

    def none() -> Any:
        raise OSError("no driver")

    monkeypatch.setattr(gpu, "_library", none)
    text = experiment.read_text().replace("{use: onnxruntime, precision: fp32}", "{use: tensorrt, precision: fp16}")
    experiment.write_text(text)
    code, out, err = edgekd("run", str(experiment), "--out", str(tmp_path / "run"))
    assert code == 3, (out, err)
    assert "tensorrt fp16: not executed: there is no NVIDIA driver here" in err
    assert "edgekd export RUN" in err
    path = RunFolder(tmp_path / "run").artifact("tensorrt-fp16")
    assert read_record(Artifact, path).accuracy is None
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert (verdict["exit_code"], verdict["outcome"]) == (3, "inconclusive")
    code, out, _ = edgekd("verify", str(tmp_path / "run"))
    assert code == 0
    code, out, _ = edgekd("show", str(path))
    assert "not executed: there is no NVIDIA driver here" in out
    assert RunFolder(tmp_path / "run").measurements() == []

    monkeypatch.undo()
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with tensorrt_fake.installed():
        code, out, err = edgekd("export", str(tmp_path / "run"))
    assert code == 0, (out, err)
    ran = read_record(Artifact, path)
    assert ran.not_executed == ""
    assert ran.parity is not None
    assert ran.parity.images == 12
    assert ran.executed_on == "Fake GPU (compute capability 8.7)"

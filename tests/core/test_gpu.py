"""GPUs through the driver: what is known of one, and one message where there is none."""

from types import ModuleType
from typing import Any

import pytest

from edgekd import doctor
from edgekd.core import gpu
from edgekd.core.errors import MachineError


def test_facts_name_the_gpu_but_not_its_serial_number(tensorrt_fake: ModuleType) -> None:
    """Name, compute capability, memory and the driver's CUDA; the UUID only as a sha256, another for another GPU."""
    with tensorrt_fake.installed(uuid=b"serial-number-42"):
        found = gpu.facts()
    assert (found.name, found.compute_capability, found.memory_bytes, found.driver_cuda) == ("Fake GPU", "8.7", 8 << 30, "13.2")
    assert "serial" not in repr(found)
    with tensorrt_fake.installed():
        assert gpu.facts().uuid_sha256 != found.uuid_sha256


@pytest.mark.parametrize(
    ("fails", "devices", "reason"),
    [
        ({"cuInit": 999}, 1, "the CUDA driver failed in cuInit: error 999, fake error 999"),
        ({}, 0, "the NVIDIA driver knows no GPU here"),
    ],
)
def test_a_driver_without_a_usable_gpu_is_told(
    fails: dict[str, int], devices: int, reason: str, tensorrt_fake: ModuleType
) -> None:
    """The same words as an answer and as an error."""
    with tensorrt_fake.installed(devices=devices) as module:
        module.cuda.fails.update(fails)
        assert gpu.unavailable() == reason
        with pytest.raises(MachineError, match=reason):
            gpu.facts()


def test_doctor_shows_the_gpu_or_why_there_is_none(tensorrt_fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, its name and driver; without, the reason, and that TensorRT would be of no use here."""
    with tensorrt_fake.installed():
        (line,) = [line for line in doctor.doctor() if line.startswith("gpu")]
    assert line == "gpu      Fake GPU (compute capability 8.7), 8 GiB, driver for CUDA 13.2"

    def none() -> Any:
        raise OSError("no such library")

    monkeypatch.setattr(gpu, "_library", none)
    lines = doctor.doctor()
    assert "gpu      none: there is no NVIDIA driver here (libcuda.so.1 cannot be loaded)" in lines
    missing = "missing  tensorrt: pip install 'edgekd[tensorrt]'; of use on a machine with an NVIDIA GPU only"
    assert missing in lines or any(line.startswith("ok       tensorrt") for line in lines)

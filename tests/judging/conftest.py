"""The hand-made report for the tests of this folder, and a run folder on disk that holds the same kind of records."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgekd.core.records import Accuracy, Artifact, Checkpoint, Report
from edgekd.core.store import RunFolder, file_ref, write_record, write_text

_spec = importlib.util.spec_from_file_location("edgekd_test_reports", Path(__file__).with_name("reports.py"))
_reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_reports)

IMAGES = 40


@pytest.fixture(scope="session")
def reports() -> ModuleType:
    """Return the builders of records."""
    return _reports


@pytest.fixture
def report() -> Report:
    """Return a realistic report."""
    return _reports.report()


def write_answers(folder: Path, right: Mapping[str, bool]) -> Accuracy:
    """Write predictions.csv and return its counts."""
    lines = ["image,label,top1,confidence,top5_hit"]
    lines += [f"{image},ketch,{'ketch' if ok else 'helicopter'},0.750000,1" for image, ok in right.items()]
    write_text(folder / "predictions.csv", "\n".join(lines) + "\n")
    return Accuracy(
        images=len(right),
        top1_correct=sum(right.values()),
        top5_correct=len(right),
        predictions=file_ref(folder / "predictions.csv", folder=folder),
    )


def answers(correct: int, *, images: int = IMAGES, shift: int = 0) -> dict[str, bool]:
    """Return image id -> right: `correct` of them, starting with image number `shift`."""
    return {f"val/{i:04d}.jpg": (i - shift) % images < correct for i in range(images)}


class RunOnDisk:
    """A run folder in the making; each `write_*` can be called again to make what came after it stale."""

    def __init__(self, root: Path) -> None:
        self.folder = RunFolder(root)

    def write_student(self, name: str = "checkpoint", *, right: Mapping[str, bool] | None = None, **changes: object) -> None:
        """Write a checkpoint with its weights, history and predictions."""
        path = self.folder.checkpoint(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path.parent / "student.safetensors", f"weights of {name}")
        history = ['{"phase": "warm-up"}']
        history += [f'{{"step": {i}, "images_seen": {64 * i}, "loss": {2.0 / i}, "lr": 0.1}}' for i in range(1, 6)]
        history.append('{"step": 6, "images_seen": 384, "loss": 0.25, "top1": 0.5}')
        write_text(path.parent / "history.jsonl", "\n".join(history) + "\n")
        method = "supervised" if name == "baseline" else "feature"
        record = _reports.checkpoint(method=method, name=name).model_copy(
            update={
                "weights": file_ref(path.parent / "student.safetensors", folder=path.parent),
                "history": file_ref(path.parent / "history.jsonl", folder=path.parent),
                "accuracy": write_answers(path.parent, right or answers(24 if name == "baseline" else 30)),
                **changes,
            }
        )
        write_record(path, record)

    def write_student_record(self, **changes: object) -> None:
        """Write the checkpoint's record again with changes, leaving its files as they are."""
        path = self.folder.checkpoint()
        write_record(path, Checkpoint.from_json(path.read_bytes()).model_copy(update=changes))
        for later in (*self.folder.artifacts(), *self.folder.measurements()):
            later.unlink()

    def write_artifact(
        self,
        backend: str = "onnxruntime",
        precision: str = "fp32",
        *,
        right: Mapping[str, bool] | None = None,
        **changes: object,
    ) -> None:
        """Write an artifact of the checkpoint that is there now."""
        student = Checkpoint.from_json(self.folder.checkpoint().read_bytes())
        path = self.folder.artifact(f"{backend}-{precision}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path.parent / "model.onnx", f"{backend} {precision}")
        record = _reports.artifact(backend, precision).model_copy(
            update={
                "from_": {"checkpoint": student.digest()},
                "files": (file_ref(path.parent / "model.onnx", folder=path.parent),),
                "accuracy": write_answers(path.parent, right or answers(30)),
                **changes,
            }
        )
        write_record(path, record)

    def write_measurement(self, artifact: str = "onnxruntime-fp32", device: str = "local", **changes: object) -> None:
        """Write a measurement of the artifact that is there now."""
        of = Artifact.from_json(self.folder.artifact(artifact).read_bytes())
        path = self.folder.measurement(artifact, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = path.with_suffix(".npz")
        np.savez_compressed(samples, **_reports.samples_of(_reports.times_of(1.3)))
        own = {"samples": file_ref(samples, folder=path.parent)}
        write_record(path, _reports.measurement(of, typical_ms=1.3).model_copy(update=own | changes))


@pytest.fixture
def run(tmp_path: Path) -> RunOnDisk:
    """Return a complete run: student, baseline, one artifact, one measurement."""
    made = RunOnDisk(tmp_path / "run")
    made.write_student()
    made.write_student("baseline")
    made.write_artifact()
    made.write_measurement()
    return made


@pytest.fixture
def new_run() -> Callable[[Path], RunOnDisk]:
    """Return the maker of further run folders."""
    return RunOnDisk


@pytest.fixture
def answered() -> Callable[..., dict[str, bool]]:
    """Return the maker of answers."""
    return answers

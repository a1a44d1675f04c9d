"""`finetune: int8`: the student is trained on with int8 in view, and its int8 artifacts come from there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from edgekd.core.records import Artifact, Checkpoint
from edgekd.core.store import INT8, RunFolder, read_record

Call = Callable[..., tuple[int, str, str]]
INT8_EXPORT = "  - {use: onnxruntime, precision: int8, quantise: {images: 8, max_drop: 100, keep_slower: true}}\n"


@pytest.fixture
def recipe(experiment: Path) -> Path:
    text = experiment.read_text().replace("export:\n", "export:\n" + INT8_EXPORT).replace("bench: {", "bench: null\n_: {")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("_:", "quick:", "  train: {duration")))
    experiment.write_text(text + "\nfinetune: {duration: {images: 16}, lr: 1e-4}\nbaseline: null\n")
    return experiment


@pytest.fixture
def run(recipe: Path, finished_by: Callable[[str], Path]) -> RunFolder:
    return RunFolder(finished_by(recipe.read_text()) / "run")


def test_int8_artifacts_come_from_the_student_that_was_trained_on(recipe: Path, run: RunFolder, edgekd: Call) -> None:
    """Its checkpoint began as the student, float artifacts are the student's, the chain holds, and nothing is done twice."""
    student, tuned = (read_record(Checkpoint, run.checkpoint(name)) for name in ("checkpoint", INT8))
    assert tuned.from_["start"] == student.digest()
    assert tuned.training.images_seen == 16
    weights = [load_file(run.checkpoint(name).parent / "student.safetensors") for name in ("checkpoint", INT8)]
    assert list(weights[0]) == list(weights[1])
    assert any(not value.equal(weights[1][key]) for key, value in weights[0].items())
    made = {path.parent.name: read_record(Artifact, path) for path in run.artifacts()}
    assert made["onnxruntime-fp32"].from_["checkpoint"] == student.digest()
    assert made["onnxruntime-int8"].from_["checkpoint"] == tuned.digest()
    assert json.loads(run.report.read_text())["from"]["int8"] == tuned.digest()
    assert edgekd("verify", run.root)[0] == 0
    code, _, err = edgekd("run", recipe, "--out", run.root)
    assert (code, err.count("kept")) == (0, 4), err


def test_without_it_the_folder_goes(recipe: Path, edgekd: Call, tmp_path: Path) -> None:
    """Dropped from the recipe, the int8 artifact is the student's own again; `finetune: int8` alone takes the defaults."""
    run = RunFolder(tmp_path / "run")
    assert edgekd("distill", recipe, "--out", run.root)[0] == 0
    assert run.checkpoint(INT8).is_file()
    recipe.write_text(recipe.read_text().replace("finetune: {duration: {images: 16}, lr: 1e-4}\n", ""))
    code, _, err = edgekd("distill", recipe, "--out", run.root)
    assert code == 0, err
    assert not run.checkpoint(INT8).parent.exists()
    recipe.write_text(recipe.read_text() + "finetune: int8\n")
    assert edgekd("distill", recipe, "--out", run.root)[0] == 0
    assert read_record(Checkpoint, run.checkpoint(INT8)).training.images_seen == 48  # two epochs of 24 images


def test_one_that_began_elsewhere_is_no_evidence(run: RunFolder, edgekd: Call) -> None:
    """Judged again after the student was exchanged, the run says which checkpoint is another's."""
    record = json.loads(run.checkpoint(INT8).read_text())
    tuned = Checkpoint.from_json(run.checkpoint(INT8).read_bytes())
    other = tuned.model_copy(update={"from_": {**tuned.from_, "start": "0" * 64}})
    run.checkpoint(INT8).write_text(other.to_json())
    assert record["digest"] != other.digest()
    code, _, err = edgekd("report", run.root)
    assert code == 3
    assert "was trained on from another student" in err

"""`edgekd run`: everything once, nothing twice, and only what a changed key asks for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.records import Artifact, Checkpoint, Measurement, Report, Verdict
from edgekd.core.samples import read_samples
from edgekd.core.store import RunFolder, read_record

Call = Callable[..., tuple[int, str, str]]
STAGES = (
    "checkpoint/checkpoint.json",
    "baseline/checkpoint.json",
    "artifacts/onnxruntime-fp32/artifact.json",
    "measurements/onnxruntime-fp32@local.json",
    "verdict.json",
)


def stamps(run: Path) -> dict[str, int]:
    return {name: (run / name).stat().st_mtime_ns for name in STAGES if (run / name).is_file()}


def redone(run: Path, before: dict[str, int]) -> set[str]:
    return {name.partition("/")[0] for name, stamp in stamps(run).items() if before.get(name) != stamp}


def test_a_run_leaves_every_record_and_page(finished: Path) -> None:
    """Student, baseline, artifact, measurement, report and verdict are there, sound, and linked by digest."""
    folder = RunFolder(finished / "run")
    student = read_record(Checkpoint, folder.checkpoint())
    baseline = read_record(Checkpoint, folder.checkpoint("baseline"))
    artifact = read_record(Artifact, folder.artifact("onnxruntime-fp32"))
    measured = read_record(Measurement, folder.measurement("onnxruntime-fp32", "local"))
    report = read_record(Report, folder.report)
    verdict = read_record(Verdict, folder.verdict)
    assert artifact.from_["checkpoint"] == student.digest()
    assert measured.from_["artifact"] == artifact.digest()
    assert verdict.from_["report"] == report.digest()
    assert verdict.outcome == "pass"
    assert (student.data.labelled_images, student.data.train_images, student.data.validation_images) == (12, 24, 12)
    assert baseline.training.images_seen == student.training.images_seen == 32
    assert baseline.accuracy.images == student.accuracy.images == artifact.accuracy.images == 12
    assert artifact.parity.top1_agreements == 12
    assert [worker.round for worker in measured.workers] == [0]
    assert len(read_samples(measured, folder=finished / "run/measurements")["infer"]) == 24
    for page in ("report.html", "report.md", "junit.xml"):
        assert (finished / "run" / page).stat().st_size > 500


def test_two_artifacts_of_a_kind_stand_side_by_side_by_name(finished: Path, edgekd: Call) -> None:
    """Floats and bytes, both fp32 through one runtime: each has its folder, its parity, its measurement and its findings."""
    text = (finished / "recipe.yaml").read_text()
    named = "  - {use: onnxruntime, inputs: uint8, name: bytes}\nbench:"
    (finished / "recipe.yaml").write_text(text.replace("bench:", named, 1))
    code, out, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run")
    assert code == 0, err
    folder = RunFolder(finished / "run")
    assert "artifacts/onnxruntime-fp32" not in err
    artifact = read_record(Artifact, folder.artifact("bytes"))
    assert (artifact.name, artifact.precision, artifact.inputs[0].dtype) == ("bytes", "fp32", "uint8")
    assert read_record(Measurement, folder.measurement("bytes", "local")).artifact == artifact.digest()
    report = read_record(Report, folder.report)
    assert [artifact.name for artifact in report.artifacts] == ["onnxruntime-fp32", "bytes"]
    assert "bytes" in out
    assert "bytes" in (finished / "run/report.md").read_text()


def test_a_second_run_does_nothing_and_says_so(finished: Path, edgekd: Call) -> None:
    """Not one record is written again."""
    before = stamps(finished / "run")
    code, out, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run")
    assert code == 0
    assert "nothing to do" in err
    assert "all 2 checks passed" in out
    assert redone(finished / "run", before) == set()


def test_a_run_folder_may_be_moved(finished: Path, edgekd: Call) -> None:
    """What counts is content, not paths: the copied folder is kept as it is."""
    (finished / "run").rename(finished / "elsewhere")
    (finished / "images").rename(finished / "pictures")
    before = stamps(finished / "elsewhere")
    recipe = (finished / "recipe.yaml").read_text().replace("images/", "pictures/")
    (finished / "recipe.yaml").write_text(recipe)
    code, _, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "elsewhere")
    assert code == 0
    assert redone(finished / "elsewhere", before) == set(), err


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("budgets.0.max=8MB", {"verdict.json"}),
        ("bench.iterations=13", {"measurements", "verdict.json"}),
        ("export.0.opset=17", {"artifacts", "measurements", "verdict.json"}),
        ("baseline.lr=5e-4", {"baseline", "verdict.json"}),
        ("method.temperature=3.0", {"checkpoint", "artifacts", "measurements", "verdict.json"}),
        ("train.workers=0", set()),
    ],
)
def test_a_changed_key_redoes_only_what_depends_on_it(finished: Path, edgekd: Call, change: str, again: set[str]) -> None:
    """Budgets touch the verdict alone, the method everything but the baseline."""
    before = stamps(finished / "run")
    code, _, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run", "--set", change)
    assert code in (0, 3), err
    assert redone(finished / "run", before) == again


def test_changed_images_redo_everything(finished: Path, edgekd: Call) -> None:
    """Another picture under the same name is another data set."""
    before = stamps(finished / "run")
    victim = finished / "images/train/disc/0.png"
    victim.write_bytes((finished / "images/train/bars/0.png").read_bytes())
    code, _, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run")
    assert code == 0, err
    assert redone(finished / "run", before) >= {"checkpoint", "baseline", "artifacts", "measurements", "verdict.json"}


def test_what_the_recipe_no_longer_names_is_removed(finished: Path, edgekd: Call) -> None:
    """A report never mixes the artifacts of two recipes."""
    exports, parity = (
        "export:\n  - {use: onnxruntime, precision: fp32}\n",
        "  - {metric: parity.top1_agreement, min_counted: 90%}\n",
    )
    recipe = (finished / "recipe.yaml").read_text().replace(exports, "export: []\n").replace(parity, "")
    (finished / "recipe.yaml").write_text(recipe)
    code, out, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run")
    assert not list((finished / "run/artifacts").iterdir())
    assert not list((finished / "run/measurements").iterdir())
    assert code == 3, err
    assert "CANNOT TELL" in out.upper() or "INCONCLUSIVE" in out.upper()


def test_quick_lays_its_section_over_the_recipe(experiment: Path, edgekd: Call) -> None:
    """`--quick` with `distill` trains for the quick duration."""
    code, out, _ = edgekd("distill", experiment, "--quick", "--out", experiment.parent / "q", "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["training"]["images_seen"] == 16


def test_the_student_of_a_seed_is_always_the_same(experiment: Path, edgekd: Call) -> None:
    """Two runs from one recipe give the same weights, byte for byte; another seed gives others."""
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = experiment.parent / name
        assert edgekd("distill", experiment, "--out", out, "--quiet", "--set", f"seed={seed}")[0] == 0
        weights.append((out / "checkpoint/student.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_stage_by_stage_gives_what_one_run_gives(experiment: Path, edgekd: Call) -> None:
    """distill, export, bench, report and gate in turn end where `run` ends, with nothing left for it to do."""
    run = experiment.parent / "run"
    assert edgekd("distill", experiment, "--out", run, "--quiet")[0] == 0
    for stage in ("export", "bench", "report"):
        code, out, err = edgekd(stage, run, "--quiet")
        assert code == 0, err
        assert out
    code, out, _ = edgekd("gate", run, "--json")
    assert code == 0
    assert json.loads(out)["outcome"] == "pass"
    assert "nothing to do" in edgekd("run", experiment, "--out", run)[2]


def test_judging_needs_no_torch_and_no_images(finished: Path) -> None:
    """A machine without torch, and without the data, can report and gate a run that another one made."""
    (finished / "images").rename(finished / "gone")
    program = """
import sys
from importlib.abc import MetaPathFinder

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "accelerate", "webdataset"}

class NotHere(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotHere())
from edgekd.cli import main
main(sys.argv[1:])
"""
    for command in (["report"], ["gate"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command, str(finished / "run")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_export_says_what_its_parity_proves_and_where_it_departs(finished: Path, edgekd: Call) -> None:
    """Twelve images prove no 99.9 %: the artifact is looked into, every tensor of it is sound, and the record stays valid."""
    artifact = read_record(Artifact, RunFolder(finished / "run").artifact("onnxruntime-fp32"))
    assert artifact.parity.decision.outcome == "inconclusive"
    assert "2,995 images would decide" in artifact.parity.decision.because
    code, out, err = edgekd("export", finished / "run", "--bisect")
    assert (code, "onnxruntime-fp32: kept" in err) == (0, True)
    assert "No node departs" in out
    assert "0 without a counterpart" in out
    assert edgekd("show", finished / "run/artifacts/onnxruntime-fp32/bisect.json")[1] == out
    assert edgekd("verify", finished / "run")[0] == 0
    code, _, err = edgekd("export", finished / "run", "--bisect", "--artifact", "openvino-fp16")
    assert (code, "exports no artifact 'openvino-fp16'; it exports onnxruntime-fp32" in err) == (2, True)
    code, _, err = edgekd("export", finished / "run", "--artifact", "onnxruntime-fp32")
    assert (code, "--artifact belongs to --bisect" in err) == (2, True)


def test_gate_by_another_file_of_budgets(finished: Path, edgekd: Call) -> None:
    """An impossible size fails with exit code 1, and the same records judged twice give the same bytes."""
    budgets = finished / "strict.yaml"
    budgets.write_text("version: 1\nbudgets:\n  - {metric: size.bytes, max: 10kB}\n")
    verdict = finished / "run/verdict.json"
    assert edgekd("gate", finished / "run", "--budgets", budgets)[0] == 1
    first = verdict.read_bytes()
    assert edgekd("gate", finished / "run", "--budgets", budgets)[0] == 1
    assert verdict.read_bytes() == first
    assert edgekd("gate", finished / "run")[0] == 0


def test_gate_refuses_a_report_that_is_older_than_its_records(finished: Path, edgekd: Call) -> None:
    """Measured again, not reported again: the old report is no evidence, and a report alone is judged as it is."""
    recipe = finished / "run/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("iterations: 12", "iterations: 13"))
    assert edgekd("bench", finished / "run")[0] == 0
    code, _, err = edgekd("gate", finished / "run")
    assert code == 3
    assert "edgekd report" in err
    assert edgekd("report", finished / "run")[0] == 0
    assert edgekd("gate", finished / "run")[0] == 0
    for folder in ("checkpoint", "baseline", "artifacts", "measurements"):
        (finished / "run" / folder).rename(finished / folder)
    assert edgekd("gate", finished / "run")[0] == 0


def test_a_summary_is_added_for_github(finished: Path, edgekd: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """GITHUB_STEP_SUMMARY gets the Markdown report appended, after what was there."""
    summary = finished / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert edgekd("gate", finished / "run")[0] == 0
    text = summary.read_text()
    assert text.startswith("before\n")
    assert "tiny" in text

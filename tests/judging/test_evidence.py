"""A report is made only from records that belong together and files that are what their records say."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgekd.core import stats
from edgekd.core.errors import EvidenceError, IntegrityError, UsageError
from edgekd.core.records import Checkpoint, MadeBy, Report
from edgekd.core.store import RunFolder, write_text
from edgekd.judging.stage import make_report

MADE_BY = MadeBy(version="9.9.9", command="edgekd report", at="2026-01-01T00:00:00Z")


def made(run: object, artifacts: list[str] | None = None) -> Report:
    """Return the report of a run on disk."""
    return make_report(recipe_name="r", run=run.folder, artifacts=artifacts, made_by=MADE_BY)


def test_a_complete_run_gives_a_complete_report(run: object) -> None:
    """Student, baseline, comparison, curves, artifact, latency and the digest of each record are there."""
    report = made(run)
    student = Checkpoint.from_json(run.folder.checkpoint().read_bytes())
    assert report.recipe == "r"
    assert report.made_by == MADE_BY
    assert report.student == student
    assert report.baseline is not None
    assert [a.name for a in report.artifacts] == ["onnxruntime-fp32"]
    assert [s.artifact for s in report.latencies] == ["onnxruntime-fp32"]
    assert list(report.from_) == ["checkpoint", "baseline", "artifacts/onnxruntime-fp32", "measurements/onnxruntime-fp32@local"]
    assert report.from_["checkpoint"] == student.digest()
    assert report.from_["artifacts/onnxruntime-fp32"] == report.artifacts[0].digest()
    assert Report.from_json(report.to_json()) == report


def test_the_comparison_counts_discordant_images(run: object, answered: Callable) -> None:
    """Student right on images 0 to 29, baseline on 10 to 33: 10 against 4 of 40, worked out by hand."""
    run.write_student("baseline", right=answered(24, shift=10))
    comparison = made(run).comparison
    assert (comparison.images, comparison.only_student_right, comparison.only_baseline_right) == (40, 10, 4)
    assert comparison.student_top1 == stats.wilson(30, 40)
    assert comparison.baseline_top1 == stats.wilson(24, 40)
    assert comparison.difference.value == pytest.approx(6 / 40)
    assert comparison.mcnemar_p == pytest.approx(2 * sum([1, 14, 91, 364, 1001]) / 2**14)


def test_the_curve_has_every_line_with_a_loss(run: object) -> None:
    """Lines without images_seen and loss are passed over; top-1 stands where it was evaluated."""
    curve = made(run).student_curve
    assert [p.images_seen for p in curve] == [64, 128, 192, 256, 320, 384]
    assert [p.top1 for p in curve] == [None] * 5 + [0.5]
    assert curve[1].loss == 1.0


def test_a_long_history_is_thinned_but_keeps_every_evaluation(run: object) -> None:
    """Of 10,000 lines at most a few hundred stay, among them the first, the last and all evaluations."""
    path = run.folder.checkpoint().parent / "history.jsonl"
    lines = [
        f'{{"images_seen": {i}, "loss": 1.5{", " + chr(34) + "top1" + chr(34) + ": 0.25" if i % 1000 == 7 else ""}}}'
        for i in range(10_000)
    ]
    rewrite(run, path, "\n".join(lines))
    curve = made(run, []).student_curve
    assert len(curve) < 450
    assert (curve[0].images_seen, curve[-1].images_seen) == (0, 9999)
    assert [p.images_seen for p in curve if p.top1 is not None] == [1000 * k + 7 for k in range(10)]


def rewrite(run: object, path: Path, text: str) -> None:
    """Change a file of the student and give the record its new sha256."""
    from edgekd.core.store import file_ref

    write_text(path, text)
    run.write_student_record(history=file_ref(path, folder=path.parent))


@pytest.mark.parametrize(("line", "error"), [("not json", IntegrityError), ('{"images_seen": 1, "loss": NaN}', EvidenceError)])
def test_a_history_that_cannot_be_drawn_is_told_with_its_line(run: object, line: str, error: type) -> None:
    """The message names file and line."""
    path = run.folder.checkpoint().parent / "history.jsonl"
    rewrite(run, path, f'{{"images_seen": 0, "loss": 1}}\n{line}\n')
    with pytest.raises(error, match=r"history\.jsonl:2"):
        made(run, [])


def test_without_a_student_there_is_no_report(tmp_path: Path) -> None:
    """A folder without a checkpoint is the asker's mistake."""
    with pytest.raises(UsageError, match="no checkpoint record"):
        make_report(recipe_name="r", run=RunFolder(tmp_path), artifacts=None, made_by=MADE_BY)


def test_without_a_baseline_there_is_no_comparison(run: object) -> None:
    """The baseline is optional."""
    run.folder.checkpoint("baseline").unlink()
    report = made(run)
    assert (report.baseline, report.comparison, report.baseline_curve) == (None, None, ())
    assert "baseline" not in report.from_


@pytest.mark.parametrize("file", ["student.safetensors", "history.jsonl", "predictions.csv"])
@pytest.mark.parametrize("who", ["checkpoint", "baseline"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_changed_or_missing_file_of_a_student_is_refused(run: object, file: str, who: str, damage: str) -> None:
    """Every file that a student's record names is checked by its sha256."""
    damaged(run.folder.checkpoint(who).parent / file, damage)
    with pytest.raises(IntegrityError, match=file):
        made(run)


@pytest.mark.parametrize("file", ["model.onnx", "predictions.csv"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_changed_or_missing_file_of_an_artifact_is_refused(run: object, file: str, damage: str) -> None:
    """Every file that an artifact's record names is checked by its sha256."""
    damaged(run.folder.artifact("onnxruntime-fp32").parent / file, damage)
    with pytest.raises(IntegrityError, match=file):
        made(run)


def damaged(path: Path, damage: str) -> None:
    """Flip one bit of a file, or remove it."""
    if damage == "missing":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))


def test_an_artifact_of_an_older_checkpoint_is_refused_with_the_way_out(run: object) -> None:
    """Training again makes the artifacts stale; the message names the file and the command."""
    run.write_student(seed=1)
    with pytest.raises(EvidenceError) as caught:
        made(run)
    assert str(run.folder.artifact("onnxruntime-fp32")) in str(caught.value)
    assert "edgekd export" in caught.value.mend
    assert caught.value.exit_code == 3


def test_a_measurement_of_an_older_artifact_is_refused_with_the_way_out(run: object) -> None:
    """Exporting again makes the measurements stale; the message names the file and the command."""
    run.write_artifact(opset=17)
    with pytest.raises(EvidenceError) as caught:
        made(run)
    assert str(run.folder.measurement("onnxruntime-fp32", "local")) in str(caught.value)
    assert "edgekd bench" in caught.value.mend


def test_a_measurement_without_its_artifact_is_refused(run: object) -> None:
    """A measurement that belongs to nothing here is foreign."""
    run.folder.artifact("onnxruntime-fp32").unlink()
    with pytest.raises(EvidenceError, match="onnxruntime-fp32@local"):
        made(run)


def test_an_artifact_in_another_ones_folder_is_refused(run: object) -> None:
    """The folder's name says which artifact it is; a copied record does not become another artifact."""
    import shutil

    shutil.copytree(run.folder.artifact("onnxruntime-fp32").parent, run.folder.artifact("openvino-fp16").parent)
    with pytest.raises(EvidenceError, match="not of 'openvino-fp16'"):
        made(run)


def test_named_artifacts_leave_the_others_aside(run: object) -> None:
    """With names given, artifacts and measurements of other names are not looked at, stale or not."""
    run.write_artifact("openvino", "fp16")
    run.write_measurement("openvino-fp16")
    run.write_artifact("openvino", "fp16", opset=17)
    report = made(run, ["onnxruntime-fp32"])
    assert [a.name for a in report.artifacts] == ["onnxruntime-fp32"]
    assert [s.artifact for s in report.latencies] == ["onnxruntime-fp32"]
    assert made(run, []).artifacts == ()


def test_a_named_artifact_that_is_missing_is_told(run: object) -> None:
    """Asking for what was not exported is missing evidence, with the command that makes it."""
    with pytest.raises(EvidenceError, match="has not been exported") as caught:
        made(run, ["openvino-fp16"])
    assert "edgekd export" in caught.value.mend


def test_the_report_keeps_the_order_that_was_asked(run: object) -> None:
    """Artifacts stand in the order of the recipe."""
    run.write_artifact("openvino", "fp16")
    assert [a.name for a in made(run, ["openvino-fp16", "onnxruntime-fp32"]).artifacts] == ["openvino-fp16", "onnxruntime-fp32"]


def test_a_baseline_on_other_images_is_refused(run: object) -> None:
    """Accuracies on different images are not compared."""
    run.write_student("baseline", right={f"val/other{i}.jpg": True for i in range(40)})
    with pytest.raises(EvidenceError, match="other images"):
        made(run)


def test_a_baseline_from_other_data_is_refused(run: object, reports: ModuleType) -> None:
    """A baseline that learned from other data says nothing about the teacher."""
    data = reports.checkpoint().data
    for change in ({"digest": "0" * 64}, {"labelled_images": 99}):
        run.write_student("baseline", data=data.model_copy(update=change))
        with pytest.raises(EvidenceError, match="other images or labels"):
            made(run)


def test_a_baseline_of_another_model_is_refused(run: object, reports: ModuleType) -> None:
    """The gain of a teacher is not told from two different students."""
    student = reports.checkpoint().student.model_copy(update={"options": {"model": "resnet18"}})
    run.write_student("baseline", student=student)
    with pytest.raises(EvidenceError, match="another model"):
        made(run)


def test_predictions_that_do_not_add_up_are_refused(run: object, reports: ModuleType) -> None:
    """The counts in the record must be those of the file."""
    record = Checkpoint.from_json(run.folder.checkpoint().read_bytes())
    run.write_student_record(accuracy=record.accuracy.model_copy(update={"top1_correct": 31}))
    with pytest.raises(IntegrityError, match="does not add up"):
        made(run)


def test_a_student_validated_on_nothing_is_refused(run: object) -> None:
    """No validation images, no accuracy, no report."""
    from edgekd.core.store import file_ref

    path = run.folder.checkpoint().parent / "predictions.csv"
    write_text(path, "image,label,top1,confidence,top5_hit\n")
    record = Checkpoint.from_json(run.folder.checkpoint().read_bytes())
    nothing = {"images": 0, "top1_correct": 0, "top5_correct": 0, "predictions": file_ref(path, folder=path.parent)}
    run.write_student_record(accuracy=record.accuracy.model_copy(update=nothing))
    with pytest.raises(EvidenceError, match="no images"):
        made(run)


def test_a_record_changed_by_hand_is_refused(run: object) -> None:
    """A better number typed into a record does not reach a report."""
    path = run.folder.measurement("onnxruntime-fp32", "local")
    path.write_text(path.read_text().replace('"batch": 1', '"batch": 2'))
    with pytest.raises(IntegrityError, match="changed after it was made"):
        made(run)

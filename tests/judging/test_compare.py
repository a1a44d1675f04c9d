"""Two runs side by side, and what may not be compared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from edgekd.core import stats
from edgekd.core.errors import IntegrityError
from edgekd.core.records import LatencySummary, MadeBy, Report
from edgekd.judging.compare import compare
from edgekd.judging.stage import make_report

MADE_BY = MadeBy(version="1")


def difference(a: Report, b: Report, what: str) -> str:
    """Return what is said of one row."""
    return {row.what: row.difference for row in compare(a, b).rows}[what]


def with_latency(report: Report, changes: dict) -> Report:
    """Return the report with its ONNX Runtime measurement changed."""
    changed = tuple(s.model_copy(update=changes) if s.artifact == "onnxruntime-fp32" else s for s in report.latencies)
    return report.model_copy(update={"latencies": changed})


P50 = "onnxruntime-fp32 p50 on local"


def test_a_report_is_like_itself(report: Report) -> None:
    """Nothing differs, and nothing is called incomparable."""
    rows = {row.what: row for row in compare(report, report).rows}
    assert list(rows)[:3] == ["student", "student top-1", "parameters"]
    assert rows["parameters"].difference == "the same"
    assert rows["onnxruntime-fp32 size"].difference == "the same"
    assert rows[P50].difference.startswith("x 1.000 [95 %: 1.000 to 1.000; 99 %: 1.000 to 1.000], 7 pairs, sd 0.0 %")
    assert not any("not comparable" in row.difference for row in rows.values())


def measured_against(report: Report, factor: float) -> Report:
    """Return a later run whose ONNX Runtime artifact takes `factor` times as long, measured in turns with the report's."""
    (own,) = [s for s in report.latencies if s.artifact == "onnxruntime-fp32"]
    wobble = [1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999]
    baseline = own.model_copy(update={"arm": "baseline", "session": "5" * 64})
    slower = tuple(factor * v * w for v, w in zip(own.worker_p50_ms, wobble, strict=True))
    candidate = own.model_copy(update={"digest": "d" * 64, "session": "5" * 64, "worker_p50_ms": slower})
    return report.model_copy(update={"latencies": (candidate, baseline)})


def test_ratios_are_b_over_a_pair_by_pair(report: Report) -> None:
    """In turns, B of twice the time is x 2 with both intervals, the pairs and their spread; turned round it is half."""
    b = measured_against(report, 2.0)
    logs = np.log([2 * w for w in (1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999)])
    low, high = np.exp(scipy.stats.t.interval(0.95, 6, logs.mean(), scipy.stats.sem(logs)))
    said = difference(report, b, P50)
    assert said.startswith(f"x 2.000 [95 %: {low:.3f} to {high:.3f}; 99 %: ")
    assert said.endswith("7 pairs, sd 0.1 %")
    assert difference(b, report, P50).startswith("x 0.500 [95 %: 0.4")
    small = tuple(a.model_copy(update={"size_bytes": a.size_bytes // 2}) for a in report.artifacts)
    assert difference(report, report.model_copy(update={"artifacts": small}), "onnxruntime-fp32 size") == "x 0.500"


def test_two_sessions_need_the_reference(report: Report) -> None:
    """Apart in time, a ratio is only given through the reference model of both sessions: what slows both is taken out."""
    (own,) = [s for s in report.latencies if s.artifact == "onnxruntime-fp32"]
    wobble = (1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999)
    beside = own.model_copy(update={"artifact": "onnxruntime-reference", "arm": "reference", "worker_p50_ms": wobble})
    a = report.model_copy(update={"latencies": (own, beside)})
    later = {"session": "5" * 64}
    slow = own.model_copy(update={**later, "worker_p50_ms": tuple(3 * v for v in own.worker_p50_ms)})
    slow_beside = beside.model_copy(update={**later, "worker_p50_ms": tuple(2 * v for v in wobble)})
    b = report.model_copy(update={"latencies": (slow, slow_beside)})
    assert difference(a, b, P50).startswith("x 1.500 [95 %: 1.4")
    assert difference(a, b, P50).endswith("of two sessions, through the reference model")
    alone = report.model_copy(update={"latencies": (slow,)})
    assert difference(a, alone, P50).startswith("not comparable: measured in two sessions, without the reference model in both")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("protocol", "2", "protocol 1 and 2"),
        ("runtime", "onnxruntime 1.23", "runtime onnxruntime 1.22.0 and onnxruntime 1.23"),
        ("batch", 8, "batch 1 and 8"),
        ("threads", 4, "threads 2 and 4"),
        ("spin", False, "spin True and False"),
        ("mode", "offline", "mode single and offline"),
        ("executed_precision", "fp16", "executed precision fp32 and fp16"),
        ("device_class", "0" * 64, "device class "),
        ("synthetic_input", True, "synthetic input False and True"),
        ("trusted", False, "B is not trusted"),
        ("worker_p50_ms", (), "too few samples, or workers"),
    ],
)
def test_other_conditions_are_not_comparable(report: Report, field: str, value: object, said: str) -> None:
    """Latencies of another protocol, runtime, machine or load get no ratio but the reason."""
    found = difference(report, with_latency(report, {field: value}), P50)
    assert found.startswith(f"not comparable: {said}")


def test_what_is_in_one_run_only_is_named(report: Report) -> None:
    """Artifacts and measurements of one side are listed as such."""
    fewer = report.model_copy(update={"artifacts": report.artifacts[:2], "latencies": report.latencies[:1]})
    rows = {row.what: row for row in compare(report, fewer).rows}
    assert (rows["openvino-fp16"].a, rows["openvino-fp16"].b, rows["openvino-fp16"].difference) == (
        "exported",
        "not there",
        "not comparable",
    )
    assert (rows[P50].b, rows[P50].difference) == ("not there", "not comparable: measured in one run only")
    assert {row.what: row for row in compare(fewer, report).rows}["openvino-fp16"].a == "not there"


def test_other_images_are_not_comparable(report: Report) -> None:
    """Accuracies on other data get no difference."""
    data = report.student.data.model_copy(update={"digest": "0" * 64})
    b = report.model_copy(update={"student": report.student.model_copy(update={"data": data})})
    assert difference(report, b, "student top-1") == "not comparable: other images"
    assert difference(report, b, "torch-fp32 top-1") == "not comparable: other images"


def test_run_folders_give_the_paired_difference(run: object, new_run: Callable, answered: Callable, tmp_path: Path) -> None:
    """A is right on images 0 to 29, B on 10 to 33: B has 4 that A lacks, A has 10 that B lacks, of 40."""
    other = new_run(tmp_path / "other")
    other.write_student(right=answered(24, shift=10))
    a, b = (make_report(recipe_name="r", run=r.folder, artifacts=[], made_by=MADE_BY) for r in (run, other))
    rows = {row.what: row for row in compare(a, b, runs=(run.folder, other.folder)).rows}
    interval = stats.paired_difference(4, 10, 40)
    expected = f"-15.0 points [{100 * interval.low:+.1f} to {100 * interval.high:+.1f}], McNemar p = 0.18"
    assert rows["student top-1"].difference == expected
    assert difference(a, b, "student top-1") == "same images; not compared image by image"


def test_run_folders_pair_the_artifacts_too(run: object) -> None:
    """Accuracy through the runtime is compared image by image as well."""
    a = make_report(recipe_name="r", run=run.folder, artifacts=None, made_by=MADE_BY)
    rows = {row.what: row for row in compare(a, a, runs=(run.folder, run.folder)).rows}
    assert rows["onnxruntime-fp32 top-1"].difference.startswith("+0.0 points")


def test_equal_digests_with_other_image_names_are_not_comparable(run: object, new_run: Callable, tmp_path: Path) -> None:
    """If the lists of images differ all the same, nothing is paired."""
    other = new_run(tmp_path / "other")
    other.write_student(right={f"val/other{i}.jpg": True for i in range(40)})
    a, b = (make_report(recipe_name="r", run=r.folder, artifacts=[], made_by=MADE_BY) for r in (run, other))
    rows = {row.what: row for row in compare(a, b, runs=(run.folder, other.folder)).rows}
    assert rows["student top-1"].difference == "not comparable: other images"


def test_a_folder_that_went_on_since_its_report_is_refused(run: object, answered: Callable) -> None:
    """Predictions that are not those of the report are not compared."""
    a = make_report(recipe_name="r", run=run.folder, artifacts=[], made_by=MADE_BY)
    run.write_student(right=answered(11))
    with pytest.raises(IntegrityError, match=r"predictions\.csv"):
        compare(a, a, runs=(run.folder, run.folder))


def test_the_table_is_plain_text(report: Report) -> None:
    """One line per row under a heading that names both runs."""
    b = report.model_copy(update={"recipe": "other"})
    table = compare(report, b)
    lines = table.lines()
    assert len(lines) == len(table.rows) + 1
    assert lines[0].endswith("B against A")
    assert "A: quickstart" in lines[0]
    assert "B: other" in lines[0]


def test_the_fixture_measures_what_the_rows_name(report: Report) -> None:
    """The row names used above exist in the fixture."""
    assert all(isinstance(s, LatencySummary) and s.device.name == "local" for s in report.latencies)

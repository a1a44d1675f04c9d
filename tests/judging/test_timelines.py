"""The session as time went by: the device's samples and its workers' medians on one clock."""

from pathlib import Path
from types import ModuleType

import pytest

from edgekd.core.errors import IntegrityError
from edgekd.core.records import TelemetryLog, TelemetryRow
from edgekd.core.store import file_ref, write_text
from edgekd.judging.timelines import timelines_of

S = 1_000_000_000


def rows(count: int) -> list[TelemetryRow]:
    """Return samples every half second, half of the time at work."""
    return [
        TelemetryRow(
            at_ns=7 * S + i * S // 2,
            clock_khz=(1_000_000, 2_000_000 + i),
            temperature_c=(40.0, 50.0 + i),
            busy_ticks=50 * i,
            total_ticks=100 * i,
        )
        for i in range(count)
    ]


def test_samples_and_workers_stand_on_one_clock(reports: ModuleType, tmp_path: Path) -> None:
    """Seconds count from the first sample; the fastest core, the hottest zone, the share at work since the sample before."""
    write_text(tmp_path / "t.jsonl", TelemetryLog(rows=rows(5)).to_text())
    record = reports.measurement(reports.artifact(), workers=1)
    worker = record.workers[0].model_copy(update={"window_ns": (8 * S, 9 * S), "p50_ns": 2_500_000})
    telemetry = file_ref(tmp_path / "t.jsonl", folder=tmp_path)
    record = record.model_copy(update={"workers": (worker,), "telemetry": telemetry})
    (found,) = timelines_of({"onnxruntime-fp32@local": record}, tmp_path)
    assert [point.at_s for point in found.points] == [0.5, 1.0, 1.5, 2.0]
    assert (found.points[0].clock_mhz, found.points[0].temperature_c, found.points[0].busy) == (2000.001, 51.0, 0.5)
    assert [(one.artifact, one.arm, one.at_s, one.p50_ms) for one in found.workers] == [
        ("onnxruntime-fp32", "candidate", 1.5, 2.5)
    ]
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(IntegrityError, match="its bytes are not those"):
        timelines_of({"onnxruntime-fp32@local": record}, tmp_path)


def test_what_was_not_watched_has_no_timeline(reports: ModuleType, tmp_path: Path) -> None:
    """No telemetry, no picture; nothing is made up."""
    assert timelines_of({"a@local": reports.measurement(reports.artifact())}, tmp_path) == ()

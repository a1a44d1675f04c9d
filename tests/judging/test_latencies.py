"""From samples to a few numbers: every one of them by hand, on disk and back to the last bit."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgekd.core import latency
from edgekd.core.errors import EvidenceError, IntegrityError
from edgekd.core.records import MadeBy, Measurement, Report
from edgekd.core.samples import COLUMNS, read_samples
from edgekd.core.store import file_ref, read_record, write_record
from edgekd.judging.evidence import check_recomputed
from edgekd.judging.latencies import reference_of, summarise
from edgekd.judging.stage import make_report

MS = 1_000_000
MADE_BY = MadeBy(version="1")
EACH = "{} of each process needs {} samples in every process, the smallest has {}"


def test_a_summary_by_hand(reports: ModuleType) -> None:
    """1..100 ms in one process, 101..200 ms in the other: pooled and own percentiles, and what each process did once."""
    table = reports.samples_of([[ms * MS for ms in range(100 * i + 100, 100 * i, -1)] for i in range(2)])
    found = summarise("a", reports.measurement(reports.artifact(), workers=2), table)
    assert (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.samples) == (100.0, 180.0, 190.0, None, 200)
    assert (found.worker_p50_ms, found.worker_p90_ms, found.worker_p99_ms) == ((50.0, 150.0), (90.0, 190.0), ())
    assert found.rounds == (0, 1)
    assert len(found.curve_ms) == 101
    assert (found.curve_ms[0], found.curve_ms[50], found.curve_ms[100]) == (1.0, 100.0, 200.0)
    assert found.first_ms == (3.1, 3.1)
    assert (found.cpu_ms, found.peak_rss_bytes) == ((1.9, 1.9), (80_000_000,) * 2)
    assert found.withheld == (
        "p99 needs 662 samples, there are 200",
        "p99.9 needs 6636 samples, there are 200",
        "p95 of each process needs 130 samples in every process, the smallest has 100",
    )
    assert found.intervals_ms["p50"] == (50.0, 150.0), "of two workers drawn with replacement, both may be the same"
    assert found.bounds_ms.keys() == {"p50", "p90", "p95"}
    assert found.drift == pytest.approx(np.sqrt(10.5 / 90.5 * 110.5 / 190.5) - 1)
    assert found.sustained is None


def test_the_whole_way_stays_apart(reports: ModuleType) -> None:
    """What was measured from photograph to classes is in figures of its own, one more ms for decoding and choosing."""
    table = reports.samples_of([[2 * MS] * 20] * 5)
    found = summarise("a", reports.measurement(reports.artifact(), workers=5, iterations=20), table)
    assert found.p50_ms == 2.0
    assert found.whole is not None
    assert (found.whole.e2e_p50_ms, found.whole.pre_p50_ms, found.whole.post_p50_ms) == (3.0, 0.9, 0.1)
    assert found.whole.worker_e2e_p50_ms == (3.0,) * 5
    assert found.whole.samples == found.samples == 100


def test_a_paced_query_waits_for_its_turn(reports: ModuleType) -> None:
    """Latency counts from when the query was due; the time in the queue is part of it."""
    table = reports.samples_of([[2 * MS] * 20] * 5)
    table["queue"] = np.where(table["segment"] == 0, 5 * MS, 0)
    record = reports.measurement(reports.artifact(), workers=5).model_copy(update={"mode": "paced", "rate_hz": 100.0})
    assert summarise("a", record, table).p50_ms == 7.0


def test_throughput_is_of_offline_sessions_only(reports: ModuleType) -> None:
    """Batches of 4 every 2 ms are 2000 images a second; in other modes there is no such figure."""
    table = reports.samples_of([[2 * MS] * 20] * 5)
    record = reports.measurement(reports.artifact(), workers=5)
    offline = record.model_copy(update={"mode": "offline", "batch": 4})
    assert summarise("a", offline, table).images_per_s == pytest.approx(2000)
    assert summarise("a", record, table).images_per_s is None


def test_burst_and_sustained(reports: ModuleType) -> None:
    """600 s without a pause, 10 ms at first and 14 ms after a minute: a ratio of 1.4, and none of it in the percentiles."""
    table = reports.samples_of([[10 * MS] * 20] * 5)
    infer_ns = np.concatenate([np.full(6000, 10 * MS), np.full(38_571, 14 * MS)])
    at_ns = np.concatenate([[0], np.cumsum(infer_ns)[:-1]])
    more = {"worker": -1, "round": -1, "position": -1, "segment": 2, "at": at_ns, "infer": infer_ns}
    for name in COLUMNS:
        table[name] = np.concatenate([table[name], np.broadcast_to(more.get(name, 0), len(infer_ns))]).astype(np.int64)
    found = summarise("a", reports.measurement(reports.artifact(), workers=5), table)
    assert found.sustained is not None
    assert found.sustained.duration_s == pytest.approx(600, abs=0.02)
    assert (found.sustained.burst_p50_ms, found.sustained.sustained_p50_ms, found.sustained.ratio) == (10.0, 14.0, 1.4)
    assert (found.p50_ms, found.samples) == (10.0, 100)


@pytest.mark.parametrize(
    ("workers", "iterations", "p50", "p90", "withheld"),
    [
        (1, 10, False, False, ["p50 needs 11 samples, there are 10", "p90 needs 64 samples, there are 10"]),
        (1, 11, True, False, ["p90 needs 64 samples, there are 11"]),
        (1, 63, True, False, ["p90 needs 64 samples, there are 63"]),
        (1, 64, True, True, []),
        (2, 32, True, True, [EACH.format("p90", 64, 32)]),
        (2, 6, True, False, ["p90 needs 64 samples, there are 12", EACH.format("p50", 11, 6)]),
        (0, 0, False, False, ["p50 needs 11 samples, there are 0", "p90 needs 64 samples, there are 0"]),
    ],
)
def test_no_percentile_below_its_floor(
    reports: ModuleType, workers: int, iterations: int, p50: bool, p90: bool, withheld: list[str]
) -> None:
    """What the samples cannot carry is None, and the reason is kept."""
    found = reports.summary(reports.artifact(), workers=workers, iterations=iterations)
    assert (found.p50_ms is not None, found.p90_ms is not None) == (p50, p90)
    assert [line for line in found.withheld if line.startswith(("p50", "p90"))] == withheld
    assert bool(found.worker_p50_ms) == (iterations >= 11)
    assert bool(found.worker_p90_ms) == (iterations >= 64)


def test_intervals_are_over_processes(reports: ModuleType) -> None:
    """They are the bootstrap's over whole workers, of every percentile that is shown."""
    times = reports.times_of(2.0, workers=7)
    found = summarise("a", reports.measurement(reports.artifact()), reports.samples_of(times))
    own = [np.array(one, dtype=np.int64) for one in times]
    for name, bounds_ms in found.intervals_ms.items():
        low, high = latency.bootstrap(own, latency.PERCENTS[name])
        assert bounds_ms == (low / 1e6, high / 1e6)
    assert found.intervals_ms.keys() == {"p50", "p90", "p95", "p99"}


def test_the_reference_is_the_one_that_ran_beside_it(reports: ModuleType) -> None:
    """Same session and runtime; of another session or runtime it says nothing."""
    own = reports.summary(reports.artifact())
    beside = own.model_copy(update={"artifact": "onnxruntime-reference", "arm": "reference"})
    assert reference_of(own, [own, beside]) == beside
    assert reference_of(own, [own, beside.model_copy(update={"session": "0" * 64})]) is None
    assert reference_of(own, [own, beside.model_copy(update={"artifact": "openvino-reference"})]) is None


# --------------------------------------------------------------------------------------------------------------- on disk
def made(run: object) -> Report:
    return make_report(recipe_name="r", run=run.folder, artifacts=None, made_by=MADE_BY)


def test_every_figure_can_be_recomputed(run: object) -> None:
    """The report from the samples on disk, read back from its JSON, is the same to the last bit when computed again."""
    kept = Report.from_json(made(run).to_json())
    assert check_recomputed(kept, made(run)) == 1
    wrong = kept.latencies[0].model_copy(update={"p50_ms": np.nextafter(kept.latencies[0].p50_ms, 9.0).item()})
    with pytest.raises(EvidenceError, match="onnxruntime-fp32 on local: p50_ms is "):
        check_recomputed(kept.model_copy(update={"latencies": (wrong,)}), made(run))
    with pytest.raises(EvidenceError, match="other measurements"):
        check_recomputed(kept.model_copy(update={"latencies": ()}), made(run))


def test_changed_samples_are_refused(run: object) -> None:
    """One byte of the samples, and there is no report."""
    path = run.folder.measurement("onnxruntime-fp32", "local").with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"npz: its bytes are not those"):
        made(run)


@pytest.mark.parametrize("harm", ["not an npz", "a column missing", "a column of floats", "an unknown worker"])
def test_what_is_no_table_of_samples_is_refused(run: object, harm: str, tmp_path: Path) -> None:
    """Whatever is in the file, it is one error that says what to do."""
    record_path = run.folder.measurement("onnxruntime-fp32", "local")
    record = read_record(Measurement, record_path)
    table = read_samples(record, folder=record_path.parent)
    path = record_path.with_suffix(".npz")
    if harm == "a column missing":
        table.pop("queue")
    elif harm == "a column of floats":
        table["at"] = table["at"].astype(float)
    else:
        table["worker"] = table["worker"] + 1
    if harm == "not an npz":
        path.write_text("samples")
    else:
        np.savez(path, **table)
    changed = record.model_copy(update={"samples": file_ref(path, folder=path.parent)})
    write_record(record_path, changed)
    with pytest.raises(IntegrityError, match=r"edgekd bench|does not know"):
        made(run)


def test_other_arms_come_along_if_they_ran_beside(run: object, reports: ModuleType) -> None:
    """A baseline of the same session is in the report, one of an earlier session is not."""
    own_path = run.folder.measurement("onnxruntime-fp32", "local")
    own = read_record(Measurement, own_path)
    for name, session in (("onnxruntime-fp32@local.baseline", own.session), ("openvino-fp32@local.baseline", "0" * 64)):
        other = own.model_copy(update={"arm": "baseline", "artifact": "1" * 64, "session": session})
        write_record(own_path.with_name(f"{name}.json"), other)
    found = made(run)
    assert [(s.artifact, s.arm) for s in found.latencies] == [
        ("onnxruntime-fp32", "candidate"),
        ("onnxruntime-fp32", "baseline"),
    ]

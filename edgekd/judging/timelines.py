"""A session as time went by, for the report: clock, heat and load beside the medians of its workers."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from edgekd.core.records import Measurement, TelemetryLog, TelemetryRow
from edgekd.core.records.details import Timeline, TimelinePoint, TimelineWorker
from edgekd.core.store import checked_file

MOST_POINTS = 2000


def timelines_of(measured: Mapping[str, Measurement], folder: Path) -> tuple[Timeline, ...]:
    """Return one timeline for each session that was watched; `measured` is by `<artifact>@<device>[.<arm>]`.

    Raises `IntegrityError` for telemetry that was changed or is none.
    """
    sessions: dict[str, list[tuple[str, Measurement]]] = {}
    for name, record in measured.items():
        if record.telemetry is not None:
            sessions.setdefault(record.session, []).append((name.partition("@")[0], record))
    found = []
    for session, arms in sessions.items():
        first = arms[0][1]
        assert first.telemetry is not None
        path = checked_file(first.telemetry, folder=folder)
        log = TelemetryLog.from_text(path.read_text(encoding="utf-8"), where=str(path))
        if log.rows:
            found.append(_timeline(first.device.name, session, log.rows, arms))
    return tuple(found)


def _timeline(device: str, session: str, rows: Sequence[TelemetryRow], arms: Iterable[tuple[str, Measurement]]) -> Timeline:
    begin_ns, step = rows[0].at_ns, max(1, len(rows) // MOST_POINTS)
    workers = [
        TimelineWorker(
            artifact=artifact,
            arm=record.arm,
            at_s=max(0.0, (sum(worker.window_ns) / 2 - begin_ns) / 1e9),
            p50_ms=worker.p50_ns / 1e6,
        )
        for artifact, record in arms
        for worker in record.workers
        if worker.p50_ns is not None
    ]
    return Timeline(
        device=device,
        session=session,
        points=tuple(_point(before, row, begin_ns) for before, row in pairwise(rows[::step])),
        workers=tuple(sorted(workers, key=lambda worker: worker.at_s)),
    )


def _point(before: TelemetryRow, row: TelemetryRow, begin_ns: int) -> TimelinePoint:
    """Return a sample; the share of time at work is since the sample before."""
    busy = None
    if None not in (before.busy_ticks, row.busy_ticks, before.total_ticks, row.total_ticks):
        spent = (row.total_ticks or 0) - (before.total_ticks or 0)
        busy = max(0.0, min(1.0, ((row.busy_ticks or 0) - (before.busy_ticks or 0)) / spent)) if spent > 0 else None
    return TimelinePoint(
        at_s=(row.at_ns - begin_ns) / 1e9,
        clock_mhz=max(row.clock_khz) / 1000 if row.clock_khz else None,
        temperature_c=max(row.temperature_c) if row.temperature_c else None,
        busy=busy,
        gpu_clock_mhz=row.gpu_clock_mhz,
    )

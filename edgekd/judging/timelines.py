"""A session as time goes by: when each worker was timed, and the clock, temperature and load of the machine meanwhile."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from edgekd.core.errors import IntegrityError
from edgekd.core.records import Measurement, TelemetryLog, TelemetryRow
from edgekd.core.records.details import Timeline, TimelinePoint, TimelineWorker
from edgekd.core.store import RunFolder, checked_file

MOST_POINTS = 240  # a page is not wider


def timelines_of(run: RunFolder, measured: Mapping[str, Measurement]) -> tuple[Timeline, ...]:
    """Return a timeline of each session and device, from measurements by file name (`<artifact>@<device>...`).

    Raises `IntegrityError` for telemetry that is not that of its record.
    """
    sessions: dict[tuple[str, str], list[tuple[str, Measurement]]] = defaultdict(list)
    for name, measurement in measured.items():
        sessions[measurement.device.name, measurement.session].append((name.partition("@")[0], measurement))
    found = []
    for (device, session), arms in sessions.items():
        rows = _rows(run, arms)
        starts = [worker.window_ns[0] for _, arm in arms for worker in arm.workers] + [row.at_ns for row in rows[:1]]
        start_ns = min(starts, default=0)
        points = tuple(_points(rows, start_ns))
        workers = tuple(_workers(arms, start_ns))
        if points or workers:
            found.append(Timeline(device=device, session=session, points=points, workers=workers))
    return tuple(found)


def _rows(run: RunFolder, arms: Sequence[tuple[str, Measurement]]) -> list[TelemetryRow]:
    """Return the samples of a session; its arms share one file."""
    file = next((arm.telemetry for _, arm in arms if arm.telemetry is not None), None)
    if file is None:
        return []
    path = checked_file(file, folder=run.measurements_folder)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: is not text", mend="run `edgekd bench` again") from error
    return TelemetryLog.from_text(text, where=str(path)).rows


def _points(rows: Sequence[TelemetryRow], start_ns: int) -> Iterator[TimelinePoint]:
    """Yield an even share of the samples; the time at work is that since the one before."""
    step = max(1, math.ceil(len(rows) / MOST_POINTS))
    before: TelemetryRow | None = None
    for row in rows[::step]:
        yield TimelinePoint(
            at_s=round((row.at_ns - start_ns) / 1e9, 3),
            clock_mhz=max(row.clock_khz) / 1000 if row.clock_khz else None,
            temperature_c=max(row.temperature_c, default=None),
            busy=None if before is None else _busy(before, row),
            gpu_clock_mhz=row.gpu_clock_mhz,
        )
        before = row


def _busy(before: TelemetryRow, row: TelemetryRow) -> float | None:
    if None in (before.total_ticks, before.busy_ticks, row.total_ticks, row.busy_ticks):
        return None
    passed = (row.total_ticks or 0) - (before.total_ticks or 0)
    return round(((row.busy_ticks or 0) - (before.busy_ticks or 0)) / passed, 4) if passed > 0 else None


def _workers(arms: Sequence[tuple[str, Measurement]], start_ns: int) -> Iterator[TimelineWorker]:
    for artifact, arm in arms:
        for worker in arm.workers:
            if worker.p50_ns is not None:
                middle_ns = sum(worker.window_ns) / 2
                at_s = round((middle_ns - start_ns) / 1e9, 3)
                yield TimelineWorker(artifact=artifact, arm=arm.arm, at_s=at_s, p50_ms=worker.p50_ns / 1e6)

"""From samples to a few numbers: pure functions of a measurement and its columns, the same to the last bit every time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core import latency
from edgekd.core.latency import PERCENTS
from edgekd.core.records import LatencySummary, Measurement, Outliers, Sustained, WholeWay
from edgekd.core.samples import ALONE, SUSTAINED, WHOLE, per_worker

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.samples import Table

    Times = np.ndarray[Any, np.dtype[np.int64]]

OWN = ("p50", "p90", "p95", "p99")  # each worker's own, which comparisons go by


def summarise(artifact: str, measurement: Measurement, table: "Table") -> LatencySummary:
    """Return the measurement of an artifact (its name) in a few numbers.

    Percentiles are nearest-rank over the pooled samples of all processes, or over each process's own; intervals are over
    processes.
    """
    import numpy as np

    workers = measurement.workers
    own = [part["queue"] + part["infer"] for part in per_worker(table, len(workers), segment=ALONE)]
    pooled = np.sort(np.concatenate(own)) if own else np.zeros(0, np.int64)
    shown, withheld = _shown(pooled, own)
    drifted = latency.drift(own)
    fences = latency.outliers(own)
    return LatencySummary(
        artifact=artifact,
        digest=measurement.artifact,
        session=measurement.session,
        arm=measurement.arm,
        device=measurement.device,
        device_class=measurement.fingerprint.device_class,
        device_state=measurement.fingerprint.device_state,
        protocol=measurement.protocol,
        profile=measurement.profile,
        mode=measurement.mode,
        rate_hz=measurement.rate_hz,
        runtime=measurement.runtime,
        executed_on=measurement.executed_on,
        executed_precision=measurement.executed_precision,
        batch=measurement.batch,
        threads=measurement.threads,
        spin=measurement.spin,
        input_images=measurement.input_images,
        synthetic_input=measurement.synthetic_input,
        counts=measurement.counts,
        samples=len(pooled),
        rounds=tuple(worker.round for worker in workers),
        worker_p50_ms=_each(own, "p50"),
        worker_turns_ms=_turns(measurement, own),
        worker_p90_ms=_each(own, "p90"),
        worker_p95_ms=_each(own, "p95"),
        worker_p99_ms=_each(own, "p99"),
        p50_ms=shown.get("p50"),
        p90_ms=shown.get("p90"),
        p95_ms=shown.get("p95"),
        p99_ms=shown.get("p99"),
        p999_ms=shown.get("p99.9"),
        intervals_ms=_intervals(own, shown),
        bounds_ms={name: _bound(pooled, name) for name in shown},
        withheld=withheld,
        load_ms=tuple(worker.load_ns / 1e6 for worker in workers),
        compile_ms=tuple(worker.compile_ns / 1e6 for worker in workers if worker.compile_ns is not None),
        first_ms=tuple(worker.first_ns / 1e6 for worker in workers),
        cpu_ms=tuple(worker.cpu_ns / 1e6 for worker in workers if worker.cpu_ns is not None),
        peak_rss_bytes=tuple(worker.peak_rss_bytes for worker in workers if worker.peak_rss_bytes is not None),
        images_per_s=_images_per_s(measurement, table),
        whole=_whole(table, len(workers)),
        outliers=Outliers(
            mild_low=fences.mild_low,
            mild_high=fences.mild_high,
            severe_low=fences.severe_low,
            severe_high=fences.severe_high,
            first=fences.first,
        ),
        drift=drifted.share if drifted else None,
        sustained=_sustained(table),
        energy=measurement.energy,
        curve_ms=tuple(latency.nearest_rank(pooled, p) / 1e6 for p in range(101)) if len(pooled) else (),
        flags=measurement.flags,
        trusted=measurement.trusted,
        untrusted_because=measurement.untrusted_because,
        blur=measurement.blur,
    )


def _shown(pooled: "Times", own: "Sequence[Times]") -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the percentiles that the samples carry, and why the others are withheld."""
    floors = {name: latency.floor_of(percent) for name, percent in PERCENTS.items()}
    shown = {name: latency.nearest_rank(pooled, PERCENTS[name]) / 1e6 for name, floor in floors.items() if len(pooled) >= floor}
    smallest = min(map(len, own), default=0)
    withheld = [f"{name} needs {floor} samples, there are {len(pooled)}" for name, floor in floors.items() if name not in shown]
    withheld += [
        f"{name} of each process needs {floors[name]} samples in every process, the smallest has {smallest}"
        for name in OWN
        if smallest < floors[name] <= len(pooled)
    ]
    return shown, tuple(withheld)


def _intervals(own: "Sequence[Times]", shown: dict[str, float]) -> dict[str, tuple[float, float]]:
    found = {name: latency.bootstrap(own, PERCENTS[name]) for name in shown}
    return {name: (bounds[0] / 1e6, bounds[1] / 1e6) for name, bounds in found.items() if bounds is not None}


def _bound(pooled: "Times", name: str) -> float:
    found = latency.upper_bound(pooled, PERCENTS[name])
    assert found is not None  # only percentiles above their floor are shown
    return found / 1e6


def _each(own: "Sequence[Times]", name: str) -> tuple[float, ...]:
    import numpy as np

    floor = latency.floor_of(PERCENTS[name])
    if any(len(times) < floor for times in own):
        return ()
    return tuple(latency.nearest_rank(np.sort(times), PERCENTS[name]) / 1e6 for times in own)


def _turns(measurement: Measurement, own: "Sequence[Times]") -> tuple[tuple[float, ...], ...]:
    """Return the median of each turn of each process; nothing where one took no turns, or has too few samples for its own."""
    turns = [worker.turns for worker in measurement.workers if worker.turns]
    if len(turns) < len(own) or not _each(own, "p50"):
        return ()
    medians = [latency.medians_of_turns(times, count) for times, count in zip(own, turns, strict=True)]
    return tuple(tuple(median / 1e6 for median in one) for one in medians)


def _images_per_s(measurement: Measurement, table: "Table") -> float | None:
    """Return the throughput of an offline session: all images over all the time, processes one after the other."""
    if measurement.mode != "offline":
        return None
    parts = per_worker(table, len(measurement.workers), segment=ALONE)
    spent_ns = sum(int(part["at"][-1] - part["at"][0] + part["infer"][-1]) for part in parts if len(part["at"]))
    images = measurement.batch * sum(len(part["at"]) for part in parts)
    return images / (spent_ns / 1e9) if spent_ns else None


def _sustained(table: "Table") -> Sustained | None:
    """Return the first sixtieth of a run without a pause against its last fifth: 10 s and 120 s of 600 s."""
    chosen = table["segment"] == SUSTAINED
    at_ns, infer_ns = table["at"][chosen], table["infer"][chosen]
    if len(at_ns) < 2:
        return None
    length_ns = float(at_ns[-1] + infer_ns[-1] - at_ns[0])
    since_ns = at_ns - at_ns[0]
    first, last = infer_ns[since_ns < length_ns / 60], infer_ns[since_ns >= 0.8 * length_ns]
    return Sustained(
        duration_s=length_ns / 1e9,
        burst_s=length_ns / 60e9,
        settled_s=0.2 * length_ns / 1e9,
        burst_p50_ms=latency.median(first) / 1e6,
        sustained_p50_ms=latency.median(last) / 1e6,
    )


def _whole(table: "Table", workers: int) -> WholeWay | None:
    import numpy as np

    parts = per_worker(table, workers, segment=WHOLE)
    spans = {name: [part[name] for part in parts] for name in ("pre", "infer", "post", "e2e")}
    count = sum(map(len, spans["e2e"]))
    if not count:
        return None
    pooled = {name: np.sort(np.concatenate(times)) for name, times in spans.items()}
    shown = {name: _shown(times, spans[name])[0] for name, times in pooled.items()}
    return WholeWay(
        samples=count,
        worker_e2e_p50_ms=_each(spans["e2e"], "p50"),
        e2e_p50_ms=shown["e2e"].get("p50"),
        e2e_p90_ms=shown["e2e"].get("p90"),
        e2e_p99_ms=shown["e2e"].get("p99"),
        pre_p50_ms=shown["pre"].get("p50"),
        infer_p50_ms=shown["infer"].get("p50"),
        post_p50_ms=shown["post"].get("p50"),
        intervals_ms=_intervals(spans["e2e"], shown["e2e"]),
    )


def reference_of(summary: LatencySummary, all_: Sequence[LatencySummary]) -> LatencySummary | None:
    """Return the reference model that ran beside a measurement, in the same session and runtime, or None."""
    wanted = f"{summary.artifact.rpartition('-')[0]}-reference"
    return next((s for s in all_ if (s.arm, s.session, s.artifact) == ("reference", summary.session, wanted)), None)

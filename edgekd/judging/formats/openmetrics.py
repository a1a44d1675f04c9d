"""OpenMetrics text: the verdict's numbers, as Prometheus and its kin take them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import LatencySummary, Outcome, Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats._findings import Row, clipped, rows, worst_first

Labels = Mapping[str, str]
MOST_FINDINGS = 1_000
_OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "inconclusive", "error")


class Openmetrics(Format):
    """OpenMetrics text for Prometheus: accuracy, sizes, latencies, and the 1,000 worst findings."""

    file_name: ClassVar[str] = "metrics.txt"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the exposition; it ends with `# EOF`. Of samples with the same labels the first one stands."""
        lines = [
            *_verdict(report, verdict),
            *_findings(report, worst_first(rows(verdict))[:MOST_FINDINGS]),
            *_facts(report),
            *_latencies(report),
        ]
        return "\n".join([*lines, "# EOF"]) + "\n"


def _verdict(report: Report, verdict: Verdict) -> Iterator[str]:
    of = {"recipe": report.recipe}
    about = {"version": report.made_by.version, "report": report.digest(), "verdict": verdict.digest()}
    yield from _family("edgekd_run", "info", "What was judged.", [({**of, **about}, 1)], suffix="_info")
    yield from _family("edgekd_verdict", "stateset", "What became of it.", _states("edgekd_verdict", of, verdict.outcome))
    yield from _family("edgekd_exit_code", "gauge", "The exit code of the gate.", [(of, verdict.exit_code)])


def _findings(report: Report, found: Sequence[Row]) -> Iterator[str]:
    named = [({"recipe": report.recipe, "budget": row.budget, "subject": row.subject, "unit": row.unit}, row) for row in found]
    values = [(labels, row.value) for labels, row in named if row.value is not None]
    yield from _family("edgekd_finding_value", "gauge", "What a budget found, in its unit.", values)
    limits = [({**labels, "bound": row.bound}, row.limit) for labels, row in named]
    yield from _family("edgekd_finding_limit", "gauge", "What a budget allows, in its unit.", limits)
    counts = [(labels, int(row.counts)) for labels, row in named]
    yield from _family("edgekd_finding_open", "gauge", "1 if it keeps the verdict from passing.", counts)
    states = [sample for labels, row in named for sample in _states("edgekd_finding", labels, row.outcome)]
    yield from _family("edgekd_finding", "stateset", "What a budget answered.", states)


def _facts(report: Report) -> Iterator[str]:
    of = {"recipe": report.recipe}
    ran = [artifact for artifact in report.artifacts if artifact.accuracy is not None and artifact.accuracy.images]
    tops: list[tuple[Labels, float]] = [({**of, "model": "student"}, report.student.accuracy.top1)]
    tops += [({**of, "model": artifact.name}, artifact.accuracy.top1) for artifact in ran if artifact.accuracy]
    yield from _family("edgekd_top1_ratio", "gauge", "Share of right first answers.", tops, unit="ratio")
    sizes = [({**of, "artifact": artifact.name}, artifact.size_bytes) for artifact in report.artifacts]
    yield from _family("edgekd_artifact_size_bytes", "gauge", "Size on disk.", sizes, unit="bytes")


def _latencies(report: Report) -> Iterator[str]:
    found: list[tuple[Labels, float]] = []
    trusted: list[tuple[Labels, float]] = []
    for summary in report.latencies:
        labels = {"recipe": report.recipe, "artifact": summary.artifact, "device": summary.device.name}
        labels |= {"runtime": summary.runtime, "batch": str(summary.batch), "threads": str(summary.threads)}
        labels |= {"arm": wording.arm(summary)}
        found += [({**labels, "percentile": name}, ms / 1000) for name, ms in _percentiles(summary)]
        trusted.append((labels, int(summary.trusted)))
    yield from _family("edgekd_latency_seconds", "gauge", "Latency of a query.", found, unit="seconds")
    yield from _family("edgekd_latency_trusted", "gauge", "1 if the measurement can be trusted.", trusted)


def _percentiles(summary: LatencySummary) -> list[tuple[str, float]]:
    facts = summary.model_dump()
    known = {name: facts.get(f"{name.replace('.', '')}_ms") for name in ("p50", "p90", "p95", "p99", "p99.9")}
    return [(name, ms) for name, ms in known.items() if ms is not None]


def _states(name: str, labels: Labels, now: Outcome) -> list[tuple[Labels, int]]:
    return [({**labels, name: outcome}, int(outcome == now)) for outcome in _OUTCOMES]


def _family(
    name: str, kind: str, help_: str, samples: Iterable[tuple[Labels, float]], *, unit: str = "", suffix: str = ""
) -> Iterator[str]:
    lines: dict[str, float] = {}
    for labels, value in samples:
        lines.setdefault(",".join(f'{key}="{_label(text)}"' for key, text in labels.items()), value)
    if not lines:
        return
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {help_}"
    yield from (f"{name}{suffix}{{{labels}}} {value!r}" for labels, value in lines.items())


def _label(text: str) -> str:
    shown = clipped(wording.plain(text), 200)
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

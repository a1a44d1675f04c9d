"""Verdicts over whole files of budgets: exit codes, waivers, explanations, and that nothing passes without evidence."""

import datetime
import itertools
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.core.budgets import Budgets, read_budgets
from edgekd.core.errors import (
    BUDGET_FAILED,
    INCONCLUSIVE,
    INTEGRITY,
    MACHINE,
    PASSED,
    EvidenceError,
    IntegrityError,
    MachineError,
    UsageError,
    worst,
)
from edgekd.core.records import Finding, MadeBy, Report
from edgekd.judging import explaining, stage

MADE_BY = MadeBy(version="1")
EXAMPLES = int(os.environ.get("EDGEKD_EXAMPLES", "150"))


def judged(tmp_path: Path, text: str, report: Report, baseline: Report | None = None, *, today: str | None = None) -> Any:
    """Return the verdict of a budgets file."""
    path = tmp_path / "budgets.yaml"
    path.write_text("version: 1\n" + text)
    day = None if today is None else datetime.date.fromisoformat(today)
    return stage.judge(report, read_budgets(path), MADE_BY, baseline=baseline, today=day)


# -------------------------------------------------------------------------------------------------------------- exit codes
@pytest.mark.parametrize("pair", list(itertools.combinations((5, 4, 2, 1, 3, 0), 2)))
def test_of_two_exit_codes_the_worse_stands(pair: tuple[int, int]) -> None:
    """5 > 4 > 2 > 1 > 3 > 0, whichever comes first."""
    assert worst(pair) == worst(reversed(pair)) == pair[0]


def test_the_errors_carry_these_codes() -> None:
    """What ends a gate before its verdict: integrity 5, machine 4, usage 2, evidence 3."""
    codes = [kind("x").exit_code for kind in (IntegrityError, MachineError, UsageError, EvidenceError)]
    assert codes == [INTEGRITY, MACHINE, 2, INCONCLUSIVE]


PASS, FAIL, OPEN = "size.bytes, max: 1GB", "size.bytes, max: 1kB", "parity.top1_agreement, precision: fp32, min: 99.9%"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (PASS, FAIL, BUDGET_FAILED),
        (PASS, OPEN, INCONCLUSIVE),
        (FAIL, OPEN, BUDGET_FAILED),
        (PASS, PASS, PASSED),
        (OPEN, OPEN, INCONCLUSIVE),
    ],
)
def test_of_two_findings_the_worse_stands(tmp_path: Path, report: Report, first: str, second: str, code: int) -> None:
    """Failed hides unknown, unknown hides passed, in either order."""
    for a, b in ((first, second), (second, first)):
        verdict = judged(tmp_path, f"budgets: [{{id: a, metric: {a}}}, {{id: b, metric: {b}}}]\n", report)
        assert verdict.exit_code == code


def test_a_waived_failure_does_not_count_until_its_day(tmp_path: Path, report: Report) -> None:
    """It is still told as failed, with who waived it; the day after, the file is a mistake. No byte depends on the day."""
    text = f"budgets: [{{id: small, metric: {FAIL}}}, {{id: ok, metric: {PASS}}}]\n"
    waiver = 'waivers: [{budget: small, until: 2026-12-01, reason: "later", by: "@me"}]\n'
    assert judged(tmp_path, text, report).exit_code == BUDGET_FAILED
    verdict = judged(tmp_path, text + waiver, report, today="2026-11-30")
    assert verdict.exit_code == PASSED
    assert {(f.outcome, f.waived.by) for f in verdict.findings if f.id == "small"} == {("fail", "@me")}
    assert all(f.waived is None for f in verdict.findings if f.id == "ok")
    assert judged(tmp_path, text + waiver, report, today="2026-12-01").to_json() == verdict.to_json()
    with pytest.raises(UsageError, match="ended on 2026-12-01"):
        judged(tmp_path, text + waiver, report, today="2026-12-02")


def test_nothing_but_silenced_failures_is_no_pass(tmp_path: Path, report: Report) -> None:
    """All waived, all warnings or all off, and nothing passed: unknown is not passed."""
    failing = f"budgets: [{{id: small, metric: {FAIL}, level: LEVEL}}]\n"
    assert judged(tmp_path, failing.replace("LEVEL", "warn"), report).exit_code == INCONCLUSIVE
    assert judged(tmp_path, failing.replace("LEVEL", "off"), report).exit_code == INCONCLUSIVE
    waiver = 'waivers: [{budget: small, until: 2026-12-01, reason: "later", by: "@me"}]\n'
    assert judged(tmp_path, failing.replace("LEVEL", "error") + waiver, report).exit_code == INCONCLUSIVE
    passing = f"budgets: [{{metric: {PASS}, level: warn}}]\n"
    assert judged(tmp_path, passing, report).exit_code == PASSED


def test_findings_know_their_budget_and_its_line(tmp_path: Path, report: Report) -> None:
    """Id, metric, level, file and line, so that every document can point there."""
    verdict = judged(tmp_path, f"budgets:\n  - {{id: small, metric: {FAIL}, level: warn}}\n", report)
    assert {(f.id, f.metric, f.level, f.line) for f in verdict.findings} == {("small", "size.bytes", "warn", 3)}
    assert verdict.budgets_file == "budgets.yaml"


# ------------------------------------------------------------------------------------------------------------ explanations
def test_an_explanation_shows_the_arithmetic_and_what_would_change_it(tmp_path: Path, report: Report) -> None:
    """What was asked, found and decided, the steps, what is needed, and whether it counts."""
    text = "budgets:\n  - {id: floor, metric: accuracy.top1, of: student, min: 70%}\n  - {metric: size.bytes, max: 1kB}\n"
    verdict = judged(tmp_path, text, report)
    lines = explaining.explain(verdict, "floor")
    said = "\n".join(lines)
    assert lines[0] == "floor (budgets.yaml:3): accuracy.top1 of student"
    assert "at least 70.0 %, each bound wrong in at most 1 % of all cases" in said
    assert "Wilson's bounds of 171 of 240" in said
    assert "needs     7,274 validation images" in said
    exact = "\n".join(explaining.explain(verdict, "size.bytes"))
    assert exact.count("another value: the comparison is exact") == 4
    with pytest.raises(UsageError, match=r"no budget is called 'flor'\. Did you mean floor"):
        explaining.explain(verdict, "flor")


def test_an_explanation_is_harmless_in_a_terminal(tmp_path: Path, reports: ModuleType) -> None:
    """Names from files cannot steer the terminal."""
    for hostile in reports.HOSTILE:
        verdict = judged(tmp_path, f"budgets: [{{metric: {FAIL}}}]\n", reports.report(hostile=hostile))
        assert all(line.isprintable() or not line for line in explaining.explain(verdict, "size.bytes"))


# ------------------------------------------------------------------------------------------------------------- generated
NUMBERS = st.sampled_from(["0.5", "1", "7", "99.9"])
TIMES = st.builds("{}{}".format, NUMBERS, st.sampled_from(["ms", "us", "s", "ns"]))
SIZES = st.builds("{}{}".format, NUMBERS, st.sampled_from(["MB", "kB", "GiB"]))
SHARES = st.sampled_from(["0.1%", "50%", "71%", "99.9%"])
POINTS = st.floats(0.1, 30).map(lambda value: round(value, 2))
OTHERS = st.sampled_from(["baseline", "teacher", "undistilled"])


def entry(metrics: list[str], **bounds: Any) -> Any:
    """Return a strategy of budgets of these metrics with one of these bounds."""
    options = [st.fixed_dictionaries({key: value}) for key, value in bounds.items()]
    return st.tuples(st.sampled_from(metrics), st.one_of(options)).map(lambda pair: {"metric": pair[0], **pair[1]})


RATIO = st.fixed_dictionaries(
    {"to": st.sampled_from(["baseline", "reference"]), "value": st.sampled_from([0.5, 1.05, 1.25, 3.0])}
)
EXACT = st.fixed_dictionaries({"to": st.just("baseline"), "value": st.sampled_from([0.5, 1.0, 2.0])})
LATENCIES = [f"latency.{name}" for name in ("p50", "p90", "p95", "p99", "e2e.p50", "first_infer", "load")]
ENTRIES = st.one_of(
    entry(LATENCIES, max=TIMES, max_ratio=RATIO),
    entry(["cpu.seconds"], max=TIMES, max_ratio=RATIO),
    entry(["memory.peak_rss"], max=SIZES, max_ratio=RATIO),
    entry(["energy.watts"], max=st.sampled_from(["15W", "90W", "800mW"])),
    entry(["size.bytes"], max=SIZES, max_ratio=EXACT),
    entry(["parameters", "macs"], max=st.sampled_from(["1k", "2M", "1G"]), max_ratio=EXACT),
    entry(
        ["accuracy.top1", "accuracy.top5"],
        min=SHARES,
        max_drop=st.fixed_dictionaries({"to": OTHERS, "points": POINTS}),
        min_gain=st.fixed_dictionaries({"to": OTHERS, "points": POINTS}),
    ),
    entry(["accuracy.per_class"], max_drop=st.fixed_dictionaries({"to": OTHERS, "points": POINTS})),
    entry(
        ["accuracy.brier", "accuracy.nll"],
        max=st.sampled_from([0.1, 0.5, 2.0]),
        max_rise=st.fixed_dictionaries({"to": OTHERS, "value": st.sampled_from([0.01, 0.5])}),
    ),
    entry(["accuracy.ece"], max=SHARES),
    entry(["parity.top1_agreement"], min=SHARES, min_counted=SHARES),
    entry(["parity.cosine"], min=st.sampled_from([0.9, 0.9999])),
    entry(["parity.max_abs"], max=st.sampled_from([1e-6, 1.0])),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "level": st.sampled_from(["error", "warn", "off"]),
        "on_inconclusive": st.sampled_from(["error", "warn"]),
    },
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Return a budgets file as data."""
    entries = draw(st.lists(st.tuples(ENTRIES, HEADERS), min_size=1, max_size=5))
    return {"version": 1, "budgets": [{"id": f"b{i}", **one, **head} for i, (one, head) in enumerate(entries)]}


_WORN_ARTIFACTS: list[dict[str, Any]] = [
    {},
    {"macs": None},
    {"size_bytes": 0},
    {"parity": None, "accuracy": None, "not_executed": "no such device"},
    {"executed_precision": "unknown"},
]
_WORN_LATENCIES: list[dict[str, Any]] = [
    {},
    {"trusted": False, "untrusted_because": ("busy",), "blur": None},
    {"kind": "estimate"},
    {"worker_p50_ms": (), "worker_p90_ms": (), "p50_ms": None, "p90_ms": None, "load_ms": (), "first_ms": ()},
    {"arm": "baseline"},
    {"session": "s1", "rounds": (0, 1, 2)},
    {"arm": "reference", "session": "s1", "artifact": "onnxruntime-reference", "rounds": (0, 1, 2)},
]


_KEPT = st.lists(st.booleans(), min_size=6, max_size=6)
_NUMBERS = st.lists(st.integers(0, 6), min_size=4, max_size=4)
WEAR = st.tuples(_KEPT, _NUMBERS, _KEPT, _NUMBERS, _KEPT, st.booleans())


def worn(whole: Report, wear: Any) -> Report:
    """Return a report from which evidence was taken away, or made foreign."""
    keep_artifacts, artifacts, keep_latencies, latencies, keep_answers, keep_baseline = wear
    return whole.model_copy(
        update={
            "artifacts": tuple(
                one.model_copy(update=_WORN_ARTIFACTS[number % len(_WORN_ARTIFACTS)])
                for one, number, kept in zip(whole.artifacts, artifacts, keep_artifacts, strict=False)
                if kept
            ),
            "latencies": tuple(
                one.model_copy(update=_WORN_LATENCIES[number])
                for one, number, kept in zip(whole.latencies, latencies, keep_latencies, strict=False)
                if kept
            ),
            "answers": tuple(one for one, kept in zip(whole.answers, keep_answers, strict=False) if kept),
            "baseline": whole.baseline if keep_baseline else None,
        }
    )


def stands_on_evidence(finding: Finding, report: Report, baseline: Report | None) -> bool:
    """Return whether a finding that passes is about something that is there, ran, and was compared with what is there.

    What could not run where it was exported may have been measured on a device all the same.
    """
    name = finding.subject.partition("@")[0]
    artifact = next((one for one in report.artifacts if one.name == name), None)
    timed = finding.metric.startswith(("latency", "cpu", "memory", "energy"))
    unknown = artifact is None or (artifact.not_executed and not timed)
    if finding.value is None or (unknown and name != "student"):
        return finding.metric == "macs" and finding.value is not None
    if timed:
        mine = [one for one in report.latencies if one.artifact == name and one.arm == "candidate"]
        if not any(one.trusted and one.kind == "measured" for one in mine):
            return False
    if finding.against == "baseline" and not finding.metric.startswith(("latency", "cpu", "memory")):
        return baseline is not None
    if finding.against == "undistilled":
        return report.baseline is not None
    return finding.against != "teacher" or finding.metric == "parameters"


def written(data: dict[str, Any], path: Path) -> Budgets:
    """Return a file's budgets by way of the file; JSON is YAML."""
    import json

    path.write_text(json.dumps(data))
    return read_budgets(path)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(WEAR, st.none() | WEAR, files())
def test_generated_budgets_and_reports_never_crash_and_never_pass_without_evidence(
    report: Report, tmp_path: Path, wear: Any, wear_of_baseline: Any, data: dict[str, Any]
) -> None:
    """Any budgets over any worn report end in a verdict; what passes can name its evidence; the bytes are the same twice."""
    facts = worn(report, wear)
    baseline = None if wear_of_baseline is None else worn(report, wear_of_baseline)
    budgets = written(data, tmp_path / "budgets.yaml")
    verdict = stage.judge(facts, budgets, MADE_BY, baseline=baseline)
    for finding in verdict.findings:
        assert finding.because.endswith(".")
        if finding.outcome == "pass":
            assert stands_on_evidence(finding, facts, baseline), finding
    if verdict.exit_code == PASSED:
        assert any(finding.outcome == "pass" for finding in verdict.findings)
    assert stage.judge(facts, budgets, MADE_BY, baseline=baseline).to_json() == verdict.to_json()

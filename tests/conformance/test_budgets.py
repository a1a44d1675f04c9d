"""Every registered budget, built in or added, keeps the promises of a budget. A new one needs a case here."""

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgekd.core import parts
from edgekd.core.config import frozen
from edgekd.core.contracts import Budget
from edgekd.core.evidence import Evidence
from edgekd.core.records import Finding, MadeBy, Report, Verdict
from edgekd.judging.stage import judge

_path = Path(__file__).parents[1] / "judging" / "reports.py"
_spec = importlib.util.spec_from_file_location("edgekd_test_reports_for_budgets", _path)
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)

# name -> (options that the realistic report passes, options that it fails)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accuracy": ({"metric": "accuracy.top1", "min": "60%"}, {"metric": "accuracy.top1", "min": "80%"}),
    "cpu": ({"max": "1s"}, {"max": "1us"}),
    "energy": ({"max": "90W"}, {"max": "1mW"}),
    "latency": ({"metric": "latency.p90", "max": "1s"}, {"metric": "latency.p50", "max": "1us"}),
    "macs": ({"max": "100M"}, {"max": "1k"}),
    "memory": ({"max": "1GB"}, {"max": "1kB"}),
    "parameters": ({"max": 2_000_000}, {"max": "1k"}),
    "parity": ({"min_counted": "99%"}, {"min_counted": "100%", "artifact": "openvino-fp16"}),
    "size": ({"max": "1GB"}, {"max": "1kB"}),
}
NAMES = parts.names("budget")


def made(name: str, options: dict[str, Any]) -> Budget:
    """Return a budget as a recipe would make it."""
    return parts.load("budget", name).model_validate(frozen(options))


def facts(report: Report) -> Evidence:
    """Return a report as a budget meets it."""
    return Evidence(report=report)


def check_purity(budget: Budget) -> None:
    """The same report gives the same findings and is left as it was."""
    report, same = reports.report(), reports.report()
    assert budget.check(facts(report)) == budget.check(facts(report)) == budget.check(facts(same))
    assert report == same


def check_findings(budget: Budget, report: Report) -> None:
    """There is at least one finding, each with a sentence, and its outcome agrees with its numbers."""
    findings = budget.check(facts(report))
    assert findings
    for finding in findings:
        assert finding.because.endswith(".")
        assert len(finding.because.split()) > 3
        assert finding.budget
        assert finding.subject
        assert finding.needs or finding.outcome != "inconclusive" or finding.value is None
        if finding.value is None:
            assert finding.outcome not in ("pass", "fail")
        elif finding.outcome == "pass":
            within = finding.value <= finding.limit if finding.bound == "at most" else finding.value >= finding.limit
            assert within


def check_never_passes_on_nothing(budget: Budget) -> None:
    """Without baseline, artifacts and measurements there is nothing to pass on, unless the student alone answers."""
    bare = reports.bare_report()
    student = bare.student.model_copy(update={"accuracy": reports.accuracy(0, images=1), "parameters": 10**12})
    hollow = bare.model_copy(update={"student": student})
    assert "pass" not in {finding.outcome for finding in budget.check(facts(hollow))}


def check_round_trip(name: str, budget: Budget) -> None:
    """A budget written out as a recipe would name it is the same budget again."""
    assert budget.ref().use == name
    assert made(name, budget.ref().options) == budget


@pytest.mark.parametrize("name", NAMES)
def test_every_budget_has_a_case(name: str) -> None:
    """A budget that nobody tries is not known to work."""
    assert name in CASES, f"add budget {name!r} to CASES"


def test_no_case_is_left_of_a_removed_budget() -> None:
    """The cases are those of registered budgets."""
    assert set(CASES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", [0, 1])
def test_budget_conforms(name: str, which: int) -> None:
    """Pure, answering in sentences that agree with the numbers, never passing on nothing, and written out again the same."""
    budget = made(name, CASES[name][which])
    check_purity(budget)
    check_findings(budget, reports.report())
    check_findings(budget, reports.bare_report())
    for hostile in reports.HOSTILE:
        check_findings(budget, reports.report(hostile=hostile))
    check_never_passes_on_nothing(budget)
    check_round_trip(name, budget)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("which", "outcome", "exit_code"), [(0, "pass", 0), (1, "fail", 1)])
def test_budget_can_pass_and_can_fail(name: str, which: int, outcome: str, exit_code: int) -> None:
    """Generous options pass the realistic report, mean ones fail it."""
    verdict: Verdict = judge(reports.report(), [made(name, CASES[name][which])], MadeBy(version="1"))
    assert (verdict.outcome, verdict.exit_code) == (outcome, exit_code)


@pytest.mark.parametrize("name", NAMES)
def test_budget_has_a_help_line(name: str) -> None:
    """`edgekd list budget` has something to say about it."""
    assert 10 < len(parts.help_line("budget", name)) <= 100


class Careless(Budget):
    """Does everything wrong that a budget can."""

    calls: ClassVar[list[int]] = []

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Pass whatever comes, in one word, with another number each time."""
        self.calls.append(1)
        return (
            Finding(
                budget="b",
                subject="s",
                value=len(self.calls),
                limit=0,
                bound="at most",
                unit="",
                outcome="pass",
                because="Fine",
            ),
        )


def test_these_checks_notice_a_careless_budget() -> None:
    """Each check fails on a budget that breaks its promise."""
    for check in (
        check_purity,
        check_never_passes_on_nothing,
        lambda budget: check_findings(budget, reports.report()),
        lambda budget: check_round_trip("careless", budget),
    ):
        with pytest.raises(AssertionError):
            check(Careless())

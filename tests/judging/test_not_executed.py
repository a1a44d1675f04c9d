"""An artifact that was made for another machine and has not run: unknown, so never passed, in every verdict and page."""

from types import ModuleType

import pytest
from pydantic import ValidationError

from edgekd.core.contracts import Budget
from edgekd.core.errors import IntegrityError
from edgekd.core.evidence import Evidence
from edgekd.core.records import Artifact, Finding, MadeBy, Report, Verdict
from edgekd.judging import stage, wording
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size
from edgekd.judging.compare import compare
from edgekd.judging.formats.html import Html
from edgekd.judging.formats.json import Json
from edgekd.judging.formats.junit import Junit
from edgekd.judging.formats.markdown import Markdown

WHY = "there is no NVIDIA driver here. On the target: run `edgekd export RUN`"
BUDGETS = (
    AccuracyLimit(min="1%", artifact="tensorrt-*"),
    ParityLimit(min_counted="1%", artifact="tensorrt-*"),
    ParityLimit(metric="parity.max_abs", max=100.0, artifact="tensorrt-*"),
    Size(max="900MB", artifact="tensorrt-*"),
    Latency(max="900s", artifact="tensorrt-*"),
)
MADE_BY = MadeBy(version="9.9.9")


class Content(Budget):
    """Passes whatever it sees."""

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding that passes."""
        said = {
            "budget": "content",
            "subject": "all",
            "value": 1.0,
            "limit": 0.0,
            "bound": "at least",
            "unit": "",
            "because": "",
        }
        return (Finding(outcome="pass", **said),)


def unexecuted(artifact: Artifact) -> Artifact:
    facts = artifact.model_dump(by_alias=True) | {"parity": None, "accuracy": None, "not_executed": WHY}
    return Artifact.model_validate(facts | {"backend": {"use": "tensorrt"}})


@pytest.fixture
def partly(report: Report) -> Report:
    """Return the report with one more artifact, which did not run."""
    return report.model_copy(update={"artifacts": (*report.artifacts, unexecuted(report.artifacts[0]))})


@pytest.fixture
def wholly(report: Report) -> Report:
    """Return the report with nothing but an artifact that did not run."""
    return report.model_copy(update={"artifacts": (unexecuted(report.artifacts[0]),), "latencies": ()})


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.ref().use)
def test_no_budget_passes_what_did_not_run(partly: Report, budget: Budget) -> None:
    """Limits that anything would keep: inconclusive all the same, with the reason; size too, the engine is not built."""
    findings = budget.check(Evidence(report=partly))
    assert {finding.outcome for finding in findings} == {"inconclusive"}
    assert all(finding.value is None and WHY in finding.because for finding in findings)


def test_a_verdict_never_passes_over_it(partly: Report, report: Report) -> None:
    """Even where every budget passes, or asks of others only: one more finding, exit code 3."""
    assert stage.judge(report, (Content(),), MADE_BY).exit_code == 0
    verdict = stage.judge(partly, (Content(),), MADE_BY)
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)
    assert [(f.budget, f.subject, f.outcome) for f in verdict.findings[1:]] == [("executed", "tensorrt-fp32", "inconclusive")]
    assert WHY in verdict.findings[1].because


def test_what_failed_still_fails(partly: Report) -> None:
    """Unknown hides no failure: 1 before 3."""
    assert stage.judge(partly, (Size(max="1B"),), MADE_BY).exit_code == 1


@pytest.mark.parametrize("of", ["artifacts", None])
def test_accuracy_of_all_counts_it(wholly: Report, of: str | None) -> None:
    """Artifacts do not fall back to the student's own accuracy."""
    (finding,) = AccuracyLimit(min="1%", of=of).check(Evidence(report=wholly))
    assert (finding.subject, finding.outcome) == ("tensorrt-fp32", "inconclusive")


@pytest.mark.parametrize("which", ["partly", "wholly"])
def test_every_page_says_it(which: str, request: pytest.FixtureRequest) -> None:
    """Markdown, HTML, JUnit and JSON render, name the artifact and the reason, and show no figure for it."""
    judged: Report = request.getfixturevalue(which)
    verdict = stage.judge(judged, BUDGETS, MADE_BY)
    page = Markdown().render(judged, verdict)
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `tensorrt-fp32` | {wording.MISSING}")]
    assert "**not executed**" in row
    assert row.count(wording.MISSING) == 4
    assert "`tensorrt-fp32` was not executed: there is no NVIDIA driver here." in page
    html = Html().render(judged, verdict)
    assert "tensorrt-fp32 was not executed." in html
    assert "there is no NVIDIA driver here." in html
    junit = Junit().render(judged, verdict)
    assert 'name="executed"' in junit
    assert 'message="tensorrt-fp32: ' in junit
    assert f'errors="{len(verdict.findings)}"' in junit
    assert Report.from_json(Json().render(judged, verdict)) == judged


def test_a_comparison_of_runs_leaves_it_uncompared(partly: Report) -> None:
    """It is there in both, and neither its accuracy nor its latency is made up."""
    rows = [row for row in compare(partly, partly).rows if row.what.startswith("tensorrt")]
    assert [(row.what, row.a, row.difference) for row in rows[-1:]] == [
        ("tensorrt-fp32 top-1", "not executed", "not comparable"),
    ]


def test_an_artifact_ran_or_says_why_not(report: Report) -> None:
    """Neither figures with an excuse nor nothing at all; an older record keeps its digest."""
    ran = report.artifacts[0]
    for facts in ({"parity": None}, {"accuracy": None}, {"not_executed": WHY}, {"parity": None, "accuracy": None}):
        with pytest.raises(ValidationError, match="says in `not_executed` why it has not"):
            Artifact.model_validate(ran.model_dump(by_alias=True) | facts)
    assert "not_executed" not in ran.model_dump_json()
    idle = unexecuted(ran)
    assert Artifact.from_json(idle.to_json()) == idle
    with pytest.raises(IntegrityError):
        Artifact.from_json(idle.to_json().replace(WHY, ""))


def test_a_run_with_it_is_read_and_judged(run: ModuleType) -> None:
    """From the files on disk to the verdict, without predictions of its own."""
    run.write_artifact("tensorrt", parity=None, accuracy=None, not_executed=WHY)
    judged = stage.make_report(recipe_name="r", run=run.folder, artifacts=None, made_by=MADE_BY)
    verdict: Verdict = stage.judge(judged, (ParityLimit(min_counted="90%"),), MADE_BY)
    assert verdict.exit_code == 3
    outcomes = {finding.subject: finding.outcome for finding in verdict.findings if finding.budget == "parity"}
    assert outcomes == {"onnxruntime-fp32": "pass", "tensorrt-fp32": "inconclusive"}

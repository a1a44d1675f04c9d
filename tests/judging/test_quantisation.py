"""judging/quantisation.py: the search for an int8 model in reports, and its refusal in the verdict."""

from typing import Any

import pytest

from edgekd.core.errors import BUDGET_FAILED, PASSED
from edgekd.core.records import Candidate, MadeBy, Quantisation, Report
from edgekd.judging import quantisation, wording
from edgekd.judging.budgets.size import Size
from edgekd.judging.formats.html import Html
from edgekd.judging.formats.markdown import Markdown
from edgekd.judging.stage import judge

NONE, NARROW = wording.MISSING, "\N{NO-BREAK SPACE}"
MADE_BY = MadeBy(version="0")
CANDIDATES = (
    Candidate(
        name="naive",
        options={"weights": "int8 per tensor"},
        top1_correct=60,
        agreements=70,
        median_ms=4.0,
        size_bytes=3_600_000,
        outcome="inaccurate",
    ),
    Candidate(
        name="mse",
        options={"ranges": "mse"},
        kept_float=2,
        top1_correct=99,
        agreements=110,
        median_ms=1.6,
        size_bytes=3_900_000,
        outcome="chosen",
    ),
    Candidate(name="<b>odd|</b>", options={}, outcome="failed", note="no such kernel"),
)


def search(**changes: Any) -> Quantisation:
    return Quantisation(
        engine="nncf 3.4.0",
        calibration_images=300,
        calibration_digest="0" * 64,
        seed=0,
        judged_images=120,
        max_drop=1.0,
        keep_slower=False,
        float_precision="fp32",
        float_top1_correct=100,
        float_median_ms=4.8,
        candidates=CANDIDATES,
        **changes,
    )


@pytest.fixture
def searched(report: Report) -> Report:
    """The report with a search in its first artifact."""
    first, *others = report.artifacts
    return report.model_copy(update={"artifacts": (first.model_copy(update={"quantisation": search()}), *others)})


def refused(report: Report) -> Report:
    first, *others = report.artifacts
    said = search(refused="int8 is not faster: 5.00 ms, fp32 4.80 ms")
    return report.model_copy(update={"artifacts": (first.model_copy(update={"quantisation": said}), *others)})


def test_rows_by_hand() -> None:
    """Shares of the judged images, speed against the fastest float model, dashes where nothing was measured."""
    rows = quantisation.rows(search())
    held_against, naive, chosen, failed = (tuple(cell.replace(NARROW, " ") for cell in row) for row in rows)
    assert held_against == ("float (fp32)", "", "83.3 %", NONE, "4.80 ms", "x 1.00", NONE, "")
    assert naive[2:6] == ("50.0 %", "58.3 %", "4.00 ms", "x 1.20")
    assert chosen == ("mse", "ranges mse, 2 layers in float", "82.5 %", "91.7 %", "1.60 ms", "x 3.00", "3.90 MB", "chosen")
    assert failed == ("<b>odd|</b>", "", NONE, NONE, NONE, NONE, NONE, "failed: no such kernel")
    assert all(len(row) == len(quantisation.COLUMNS) for row in quantisation.rows(search()))


def test_documents_show_every_candidate(searched: Report) -> None:
    """The table stands in the Markdown and in the page, names escaped, with what the figures stand on."""
    verdict = judge(searched, (), MADE_BY)
    name = searched.artifacts[0].name
    page, document = Html().render(searched, verdict), Markdown().render(searched, verdict)
    for text in (page.replace(NARROW, " "), document.replace(NARROW, " ")):
        for cell in ("82.5 %", "x 3.00", "1.60 ms", "failed: no such kernel", "nncf 3.4.0", "120 validation images"):
            assert cell in text
        assert f"int8 for {name}" in text.replace("`", "")
        assert "<b>odd" not in text
        assert "Refused" not in text


def test_a_refused_artifact_fails_the_verdict_without_being_asked(report: Report) -> None:
    """A passing budget does not outweigh it, the reason is in the finding and at the head of the table."""
    budgets = (Size(max="100 MB"),)
    assert judge(report, budgets, MADE_BY).exit_code == PASSED
    report = refused(report)
    verdict = judge(report, budgets, MADE_BY)
    assert verdict.exit_code == BUDGET_FAILED
    finding = verdict.findings[-1]
    assert (finding.budget, finding.subject, finding.outcome) == ("quantise", report.artifacts[0].name, "fail")
    assert finding.because == "int8 is not faster: 5.00 ms, fp32 4.80 ms"
    assert "Refused: int8 is not faster: 5.00 ms, fp32 4.80 ms." in Html().render(report, verdict).replace(NARROW, " ")
    assert "**Refused:** int8 is not faster" in Markdown().render(report, verdict)


def test_a_report_without_int8_says_nothing_of_it(report: Report) -> None:
    """No section, no finding, and artifacts without a search have none in their JSON."""
    verdict = judge(report, (), MADE_BY)
    assert "int8 for" not in Html().render(report, verdict) + Markdown().render(report, verdict)
    assert quantisation.refusals(report) == ()
    assert '"quantisation"' not in report.to_json()

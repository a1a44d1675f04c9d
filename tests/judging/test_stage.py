"""The verdict is a pure function, unknown is not passed, and what is written is whole."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from edgekd.core.contracts import Budget, Format
from edgekd.core.errors import EvidenceError, MachineError, UsageError
from edgekd.core.evidence import Evidence
from edgekd.core.records import Finding, MadeBy, Outcome, Report, Verdict
from edgekd.core.store import RunFolder
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size
from edgekd.judging.formats.html import Html
from edgekd.judging.formats.json import Json
from edgekd.judging.formats.junit import Junit
from edgekd.judging.formats.markdown import Markdown
from edgekd.judging.stage import judge, write

MADE_BY = MadeBy(version="9.9.9", command="edgekd gate", git="abc", at="2026-01-01T00:00:00Z")
BUDGETS = (
    AccuracyLimit(min="60%"),
    AccuracyLimit(min_gain={"to": "undistilled"}, of="student"),
    ParityLimit(min_counted="99%"),
    Size(max="7MB"),
    Latency(max="10ms"),
)


class Says(Budget):
    """Answers what it is told."""

    outcomes: tuple[Outcome, ...]

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per outcome."""
        return tuple(
            Finding(budget="b", subject="s", value=1, limit=2, bound="at most", unit="ms", outcome=o, because="Because.")
            for o in self.outcomes
        )


class Says2(Format):
    """Writes what it is told where it is told."""

    file_name: ClassVar[str] = "report.json"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return something that is not the report."""
        return "something else"


class Verdicts(Says2):
    """Wants to write the verdict."""

    file_name: ClassVar[str] = "verdict.json"


class Breaks(Format):
    """Cannot render."""

    file_name: ClassVar[str] = "broken.txt"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Raise."""
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "outcomes", [c for n in (1, 2, 3, 4) for c in itertools.combinations(("pass", "fail", "inconclusive", "error"), n)]
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_verdict_is_the_worst_finding(report: Report, outcomes: tuple, backwards: bool) -> None:
    """Error (4) is worse than fail (1), fail than inconclusive (3), inconclusive than pass (0), in any order."""
    ordered = tuple(reversed(outcomes)) if backwards else outcomes
    verdict = judge(report, [Says(outcomes=(o,)) for o in ordered], MADE_BY)
    expected = next(o for o in ("error", "fail", "inconclusive", "pass") if o in outcomes)
    assert verdict.outcome == expected
    assert verdict.exit_code == {"error": 4, "fail": 1, "inconclusive": 3, "pass": 0}[expected]
    assert [f.outcome for f in verdict.findings] == list(ordered)


def test_without_budgets_nothing_has_passed(report: Report) -> None:
    """No budgets: inconclusive, exit code 3."""
    verdict = judge(report, [], MADE_BY)
    assert (verdict.outcome, verdict.exit_code, verdict.findings) == ("inconclusive", 3, ())


def test_a_budget_without_an_answer_is_an_error(report: Report) -> None:
    """A budget that says nothing must not let a verdict pass."""
    with pytest.raises(MachineError, match="gave no answer"):
        judge(report, [Says(outcomes=())], MADE_BY)


def test_the_same_report_and_budgets_give_the_same_bytes(report: Report, reports: ModuleType) -> None:
    """Neither the time, nor the command, nor a round trip through JSON changes verdict.json."""
    later = MADE_BY.model_copy(update={"at": "2027-01-01T00:00:00Z", "command": "another", "git": "other"})
    again = Report.from_json(reports.report().to_json())
    assert judge(report, BUDGETS, MADE_BY).to_json() == judge(again, BUDGETS, later).to_json()
    assert json.loads(judge(report, BUDGETS, MADE_BY).to_json())["made_by"] == {
        "version": "9.9.9",
        "command": "",
        "git": "",
        "at": "",
    }


def test_another_report_or_budget_gives_another_verdict(report: Report) -> None:
    """The verdict carries the digests of what it was made from."""
    verdict = judge(report, BUDGETS, MADE_BY)
    assert verdict.from_["report"] == report.digest()
    assert judge(report, [*BUDGETS[:-1], Latency(max="11ms")], MADE_BY).digest() != verdict.digest()
    assert judge(report.model_copy(update={"recipe": "other"}), BUDGETS, MADE_BY).digest() != verdict.digest()


def test_the_realistic_report_passes_the_realistic_budgets(report: Report) -> None:
    """Four accuracies, the baseline, four parities, four sizes, four latencies: seventeen checks, all passed."""
    verdict = judge(report, BUDGETS, MADE_BY)
    assert (verdict.outcome, verdict.exit_code, len(verdict.findings)) == ("pass", 0, 17)


def test_write_leaves_the_records_and_every_format(tmp_path: Path, report: Report) -> None:
    """report.json and verdict.json are always there and are the records; the verdict is written last."""
    verdict = judge(report, BUDGETS, MADE_BY)
    paths = write(RunFolder(tmp_path), report, verdict, [Json(), Markdown(), Html(), Junit()])
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html", "junit.xml", "verdict.json"]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}
    assert Report.from_json((tmp_path / "report.json").read_bytes()) == report
    assert Verdict.from_json((tmp_path / "verdict.json").read_bytes()) == verdict
    assert (tmp_path / "junit.xml").read_text() == Junit().render(report, verdict)


def test_a_written_report_can_be_judged_again(tmp_path: Path, report: Report) -> None:
    """Judging report.json from disk gives the verdict that stands beside it."""
    verdict = judge(report, BUDGETS, MADE_BY)
    write(RunFolder(tmp_path), report, verdict, [])
    again = judge(Report.from_json((tmp_path / "report.json").read_bytes()), BUDGETS, MADE_BY)
    assert again.to_json().encode() == (tmp_path / "verdict.json").read_bytes()


def test_nothing_is_written_if_one_format_breaks(tmp_path: Path, report: Report) -> None:
    """All documents are rendered before the first is written."""
    with pytest.raises(RuntimeError):
        write(RunFolder(tmp_path), report, judge(report, BUDGETS, MADE_BY), [Json(), Breaks()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [Says2(), Verdicts()])
def test_two_documents_never_share_a_file(tmp_path: Path, report: Report, part: Format) -> None:
    """A format that would overwrite a record is refused before anything is written."""
    with pytest.raises(UsageError, match="two formats want to write"):
        write(RunFolder(tmp_path), report, judge(report, BUDGETS, MADE_BY), [part])
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_about_another_report_is_not_written(tmp_path: Path, report: Report) -> None:
    """Report and verdict in one folder always belong together."""
    verdict = judge(report.model_copy(update={"recipe": "other"}), BUDGETS, MADE_BY)
    with pytest.raises(EvidenceError, match="another report"):
        write(RunFolder(tmp_path), report, verdict, [])


def test_judging_loads_nothing_heavy() -> None:
    """Importing the room and its parts loads no torch, no runtime, no plotting, no templates and no scipy."""
    code = """
import sys
import edgekd.judging.stage, edgekd.judging.compare, edgekd.judging.console
from edgekd.core import parts
for kind in ("budget", "format"):
    for name in parts.names(kind):
        parts.load(kind, name)
heavy = {"torch", "timm", "onnx", "onnxruntime", "openvino", "matplotlib", "jinja2", "scipy", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

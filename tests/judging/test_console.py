"""The verdict table in a terminal."""

from pathlib import Path
from types import ModuleType

from edgekd.core.records import MadeBy, Report
from edgekd.judging import wording
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size
from edgekd.judging.console import aligned, verdict_lines
from edgekd.judging.stage import judge

MADE_BY = MadeBy(version="1")
BUDGETS = (
    AccuracyLimit(min="60%", artifact="*-fp32"),
    AccuracyLimit(min_gain={"to": "undistilled"}, of="student"),
    ParityLimit(min_counted="99.9%", artifact="openvino-fp16"),
    Size(max="4MB", artifact="openvino-*"),
    Latency(max="2ms", artifact="o*-fp32"),
    Latency(max="5ms", artifact="tensorrt-fp16"),
)


def test_the_table_is_the_golden_one(report: Report) -> None:
    """Aligned columns, the reason under what did not pass, the verdict last."""
    golden = (Path(__file__).parents[1] / "golden" / "verdict.txt").read_text()
    assert "\n".join(verdict_lines(judge(report, BUDGETS, MADE_BY))) + "\n" == golden


def test_colour_only_paints(report: Report) -> None:
    """With colour the same text stands there, in escape sequences that only set colours."""
    import re

    verdict = judge(report, BUDGETS, MADE_BY)
    painted = verdict_lines(verdict, colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in painted] == verdict_lines(verdict)
    assert "\x1b[1;31mfailed\x1b[0m" in "\n".join(painted)


def test_no_budgets_is_said_in_words(report: Report) -> None:
    """Nobody mistakes an empty table for a pass."""
    lines = verdict_lines(judge(report, [], MADE_BY))
    assert "unknown is not passed" in " ".join(lines)
    assert lines[-1] == "INCONCLUSIVE: nothing was judged (exit code 3)"


def test_all_passed_is_said_in_one_line(report: Report) -> None:
    """The last line counts the checks."""
    assert verdict_lines(judge(report, [Size(max="1GB")], MADE_BY))[-1] == "PASSED: all 4 checks passed (exit code 0)"
    one = judge(report, [Size(max="1GB", artifact="torch-fp32")], MADE_BY)
    assert verdict_lines(one)[-1] == "PASSED: 1 check passed (exit code 0)"


def test_hostile_names_cannot_steer_the_terminal(reports: ModuleType) -> None:
    """No control character of a name reaches the terminal, and no name adds a line to the table."""
    budgets = (Latency(max="10ms"), Size(max="1GB"))
    plain = verdict_lines(judge(reports.report(), budgets, MADE_BY))
    for name in reports.HOSTILE:
        lines = verdict_lines(judge(reports.report(hostile=name), budgets, MADE_BY))
        assert len(lines) == len(plain)
        assert all(wording.plain(line) == line for line in lines)
        "\n".join(lines).encode()


def test_wide_and_combining_characters_keep_the_columns() -> None:
    """Columns are aligned by what a terminal shows, not by the number of code points."""
    lines = aligned([("日本", "x"), ("ab", "x"), ("e\u0301e\u0301ee", "x")])
    assert lines == ["日本  x", "ab    x", "e\u0301e\u0301ee  x"]

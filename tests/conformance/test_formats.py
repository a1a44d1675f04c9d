"""Every registered format, built in or added, keeps the promises of a format. A new one needs a case here."""

import importlib.util
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree as ET

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edgekd.core import parts
from edgekd.core.contracts import Format
from edgekd.core.records import MadeBy, Report, Verdict
from edgekd.core.store import RunFolder
from edgekd.judging.budgets.size import Size
from edgekd.judging.stage import judge

_path = Path(__file__).parents[1] / "judging" / "reports.py"
_spec = importlib.util.spec_from_file_location("edgekd_test_reports_for_formats", _path)
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)


def is_html(text: str) -> None:
    """A document with a title that every parser reads to the end."""
    parser = HTMLParser()
    parser.feed(text)
    parser.close()
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")


def is_markdown(text: str) -> None:
    """A document with one heading of the first level."""
    assert [line for line in text.splitlines() if line.startswith("# ")] == text.splitlines()[:1]


def is_comment(text: str) -> None:
    """A hidden mark, then a heading that is smaller than a page's."""
    lines = text.splitlines()
    assert lines[0].startswith("<!-- edgekd verdict ")
    assert lines[2].startswith("### ")


def is_commands(text: str) -> None:
    """A workflow command on every line."""
    assert all(line.startswith(("::error ", "::warning ")) for line in text.splitlines())


def is_table(text: str) -> None:
    """The verdict stands in the last line."""
    assert "(exit code " in text.splitlines()[-1]


# name -> what a document of this format must be
CASES: dict[str, Callable[[str], object]] = {
    "annotations": is_commands,
    "badge": lambda text: json.loads(text)["message"],
    "charts": is_markdown,
    "comment": is_comment,
    "html": is_html,
    "json": lambda text: Report.from_json(text),
    "junit": lambda text: ET.fromstring(text.encode()),
    "markdown": is_markdown,
    "openmetrics": lambda text: list(text_string_to_metric_families(text)),
    "sarif": lambda text: json.loads(text)["runs"][0]["results"],
    "terminal": is_table,
}
NAMES = parts.names("format")


def judged(report: Report) -> Verdict:
    """Return a verdict with passes and failures."""
    return judge(report, [Size(max="4MB")], MadeBy(version="1"))


def check_purity(part: Format) -> None:
    """The same report and verdict give the same text, and are left as they were."""
    report, verdict = reports.report(), judged(reports.report())
    assert part.render(report, verdict) == part.render(reports.report(), judged(reports.report()))
    assert report == reports.report()


def check_encodable(part: Format, hostile: str) -> None:
    """The text can be written as UTF-8 and carries no control character but newline and tab."""
    report = reports.report(hostile=hostile)
    text = part.render(report, judged(report))
    text.encode()
    assert not {c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160}


def check_file_name(part: Format) -> None:
    """The document is a plain name in the run folder, and not one that the house needs itself."""
    name = part.file_name
    assert Path(name).name == name
    assert not name.startswith(".")
    assert "." in name
    run = RunFolder(Path("run"))
    taken = {run.recipe.name, run.verdict.name, "edgekd.json"}
    assert name not in taken


@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_a_case(name: str) -> None:
    """A format whose documents nobody reads is not known to work."""
    assert name in CASES, f"add format {name!r} to CASES"


def test_no_case_is_left_of_a_removed_format() -> None:
    """The cases are those of registered formats."""
    assert set(CASES) == set(NAMES)


def test_no_two_formats_write_the_same_file() -> None:
    """Asking for all formats at once is possible."""
    files = [parts.load("format", name).file_name for name in NAMES]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("name", NAMES)
def test_format_conforms(name: str) -> None:
    """Pure, sound, named plainly, and sound also for a report with nothing in it and with the worst names."""
    part = parts.load("format", name)()
    check_purity(part)
    check_file_name(part)
    assert all(Path(file).parts[:1] == ("charts",) for file in part.beside(reports.report(), judged(reports.report())))
    bare = reports.bare_report()
    for report in (reports.report(), bare, reports.report(hostile=" ".join(reports.HOSTILE))):
        CASES[name](part.render(report, judged(report)))
    empty = part.render(bare, judge(bare, [], MadeBy(version="1")))
    CASES[name](empty)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "json"])
def test_format_can_be_written_whatever_the_names_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that mean harm leave no control character and no surrogate in the text (JSON spells them out by itself)."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # for speed
    part = parts.load("format", name)()
    for hostile in reports.HOSTILE:
        check_encodable(part, hostile)


@pytest.mark.parametrize("name", NAMES)
def test_format_has_a_help_line(name: str) -> None:
    """`edgekd list format` has something to say about it."""
    assert 10 < len(parts.help_line("format", name)) <= 100


class Careless(Format):
    """Does everything wrong that a format can."""

    file_name: ClassVar[str] = "../verdict.json"
    calls: ClassVar[list[int]] = []

    def render(self, report: Report, verdict: Verdict) -> str:
        """Count the calls, and repeat names as they are."""
        self.calls.append(1)
        return f"{len(self.calls)} {report.recipe}"


def test_these_checks_notice_a_careless_format() -> None:
    """Each check fails on a format that breaks its promise."""
    for check in (check_purity, check_file_name, lambda part: check_encodable(part, "\x1b[31m")):
        with pytest.raises(AssertionError):
            check(Careless())
    for is_sound in (is_html, is_markdown):
        with pytest.raises(AssertionError):
            is_sound("1 quickstart")

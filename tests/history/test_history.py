"""The history: the same over SQLite and a real PostgreSQL server, nothing twice, brought up to date, shown to people."""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, select, text

from edgekd import history
from edgekd.core.errors import EvidenceError, MachineError, UsageError
from edgekd.core.records import Report, Verdict
from edgekd.core.store import RunFolder, read_record, write_record
from edgekd.history import database, tables
from edgekd.history.database import Database, migrate, newest, revisions
from edgekd.history.table import change, sparkline
from edgekd.history.trends import Point, Series
from edgekd.judging.wording import MISSING

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(finished_run: Make, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three runs of one recipe, a day apart; the last one is too large."""
    root = tmp_path_factory.mktemp("runs")
    days = [("2026-03-01", 30, "10MB"), ("2026-03-02", 32, "10MB"), ("2026-03-03", 20, "1kB")]
    return [finished_run(root / day, correct=correct, max_size=size, at=f"{day}T10:15:00+00:00") for day, correct, size in days]


def count(target: str, table: type) -> int:
    with Database(target, make=False) as opened, opened.reading() as session:
        return len(session.scalars(select(table)).all())


# ----------------------------------------------------------------------------------------------------------------- adding
def test_a_run_is_added_once(target: str, runs: list[Path]) -> None:
    """By digest: adding it again, or from another folder, changes nothing."""
    assert history.add(target, runs[0]) == history.Added(verdict=True, measurements=1)
    assert history.add(target, runs[0]) == history.Added(verdict=False, measurements=0)
    assert [count(target, table) for table in tables.TABLES] == [1, 1, 1, 1, 1]


def test_what_was_added_is_what_the_records_say(target: str, runs: list[Path]) -> None:
    """Columns for the figures, and the verdict itself, from which it can be read again."""
    history.add(target, runs[0])
    report = read_record(Report, RunFolder(runs[0]).report)
    verdict = read_record(Verdict, RunFolder(runs[0]).verdict)
    with Database(target, make=False) as opened, opened.reading() as session:
        run = session.scalars(select(tables.Run)).one()
        assert (run.report, run.recipe, run.images, run.top1_correct) == (report.digest(), "quickstart", 40, 30)
        assert run.when.isoformat() == "2026-03-01T10:15:00+00:00"
        (judged,) = run.verdicts
        assert Verdict.from_json(judged.record) == verdict
        (found,) = judged.findings
        assert (found.value, found.limit, found.outcome) == (
            verdict.findings[0].value,
            verdict.findings[0].limit,
            verdict.findings[0].outcome,
        )
        (measured,) = run.measurements
        assert (measured.name, measured.p50_ms) == ("onnxruntime-fp32@local", report.latencies[0].p50_ms)
        (exported,) = run.artifacts
        assert (exported.name, exported.size_bytes) == ("onnxruntime-fp32", report.artifacts[0].size_bytes)


def test_another_verdict_over_the_same_report_is_one_more_verdict(target: str, finished_run: Make, tmp_path: Path) -> None:
    """The run and its measurements stay one."""
    for name, size in (("a", "10MB"), ("b", "1kB")):
        history.add(target, finished_run(tmp_path / name, max_size=size))
    assert [count(target, table) for table in (tables.Run, tables.Judged, tables.Measured)] == [1, 2, 1]


def test_hostile_names_are_kept_as_text(target: str, finished_run: Make, tmp_path: Path) -> None:
    """NUL, quotes, surrogates and escapes: no statement breaks, and nothing invisible is stored."""
    name = "x\x00';DROP TABLE edgekd_runs;--\x1b[31m\udc80\u202e%s"
    history.add(target, finished_run(tmp_path / "run", recipe=name))
    with Database(target, make=False) as opened, opened.reading() as session:
        assert session.scalars(select(tables.Run.recipe)).one() == "x\\x00';DROP TABLE edgekd_runs;--\\x1b[31m\\udc80\\u202e%s"
    assert "DROP TABLE" in "\n".join(history.show(target))


def test_several_processes_add_at_once(target: str, runs: list[Path]) -> None:
    """The first of them makes the tables; each run is there once."""
    problems: list[BaseException] = []

    def add(run: Path) -> None:
        try:
            history.add(target, run)
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)

    threads = [threading.Thread(target=add, args=(run,)) for run in (*runs, *runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert count(target, tables.Judged) == 3


def test_nothing_is_added_if_anything_fails(target: str, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, verdict and measurements are one transaction."""
    history.add(target, runs[0])
    monkeypatch.setattr("edgekd.history.adding._judged", lambda verdict, now: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        history.add(target, runs[1])
    assert [count(target, table) for table in (tables.Run, tables.Measured)] == [1, 1]


def test_a_verdict_about_another_report_is_not_added(finished_run: Make, tmp_path: Path) -> None:
    """The two records have to belong together."""
    run = finished_run(tmp_path / "run")
    folder = RunFolder(run)
    write_record(folder.report, read_record(Report, folder.report).model_copy(update={"recipe": "other"}))
    with pytest.raises(EvidenceError, match="another report"):
        history.add(str(tmp_path / "history.db"), run)
    assert not (tmp_path / "history.db").exists()


# ------------------------------------------------------------------------------------------------------------- migrations
@contextmanager
def unmade(target: str) -> Iterator[Connection]:
    """Open a history's database without making its tables."""
    opened = object.__new__(Database)
    opened._url, opened.shown = database._url_of(target), target
    opened._path = Path(opened._url.database) if opened._url.drivername.startswith("sqlite") else None
    opened._engine = opened._engine_of()
    with opened._alone() as connection:
        yield connection
    opened.close()


def test_the_migrations_lead_to_the_tables_that_are_used(target: str) -> None:
    """Step by step from nothing; at the end alembic finds no difference between the database and the code."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with unmade(target) as connection:
        for revision in revisions():
            migrate(connection, revision)
        options = {"version_table": database.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.Base.metadata) == []


def test_a_history_of_the_first_version_is_brought_up_to_date_with_its_rows(target: str, runs: list[Path]) -> None:
    """What was in it is still there, and can be added to."""
    columns = "report, recipe, student, images, top1_correct, added, version, git, command"
    values = f"'{'0' * 64}', 'old', 's', 10, 5, '2025-01-01 00:00:00', '0', '', ''"
    with unmade(target) as connection:
        migrate(connection, revisions()[0])
        connection.execute(text(f"INSERT INTO edgekd_runs ({columns}) VALUES ({values})"))
        connection.execute(
            text(
                "INSERT INTO edgekd_verdicts (digest, run_id, outcome, exit_code, budgets, added, record)"
                f" SELECT '{'1' * 64}', id, 'fail', 1, '', added, '{{}}' FROM edgekd_runs"
            )
        )
        connection.execute(
            text(
                'INSERT INTO edgekd_findings (verdict_id, position, budget, subject, "limit", bound, unit, outcome, because)'
                " SELECT id, 0, 'size', 'a', 1, 'at most', 'bytes', 'fail', '' FROM edgekd_verdicts"
            )
        )
    history.add(target, runs[0])
    with Database(target, make=False) as again, again.reading() as session:
        assert [run.recipe for run in session.scalars(select(tables.Run).order_by(tables.Run.id))] == ["old", "quickstart"]
        assert [(found.name, found.counts) for found in session.scalars(select(tables.Found))] == [("", True), ("", True)]
        assert again._revision(session.connection()) == newest()


def test_a_history_of_a_newer_edgekd_is_refused(target: str, runs: list[Path]) -> None:
    """Its tables are left alone."""
    history.add(target, runs[0])
    with Database(target, make=False) as opened, opened.writing() as session:
        session.execute(text(f"UPDATE {database.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(UsageError, match="was written by a newer edgekd"):
        history.add(target, runs[1])


def test_tables_of_others_are_left_alone(target: str, runs: list[Path]) -> None:
    """Every table has edgekd in its name."""
    history.add(target, runs[0])
    with Database(target, make=False) as opened, opened.reading() as session:
        assert all(name.startswith("edgekd_") for name in inspect(session.connection()).get_table_names())


# ------------------------------------------------------------------------------------------------------------ what is refused
def test_a_file_of_something_else_is_refused_and_left_alone(runs: list[Path], tmp_path: Path) -> None:
    """Another program's database, and no database at all."""
    other, garbage = tmp_path / "other.db", tmp_path / "garbage.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    garbage.write_bytes(b"not a database " * 100)
    for path in (other, garbage):
        before = path.read_bytes()
        with pytest.raises(UsageError, match="of something else"):
            history.add(str(path), runs[0])
        assert path.read_bytes() == before


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """A mistyped name is told."""
    with pytest.raises(UsageError, match="there is no history here"):
        history.show(str(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "mysql://host/name",
        "postgresql://me:hunter2@host/name",
        "postgresql://host/name?password=hunter2",
        "postgresql+psycopg://me:hunter2@host/name",
    ],
)
def test_other_databases_and_passwords_in_urls_are_refused(url: str, runs: list[Path]) -> None:
    """A URL is written down with a run; the message does not tell the password either."""
    with pytest.raises(UsageError) as refused:
        history.add(url, runs[0])
    assert "hunter2" not in str(refused.value)


def test_a_server_that_is_not_there_is_the_machines_trouble(runs: list[Path], tmp_path: Path) -> None:
    """Exit code 4, in one line."""
    with pytest.raises(MachineError, match="cannot be used"):
        history.add(f"postgresql://me@/x?host={tmp_path}", runs[0])


def test_without_the_packages_it_says_what_to_install(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setattr(database, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=re.escape("edgekd[history]")):
        history.add("history.db", runs[0])


# ----------------------------------------------------------------------------------------------------------------- showing
def test_trends_are_shown_as_a_table(target: str, runs: list[Path]) -> None:
    """Oldest run first whatever order they were added in; first, latest, change, limit, result and bars of every figure."""
    for run in (runs[2], runs[0], runs[1]):
        history.add(target, run)
    lines = history.show(target)
    assert lines[0] == "3 runs, 3 verdicts, 3 measurements, 2026-03-01 to 2026-03-03"
    first, second, third = (line for line in lines if line.startswith("2026-03-0"))
    assert re.match(r"2026-03-01 10:15 +quickstart +passed +75\.0 %", first)
    assert "80.0 %" in second
    assert re.search("failed +50.0 %", third)
    top1 = next(line for line in lines if re.match(r"top-1 +student", line))
    assert re.split(r"  +", top1) == ["top-1", "student", "3", "75.0 %", "50.0 %", "-30.0 points", "▇█▁"]
    size = next(line for line in lines if re.match(r"size +onnxruntime-fp32 +3 .* failed", line))
    assert "1.00 kB" in size


def test_the_latest_runs_and_one_recipe_can_be_asked_for(finished_run: Make, runs: list[Path], tmp_path: Path) -> None:
    """An unknown recipe is told with the nearest one."""
    target = str(tmp_path / "history.db")
    history.add(target, finished_run(tmp_path / "other", recipe="other", at="2026-03-09T00:00:00+00:00"))
    for run in runs:
        history.add(target, run)
    assert history.show(target, last=2)[0].startswith("2 runs")
    assert history.show(target, recipe="other")[0].startswith("1 run,")
    with pytest.raises(UsageError, match="Did you mean quickstart"):
        history.show(target, recipe="quickstrt")


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [([70.0, 71.5], "%", "+1.5 points"), ([2.0, 1.0], "ms", "-50.0 %"), ([1.0], "ms", MISSING), ([0.0, 1.0], "ms", MISSING)],
)
def test_changes_are_points_or_percent(values: list[float], unit: str, expected: str) -> None:
    """Of the last value against the one before it."""
    points = [Point(run=i, value=value) for i, value in enumerate(values)]
    assert change(Series(recipe="r", what="w", subject="s", unit=unit, better="up", points=points)) == expected


def test_bars_run_from_the_least_to_the_greatest() -> None:
    """Equal values stand in the middle; only the last twenty are shown."""
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2, 2]) == "▄▄"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(30)))) == 20


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note an element and its attributes' names."""
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def test_the_page_shows_every_run_and_figure_and_asks_for_nothing(runs: list[Path], tmp_path: Path) -> None:
    """A strict policy, no script, no link, a plot with its caption for each figure; the same bytes each time."""
    target = str(tmp_path / "history.db")
    for run in runs:
        history.add(target, run)
    page = history.page(target)
    found = Tags(page)
    assert page == history.page(target)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert not {"script", "link", "iframe", "object", "img", "a", "form", "base"} & {tag for tag, _ in found.tags}
    assert not re.search(r"https?://|url\((?!#)|@import| on\w+=", page)
    assert not re.search(r"#0[1-5]0\d0\d|DejaVu", page), "a stand-in colour or font of the drawings was left"
    figures = [tag for tag, _ in found.tags].count("figure")
    assert figures == page.count("<svg ") == 4
    assert found.text.count("2026-03-0") == 3 + 2
    assert "failed" in found.text
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_hostile_names_change_nothing_on_the_page(finished_run: Make, tmp_path: Path) -> None:
    """The same elements and attributes whatever a recipe is called."""
    pages = []
    for i, name in enumerate(("quickstart", "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202e{{7*7}}")):
        target = str(tmp_path / f"{i}.db")
        history.add(target, finished_run(tmp_path / f"run{i}", recipe=name))
        pages.append(Tags(history.page(target)).tags)
    assert pages[0] == pages[1]


def test_an_empty_history_is_said_to_be_empty(tmp_path: Path) -> None:
    """As table and as page."""
    target = str(tmp_path / "history.db")
    Database(target, make=True).close()
    assert history.show(target) == ["the history is empty"]
    assert "The history is empty." in history.page(target)


def test_a_page_without_matplotlib_says_what_to_install(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table needs none."""
    target = str(tmp_path / "history.db")
    history.add(target, runs[0])
    monkeypatch.setattr("edgekd.history.drawing.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=re.escape("edgekd[report]")):
        history.page(target)
    assert history.show(target)

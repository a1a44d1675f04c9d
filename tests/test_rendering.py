"""A judged run in other formats, and the commands that keep and show finished runs."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edgekd import rendering
from edgekd.cli import main
from edgekd.core import parts
from edgekd.core.errors import EvidenceError, IntegrityError, UsageError
from edgekd.core.records import Report, Verdict
from edgekd.core.store import RunFolder, read_record, write_record

Make = Callable[..., Path]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def run(finished_run: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a judged run that failed; tests leave it as it is."""
    return finished_run(tmp_path_factory.mktemp("runs") / "run", max_size="1kB")


@pytest.fixture
def call(capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Return the command line as a function: exit code, stdout, stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, str]:
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return int(stopped.value.code or 0), out.decode(), err.decode()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------------------- rendering
def test_two_records_are_enough(run: Path, tmp_path: Path) -> None:
    """A folder with report.json and verdict.json, from wherever, gives the same documents as the run."""
    for name in ("report.json", "verdict.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    names = [name for name in parts.names("format") if name != "html"]
    assert rendering.render(tmp_path, names) == rendering.render(run, names)


def test_the_budgets_file_reaches_the_formats_that_point_into_it(run: Path) -> None:
    """SARIF and annotations; the others have no use for it."""
    found = rendering.render(run, ["sarif", "annotations", "badge"], budgets="ci/b.yaml")
    assert '"uri": "ci/b.yaml"' in found["verdict.sarif"]
    assert "file=ci/b.yaml," in found["annotations.txt"]
    with pytest.raises(UsageError, match="path from the root"):
        rendering.render(run, ["sarif"], budgets="/etc/a b")


def test_records_that_do_not_belong_together_or_were_changed_are_refused(finished_run: Make, tmp_path: Path) -> None:
    """The verdict of another report is no evidence; a changed record is refused."""
    made = finished_run(tmp_path / "run")
    folder = RunFolder(made)
    sound = folder.report.read_text()
    write_record(folder.report, read_record(Report, folder.report).model_copy(update={"recipe": "other"}))
    with pytest.raises(EvidenceError, match="another report"):
        rendering.render(made, ["badge"])
    folder.report.write_text(sound.replace("quickstart", "quickstopp"))
    with pytest.raises(IntegrityError, match="changed after it was made"):
        rendering.render(made, ["badge"])


def test_a_record_of_no_end_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from elsewhere has a largest size."""
    monkeypatch.setattr(rendering, "LARGEST_BYTES", 100)
    with pytest.raises(IntegrityError, match="larger than 100 bytes"):
        rendering.render(run, ["badge"])


# ---------------------------------------------------------------------------------------------------------------- commands
def test_render_prints_one_format_and_writes_several(call: Callable[..., tuple], run: Path, tmp_path: Path) -> None:
    """Stdout is the document itself, byte by byte."""
    code, out, _ = call("render", run, "sarif")
    assert (code, json.loads(out)["version"]) == (0, "2.1.0")
    assert call("render", run, "sarif", "junit")[0] == 2
    code, out, _ = call("render", run, "sarif", "junit", "--out", tmp_path / "made")
    assert code == 0
    assert (tmp_path / "made" / "verdict.sarif").is_file()
    assert ET.parse(tmp_path / "made" / "junit.xml").getroot().get("failures") == "1"
    assert call("render", run, "sariff")[0] == 2


def test_baseline_commands(call: Callable[..., tuple], run: Path, tmp_path: Path) -> None:
    """Set, list and show; a missing one is missing evidence."""
    store = tmp_path / "store"
    code, out, err = call("baseline", "set", run, "--store", store)
    assert (code, out.split()[:3]) == (0, ["main", "quickstart", "fail"])
    assert "its verdict is fail" in err
    assert call("baseline", "list", "--store", store)[1] == out
    code, shown, _ = call("baseline", "show", "--store", store)
    assert code == 0
    assert "report.json" in shown
    assert json.loads(call("baseline", "show", "main", "--store", store, "--json")[1])["record"] == "kept_run"
    assert call("baseline", "show", "other", "--store", store)[0] == 3


def test_a_store_never_learns_the_keys_in_a_url(call: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is kept with the baseline, the key that was in its URL is not."""
    url = "memory://user:hunter2@bucket/place?signature=hunter3"
    arguments = ["baseline", "set", str(run), "--store", url]
    monkeypatch.setattr("sys.argv", ["edgekd", *arguments])
    assert call(*arguments)[0] == 0
    shown = call("baseline", "show", "--store", url)[1]
    assert "edgekd baseline set" in shown
    assert "hunter" not in shown


# ------------------------------------------------------------------------------------------------- the history by itself
@pytest.fixture
def gated(finished_run: Make, tmp_path: Path) -> Path:
    """Return a run with a recipe of its own, which the gate judges."""
    run = finished_run(tmp_path / "run")
    (run / "recipe.yaml").write_text((GOLDEN / "gate_recipe.yaml").read_text())
    return run


def test_the_gate_adds_its_verdict_where_a_history_is_named(call: Callable[..., tuple], gated: Path, tmp_path: Path) -> None:
    """By the command, or by the recipe, whose path stands beside it; nothing is added otherwise."""
    assert call("gate", gated)[0] == 0
    assert list(tmp_path.glob("**/*.db")) == []
    assert call("gate", gated, "--history", tmp_path / "told.db")[0] == 0
    recipe = gated / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "history: ../named.db\n")
    assert call("gate", gated)[0] == 0
    for name in ("told.db", "named.db"):
        assert call("history", "show", "--history", tmp_path / name)[1].startswith("1 run, 1 verdict")


def test_a_history_that_cannot_be_told_is_trouble_and_the_verdict_stands(
    call: Callable[..., tuple], gated: Path, tmp_path: Path
) -> None:
    """Exit code 4 whatever the verdict, which is written and said."""
    assert call("gate", gated)[0] == 0
    before = read_record(Verdict, gated / "verdict.json")
    (gated / "verdict.json").unlink()
    code, _, err = call("gate", gated, "--history", f"postgresql://me@/x?host={tmp_path}")
    assert code == 4
    assert "the verdict is pass and stands in" in err
    assert read_record(Verdict, gated / "verdict.json").outcome == before.outcome == "pass"


@pytest.mark.parametrize("place", ["mysql://host/x", "postgresql://me:hunter2@host/x"])
def test_a_recipe_names_no_other_database_and_no_password(call: Callable[..., tuple], gated: Path, place: str) -> None:
    """The recipe is copied into the run folder; the mistake is told with its line."""
    recipe = gated / "recipe.yaml"
    recipe.write_text(recipe.read_text() + f"history: {place}\n")
    code, _, err = call("gate", gated)
    assert code == 2
    assert "recipe.yaml:9:" in err


def test_history_commands(call: Callable[..., tuple], run: Path, tmp_path: Path) -> None:
    """Add twice, show, page."""
    target = tmp_path / "history.db"
    assert call("history", "add", run, "--history", target)[1] == "verdict added, 1 new measurements\n"
    assert call("history", "add", run, "--history", target)[1] == "verdict already there, 0 new measurements\n"
    assert call("history", "show", "--history", target)[1].startswith("1 run, 1 verdict, 1 measurement,")
    assert call("history", "page", "--history", target, "--out", tmp_path / "history.html")[0] == 0
    assert (tmp_path / "history.html").read_text().startswith("<!doctype html>")
    assert call("history", "show", "--history", tmp_path / "none.db")[0] == 2


def test_charts_are_written_beside_their_page(run: Path, tmp_path: Path) -> None:
    """A format that shows files brings them along; each picture that the page names is there."""
    page, *pictures = rendering.write(run, ["charts"], tmp_path / "made")
    assert page == tmp_path / "made" / "charts.md"
    assert pictures
    assert all(f"({path.relative_to(tmp_path / 'made').as_posix()})" in page.read_text() for path in pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)

"""Charts as PNG files, and the page that shows them."""

import io
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from edgekd.core.records import MadeBy, Report
from edgekd.core.store import RunFolder
from edgekd.judging.formats import _drawing, _plots
from edgekd.judging.formats.charts import Charts
from edgekd.judging.stage import judge, write


def test_every_chart_is_a_file_and_shown(reports: ModuleType, tmp_path: Path) -> None:
    """The page names five charts in reading order; each lies beside it as a PNG with a white back."""
    report = reports.detailed(reports.report())
    verdict = judge(report, [], MadeBy(version="1"))
    write(RunFolder(tmp_path), report, verdict, [Charts()])
    page = (tmp_path / "charts.md").read_text()
    shown = re.findall(r"\]\((.+?)\)", page)
    assert [Path(name).stem for name in shown] == ["trade", "latency", "accuracy", "loss", "timeline-1"]
    for name in shown:
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.convert("RGB").getpixel((2, 2))) == ("PNG", (255, 255, 255))
            assert picture.width > 600


def test_a_chart_is_the_same_bytes_each_time(report: Report) -> None:
    """Neither time nor version stands in it."""
    drawing = _plots.accuracy_against_latency(report)
    assert _drawing.png(drawing) == _drawing.png(drawing)


def test_the_legend_spells_hostile_names(reports: ModuleType) -> None:
    """No mathematics, no missing letter, no name of a page's width: what fonts do not have is spelled out."""
    for name in (*reports.HOSTILE, "_hidden", "$\\frac{1}{2}$", "x" * 500):
        spelled = _drawing._spelled(name)
        assert spelled.isascii()
        assert spelled.isprintable()
        assert not spelled.startswith("_")
        assert len(spelled) <= 48
    hostile = reports.report(hostile="$x^{$ 日本語 \x1b[31m _")
    artifacts = hostile.artifacts
    renamed = hostile.model_copy(
        update={"artifacts": tuple(a.model_copy(update={"precision": f"$x^{{$ 日本{i}"}) for i, a in enumerate(artifacts))}
    )
    with Image.open(io.BytesIO(_drawing.png(_plots.loss_curves(renamed)))) as picture:
        assert picture.width > 600
    legend = _plots._artifacts(renamed)
    drawing = _drawing.Drawing(name="x", draw=lambda figure, inks: figure.add_subplot().plot([1, 2]), legend=legend)
    assert _drawing.png(drawing)


def test_nothing_to_draw_and_nothing_to_draw_with(reports: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare report has a page without charts; without matplotlib it says what to install."""
    bare = reports.bare_report()
    verdict = judge(bare, [], MadeBy(version="1"))
    assert "There is nothing to draw." in Charts().render(bare, verdict)
    assert Charts().beside(bare, verdict) == {}
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'edgekd[report]'" in Charts().render(bare, verdict)
    assert Charts().beside(reports.report(), verdict) == {}


def test_a_session_without_some_columns_is_drawn_with_the_others(reports: ModuleType) -> None:
    """No temperatures, no workers: panels are left out; nothing at all is no plot."""
    whole = reports.detailed(reports.report())
    (session,) = whole.details.timelines
    cold = session.model_copy(
        update={
            "points": tuple(p.model_copy(update={"temperature_c": None, "gpu_clock_mhz": 1980.0}) for p in session.points),
            "workers": (),
        }
    )
    drawing = _drawing.svg(_plots.timeline(whole, cold))
    assert "clock of the GPU (MHz)" in drawing
    assert "hottest zone" not in drawing
    assert "p50 of each process" not in drawing
    assert _plots.timeline(whole, session.model_copy(update={"points": (), "workers": ()})) is None
    held_against = tuple(
        worker.model_copy(update={"arm": ("candidate", "baseline", "reference")[i % 3]})
        for i, worker in enumerate(session.workers)
    )
    assert _drawing.svg(_plots.timeline(whole, session.model_copy(update={"workers": held_against}))).count("<use ") > 10

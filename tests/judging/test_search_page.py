"""The page of a search: what it says, that estimates are called so, and that nothing in it can run."""

from typing import Any

import pytest

from edgekd.core.parts import PartRef
from edgekd.core.records import (
    Candidates,
    FileRef,
    Interval,
    LatencyEstimate,
    LatencyMeasured,
    LatencyModel,
    MadeBy,
    RankAgreement,
    Score,
    ScoredStudent,
    Term,
)
from edgekd.judging import search_page
from edgekd.judging.formats import _search_plots


def student(number: int, *, measured: bool = False, latency: bool = True, parent: int | None = None) -> ScoredStudent:
    value_ms = 1.0 + number
    return ScoredStudent(
        genome=f"genome-{number}",
        student=PartRef(use="mobile", options={"genome": f"genome-{number}"}),
        parent=parent,
        scores={"synflow": Score(value=float(number), spread=0.1)},
        fitness=float(number),
        parameters=1000 * (number + 1),
        macs=10_000 * (number + 1),
        estimate=LatencyEstimate(value_ms=value_ms, low_ms=0.9 * value_ms, high_ms=1.1 * value_ms) if latency else None,
        measured=LatencyMeasured(p50_ms=value_ms, low_ms=value_ms, high_ms=value_ms, iterations=40) if measured else None,
    )


def candidates(*, name: str = "tiny", latency: bool = True) -> Candidates:
    found = [student(i, latency=latency, parent=None if i < 2 else i - 2, measured=latency and i == 4) for i in range(5)]
    model: dict[str, Any] = {"factor": 1.0, "per_block_ms": 0.0, "intercept_ms": 0.0}
    return Candidates(
        made_by=MadeBy(version="1"),
        name=name,
        space=PartRef(use="mobile"),
        networks_in_space=1234,
        strategy="evolution",
        settings={},
        seed=0,
        teacher=None,
        images=8,
        terms=(Term(scorer=PartRef(use="synflow"), weight=1, mean=2, deviation=1),),
        candidates=tuple(found),
        standards=(student(2, measured=True, latency=False),),
        front_by="latency" if latency else "macs",
        front=(0, 1, 2, 3, 4),
        winner=4,
        why="it has the highest fitness",
        agreements=(
            RankAgreement(a="fitness", b="macs", candidates=5, spearman=Interval(value=1, low=0.9, high=1), kendall=None),
        ),
        latency=LatencyModel(
            backend=PartRef(use="onnxruntime"),
            runtime="onnxruntime 1",
            device="local",
            threads=1,
            table=FileRef(path="t", size_bytes=1, sha256="0"),
            blocks=9,
            networks=24,
            median_error=0.03,
            p95_error=0.08,
            **model,
        )
        if latency
        else None,
        seconds=1.0,
        ended="all 5 students were scored",
    )


def test_the_page_tells_estimates_from_measurements() -> None:
    """The winner was measured, its ancestors were not; the error of the predictions is given, and the caution."""
    page = search_page.render(candidates())
    assert "5.00\N{NO-BREAK SPACE}ms measured" in page
    assert "3.00\N{NO-BREAK SPACE}ms estimated" in page
    assert "3.0\N{NO-BREAK SPACE}% (median)" in page
    assert "Nothing was trained" in page
    assert "not defined" in page


def test_the_winners_line_goes_back_to_a_random_student() -> None:
    """0 made 2, 2 made 4."""
    assert candidates().lineage() == (0, 2, 4)


def test_names_cannot_become_markup() -> None:
    """A recipe's name is shown, not obeyed; the page holds no script and loads nothing."""
    page = search_page.render(candidates(name="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_the_same_record_gives_the_same_page() -> None:
    """Byte for byte."""
    assert search_page.render(candidates()) == search_page.render(candidates())


def test_without_latencies_the_plot_is_over_what_is_computed() -> None:
    """And no word of milliseconds is invented."""
    found = candidates(latency=False)
    assert [_search_plots.cost_of(one, found) for one in found.candidates[:2]] == [0.01, 0.02]
    assert "latency not asked for" in "\n".join(search_page.lines(found))
    assert "million multiply-accumulates" in search_page.render(found)


def test_without_matplotlib_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are there all the same."""
    monkeypatch.setattr("edgekd.judging.search_page.available", lambda: False)
    page = search_page.render(candidates())
    assert "edgekd[report]" in page
    assert "genome-4" in page


def test_a_few_lines_for_the_terminal() -> None:
    """What was found, why, at what cost, beside what, and how far it is only size."""
    said = "\n".join(search_page.lines(candidates()))
    for words in ("genome-4", "5.00 ms measured", "beside  genome-2", "Spearman 1.00 (0.90 to 1.00)", "Nothing was trained"):
        assert words in said

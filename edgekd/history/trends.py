"""What moved: the runs of a history in order, and the series of figures over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, cast

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest
from edgekd.core.records import Outcome
from edgekd.judging import wording

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekd.history.tables import Run


@dataclass(frozen=True, kw_only=True)
class Point:
    """One figure: of which run (its place in `History.runs`), and what was asked of it, if anything was."""

    run: int
    value: float | None
    limit: float | None = None
    outcome: Outcome | None = None


@dataclass(kw_only=True)
class Series:
    """One figure over the runs; `better` says which way is."""

    recipe: str
    what: str
    subject: str
    unit: str
    better: str
    points: list[Point] = field(default_factory=list)

    @property
    def known(self) -> list[Point]:
        """Return the points that have a value."""
        return [point for point in self.points if point.value is not None]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run and its latest verdict."""

    when: datetime
    recipe: str
    student: str
    top1: float
    images: int
    report: str
    git: str
    outcome: Outcome | None
    told: str


@dataclass(frozen=True, kw_only=True)
class History:
    """Runs, oldest first, with how many verdicts and measurements there are of them, and the series over them."""

    runs: tuple[Ran, ...]
    verdicts: int
    measurements: int
    series: tuple[Series, ...]


def read(session: "Session", *, recipe: str | None, last: int) -> History:
    """Return the last runs of a history (of one recipe, if it is named), oldest first, and their series."""
    from sqlalchemy import select
    from sqlalchemy.orm import selectinload

    from edgekd.history.tables import Judged, Run

    known = sorted(session.scalars(select(Run.recipe).distinct()))
    if recipe is not None and recipe not in known:
        raise UsageError(f"the history has no runs of a recipe {recipe!r}.{nearest(recipe, known)}")
    asked = select(Run).options(
        selectinload(Run.verdicts).selectinload(Judged.findings), selectinload(Run.measurements), selectinload(Run.artifacts)
    )
    if recipe is not None:
        asked = asked.where(Run.recipe == recipe)
    runs = sorted(session.scalars(asked), key=lambda run: (run.when, run.id))[-last:]
    return History(
        runs=tuple(map(_ran, runs)),
        verdicts=sum(len(run.verdicts) for run in runs),
        measurements=len({measured.id for run in runs for measured in run.measurements}),
        series=tuple(_series(runs)),
    )


def _ran(run: "Run") -> Ran:
    judged = run.verdicts[-1] if run.verdicts else None
    told = ""
    if judged is not None:
        open_ones = [found for found in judged.findings if found.outcome != "pass"]
        told = f"{len(judged.findings) - len(open_ones)} of {wording.counted(len(judged.findings), 'check')} passed"
    return Ran(
        when=run.when,
        recipe=run.recipe,
        student=run.student,
        top1=run.top1_correct / run.images if run.images else 0.0,
        images=run.images,
        report=run.report,
        git=run.git,
        outcome=cast("Outcome", judged.outcome) if judged is not None else None,
        told=told,
    )


def _series(runs: "Sequence[Run]") -> list[Series]:
    """Return accuracies, latencies and sizes that no budget is about, then what budgets found, in order of appearance."""
    facts: dict[tuple[str, ...], Series] = {}
    judged: dict[tuple[str, ...], Series] = {}

    def add(into: dict[tuple[str, ...], Series], of: tuple[str, str, str, str, str], point: Point) -> None:
        recipe, what, subject, unit, better = of
        into.setdefault(of, Series(recipe=recipe, what=what, subject=subject, unit=unit, better=better)).points.append(point)

    for i, run in enumerate(runs):
        if run.images:
            add(facts, (run.recipe, "top-1", "student", "%", "up"), Point(run=i, value=100 * run.top1_correct / run.images))
        for one in run.artifacts:
            if one.images and one.top1_correct is not None:
                add(facts, (run.recipe, "top-1", one.name, "%", "up"), Point(run=i, value=100 * one.top1_correct / one.images))
            add(facts, (run.recipe, "size", one.name, "bytes", "down"), Point(run=i, value=float(one.size_bytes)))
        for measured in run.measurements:
            add(facts, (run.recipe, "p50", measured.name, "ms", "down"), Point(run=i, value=measured.p50_ms))
        for found in (found for verdict in run.verdicts for found in verdict.findings):
            better = "down" if found.bound == "at most" else "up"
            point = Point(run=i, value=found.value, limit=found.limit, outcome=cast("Outcome", found.outcome))
            what = f"{found.budget} ({found.name})" if found.name and found.name != found.budget else found.budget
            add(judged, (run.recipe, what, found.subject, found.unit, better), point)
    known = {_figures(series) for series in judged.values()}
    return [*(series for series in facts.values() if _figures(series) not in known), *judged.values()]


def _figures(series: Series) -> tuple[object, ...]:
    """Return what makes a fact the same as what a budget found: then the budget's line, with its limit, is enough."""
    values = ((point.run, None if point.value is None else round(point.value, 6)) for point in series.points)
    return series.recipe, series.subject, series.unit, *values

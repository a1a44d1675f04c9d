"""What was compared before choosing, as tables: teachers ranked, and the arms of a pilot."""

from collections.abc import Sequence

from edgekd.core.records import DataFacts, Interval
from edgekd.core.side_records import ArmScore, PilotArm, PilotResult, RankedTeacher, TeacherRanking
from edgekd.judging import wording
from edgekd.judging.console import aligned

OPTIMISTIC = "The arms were compared on the validation images, so the winner's figure is optimistic: judge it on other images."
PROTOCOL = (
    "Successive halving (Jamieson & Talwalkar 2016): on each rung the arms that are left learn anew, from the same start, for"
    " as many images each, over the same views; the learning rate's schedule ends with the rung's budget, so a rung is"
    " comparable within itself. Methods and baseline are halved each among themselves."
)
FIGURES = (
    "top-1 is the student's own; probe is a linear probe on the features that a method without a head shapes. Intervals are"
    " Wilson's, 95 %, for the validation images."
)
_TEACHERS = ("teacher", "width", "parameters", "probe", "kNN", "compactness", "participation", "eff. rank", "ms/image (rough)")
_ARMS = ("arm", "method", "learning rate", "images seen", "figure", "share", "kNN", "")
_FIGURES = {"top1": "top-1", "probe": "probe"}


def teacher_lines(ranking: TeacherRanking) -> list[str]:
    """Return the table of the teachers, what it rests on, and the advice."""
    rows = [_TEACHERS, *(_teacher_row(one) for one in ranking.teachers)]
    return [*aligned(rows), "", f"{_basis(ranking.data)}; timed on {ranking.device}", ranking.advice]


def pilot_lines(pilot: PilotResult) -> list[str]:
    """Return the table of the arms, each with its last rung, the decision, and how far it may be trusted."""
    return [*aligned([_ARMS, *arm_rows(pilot)]), "", pilot.decision, OPTIMISTIC]


def pilot_page(pilot: PilotResult) -> str:
    """Return the pilot as a page of Markdown: the decision, the arms, and every rung."""
    seeds = ", ".join(map(str, pilot.seeds))
    lines = [
        f"# Pilot of {pilot.recipe}",
        "",
        f"**{pilot.decision}**",
        "",
        f"{_basis(pilot.data)}; seeds {seeds}.",
        "",
        *_markdown([_ARMS, *arm_rows(pilot)]),
    ]
    for rung, images in enumerate(pilot.budgets):
        lines += ["", f"## Rung {rung + 1}: {images:,} images seen by each arm", ""]
        lines += _markdown([("arm", "figure", "share", "spread over seeds", "kNN"), *_rung_rows(pilot, rung)])
    return "\n".join([*lines, "", OPTIMISTIC, "", PROTOCOL, "", FIGURES, ""])


def arm_rows(pilot: PilotResult) -> list[tuple[str, ...]]:
    """Return one row of text for each arm: those that came furthest first, the best of each rung on top."""
    return [_arm_row(pilot, arm) for arm in sorted(pilot.arms, key=_how_far)]


def _arm_row(pilot: PilotResult, arm: PilotArm) -> tuple[str, ...]:
    head = (arm.name, _written(arm), f"{arm.lr:g}")
    if not arm.scores:
        return (*head, wording.MISSING, wording.MISSING, wording.MISSING, wording.MISSING, _note(pilot, arm))
    last = arm.scores[-1]
    shown = (f"{last.images_seen:,}", _FIGURES[last.figure], wording.share_interval(last.share), _maybe(last.knn_top1))
    return (*head, *shown, _note(pilot, arm))


def _note(pilot: PilotResult, arm: PilotArm) -> str:
    if not arm.scores:
        return f"cannot run: {arm.cannot_run}"
    last = arm.scores[-1]
    notes = [] if arm.name != pilot.winner else ["winner"]
    if arm.cannot_run:
        notes.append(f"cannot run further: {arm.cannot_run}")
    elif last.rung + 1 < len(pilot.budgets):
        notes.append(f"dropped after rung {last.rung + 1} of {len(pilot.budgets)}")
    best = _best_of(pilot, last.rung)
    if arm.name == best.name:
        notes.append("best of its rung")
    elif _overlap(last.share, best.scores[last.rung].share):
        notes.append(f"not distinguishable from {best.name}")
    return ", ".join(notes)


def _rung_rows(pilot: PilotResult, rung: int) -> list[tuple[str, ...]]:
    rows = list[tuple[str, ...]]()
    for arm in sorted((arm for arm in pilot.arms if len(arm.scores) > rung), key=lambda arm: order(arm.scores[rung])):
        score = arm.scores[rung]
        spread = wording.MISSING if score.spread is None else f"{100 * score.spread:.1f} points"
        share = wording.share_interval(score.share)
        rows.append((arm.name, _FIGURES[score.figure], share, spread, _maybe(score.knn_top1)))
    return rows


def _best_of(pilot: PilotResult, rung: int) -> PilotArm:
    return min((arm for arm in pilot.arms if len(arm.scores) > rung), key=lambda arm: order(arm.scores[rung]))


def _how_far(arm: PilotArm) -> tuple[float, ...]:
    return (-len(arm.scores), *(order(arm.scores[-1]) if arm.scores else (0.0, 0.0)))


def order(score: ArmScore) -> tuple[float, float]:
    """Return what sorts scores of a rung, the best first."""
    return -score.share.value, -(score.knn_top1.value if score.knn_top1 else 0.0)


def _overlap(a: Interval, b: Interval) -> bool:
    return a.low <= b.high and b.low <= a.high


def _written(arm: PilotArm) -> str:
    options = ", ".join(f"{key}: {value}" for key, value in arm.method.options.items())
    return f"{arm.method.use} ({options})" if options else arm.method.use


def _teacher_row(one: RankedTeacher) -> tuple[str, ...]:
    return (
        one.facts.name,
        f"{one.width}",
        f"{one.facts.parameters / 1e6:.1f} M",
        _maybe(one.probe_top1),
        _maybe(one.knn_top1),
        wording.MISSING if one.compactness is None else f"{one.compactness:.3f}",
        f"{one.participation_ratio:.1f}",
        f"{one.effective_rank:.1f}",
        f"{one.forward_ms:.3g}",
    )


def _basis(data: DataFacts) -> str:
    counts = wording.counted(data.train_images, "training image"), wording.counted(data.validation_images, "validation image")
    return f"{counts[0]}, {data.labelled_images:,} labelled; {counts[1]}"


def _maybe(share: Interval | None) -> str:
    return wording.MISSING if share is None else wording.share_interval(share)


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(wording.plain(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]

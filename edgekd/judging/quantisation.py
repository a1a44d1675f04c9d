"""The search for an int8 model as a table: one spelling for all formats."""

from collections.abc import Mapping

from edgekd.core.records import Artifact, Candidate, Finding, Quantisation, Report
from edgekd.judging import wording

COLUMNS = ("Candidate", "Options", "Top-1", "Agrees with float", "Median", "Against float", "Size", "Outcome")


def searches(report: Report) -> tuple[tuple[Artifact, Quantisation], ...]:
    """Return the artifacts that were searched for, with their searches."""
    return tuple((artifact, artifact.quantisation) for artifact in report.artifacts if artifact.quantisation is not None)


def rows(search: Quantisation) -> tuple[tuple[str, ...], ...]:
    """Return the fastest float model and every candidate, cells as in `COLUMNS`."""
    judged = search.judged_images
    held_against = (
        f"float ({search.float_precision})",
        "",
        wording.percent(search.float_top1_correct / judged),
        wording.MISSING,
        _median(search.float_median_ms),
        wording.MISSING if search.float_median_ms is None else "x 1.00",
        wording.MISSING,
        "",
    )
    return (held_against, *(_row(one, search) for one in search.candidates))


def told(search: Quantisation) -> str:
    """Return what the figures of the table stand on."""
    ranges = f"By {search.engine}, ranges from {wording.counted(search.calibration_images, 'training image')}; judged on "
    images = wording.counted(search.judged_images, "validation image")
    if search.judged_through:
        return (
            f"{ranges}{images} through {search.judged_through}, because the artifact's own runtime could not run there. These "
            "figures chose; they are no evidence about the artifact, and nothing was timed."
        )
    timed = "and timed beside float in one process. These figures chose; the artifact itself is measured above."
    return f"{ranges}{images} {timed}"


def refusals(report: Report) -> tuple[Finding, ...]:
    """Return a failure for every int8 artifact that its own search refused; no budget has to ask for that."""
    return tuple(
        Finding(
            budget="quantise",
            subject=artifact.name,
            value=None,
            limit=search.max_drop,
            bound="at most",
            unit="points",
            outcome="fail",
            because=search.refused,
        )
        for artifact, search in searches(report)
        if search.refused
    )


def _row(one: Candidate, search: Quantisation) -> tuple[str, ...]:
    judged = search.judged_images
    return (
        one.name,
        _options(one.options) + (f", {wording.counted(one.kept_float, 'layer')} in float" if one.kept_float else ""),
        wording.MISSING if one.top1_correct is None else wording.percent(one.top1_correct / judged),
        wording.MISSING if one.agreements is None else wording.percent(one.agreements / judged),
        _median(one.median_ms),
        wording.MISSING
        if not one.median_ms or not search.float_median_ms
        else f"x {search.float_median_ms / one.median_ms:.2f}",
        wording.MISSING if one.size_bytes is None else wording.size(one.size_bytes),
        f"{one.outcome}: {one.note}" if one.note else one.outcome,
    )


def _median(of_ms: float | None) -> str:
    return wording.MISSING if of_ms is None else f"{of_ms:.2f} ms"


def _options(of: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in of.items())

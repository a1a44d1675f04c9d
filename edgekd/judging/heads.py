"""Further outputs of artifacts, as rows of a table."""

from edgekd.core import stats
from edgekd.core.records import HeadFacts, Report
from edgekd.judging import wording

COLUMNS = ("Further output", "Classes", "Top-1 of their images", "Agrees with torch")


def rows(report: Report) -> tuple[tuple[str, ...], ...]:
    """Return a row for each further output of each artifact, in the order of `COLUMNS`."""
    return tuple(_row(artifact.name, head) for artifact in report.artifacts for head in artifact.heads)


def _row(artifact: str, head: HeadFacts) -> tuple[str, ...]:
    top1 = agrees = wording.MISSING
    if head.top1_correct is not None:
        top1 = wording.share_interval(stats.wilson(head.top1_correct, head.images))
    if head.parity is not None and head.parity.images:
        agrees = f"{wording.percent(head.parity.top1_agreement)} of {head.parity.images:,}"
    return f"{artifact} {head.output}", f"{len(head.classes):,}", top1, agrees

"""Which artifacts a budget speaks of, and what it says when there are none."""

from fnmatch import fnmatchcase

from edgekd.core.records import Artifact, Report


def matching(report: Report, pattern: str) -> tuple[Artifact, ...]:
    """Return the artifacts whose name matches a shell pattern."""
    return tuple(artifact for artifact in report.artifacts if fnmatchcase(artifact.name, pattern))


def not_executed(artifact: Artifact) -> str:
    """Return the sentence for an artifact that has not run: whatever is asked of it, the answer is not known."""
    return f"{artifact.name} was not executed, so nothing is known of it: {artifact.not_executed}."


def none_matching(report: Report, pattern: str) -> str:
    """Return the sentence for a pattern that no artifact matches."""
    if not report.artifacts:
        return "Nothing was exported, so there is nothing to judge; run edgekd export."
    known = ", ".join(artifact.name for artifact in report.artifacts)
    return f"No artifact matches {pattern!r}; the report has {known}."

"""Which artifacts and measurements a budget speaks of, how it says what it found, and what it says when there are none."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from edgekd.core import stats
from edgekd.core.contracts import Budget
from edgekd.core.plan import Section
from edgekd.core.records import Artifact, Finding, LatencySummary, Outcome, Report

Names = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""A name, a shell pattern of names, or several."""

Alpha = Annotated[float, Field(gt=0, lt=0.5, description="the chance of a wrong decision, one-sided")]
Against = Literal["", "baseline", "teacher", "reference", "undistilled"]


class Ratio(Section):
    """At most `value` times what the other has; exact."""

    to: Literal["baseline"]
    value: Annotated[float, Field(gt=0)]


class OfArtifacts(Budget):
    """A budget about exported artifacts; `artifact`, `runtime` (the backend) and `precision` are names or shell patterns."""

    artifact: Names = "*"
    runtime: Names = "*"
    precision: Names = "*"

    def artifacts(self, report: Report) -> tuple[Artifact, ...]:
        """Return the artifacts that the budget speaks of."""
        return tuple(one for one in report.artifacts if self.speaks_of(one))

    def speaks_of(self, artifact: Artifact) -> bool:
        """Return whether the budget is about this artifact."""
        return (
            matches(artifact.name, self.artifact)
            and matches(artifact.backend.use, self.runtime)
            and matches(artifact.precision, self.precision)
        )

    def subject(self) -> str:
        """Return the patterns in one word, for a finding about artifacts that are not there."""
        given = [shown(names) for names in (self.artifact, self.runtime, self.precision) if names != "*"]
        return " ".join(given) or "*"

    def none_matching(self, report: Report) -> str:
        """Return the sentence for patterns that no artifact matches."""
        if not report.artifacts:
            return "Nothing was exported, so there is nothing to judge; run edgekd export."
        known = ", ".join(artifact.name for artifact in report.artifacts)
        return f"No artifact matches {self.subject()!r}; the report has {known}."


class OfMeasurements(OfArtifacts):
    """A budget about measured artifacts; `device` is a name or pattern, `except_devices` are left to other budgets."""

    device: Names = "*"
    except_devices: tuple[str, ...] = ()
    mode: Literal["single", "paced", "offline"] = "single"

    def measured(self, report: Report, artifact: Artifact) -> tuple[LatencySummary, ...]:
        """Return the measurements of an artifact of this run that the budget speaks of."""
        return tuple(
            one
            for one in report.latencies
            if one.artifact == artifact.name
            and one.arm == "candidate"
            and one.mode == self.mode
            and matches(one.device.name, self.device)
            and one.device.name not in self.except_devices
        )


def matches(name: str, patterns: Names) -> bool:
    """Return whether a name is one of these, or fits one of these shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in ((patterns,) if isinstance(patterns, str) else patterns))


def shown(patterns: Names) -> str:
    """Return names and patterns as one text."""
    return patterns if isinstance(patterns, str) else ", ".join(patterns)


def not_executed(artifact: Artifact) -> str:
    """Return the sentence for an artifact that has not run: whatever is asked of it, the answer is not known."""
    return f"{artifact.name} was not executed, so nothing is known of it: {artifact.not_executed}."


def exactly_one(budget: Budget, *bounds: str) -> None:
    """Raise `ValueError` unless exactly one of these bounds is given: a budget is one claim."""
    given = [name for name in bounds if getattr(budget, name) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        raise ValueError(f"give exactly one of {', '.join(f'`{name}`' for name in bounds)} ({found})")


class Said:
    """What is the same in all findings of one check: its name in words, limit, bound and unit."""

    def __init__(
        self,
        *,
        budget: str,
        limit: float,
        bound: Literal["at most", "at least"] = "at most",
        unit: str = "",
        against: Against = "",
        alpha: float | None = None,
    ) -> None:
        self.limit = limit
        self.alpha = alpha
        self._budget = budget
        self._bound = bound
        self._unit = unit
        self._against = against

    def found(
        self,
        subject: str,
        value: float | None,
        outcome: Outcome,
        because: str,
        *,
        needs: str = "",
        bounds: tuple[float | None, float | None] = (None, None),
        p_value: float | None = None,
        images: int | None = None,
        pairs: int | None = None,
        arithmetic: Sequence[str] = (),
    ) -> Finding:
        """Return one finding; `bounds` are those that decided, lower and upper, each with the check's error."""
        return Finding(
            budget=self._budget,
            subject=subject,
            value=_settled(value),
            limit=self.limit,
            bound=self._bound,
            unit=self._unit,
            outcome=outcome,
            because=because,
            against=self._against,
            low=_settled(bounds[0]),
            high=_settled(bounds[1]),
            p_value=_settled(p_value),
            alpha=self.alpha,
            images=images,
            pairs=pairs,
            needs=needs,
            arithmetic=tuple(arithmetic),
        )

    def unknown(self, subject: str, because: str, *, needs: str = "", value: float | None = None) -> Finding:
        """Return the finding that nothing is known, and what would change that."""
        return self.found(subject, value, "inconclusive", because, needs=needs)


def _settled(value: float | None) -> float | None:
    return None if value is None else stats.settled(value)

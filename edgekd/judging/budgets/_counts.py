"""Counts that are known exactly, against a number or against those of another model."""

from typing import Annotated, Literal

from pydantic import Field

from edgekd.core.plan import Section
from edgekd.core.records import Finding
from edgekd.judging.budgets._subjects import Ratio, Said

ExactRatio = Ratio


class CountRatio(Section):
    """At most `value` times what the other has; exact."""

    to: Literal["baseline", "teacher"]
    value: Annotated[float, Field(gt=0)]


def decided(said: Said, subject: str, count: int, other: int | None, *, what: str) -> Finding:
    """Return the finding about a count, as it is or as a multiple of another's; exactly the limit passes."""
    value = count if other is None else count / other
    fits = count <= said.limit if other is None else count <= said.limit * other
    against = "" if other is None else f" and the other {other:,}, {value:.4g} times as many"
    because = f"It has {count:,} {what}{against}; at most {said.limit:,.12g} {'are' if other is None else 'times'} allowed."
    return said.found(subject, value, "pass" if fits else "fail", because)

"""Who speaks to a student: teachers, and several vectors of one teacher as if they were teachers of their own.

Axes: B batch, V voices, D feature width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.distilling.ensembles import drop_teachers

TeacherTap = str | tuple[str | tuple[str, ...], ...]
"""One tap for all teachers; or a list of one entry a teacher, and an entry that is a list makes several of that teacher."""

Weights = tuple[Annotated[float, Field(gt=0)], ...]
Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Voice:
    """One vector of one teacher."""

    teacher: int
    tap: str

    def said(self, teachers: tuple[Mapping[str, Tensor], ...]) -> Tensor:
        """Return this voice's answer."""
        return teachers[self.teacher][self.tap]


def asked(tap: TeacherTap, *more: str, wrap: str = "{}") -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return `teacher_taps` and `taps_by_teacher` of `Needs`: the taps (named as `wrap` says), and `more` of every teacher."""
    if isinstance(tap, str):
        return (wrap.format(tap), *more), ()
    each = tuple((*(wrap.format(one) for one in _several(entry)), *more) for entry in tap)
    return tuple(dict.fromkeys(one for taps in each for one in taps)), each


def voices(tap: TeacherTap, teachers: int, *, method: str, wrap: str = "{}") -> tuple[Voice, ...]:
    """Return who speaks, teacher by teacher; raise `UsageError` if the taps are those of another number of teachers."""
    if isinstance(tap, str):
        return tuple(Voice(index, wrap.format(tap)) for index in range(teachers))
    if len(tap) != teachers:
        raise UsageError(
            f"method {method}: taps are given for {len(tap)} teachers, and there are {teachers}",
            mend="give one entry a teacher, in their order (a list in it makes several of that teacher), or one name for all",
        )
    return tuple(Voice(index, wrap.format(one)) for index, entry in enumerate(tap) for one in _several(entry))


def checked_weights(weights: Weights | None, *, count: int, method: str) -> Tensor | None:
    """Return the weights of the voices with sum 1, None if all are alike; raise `UsageError` if they are too few or many."""
    if weights is None:
        return None
    if len(weights) != count:
        raise UsageError(
            f"method {method}: {len(weights)} weights are given, and {count} are needed: one for each teacher (or tap of it)"
        )
    given_V = torch.tensor(weights, dtype=torch.float32)
    return given_V / given_V.sum()


def distinct_names(teachers: tuple[FeatureSpec, ...], spoken: tuple[Voice, ...]) -> tuple[str, ...]:
    """Return a name for each voice that says which teacher and which tap it is."""
    return tuple(f"{teachers[voice.teacher].name} ({voice.teacher + 1}) {voice.tap}" for voice in spoken)


def weighed(losses_V: Tensor, weight_V: Tensor | None) -> Tensor:
    """Return the mean of the voices' losses, or their weighted sum."""
    return losses_V.mean() if weight_V is None else (losses_V * weight_V.to(losses_V)).sum()


def share_of_each(losses_BV: Tensor, weight_V: Tensor | None, *, probability: float, generator: torch.Generator) -> Tensor:
    """Return weight_BV of the losses after some voices were dropped for some images; the sum over all is 1."""
    kept_BV = drop_teachers(losses_BV, probability=probability, generator=generator)
    if weight_V is None:
        return kept_BV
    weighted_BV = kept_BV * weight_V.to(kept_BV)
    return weighted_BV / weighted_BV.sum()


def dropping_generator() -> torch.Generator:
    """Return a generator of its own that follows from the run's seed, so that dropping changes nothing else that is drawn."""
    return torch.Generator().manual_seed(torch.initial_seed() % 2**63)


def _several(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry

"""What the methods have in common whose students teach one another. Axes: B batch, K classes, P students."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.cohort import names_in
from edgekd.distilling.losses import cross_entropy, kl
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight

Answers = Mapping[str, Tensor]


class MutualMethod(Method):
    """Cross entropy for every student, and what they say to one another; no answer of one student moves another.

    `teacher_weight` adds the recipe's teachers as peers that never move: so many times their mean divergence, to every
    student. `head` says whose logits they then give: a linear probe on the labelled images, or the teacher's own head.
    """

    temperature: Temperature = 1.0
    teacher_weight: Weight = 0.0
    head: Literal["probe", "own"] = "probe"
    label_smoothing: Smoothing = 0.0

    @property
    def teacher_tap(self) -> str:
        """Return the teachers' tap that is listened to."""
        return "probe_logits" if self.head == "probe" else "logits"

    def asks(self, *taps: str, peers: int = 0, branches: int = 0) -> Needs:
        """Return the needs of a method that wants these taps of every student."""
        teachers = self.teacher_weight > 0
        return Needs(
            student_taps=("logits", *taps),
            teacher_taps=(self.teacher_tap,) if teachers else (),
            teachers=teachers,
            labels=True,
            peers=peers,
            branches=branches,
        )

    def check(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> tuple[str, ...]:
        """Return the names of the students' logits; raise `UsageError` for a teacher that answers over other classes."""
        for teacher in teachers if self.teacher_weight > 0 else ():
            if (width := teacher.shapes[self.teacher_tap][0]) != classes:
                raise UsageError(
                    f"method {self.ref().use}: {teacher.name} answers over {width} outputs and the data have {classes} classes",
                    mend="use `head: probe` (a linear probe on the labelled images)",
                )
        return names_in(student.shapes, "logits")


class MutualCriterion(nn.Module):
    """The criterion of these methods: labels and frozen teachers for each student, and what a method adds."""

    def __init__(self, method: MutualMethod, logits: tuple[str, ...]) -> None:
        super().__init__()
        self.method = method
        self.logits = logits

    def among(self, students: Answers, batch: Batch) -> dict[str, Tensor]:
        """Return the terms that the students have with one another, already weighted."""
        raise NotImplementedError

    def forward(self, student: Answers, teachers: tuple[Answers, ...], batch: Batch) -> Losses:
        """Return the sum over all students; its parts are `ce` of each, the method's terms, and `kd`."""
        method = self.method
        own = {named("ce", key): cross_entropy(student[key], batch, smoothing=method.label_smoothing) for key in self.logits}
        terms = {**own, **self.among(student, batch)}
        if method.teacher_weight > 0:
            taught = [
                kl(student[key], teacher[method.teacher_tap], temperature=method.temperature)
                for key in self.logits
                for teacher in teachers
            ]
            terms["kd"] = method.teacher_weight * torch.stack(taught).sum() / max(1, len(teachers))
        total = torch.stack(list(terms.values())).sum()
        return Losses(total=total, parts={name: value.detach() for name, value in terms.items()})


class Ramp(nn.Module):
    """A share that grows from near 0 to 1 over so many calls in training: exp(-5 (1 - t)^2) (Laine & Aila 2017)."""

    calls: Tensor

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self) -> float:
        """Count a call, and return its share; 1 at once without a length."""
        if self.batches == 0:
            return 1.0
        if self.training:
            self.calls += 1
        return math.exp(-5 * (1 - min(1.0, int(self.calls) / self.batches)) ** 2)


RampBatches = Annotated[int, Field(ge=0)]


def named(term: str, key: str) -> str:
    """Return what a term of one student is called in the log: `ce`, and `ce large` of the peer `large`."""
    peer = key.rpartition("/")[0]
    return f"{term} {peer}" if peer else term

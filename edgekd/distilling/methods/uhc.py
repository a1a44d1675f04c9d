"""Teachers that know different classes. Axes: B batch, K classes, T teachers."""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.ensembles import unify
from edgekd.distilling.losses import cross_entropy, kl
from edgekd.distilling.methods._logits import Smoothing, Temperature, Weight
from edgekd.distilling.unification import Estimator, check_connected

_TAP = "logits"
_FLOOR = 1e-12


class Uhc(Method):
    """Teachers of different classes make one student of all of them, without labels (UHC, 2019).

    Each teacher's own logits are taken as p_i(l) = q(l) / (sum of q over its classes) of one q over the images' classes,
    which is found for every image by `estimator`: `cross_entropy` or `factorisation`. The student learns
    T^2 KL(q || student), all at temperature T; T 1 is where the assumption holds exactly. `each`, the paper's rival, unifies
    nothing: the mean of T^2 KL(p_i || the student's answers restricted to the classes of i). Teachers must say which classes
    they know (`classes:`), every class must be known to one, and their classes must overlap so far that all are connected.

    `heads` gives the student an output for each teacher besides, over that teacher's own classes and with T^2 KL to it alone.
    With `weight: 0` only these are learnt, and the classes need not be connected.
    """

    estimator: Estimator | Literal["each"] = "cross_entropy"
    temperature: Temperature = 1.0
    weight: Weight = 1.0
    label_weight: Weight = 0.0
    label_smoothing: Smoothing = 0.0
    heads: bool = False
    head_weight: Weight = 1.0

    def needs(self) -> Needs:
        """Ask for the teachers' own logits, over classes of their own."""
        learns = self.weight > 0 or self.label_weight > 0
        return Needs(
            student_taps=(_TAP,) if learns else (),
            teacher_taps=(_TAP,),
            labels=self.label_weight > 0,
            class_sets=True,
        )

    def further_heads(self, teachers: tuple[FeatureSpec, ...]) -> dict[str, tuple[str, ...]]:
        """Return a head for each teacher, called as it is, where they are asked for."""
        if not self.heads:
            return {}
        names = [re.sub(r"[^A-Za-z0-9]+", "_", teacher.name).strip("_") for teacher in teachers]
        unique = [name if names.count(name) == 1 else f"{name}_{at + 1}" for at, name in enumerate(names)]
        return {name: teacher.classes for name, teacher in zip(unique, teachers, strict=True)}

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; raise `UsageError` if the teachers' classes do not determine an answer over the images'."""
        for teacher in teachers:
            if not teacher.classes:
                raise UsageError(
                    f"method {self.ref().use}: {teacher.name} does not say which classes its outputs stand for",
                    mend="give the teacher `classes:` (a list, a file of names, or a checkpoint.json)",
                )
        sets = tuple(teacher.classes for teacher in teachers)
        if self.weight > 0:
            check_connected(sets, student.classes)
        return _Uhc(self, sets, student.classes, tuple(self.further_heads(teachers)))


class _Uhc(nn.Module):
    def __init__(
        self, method: Uhc, sets: tuple[tuple[str, ...], ...], classes: tuple[str, ...], heads: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.method, self.sets, self.classes, self.heads = method, sets, classes, heads
        place = {name: index for index, name in enumerate(classes)}
        self.columns = [[place[name] for name in names] for names in sets] if method.weight > 0 else []

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        """Return the weighted sum; its parts are `uhc`, `ce` and `head NAME`."""
        method, parts = self.method, dict[str, Tensor]()
        total = next(iter(student.values())).new_zeros((), dtype=torch.float32)
        if method.weight > 0:
            parts["uhc"] = self._unified(student[_TAP], teachers)
            total = total + method.weight * parts["uhc"]
        if method.label_weight > 0:
            parts["ce"] = cross_entropy(student[_TAP], batch, smoothing=method.label_smoothing)
            total = total + method.label_weight * parts["ce"]
        for name, teacher in zip(self.heads, teachers, strict=False):
            parts[f"head {name}"] = kl(student[f"{_TAP}_{name}"], teacher[_TAP], temperature=method.temperature)
            total = total + method.head_weight * parts[f"head {name}"]
        return Losses(total=total, parts={name: value.detach() for name, value in parts.items()})

    def _unified(self, student_BK: Tensor, teachers: tuple[Mapping[str, Tensor], ...]) -> Tensor:
        """Return the divergence from the one distribution that the teachers determine, or from each where it is defined."""
        temperature, estimator = self.method.temperature, self.method.estimator
        if estimator == "each":
            pairs = zip(self.columns, teachers, strict=True)
            told = [kl(student_BK[:, columns], teacher[_TAP], temperature=temperature) for columns, teacher in pairs]
            return torch.stack(told).mean()
        p = [functional.softmax(teacher[_TAP].detach().float() / temperature, dim=1) for teacher in teachers]
        q_BK = unify(p, self.sets, self.classes, estimator=estimator)
        return kl(student_BK, temperature * q_BK.clamp(min=_FLOOR).log(), temperature=temperature)

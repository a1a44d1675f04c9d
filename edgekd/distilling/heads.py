"""A trained student's body under a fresh last layer, for other classes than it was trained on."""

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from edgekd.core.contracts import Student
from edgekd.distilling.models import load_strictly
from edgekd.distilling.taps import FURTHER_HEADS


def with_fresh_head(part: Student, weights: Path, *, had: int, classes: int) -> nn.Module:
    """Return the student of a weights file whose head had `had` classes, with a new head for `classes`.

    Raises `UsageError` if the weights are not this student's, or if more than the last layer depends on the classes.
    """
    found = part.restore(had, weights).state_dict()
    trained = {key: value for key, value in found.items() if FURTHER_HEADS not in key.split(".")}
    student = part.build(classes, start=False)
    head = head_keys(student)
    own = {key: value for key, value in student.state_dict().items() if key in head}
    load_strictly(
        student, {key: value for key, value in trained.items() if key not in head} | own, where=weights, name="the same student"
    )
    return student


def head_keys(student: nn.Module) -> set[str]:
    """Return the names that the last layer's weights have in the student's state dict."""
    head = cast(nn.Module, student.head)
    names = [name for name, module in student.named_modules() if module is head]
    weights: dict[str, Tensor] = head.state_dict()
    return {f"{name}.{key}" for name in names for key in weights}

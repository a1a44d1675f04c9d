"""Which classes a teacher's own logits stand for, and whether they are those of the images."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.core.class_names import read_class_names
from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.core.records import Checkpoint
from edgekd.core.store import read_record


def named_classes(given: tuple[str, ...] | Path | None) -> tuple[str, ...]:
    """Return class names as a recipe gives them: a list, a file of names, or the checkpoint.json of a student; () if none."""
    if given is None:
        return ()
    if isinstance(given, tuple):
        if len(set(given)) < len(given):
            raise UsageError("`classes` names one of them twice")
        return given
    if given.suffix == ".json":
        return read_record(Checkpoint, given).classes
    return read_class_names(given).names


def check_width(name: str, classes: tuple[str, ...], width: int) -> None:
    """Raise `UsageError` if a teacher has not as many outputs as it is said to know classes."""
    if classes and len(classes) != width:
        raise UsageError(
            f"{name} has {width} outputs, and `classes` names {len(classes)}",
            mend="name its classes in the order of its outputs",
        )


def check_texts(named: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Raise `UsageError` if a student's zero-shot head names other classes than the images', or these in another order."""
    if named and named != classes:
        raise UsageError(
            f"the student's zero-shot texts are of {', '.join(named[:3])}, ...; the images' classes are"
            f" {', '.join(classes[:3])}, ...",
            mend="embed the images' own classes, in their order",
        )


def check_same(teachers: Sequence[FeatureSpec], classes: tuple[str, ...]) -> None:
    """Raise `UsageError` if a teacher is asked for its own logits and says that they are over others than these classes."""
    for teacher in teachers:
        asked = any(tap.partition("~")[0] == "logits" for tap in teacher.shapes)
        if not asked or not teacher.classes or teacher.classes == classes:
            continue
        if set(teacher.classes) == set(classes):
            at = next(i for i, (own, other) in enumerate(zip(teacher.classes, classes, strict=True)) if own != other)
            why = f"has them in another order: its output {at} is {teacher.classes[at]!r}, the images' class is {classes[at]!r}"
        else:
            strange = [name for name in teacher.classes if name not in classes]
            why = f"knows {len(teacher.classes)} classes, {len(strange)} of them not the images' {len(classes)}"
            why += f" ({', '.join(strange[:3])})" if strange else ""
        raise UsageError(
            f"{teacher.name} {why}",
            mend="use `head: probe`, name the classes in the teacher's order, or take `method: uhc` for such teachers",
        )

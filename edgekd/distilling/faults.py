"""What goes wrong with a teacher says with which one. Axes: B batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from edgekd.core.contracts import FrozenModel, Teacher
from edgekd.core.errors import EdgekdError, UsageError


def load_all(parts: Sequence[Teacher]) -> tuple[FrozenModel, ...]:
    """Return all teachers, loaded: a missing file of the last one is found before the first has worked for an hour."""
    found = []
    for number, part in enumerate(parts):
        with blamed(part, number, of=len(parts)):
            found.append(part.load())
    return tuple(found)


@contextmanager
def blamed(part: Teacher, number: int, *, of: int) -> Iterator[None]:
    """Have what goes wrong with one of several teachers say which one it is."""
    try:
        yield
    except EdgekdError as error:
        if of == 1:
            raise
        ref = part.ref()
        name = ref.options.get("model") or ref.use
        raise type(error)(f"teacher {number + 1} of {of} ({name}): {error.message}", mend=error.mend) from error


def finite(found: dict[str, Tensor], name: str, where: Callable[[int], str]) -> dict[str, Tensor]:
    """Return the answers; raise `UsageError` with the teacher's name, tap and image if one of the numbers is not finite."""
    for tap, value in found.items():
        whole_B = value.flatten(1).isfinite().all(dim=1)
        if not bool(whole_B.all()):
            raise UsageError(
                f"{name}: its `{tap}` {where(int(whole_B.int().argmin()))} holds numbers that are infinite or none at all",
                mend="run the teacher in float32, or take another one",
            )
    return found

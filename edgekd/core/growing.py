"""How a record grows: a field that came later is not written where it says nothing."""

from typing import Any

from pydantic import Field


def later(default: Any) -> Any:
    """Return a field that is left out of the JSON while it is its default.

    What was made before there was such a field keeps its digest: it can still be read, and what was made from it still stands.
    """
    return Field(default=default, exclude_if=lambda value: bool(value == default))

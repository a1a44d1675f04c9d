"""What the agent cannot do, and why."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """What cannot be done; `kind` is usage, machine, busy, disk or integrity."""

    def __init__(self, kind: str, message: str, *, mend: str = "", told: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.mend, self.told = kind, message, mend, told or {}


class Gone(BaseException):
    """Nobody is at the other end any more, or the lease has run out."""

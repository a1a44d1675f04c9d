"""What can go wrong, and the exit code that says so.

    EdgekdError                   never raised itself
    ├── UsageError            2   a bad option, recipe, budgets file or output folder
    │   └── DataError         2   images or labels that cannot be used as asked
    ├── EvidenceError         3   evidence missing, too little, or not comparable
    ├── MachineError          4   device, package, disk or other infrastructure missing or broken
    └── IntegrityError        5   a digest does not match, or a file must not be trusted

    Interrupted         130/143   SIGINT or SIGTERM; a BaseException of its own

Exit code 1 (a budget failed) is a verdict, not an error. A traceback that reaches the user is our bug.
"""

from collections.abc import Iterable

PASSED, BUDGET_FAILED, USAGE, INCONCLUSIVE, MACHINE, INTEGRITY = 0, 1, 2, 3, 4, 5
_PRECEDENCE = (INTEGRITY, MACHINE, USAGE, BUDGET_FAILED, INCONCLUSIVE, PASSED)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that stands for several: 5 > 4 > 2 > 1 > 3 > 0; nothing at all is 3."""
    seen = set(codes) or {INCONCLUSIVE}
    unknown = seen.difference(_PRECEDENCE)
    if unknown:
        raise ValueError(f"not exit codes of a verdict: {sorted(unknown)}")
    return next(code for code in _PRECEDENCE if code in seen)


class EdgekdError(Exception):
    """One message for the user: what, where, what is allowed, and (`mend`) what to do about it."""

    exit_code: int

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  To mend: {self.mend}" if self.mend else self.message


class UsageError(EdgekdError):
    """The asker's mistake: a bad option, recipe, budgets file or output folder."""

    exit_code = USAGE


class DataError(UsageError):
    """Images or labels that cannot be used as they were asked for."""


class EvidenceError(EdgekdError):
    """Evidence is missing, too little, or not comparable."""

    exit_code = INCONCLUSIVE


class MachineError(EdgekdError):
    """A device, package, disk or other infrastructure is missing or broken."""

    exit_code = MACHINE


class IntegrityError(EdgekdError):
    """A digest does not match, or a file must not be trusted."""

    exit_code = INTEGRITY


class Interrupted(BaseException):
    """The process was asked to stop by a signal; no `Exception`, so that no library swallows it on the way up."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}; finished stages are kept, the same command goes on")
        self.exit_code = 128 + signal_number

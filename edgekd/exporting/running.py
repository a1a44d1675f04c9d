"""A runner file's session, as edgekd itself uses it: inputs checked, errors in edgekd's own kinds, left as a context."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from edgekd.core.errors import EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.exporting.interface import check_input

if TYPE_CHECKING:
    import numpy as np

_ERRORS: dict[int, type[EdgekdError]] = {
    error.exit_code: error for error in (UsageError, EvidenceError, MachineError, IntegrityError)
}


@contextmanager
def explained(runner: ModuleType) -> Iterator[None]:
    """Turn a runner file's refusals into errors of edgekd."""
    try:
        yield
    except runner.Refusal as refusal:
        raise _ERRORS.get(refusal.exit_code, MachineError)(refusal.message, mend=refusal.mend) from refusal


class RunnerSession:
    """The session that a runner file opens for an artifact; the same that a worker times."""

    def __init__(
        self, runner: ModuleType, folder: Path, files: Sequence[str], *, threads: int, options: Mapping[str, Any]
    ) -> None:
        self._runner = runner
        with explained(runner):
            self._session: Any = runner.open(str(folder), list(files), threads=threads, options=options)
        self.executed_on: str = self._session.executed_on
        self.runtime: str = self._session.runtime
        self.shape: tuple[int | str, ...] = self._session.shape
        self.dtype: str = self._session.dtype
        self._precision = ""

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in; looked up when asked."""
        if not self._precision:
            with explained(self._runner):
                self._precision = self._session.executed_precision
        return self._precision

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return the model's first output."""
        return self.run_all(image_BCHW)[0]

    def run_all(self, image_BCHW: "np.ndarray[Any, Any]") -> "list[np.ndarray[Any, Any]]":
        """Return every output."""
        check_input(image_BCHW, self.shape, self.dtype)
        if self._session is None:
            raise RuntimeError("this session is closed")
        with explained(self._runner):
            answers: list[np.ndarray[Any, Any]] = self._session.run(image_BCHW)
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

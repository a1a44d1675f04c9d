"""What a worker process told, read and checked: an answer, or the error that it could explain."""

import base64
import json
import signal
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.core.console import printable
from edgekd.core.errors import EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError

if TYPE_CHECKING:
    import numpy as np

_ERRORS: dict[int, type[EdgekdError]] = {
    error.exit_code: error for error in (UsageError, EvidenceError, MachineError, IntegrityError)
}
_TAIL_LINES = 12
_MOST_BYTES = 1 << 28  # of samples; a worker of this protocol never makes so many


def read_answer(told: bytes, *, code: int, whose: str, stderr: bytes = b"") -> dict[str, Any]:
    """Return the answer on the last line of a worker's stdout; `code` is its exit code, negative for a signal.

    Raises what the worker complains of as its own kind of error, and `MachineError` if it crashed or told nonsense; then the
    end of what it said on stderr is in the message.
    """
    tail = _tail(stderr)
    if code < 0:
        killed = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
        raise MachineError(f"{whose} was ended by {_signal(-code)}{killed}{tail}")
    lines = told.splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "protocol" not in answer:
        what = f"crashed with exit code {code}" if code else "answered what is not a measurement"
        raise MachineError(f"{whose} {what}{tail}")
    if (complaint := answer.get("complaint")) is not None:
        raise complained(complaint)
    if (died := answer.get("died")) is not None:
        return read_answer(b"", code=int(died["code"]), whose=f"the worker process for {died['whose']}", stderr=stderr)
    return answer


def complained(complaint: Mapping[str, Any]) -> EdgekdError:
    """Return a worker's complaint as the kind of error that its exit code stands for."""
    kind = _ERRORS.get(complaint.get("exit_code", 0), MachineError)
    return kind(printable(str(complaint.get("message", ""))), mend=str(complaint.get("mend", "")))


def samples_of(answer: Mapping[str, Any], *, whose: str) -> "dict[str, np.ndarray[Any, np.dtype[np.int64]]]":
    """Return an answer's samples, column by column in ns; raise `MachineError` if they are not what the answer says."""
    import numpy as np

    columns, count = answer.get("columns"), answer.get("count")
    try:
        unpacker = zlib.decompressobj()
        block = unpacker.decompress(base64.b64decode(str(answer.get("samples")), validate=True), _MOST_BYTES)
    except (ValueError, zlib.error):
        block = b""
    if not isinstance(columns, list) or not isinstance(count, int) or len(block) != 8 * len(columns) * count:
        raise MachineError(f"{whose} told samples that are not whole")
    table = np.frombuffer(block, dtype="<i8").reshape(len(columns), count).astype(np.int64)
    return {str(name): column for name, column in zip(columns, table, strict=True)}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:]
    return "; it said last:\n" + "\n".join(f"    {printable(line)}" for line in lines) if lines else " and said nothing"

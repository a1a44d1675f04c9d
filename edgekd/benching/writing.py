"""What a session leaves on disk: the samples of each arm, the telemetry of all, and their records last."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.benching.sessions import Worker
from edgekd.core.records import FileRef, TelemetryLog
from edgekd.core.samples import COLUMNS, NO_ROUND, SUSTAINED
from edgekd.core.store import file_ref, write_bytes, write_text

if TYPE_CHECKING:
    from edgekd.benching.sessions import Columns


def table_of(workers: Sequence[Worker], sustained: "Columns | None" = None) -> "Columns":
    """Return the samples of an arm's workers, one below the other, as int64 columns; last the one without a pause."""
    import numpy as np

    blocks = [(number, worker.facts.round, worker.facts.position, worker.columns) for number, worker in enumerate(workers)]
    if sustained is not None:
        columns = sustained | {"segment": np.full(len(sustained["infer"]), SUSTAINED, dtype=np.int64)}
        blocks.append((NO_ROUND, NO_ROUND, NO_ROUND, columns))
    parts: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for number, round_, position, columns in blocks:
        own = {"worker": number, "round": round_, "position": position}
        for name in COLUMNS:
            column = np.full(len(columns["infer"]), own[name], dtype=np.int64) if name in own else columns[name]
            parts[name].append(column)
    return {name: np.concatenate(columns) if columns else np.zeros(0, np.int64) for name, columns in parts.items()}


def write_samples(path: Path, table: "Columns") -> FileRef:
    """Write an arm's samples, compressed, and return the reference to them."""
    import numpy as np

    held = io.BytesIO()
    np.savez_compressed(held, **table)  # type: ignore[arg-type]
    write_bytes(path, held.getvalue())
    return file_ref(path, folder=path.parent)


def write_telemetry(path: Path, log: TelemetryLog) -> FileRef | None:
    """Write what was sampled beside the workers, one line each; nothing where nothing was."""
    if not log.rows:
        return None
    write_text(path, log.to_text())
    return file_ref(path, folder=path.parent)

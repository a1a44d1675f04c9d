"""The samples of a measurement on disk: an .npz of int64 columns, read as untrusted input."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import IntegrityError
from edgekd.core.records import Measurement
from edgekd.core.store import checked_file

if TYPE_CHECKING:
    import numpy as np

    Table = dict[str, "np.ndarray[Any, np.dtype[np.int64]]"]

COLUMNS = ("worker", "round", "position", "segment", "input", "at", "queue", "pre", "infer", "post", "e2e")
"""Times in ns; -1 was not measured. `segment` 0 is the model alone, 1 from photograph to classes, 2 without a pause."""
ALONE, WHOLE, SUSTAINED = 0, 1, 2
NO_ROUND = -1
"""Worker, round and position of the one that ran without a pause, after the rounds."""


def read_samples(measurement: Measurement, *, folder: Path) -> "Table":
    """Return the columns of a measurement's samples; raise `IntegrityError` for a file that was changed or is no such table."""
    import numpy as np

    path = checked_file(measurement.samples, folder=folder)
    try:
        with np.load(path, allow_pickle=False) as file:
            table = {name: file[name] for name in COLUMNS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise IntegrityError(f"{path}: holds no samples: {error}", mend="measure again with `edgekd bench`") from error
    shapes = {(column.shape, str(column.dtype)) for column in table.values()}
    if len(shapes) != 1 or next(iter(shapes))[1] != "int64" or next(iter(table.values())).ndim != 1:
        raise IntegrityError(f"{path}: its columns are not int64 of one length", mend="measure again with `edgekd bench`")
    if set(np.unique(table["worker"]).tolist()) - {NO_ROUND, *range(len(measurement.workers))}:
        raise IntegrityError(f"{path}: has samples of workers that its record does not know")
    return table


def per_worker(table: "Table", workers: int, *, segment: int = ALONE) -> "list[Table]":
    """Return the samples of each worker in one segment, in the order in which they were taken."""
    chosen = table["segment"] == segment
    return [{name: column[chosen & (table["worker"] == number)] for name, column in table.items()} for number in range(workers)]

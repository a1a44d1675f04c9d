"""A file of class names: what each output of a classifier stands for."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import DataError

MAX_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """The classes in the order of the outputs; `index` finds one by any name that stands on its line and on no other.

    `rows` are the names on each line.
    """

    names: tuple[str, ...]
    index: dict[str, int]
    rows: tuple[tuple[str, ...], ...] = ()


def read_class_names(path: Path) -> ClassNames:
    """Read one class a line, in order of the outputs; several names of a class stand between tabs.

    A first column that counts 0, 1, 2, ... is left out, and so is a first line of headings above it. The last column names the
    class, or the first that is unique if the last is not. Raises `DataError` for anything that does not name each class once.
    """
    rows = _rows(path)
    if rows and len(rows) > 1 and rows[1][0] == "0" and not rows[0][0].isdecimal():
        rows = rows[1:]
    if rows and len(rows[0]) > 1 and [row[0] for row in rows] == [str(number) for number in range(len(rows))]:
        rows = [row[1:] for row in rows]
    widths = {len(row) for row in rows}
    if not rows or len(widths) > 1 or any(not name for row in rows for name in row):
        raise DataError(f"{path}: expected one class a line, with the same number of names between tabs on each")
    columns = list(zip(*rows, strict=True))
    names = next((column for column in reversed(columns) if len(set(column)) == len(column)), None)
    if names is None:
        twice = next(name for name, count in Counter(columns[-1]).items() if count > 1)
        raise DataError(f"{path}: two classes are called {twice!r}", mend="add a column of unique names, between tabs")
    lines: dict[str, set[int]] = {}
    for number, row in enumerate(rows):
        for name in row:
            lines.setdefault(name, set()).add(number)
    found = {name: min(numbers) for name, numbers in lines.items() if len(numbers) == 1}
    return ClassNames(names=tuple(names), index=found, rows=tuple(map(tuple, rows)))


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: is larger than {MAX_BYTES} bytes, too large for a list of classes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text", mend="save it as UTF-8") from error
    return [[name.strip() for name in line.split("\t")] for line in text.splitlines() if line.strip()]

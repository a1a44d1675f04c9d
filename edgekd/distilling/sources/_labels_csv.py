"""Labels in a CSV file with the columns `file` and `label`; other columns are ignored."""

import csv
import io
from collections.abc import Collection
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.core.parts import nearest
from edgekd.distilling.splits import lines, listed


def read_labels(path: Path, *, folder: Path, names: Collection[str], classes: tuple[str, ...] | None) -> dict[str, str]:
    """Return image name -> class name; `names` are the images of `folder`, `/` between parts, `classes` those allowed.

    Raises `DataError` with every wrong line: a file that is not there, a file named twice, no label, a label of no class.
    """
    rows = _rows(path)
    labels: dict[str, str] = {}
    first_line: dict[str, int] = {}
    problems: list[str] = []
    for line, name, label in rows:
        problem = _problem(name, label, names=names, classes=classes)
        if not problem and name in first_line:
            problem = f"{name} is already on line {first_line[name]}"
        if problem:
            problems.append(f"line {line}: {problem}")
        else:
            labels[name], first_line[name] = label, line
    if problems:
        raise DataError(
            f"{path}: {len(problems)} lines cannot be used:{lines(problems)}",
            mend=f"files are relative to {folder}, with / between parts; each file has one line and one label",
        )
    if not labels:
        raise DataError(f"{path}: no line with a label")
    return labels


def _problem(name: str, label: str, *, names: Collection[str], classes: tuple[str, ...] | None) -> str:
    if name not in names:
        return f"no such image: {name or '(nothing)'}"
    if not label:
        return f"no label for {name}"
    if label != label.strip():
        return f"the label {label!r} begins or ends with a space"
    if classes is not None and label not in classes:
        return f"no class is called {label!r}.{nearest(label, classes)} `classes`: {listed(classes)}"
    return ""


def _rows(path: Path) -> list[tuple[int, str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
    try:
        columns = reader.fieldnames or ()
        if not {"file", "label"} <= set(columns):
            raise DataError(f"{path}: line 1 must name the columns `file` and `label`; found {listed(columns) or 'nothing'}")
        return [(reader.line_num, row["file"], row["label"]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num + 1}: not valid CSV: {error}") from error

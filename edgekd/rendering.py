"""A finished run in any format, from its report and verdict alone: nothing is measured, judged or written into the run."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.core import parts
from edgekd.core.contracts import Format
from edgekd.core.errors import EvidenceError, IntegrityError, UsageError
from edgekd.core.records import Report, Verdict
from edgekd.core.store import RunFolder, disk_errors, read_record, write_bytes, write_text

LARGEST_BYTES = 256 * 2**20


def render(run: Path, formats: Sequence[str], *, budgets: str = "") -> dict[str, str]:
    """Return file name -> document for each of these formats, without the files that some of them show."""
    return {part.file_name: part.render(*told) for part, told in _asked(run, formats, budgets)}


def write(run: Path, formats: Sequence[str], out: Path, *, budgets: str = "") -> list[Path]:
    """Write these formats, and the files that they show, into a folder, which is made if it is not there; return the paths."""
    found: dict[str, str | bytes] = {}
    for part, told in _asked(run, formats, budgets):
        found |= {part.file_name: part.render(*told), **part.beside(*told)}
    for name, content in found.items():
        with disk_errors(out):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out / name, content) if isinstance(content, bytes) else write_text(out / name, content)
    return [out / name for name in found]


def _asked(run: Path, formats: Sequence[str], budgets: str) -> list[tuple[Format, tuple[Report, Verdict]]]:
    """Return each format with what it renders.

    `run` need hold no more than report.json and verdict.json, which may come from elsewhere and are read as data. `budgets` is
    the path of the budgets file in its repository, for the formats that point at its lines. Raises `UsageError` for an unknown
    format, `IntegrityError` for a record that is not sound, and `EvidenceError` if the verdict is about another report.
    """
    folder = RunFolder(run)
    for path in (folder.report, folder.verdict):
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            raise IntegrityError(f"{path}: is larger than {LARGEST_BYTES} bytes, the most that is read")
    report, verdict = read_record(Report, folder.report), read_record(Verdict, folder.verdict)
    if verdict.from_.get("report") != report.digest():
        raise EvidenceError(f"{folder.verdict}: is about another report than the one beside it", mend="edgekd gate RUN")
    return [(_format(name, budgets), (report, verdict)) for name in formats]


def _format(name: str, budgets: str) -> Format:
    kind = parts.load("format", name)
    points = budgets and "budgets" in kind.model_fields
    try:
        part = kind(budgets=budgets) if points else kind()  # type: ignore[call-arg]
    except ValueError as error:
        raise UsageError(f"--budgets {budgets}: must be a path from the root of the repository, in plain letters") from error
    assert isinstance(part, Format)
    parts.need_packages(part)
    return part

"""What a bundle is on disk, and how one is checked: a folder or a .tar.gz in which any changed byte is found."""

import filecmp
import json
import tempfile
from pathlib import Path

from edgekd.core.archives import MANIFEST, read_archive, unsafe_name, write_archive
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.side_records import Bundle
from edgekd.core.store import checked_file, read_record, sha256_of

CONTRACT = "contract.json"
CLASSES = "classes.json"
ARCHIVE_SUFFIX = ".tar.gz"


def is_bundle(path: Path) -> bool:
    """Say whether a path is to be checked as a bundle: a file, or a folder with a manifest or a contract in it."""
    return path.is_file() or (path / MANIFEST).is_file() or (path / CONTRACT).is_file()


def manifest_of(folder: Path) -> str:
    """Return the manifest of a folder as `sha256sum` writes it: every file but the manifest, sorted by name.

    Raises `IntegrityError` for a link or another special file.
    """
    lines = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"{path}: is a link or a special file, which a bundle does not hold")
        if path.is_file() and name != MANIFEST:
            if reason := unsafe_name(name):
                raise IntegrityError(f"{folder}: {name!r} is not a name for a file in a bundle: {reason}")
            lines.append(f"{sha256_of(path)}  {name}\n")
    return "".join(lines)


def check(path: Path) -> Bundle:
    """Check every byte of a bundle, folder or .tar.gz, and return its contract; a .tar.gz is unpacked aside and removed.

    Raises `IntegrityError` naming the first file that is changed, missing or too many.
    """
    if path.is_dir():
        return _check_folder(path, shown=path)
    with tempfile.TemporaryDirectory() as folder:
        inside, again = Path(folder) / "bundle", Path(folder) / f"again{ARCHIVE_SUFFIX}"
        read_archive(path, inside)
        contract = _check_folder(inside, shown=path)
        # There is one way to write an archive, down to its padding, which neither checksum nor digest covers.
        write_archive(inside, again)
        if not filecmp.cmp(path, again, shallow=False):
            raise IntegrityError(
                f"{path}: its files are whole, but the archive around them is not what edgekd writes",
                mend="fetch the archive again, or check the folder that it was unpacked to",
            )
        return contract


def _check_folder(folder: Path, *, shown: Path) -> Bundle:
    manifest = folder / MANIFEST
    if not manifest.is_file() or manifest.is_symlink():
        raise IntegrityError(f"{shown}: holds no {MANIFEST}, so nothing in it can be checked")
    found = manifest_of(folder)
    if manifest.read_bytes() != found.encode():
        raise IntegrityError(
            f"{shown}: {_first_difference(manifest, found)}",
            mend="fetch or make the bundle again, and build programs outside of its folder",
        )
    contract = read_record(Bundle, folder / CONTRACT)
    for ref in contract.files:
        checked_file(ref, folder=folder)
    if (folder / CLASSES).read_text(encoding="utf-8") != classes_json(contract.classes):
        raise IntegrityError(f"{shown}: {CLASSES} and {CONTRACT} name different classes")
    return contract


def classes_json(classes: tuple[str, ...]) -> str:
    """Return the class names in index order as a JSON list, one a line."""
    return json.dumps(classes, indent=1, ensure_ascii=False) + "\n"


def _first_difference(manifest: Path, found: str) -> str:
    promised = dict(_pairs(manifest.read_bytes().decode("utf-8", "replace")))
    there = dict(_pairs(found))
    for name in sorted(promised.keys() | there.keys()):
        if name not in there:
            return f"{name!r} is missing"
        if name not in promised:
            return f"{name!r} is not listed in {MANIFEST}"
        if promised[name] != there[name]:
            return f"{name!r} is not the file that {MANIFEST} lists"
    return f"{MANIFEST} is not as it was written"


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = [line.partition("  ") for line in text.splitlines()]
    return [(name, digest) for digest, _, name in lines]


def refuse_foreign(folder: Path) -> None:
    """Raise `UsageError` unless a folder is absent, empty, or a bundle, which may be written anew."""
    if folder.is_dir() and not folder.is_symlink() and (not any(folder.iterdir()) or is_bundle(folder)):
        return
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder}: is there and is no bundle of edgekd; nothing was touched", mend="choose another --out")

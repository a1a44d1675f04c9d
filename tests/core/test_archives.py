"""Archives: the same bytes for the same files, and everything that a hostile one could try is refused with nothing written."""

import gzip
import hashlib
import io
import os
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgekd.core import archive_formats, archives
from edgekd.core.archives import read_archive, unsafe_name, write_archive
from edgekd.core.errors import EdgekdError, IntegrityError, UsageError

FILES = {"model.onnx": b"weights" * 400, "docs/a card.md": b"# A card\n", "empty": b""}


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def laid_out(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in {**files, "SHA256SUMS": sums(files)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: object) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar_of(
    *entries: Entry, form: int = tarfile.USTAR_FORMAT, listed: dict[str, bytes] | None = None, manifest: str = "SHA256SUMS"
) -> bytes:
    """Return a tar of these entries after a manifest that lists the regular ones (or what is given)."""
    regular = {info.name: content for info, content in entries if info.isreg()} if listed is None else listed
    told = "".join(f"{hashlib.sha256(v).hexdigest()}  {k}\n" for k, v in regular.items()).encode("utf-8", "surrogateescape")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in (entry(manifest, told), *entries):
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda _: None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"SHA256SUMS": sums(files), **files}.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return out.getvalue()


GOOD_TAR = tar_of(*(entry(name, content) for name, content in FILES.items()))
GOOD_ZIP = zip_of(FILES)


# --------------------------------------------------------------------------------------------------------------- writing
def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever their times, modes, order of creation, and wherever they lie."""
    one, other = laid_out(tmp_path / "one"), tmp_path / "somewhere" / "else"
    laid_out(other, dict(reversed(FILES.items())))
    (other / "SHA256SUMS").write_bytes((one / "SHA256SUMS").read_bytes())
    os.utime(other / "empty", (1, 1))
    (other / "empty").chmod(0o600)
    write_archive(one, tmp_path / "one.tar.gz")
    write_archive(other, tmp_path / "other.tar.gz")
    written = (tmp_path / "one.tar.gz").read_bytes()
    assert written == (tmp_path / "other.tar.gz").read_bytes()
    assert written[4:8] == bytes(4)  # gzip's time
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    """Names sorted; nobody's name, no time; `tar` unpacks it and `sha256sum` agrees."""
    write_archive(laid_out(tmp_path / "folder"), tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == sorted([*FILES, "SHA256SUMS"])
    assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in infos} == {(0, 0, 0, "", 0o644)}
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", "../a.tar.gz"], cwd=tmp_path / "out", check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)


@pytest.mark.parametrize("what", ["link", "fifo", "empty", "clash", "long", "inside", "missing"])
def test_what_must_not_be_packed_is_the_users_mistake(what: str, tmp_path: Path) -> None:
    """A link, a FIFO, nothing at all, names that clash or are too long, an archive inside of its own folder."""
    folder = tmp_path / "folder"
    if what != "missing":
        folder.mkdir()
    if what == "link":
        (folder / "model").symlink_to(tmp_path)
    if what == "fifo":
        os.mkfifo(folder / "model")
    if what == "clash":
        (folder / "a").touch()
        (folder / "A").touch()
    if what in ("long", "inside"):
        (folder / ("x" * 200 if what == "long" else "x")).touch()
    with pytest.raises(UsageError, match=r"folder|special"):
        write_archive(folder, (folder if what == "inside" else tmp_path) / "a.tar.gz")
    assert not list(tmp_path.rglob("*.tar.gz"))


# --------------------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("content", [GOOD_TAR, gzip.compress(GOOD_TAR), GOOD_ZIP], ids=["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_plain_archive_is_unpacked_whole(content: bytes, exists: bool, tmp_path: Path) -> None:
    """Into a folder that is not there or is empty; its bytes decide what it is, not its name."""
    (tmp_path / "any name").write_bytes(content)
    folder = tmp_path / "deep" / "out"
    if exists:
        folder.mkdir(parents=True)
    names = read_archive(tmp_path / "any name", folder)
    assert names == tuple(sorted([*FILES, "SHA256SUMS"]))
    assert contents(folder) == {**FILES, "SHA256SUMS": sums(FILES)}
    assert {oct(path.stat().st_mode & 0o7777) for path in folder.rglob("*") if path.is_file()} <= {"0o644", "0o664", "0o600"}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Names with accents and spaces, deep folders, and a manifest of another name."""
    files = {"é/ü n.txt": b"x", "a/b/c/d/e": bytes(100_000), "-rf": b"", "weights" * 14: b"1"}
    folder = laid_out(tmp_path / "folder", files)
    (folder / "SHA256SUMS").rename(folder / "sums.txt")
    write_archive(folder, tmp_path / "a.tar.gz")
    assert read_archive(tmp_path / "a.tar.gz", tmp_path / "out", manifest="sums.txt") == tuple(sorted([*files, "sums.txt"]))
    assert contents(tmp_path / "out") == contents(folder)


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written among what is there."""
    (tmp_path / "a.tar").write_bytes(GOOD_TAR)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UsageError, match="not empty"):
        read_archive(tmp_path / "a.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b""}


@pytest.mark.parametrize("what", ["missing", "folder", "fifo"])
def test_what_is_no_file_is_the_users_mistake(what: str, tmp_path: Path) -> None:
    """A FIFO is not waited for."""
    if what == "folder":
        (tmp_path / "a").mkdir()
    if what == "fifo":
        os.mkfifo(tmp_path / "a")
    with pytest.raises(UsageError, match=r"cannot be read|not a regular file"):
        read_archive(tmp_path / "a", tmp_path / "out")


def named(name: str) -> bytes:
    return tar_of(entry(name, b"x"))


def patched(content: bytes, at: int, new: bytes) -> bytes:
    """Return a tar whose second header holds `new` at an offset, with the checksum put right."""
    start = 1024  # behind the manifest's header and content
    header = bytearray(content[start : start + 512])
    header[at : at + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}".encode() + b"\0 "
    return content[:start] + bytes(header) + content[start + 512 :]


def spliced_zip() -> bytes:
    """Return a zip in which two directory entries share one file's bytes."""
    content = bytearray(zip_of({"a": b"x" * 99, "b": b"x" * 99}))
    directory = content.rindex(b"PK\x01\x02")
    first = content.index(b"PK\x03\x04", 4)
    content[directory + 42 : directory + 46] = struct.pack("<I", first)
    return bytes(content)


def set_mode(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(info: zipfile.ZipInfo) -> None:
        if info.filename != "SHA256SUMS":
            info.external_attr = mode << 16

    return change


HOSTILE: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: named("/etc/x"),
    "parent": lambda: named("../x"),
    "parent-inside": lambda: named("a/../../x"),
    "dot": lambda: named("./x"),
    "doubled-slash": lambda: named("a//x"),
    "backslash": lambda: named("..\\x"),
    "drive": lambda: named("C:x"),
    "device-name": lambda: named("a/NUL.txt"),
    "newline": lambda: named("a\nb"),
    "right-to-left": lambda: named("a\u202eb"),
    "trailing-dot": lambda: named("a./b"),
    "not-utf8": lambda: tar_of(entry("a\udcff", b"x"), listed={}),
    "duplicate": lambda: tar_of(entry("a", b"1"), entry("a", b"1")),
    "duplicate-manifest": lambda: tar_of(entry("SHA256SUMS", b""), listed={}),
    "case-clash": lambda: tar_of(entry("Model", b"1"), entry("model", b"1")),
    "accent-clash": lambda: tar_of(entry("\u00e9", b"1"), entry("e\u0301", b"1")),
    "file-and-folder": lambda: tar_of(entry("a", b"1"), entry("a/b", b"1")),
    "folder-and-file": lambda: tar_of(entry("a/b", b"1"), entry("A", b"1")),
    "folder": lambda: tar_of(entry("a", type=tarfile.DIRTYPE)),
    "symlink": lambda: tar_of(entry("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard-link": lambda: tar_of(entry("a", type=tarfile.LNKTYPE, linkname="SHA256SUMS")),
    "fifo": lambda: tar_of(entry("a", type=tarfile.FIFOTYPE)),
    "device": lambda: tar_of(entry("a", type=tarfile.CHRTYPE)),
    "contiguous": lambda: tar_of(entry("a", type=tarfile.CONTTYPE)),
    "sparse": lambda: tar_of(entry("a", type=tarfile.GNUTYPE_SPARSE)),
    "file-with-link-name": lambda: patched(tar_of(entry("a", b"x")), 157, b"/etc/passwd"),
    "gnu-long-name": lambda: tar_of(entry("x" * 150, b"x"), form=tarfile.GNU_FORMAT),
    "pax-header": lambda: tar_of(entry("x" * 150, b"x"), form=tarfile.PAX_FORMAT),
    "size-in-base-256": lambda: patched(tar_of(entry("a", b"x")), 124, b"\x80" + bytes(10) + b"\x01"),
    "size-negative": lambda: patched(tar_of(entry("a", b"x")), 124, b"-0000000001\0"),
    "size-beyond-the-end": lambda: patched(tar_of(entry("a", b"x")), 124, b"77777777777\0"),
    "checksum": lambda: GOOD_TAR[:100] + b"x" + GOOD_TAR[101:],
    "cut-off": lambda: GOOD_TAR[:1500],
    "cut-off-gzip": lambda: gzip.compress(GOOD_TAR)[:-9],
    "broken-gzip": lambda: gzip.compress(GOOD_TAR)[:-40] + bytes(40),
    "behind-the-end": lambda: GOOD_TAR + b"more",
    "behind-the-gzip": lambda: gzip.compress(GOOD_TAR) + gzip.compress(b"more"),
    "padding": lambda: GOOD_TAR[:1023] + b"x" + GOOD_TAR[1024:],
    "bomb": lambda: gzip.compress(tar_of(entry("a", bytes(8 << 20)))),
    "bomb-behind-the-end": lambda: gzip.compress(GOOD_TAR + bytes(8 << 20)),
    "changed": lambda: tar_of(entry("a", b"x"), listed={"a": b"y"}),
    "unlisted": lambda: tar_of(entry("a", b"x"), listed={}),
    "listed-but-missing": lambda: tar_of(listed={"a": b"x"}),
    "no-manifest": lambda: tar_of(entry("a", b"x"), manifest="sums.txt"),
    "manifest-names-itself": lambda: tar_of(listed={"SHA256SUMS": b""}),
    "manifest-escapes": lambda: tar_of(listed={"../x": b"x"}),
    "empty": lambda: b"",
    "pickle": lambda: b"\x80\x04K\x01.",
    "zip-parent": lambda: zip_of({"../x": b"x"}),
    "zip-absolute": lambda: zip_of({"/x": b"x"}),
    "zip-folder": lambda: zip_of({"a/": b""}),
    "zip-symlink": lambda: zip_of({"a": b"/etc/passwd"}, set_mode(0o120777)),
    "zip-device": lambda: zip_of({"a": b""}, set_mode(0o020666)),
    "zip-encrypted": lambda: GOOD_ZIP.replace(b"\x14\0\0\0\x08\0", b"\x14\0\x01\0\x08\0"),
    "zip-nul-in-name": lambda: zip_of({"a-b": b"x"}).replace(b"a-b", b"a\0b"),
    "zip-names-differ": lambda: zip_of({"abc": b"x"}).replace(b"abc", b"abd", 2),
    "zip-shared-bytes": spliced_zip,
    "zip-bomb": lambda: zip_of({"a": bytes(8 << 20)}),
    "zip-bzip2": lambda: zip_of({"a": b"x"}, lambda info: setattr(info, "compress_type", zipfile.ZIP_BZIP2)),
    "zip-behind-the-end": lambda: GOOD_ZIP + b"more",
    "zip-cut-off": lambda: GOOD_ZIP[:-30],
    "zip-too-many": lambda: GOOD_ZIP[:-12] + struct.pack("<H", 65535) + GOOD_ZIP[-10:],
    "zip-case-clash": lambda: zip_of({"A": b"", "a": b""}),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(attack: str, tmp_path: Path) -> None:
    """Exit code 5, a reason with the archive's name, and no file anywhere, not even a temporary one."""
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a"
    source.write_bytes(HOSTILE[attack]())
    with pytest.raises(IntegrityError, match=str(source)):
        read_archive(source, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a"]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("symlink", "not a regular file"),
        ("hard-link", "not a regular file"),
        ("parent", "absolute, or a part"),
        ("case-clash", "clashes"),
        ("bomb", "100 times its own size"),
        ("bomb-behind-the-end", "100 times its own size"),
        ("zip-bomb", "100 times its own size"),
        ("zip-symlink", "not a regular file"),
        ("zip-encrypted", "is encrypted"),
        ("zip-shared-bytes", "shares its bytes"),
        ("zip-nul-in-name", "see differently"),
        ("behind-the-end", "goes on after the end"),
        ("padding", "belong to no file"),
        ("changed", "is not the file that SHA256SUMS lists"),
        ("unlisted", "does not list it"),
        ("listed-but-missing", "not inside"),
        ("no-manifest", "holds no SHA256SUMS"),
        ("size-in-base-256", "number in a tar header"),
        ("checksum", "checksum"),
    ],
)
def test_the_reason_is_the_attack(attack: str, reason: str, tmp_path: Path) -> None:
    """Not some other defect of the crafted file."""
    (tmp_path / "a").write_bytes(HOSTILE[attack]())
    with pytest.raises(IntegrityError, match=reason):
        read_archive(tmp_path / "a", tmp_path / "out")


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit, on both sides."""
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    (tmp_path / "a.tar").write_bytes(GOOD_TAR)
    with pytest.raises(IntegrityError, match="more than 3 files"):
        read_archive(tmp_path / "a.tar", tmp_path / "out")
    with pytest.raises(UsageError, match="more than 3 files"):
        write_archive(laid_out(tmp_path / "folder"), tmp_path / "b.tar.gz")


def test_an_archive_that_changes_between_the_passes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is what was checked: the second pass hashes again."""
    source = tmp_path / "a.tar"
    source.write_bytes(GOOD_TAR)
    unpack = archives._unpack

    def swap_first(*arguments: object) -> None:
        with source.open("r+b") as file:
            file.write(GOOD_TAR.replace(b"weightsweights", b"weightsWEIGHTS"))
        unpack(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(archives, "_unpack", swap_first)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        read_archive(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_an_archive_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size alone refuses it."""
    monkeypatch.setattr(archive_formats, "MAX_BYTES", 1000)
    (tmp_path / "a.tar").write_bytes(GOOD_TAR)
    with pytest.raises(IntegrityError, match="larger than 1000 bytes"):
        read_archive(tmp_path / "a.tar", tmp_path / "out")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from([GOOD_TAR, gzip.compress(GOOD_TAR, mtime=0), GOOD_ZIP]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    keep=st.floats(0, 1),
)
@example(base=GOOD_ZIP, changes=[], keep=1.0)
def test_any_damage_is_refused_or_harmless(
    base: bytes, changes: list[tuple[float, int]], keep: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed or cut off: the same files come out, or an error that edgekd explains; never another exception."""
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(base[: max(1, round(keep * len(base)))])
    for where, by in changes:
        content[int(where * len(content))] ^= by
    (folder / "a").write_bytes(content)
    try:
        read_archive(folder / "a", folder / "out")
    except EdgekdError as error:
        assert error.exit_code == 5
        assert not (folder / "out").exists()
    else:
        assert sorted(contents(folder / "out").values()) == sorted({**FILES, "SHA256SUMS": sums(FILES)}.values())


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_a_name_that_is_let_through_stays_inside(name: str) -> None:
    """Whatever the text: joined to a folder and normalised it lies below it, and nothing about it is special."""
    if not unsafe_name(name):
        assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"
        assert name.isprintable() or " " in name or not name.isascii()

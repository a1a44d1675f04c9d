"""distilling/scan.py: which files are images, what is wrong with the others, and what is remembered between runs."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from edgekd.core.images import DecodeError
from edgekd.distilling import scan as scan_module
from edgekd.distilling.scan import Index, cache_folder, list_images, scan


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def reads(monkeypatch):
    """Record the name of every file that a scan opens."""
    opened: list[str] = []
    real = scan_module.read_file

    def read(path: Path) -> bytes:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(scan_module, "read_file", read)
    return opened


class TestListing:
    def test_images_are_found_by_suffix_in_any_case_and_sorted(self, tmp_path):
        """All image suffixes count, in upper and lower case, at any depth; other files do not."""
        wanted = ["B/c.JPEG", "a.jpg", "a/b/c.tif", "a/x.Png", "z.webp", "z/a.bmp"]
        for name in [*reversed(wanted), "notes.txt", "a/labels.csv", "jpg", "x.jpg.part"]:
            put(tmp_path / name)
        assert list_images(tmp_path).names == wanted

    def test_hidden_files_and_folders_are_left_out(self, tmp_path):
        """Names that begin with a dot are no images."""
        for name in [".a.jpg", ".hidden/b.jpg", "c.jpg"]:
            put(tmp_path / name)
        assert list_images(tmp_path).names == ["c.jpg"]

    def test_a_folder_named_like_an_image_is_a_folder(self, tmp_path):
        """x.jpg/ is walked like any other folder."""
        put(tmp_path / "x.jpg" / "a.png")
        listing = list_images(tmp_path)
        assert listing.names == ["x.jpg/a.png"]
        assert not listing.problems

    def test_what_only_has_the_name_is_a_problem(self, tmp_path):
        """FIFOs, links to nothing and links to themselves are told; none is opened."""
        os.mkfifo(tmp_path / "fifo.jpg")
        (tmp_path / "nothing.png").symlink_to(tmp_path / "gone.png")
        (tmp_path / "self.bmp").symlink_to(tmp_path / "self.bmp")
        listing = list_images(tmp_path)
        assert listing.names == []
        assert listing.problems == {
            "fifo.jpg": "not a regular file",
            "nothing.png": "a link to nothing",
            "self.bmp": "a link to nothing",
        }

    def test_a_name_that_is_not_utf8_is_a_problem(self, tmp_path):
        """Such a name could be written into no record; it is shown with escapes."""
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")))
        assert list_images(tmp_path).problems == {"caf\\xe9.jpg": "its name is not UTF-8"}

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        """A link to another folder is walked; a link back to a folder above is not."""
        put(tmp_path / "elsewhere" / "a.jpg")
        root = tmp_path / "root"
        put(root / "deep" / "b.jpg")
        (root / "linked").symlink_to(tmp_path / "elsewhere")
        (root / "deep" / "up").symlink_to(root)
        (root / "deep" / "here").symlink_to(root / "deep")
        assert list_images(root).names == ["deep/b.jpg", "linked/a.jpg"]

    def test_a_folder_that_cannot_be_read_is_a_problem(self, tmp_path, monkeypatch):
        """The other folders are still listed."""
        put(tmp_path / "good" / "a.jpg")
        put(tmp_path / "locked" / "b.jpg")
        real = os.scandir

        def scandir(path):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        listing = list_images(tmp_path)
        assert listing.names == ["good/a.jpg"]
        assert listing.problems == {"locked": "the folder cannot be read (Permission denied)"}


class TestChecking:
    def test_a_good_image_has_digest_and_size(self, tmp_path, draw):
        """The digest is of the file's bytes; width and height are those of the upright image."""
        content = draw(1, height=12, width=16)
        put(tmp_path / "a.png", content)
        picture = scan(tmp_path)["a.png"]
        assert picture.sha256 == hashlib.sha256(content).hexdigest()
        assert (picture.width_px, picture.height_px, picture.problem) == (16, 12, "")

    def test_every_bad_image_has_its_reason(self, tmp_path, draw):
        """One scan tells all problems, listing problems included, in the order of the names."""
        put(tmp_path / "empty.jpg", b"")
        put(tmp_path / "good.png", draw(1))
        put(tmp_path / "half.png", draw(2)[:200])
        put(tmp_path / "text.jpg", b"not an image at all")
        os.mkfifo(tmp_path / "fifo.jpg")
        problems = {name: picture.problem for name, picture in scan(tmp_path).items()}
        assert list(problems) == ["empty.jpg", "fifo.jpg", "good.png", "half.png", "text.jpg"]
        assert problems["empty.jpg"] == "zero bytes"
        assert problems["fifo.jpg"] == "not a regular file"
        assert problems["good.png"] == ""
        assert problems["half.png"] == "truncated"
        assert "(text;" in problems["text.jpg"]

    def test_a_file_that_vanishes_is_a_problem(self, tmp_path, draw, monkeypatch):
        """A file that is listed and then gone is told, not raised."""
        put(tmp_path / "a.png", draw(1))
        monkeypatch.setattr(scan_module, "list_images", lambda root: scan_module.Listing(names=["a.png", "gone.png"]))
        assert scan(tmp_path)["gone.png"].problem == "cannot be read (No such file or directory)"

    def test_progress_counts_the_files_that_are_read(self, tmp_path, draw, monkeypatch):
        """The callback gets (done, total) after each chunk; a second run has nothing to report."""
        monkeypatch.setattr(scan_module, "_CHUNK", 2)
        for number in range(5):
            put(tmp_path / f"{number}.png", draw(number))
        calls: list[tuple[int, int]] = []
        scan(tmp_path, lambda done, total: calls.append((done, total)))
        scan(tmp_path, lambda done, total: calls.append((done, total)))
        assert calls == [(2, 5), (4, 5), (5, 5)]


class TestIndex:
    def test_a_second_run_opens_nothing(self, tmp_path, draw, reads):
        """Good and bad images are both remembered."""
        put(tmp_path / "a.png", draw(1))
        put(tmp_path / "b.png", b"broken")
        first = scan(tmp_path)
        assert sorted(reads) == ["a.png", "b.png"]
        reads.clear()
        assert scan(tmp_path) == first
        assert reads == []

    def test_only_what_changed_is_read_again(self, tmp_path, draw, reads):
        """New and rewritten files are read, deleted ones forgotten, untouched ones taken from the index."""
        for number in range(3):
            put(tmp_path / f"{number}.png", draw(number))
        before = scan(tmp_path)
        reads.clear()
        (tmp_path / "0.png").unlink()
        put(tmp_path / "1.png", draw(11))
        put(tmp_path / "3.png", draw(3))
        after = scan(tmp_path)
        assert sorted(reads) == ["1.png", "3.png"]
        assert list(after) == ["1.png", "2.png", "3.png"]
        assert after["2.png"] == before["2.png"]
        assert after["1.png"].sha256 == hashlib.sha256(draw(11)).hexdigest()

    def test_an_edit_that_keeps_size_and_time_is_noticed(self, tmp_path, draw):
        """Putting the modification time back does not hide that the bytes are others."""
        path = put(tmp_path / "a.bmp", draw(1, kind="BMP"))
        before, status = scan(tmp_path), path.stat()
        path.write_bytes(draw(2, kind="BMP"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        assert scan(tmp_path)["a.bmp"].sha256 != before["a.bmp"].sha256

    def test_what_kept_the_bytes_away_is_not_remembered(self, tmp_path, draw, monkeypatch):
        """A file without permission today may be readable tomorrow although nothing in it changed."""
        put(tmp_path / "a.png", draw(1))

        def refuse(path: Path) -> bytes:
            raise DecodeError("cannot be read (Permission denied)")

        with monkeypatch.context() as patched:
            patched.setattr(scan_module, "read_file", refuse)
            assert scan(tmp_path)["a.png"].problem == "cannot be read (Permission denied)"
        assert scan(tmp_path)["a.png"].problem == ""

    def test_an_interrupted_scan_keeps_what_it_read(self, tmp_path, draw, reads, monkeypatch):
        """After Ctrl-C the next scan goes on with the rest."""
        monkeypatch.setattr(scan_module, "_CHUNK", 2)
        for number in range(6):
            put(tmp_path / f"{number}.png", draw(number))

        def interrupt(done: int, total: int) -> None:
            if done >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            scan(tmp_path, interrupt)
        reads.clear()
        assert len(scan(tmp_path)) == 6
        assert sorted(reads) == ["4.png", "5.png"]

    @pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000])
    def test_a_damaged_index_is_read_over(self, tmp_path, draw, cache, reads, damage):
        """Whatever the index holds, the scan is right and the index is whole again."""
        put(tmp_path / "a.png", draw(1))
        first = scan(tmp_path)
        (index,) = (cache / "index").iterdir()
        index.write_text(damage)
        reads.clear()
        assert scan(tmp_path) == first
        assert reads == ["a.png"]
        assert json.loads(index.read_text())["entries"]["a.png"][1][0] == first["a.png"].sha256

    @pytest.mark.parametrize("entry", [None, [], [[1, 2, 3]], "x"])
    def test_a_damaged_entry_is_read_over(self, tmp_path, draw, cache, reads, entry):
        """An entry of another shape counts as none."""
        path = put(tmp_path / "a.png", draw(1))
        first = scan(tmp_path)
        (index,) = (cache / "index").iterdir()
        status = path.stat()
        data = json.loads(index.read_text())
        data["entries"]["a.png"] = entry if entry != "x" else [[status.st_size, status.st_mtime_ns, status.st_ctime_ns], [1, 2]]
        index.write_text(json.dumps(data))
        reads.clear()
        assert scan(tmp_path) == first
        assert reads == ["a.png"]

    def test_another_pillow_checks_again(self, tmp_path, draw, reads, monkeypatch):
        """What one version of Pillow could decode, another may not."""
        put(tmp_path / "a.png", draw(1))
        scan(tmp_path)
        reads.clear()
        monkeypatch.setattr("PIL.__version__", "99.0")
        scan(tmp_path)
        assert reads == ["a.png"]

    def test_a_cache_that_cannot_be_written_does_no_harm(self, tmp_path, draw, monkeypatch):
        """A file where the folder should be, a full disk, no home at all: the scan works, nothing is remembered."""
        put(tmp_path / "root" / "a.png", draw(1))
        expected = scan(tmp_path / "root")
        put(tmp_path / "file")
        monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "file"))
        assert scan(tmp_path / "root") == expected
        monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "fresh"))

        def full(path: Path, text: str) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(scan_module.store, "write_text", full)
        assert scan(tmp_path / "root") == expected
        assert list((tmp_path / "fresh" / "index").iterdir()) == []
        monkeypatch.setattr(scan_module, "cache_folder", lambda: None)
        assert scan(tmp_path / "root") == expected

    def test_each_root_has_its_own_index(self, tmp_path, draw):
        """Files of the same name below different roots are not confused."""
        put(tmp_path / "one" / "a.png", draw(1))
        put(tmp_path / "two" / "a.png", draw(2))
        assert scan(tmp_path / "one")["a.png"] != scan(tmp_path / "two")["a.png"]
        assert scan(tmp_path / "one")["a.png"].sha256 == hashlib.sha256(draw(1)).hexdigest()

    def test_an_unchanged_index_is_not_written_again(self, tmp_path, draw, cache):
        """A run that finds nothing new leaves the file alone."""
        put(tmp_path / "a.png", draw(1))
        scan(tmp_path)
        (index,) = (cache / "index").iterdir()
        before = index.stat().st_ino
        scan(tmp_path)
        assert index.stat().st_ino == before

    def test_the_index_forgets_files_that_are_gone(self, tmp_path, draw):
        """The index does not grow for ever."""
        path = put(tmp_path / "a.png", draw(1))
        put(tmp_path / "b.png", draw(2))
        scan(tmp_path)
        status = path.stat()
        path.unlink()
        scan(tmp_path)
        assert Index(tmp_path).get("a.png", status) is None


class TestCacheFolder:
    def test_the_environment_decides(self, monkeypatch, tmp_path):
        """EDGEKD_CACHE before XDG_CACHE_HOME before ~/.cache."""
        monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "own"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder() == tmp_path / "own"
        monkeypatch.delenv("EDGEKD_CACHE")
        assert cache_folder() == tmp_path / "xdg" / "edgekd"
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        assert cache_folder() == tmp_path / "home" / ".cache" / "edgekd"

    def test_without_a_home_there_is_none(self, monkeypatch):
        """A user without a home folder can still scan."""
        monkeypatch.delenv("EDGEKD_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
        assert cache_folder() is None

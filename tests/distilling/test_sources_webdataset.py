"""The webdataset source: shards in, any image at any time out, and every shard that is not whole refused."""

import gzip
import io
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core import parts
from edgekd.core.errors import DataError
from edgekd.core.images import decode
from edgekd.distilling.sources import _shards

WebDataset = parts.load("source", "webdataset")


def write_shard(path: Path, *members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:  # noqa: A002
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def samples(draw):
    """Return a function that makes the members of `count` samples with labels 0, 1, 0, 1, ..."""

    def make(count: int, *, seed: int = 0, label: str = "cls", prefix: str = "s") -> list[tuple[str, bytes]]:
        made = []
        for number in range(count):
            text = str(number % 2) if label == "cls" else ("cat", "dog")[number % 2]
            made += [(f"{prefix}{number}.png", draw(100 * seed + number)), (f"{prefix}{number}.{label}", text.encode())]
        return made

    return make


@pytest.fixture
def shards(tmp_path, samples) -> Path:
    """Return a folder with two training shards and one for validation."""
    write_shard(tmp_path / "train-000.tar", *samples(4, prefix="a/"))
    write_shard(tmp_path / "train-001.tar", *samples(3, seed=1, prefix="b/"))
    write_shard(tmp_path / "val.tar", *samples(2, seed=2))
    return tmp_path


def source(shards: Path, **options):
    return WebDataset(**{"train": (shards / "train-{000..001}.tar",), "val": (shards / "val.tar",)} | options)


def ids(images) -> list[str]:
    return [sample.id for sample in images.samples]


def refused(source) -> str:
    with pytest.raises(DataError) as caught:
        source.facts()
    return str(caught.value)


class TestReading:
    def test_samples_labels_and_pixels(self, shards, draw):
        """Keys become ids, `.cls` the label, in the order of the shards; each image can be loaded in any order."""
        images = source(shards).train()
        assert ids(images) == [f"train/a/{n}.png" for n in range(4)] + [f"train/b/{n}.png" for n in range(3)]
        assert [sample.label for sample in images.samples] == [0, 1, 0, 1, 0, 1, 0]
        assert source(shards).classes == ("0", "1")
        order = list(range(7))
        random.Random(0).shuffle(order)
        for index in order:
            seed = index if index < 4 else 100 + index - 4
            np.testing.assert_array_equal(images.load(index), decode(draw(seed)))

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_tar_dialect(self, tmp_path, samples, draw, format):  # noqa: A002
        """Long names, which take extra blocks, do not shift the bytes of an image."""
        prefix = "folder/" * 20
        shard = write_shard(tmp_path / "x.tar", *samples(6, prefix=prefix), format=format)
        images = WebDataset(train=shard, val_fraction=0.5).train()
        for index, sample in enumerate(images.samples):
            number = int(sample.id.rpartition("/")[2].removesuffix(".png"))
            np.testing.assert_array_equal(images.load(index), decode(draw(number)))

    def test_text_labels(self, tmp_path, samples):
        """`.txt` holds the class name; without a list the names are those of the training samples, sorted."""
        shard = write_shard(tmp_path / "x.tar", *samples(6, label="txt"))
        assert WebDataset(train=shard, val_fraction=0.5).classes == ("cat", "dog")

    def test_names_from_a_list_or_a_file(self, shards):
        """`classes` and the lines of `class_file` name the indices of `.cls`."""
        (shards / "classes.txt").write_text("cat\ndog\n\n", encoding="utf-8")
        assert source(shards, class_file=shards / "classes.txt").classes == ("cat", "dog")
        assert source(shards, classes=("ape", "bee")).classes == ("ape", "bee")
        with pytest.raises(ValueError, match="not both"):
            source(shards, classes=("ape", "bee"), class_file=shards / "classes.txt")

    def test_suffixes_as_webdataset_reads_them(self, tmp_path, draw):
        """A key ends at the first dot of the name; suffixes count in any case; other members are left alone."""
        members = []
        for number in range(4):
            members += [
                (f"k{number}.json", b"{}"),
                (f"k{number}.left.PNG", draw(number)),
                (f"k{number}.cls", f" {number % 2}\n".encode()),
            ]
        images = WebDataset(train=write_shard(tmp_path / "x.tar", *members), val_fraction=0.5).train()
        assert sorted(ids(images))[0].endswith(".left.PNG")
        assert images.load(0).shape == (12, 16, 3)

    def test_unlabelled_shards_need_no_labels(self, shards, draw):
        """Only the image of each sample is read."""
        write_shard(shards / "more.tar", ("x.png", draw(900)), ("y.jpg", draw(901, kind="JPEG")))
        more = source(shards, unlabelled=shards / "more.tar")
        assert ids(more.unlabelled()) == ["unlabelled/x.png", "unlabelled/y.jpg"]
        assert more.unlabelled().load(1).shape == (12, 16, 3)

    def test_a_second_run_does_not_read_the_shards(self, shards, monkeypatch):
        """What is in a shard is remembered until the shard changes."""
        before = source(shards).digest()
        opened = []
        real = _shards._read

        def read(shard):
            opened.append(shard.name)
            return real(shard)

        monkeypatch.setattr(_shards, "_read", read)
        assert source(shards).digest() == before
        assert opened == []
        (shards / "val.tar").write_bytes((shards / "val.tar").read_bytes() + bytes(512))
        assert source(shards).digest() == before
        assert opened == ["val.tar"]

    def test_large_shards_are_read_in_parts(self, tmp_path, samples, monkeypatch):
        """Not more than a few images wait in memory; the result is the same."""
        shard = write_shard(tmp_path / "x.tar", *samples(9))
        whole = list(_shards._read(shard))
        monkeypatch.setattr(_shards, "_CHUNK_BYTES", 1000)
        assert list(_shards._read(shard)) == whole
        assert len(whole) == 9

    def test_workers_open_the_shards_themselves(self, shards):
        """A pickled set holds no pixels and no open file."""
        images = source(shards).train()
        again = pickle.loads(pickle.dumps(images))
        np.testing.assert_array_equal(again.load(5), images.load(5))


class TestPatterns:
    def test_braces_lists_and_stars(self, shards):
        """One string, several, ranges, choices and stars name the same shards."""
        expected = source(shards).digest()
        for train in (
            str(shards / "train-{000,001}.tar"),
            (shards / "train-000.tar", shards / "train-001.tar"),
            shards / "train-*.tar",
            shards / "train-00?.tar",
        ):
            assert source(shards, train=train).digest() == expected

    def test_a_missing_shard(self, shards):
        """The shard that is missing is named, not the pattern."""
        assert "train-002.tar: no such shard" in refused(source(shards, train=shards / "train-{000..002}.tar"))
        assert "none-*.tar: no such shard" in refused(source(shards, train=shards / "none-*.tar"))

    @pytest.mark.parametrize("pattern", ["a.tar::b.tar", "${HOME}/x.tar"])
    def test_urls_and_variables_mean_nothing(self, shards, pattern):
        """What webdataset would expand further is refused; nothing is ever run or fetched."""
        assert "mean nothing here" in refused(source(shards, train=pattern))

    def test_a_pipe_is_a_file_name(self, shards):
        """`pipe:` runs no command."""
        marker = shards / "ran"
        assert "no such shard" in refused(source(shards, train=f"pipe:touch {marker}"))
        assert not marker.exists()


class TestRefusals:
    def test_every_sample_without_a_usable_label(self, shards, draw):
        """All are listed at once with shard and key."""
        write_shard(
            shards / "val.tar",
            *[("good.png", draw(1)), ("good.cls", b"1")],
            *[("none.png", draw(2))],
            *[("word.png", draw(3)), ("word.cls", b"cat")],
            *[("high.png", draw(4)), ("high.cls", b"2")],
            *[("name.png", draw(5)), ("name.txt", b"horse")],
        )
        text = refused(source(shards))
        assert "`val`: 4 samples cannot be used" in text
        assert "val.tar: none: no label" in text
        assert "val.tar: word: .cls is 'cat', not an index" in text
        assert "val.tar: high: .cls is 2, but there are 2 classes" in text
        assert "val.tar: name: no class is called 'horse'" in text

    def test_gaps_between_indices(self, tmp_path, draw):
        """Without names the indices must be 0, 1, 2, ..."""
        shard = write_shard(
            tmp_path / "x.tar", *[m for n in (0, 5) for m in ((f"{n}.png", draw(n)), (f"{n}.cls", str(n).encode()))]
        )
        assert "without gaps: 0, 5" in refused(WebDataset(train=shard, val_fraction=0.5))

    def test_bad_images_are_listed_or_left_out(self, shards, draw):
        """Broken images, samples without or with two images: told by default, counted in quarantine."""
        write_shard(
            shards / "val.tar",
            *[("good.png", draw(301)), ("good.cls", b"1")],
            *[("empty.jpg", b""), ("empty.cls", b"0")],
            *[("half.png", draw(302)[:99]), ("half.cls", b"0")],
            *[("imageless.cls", b"0")],
            *[("both.jpg", draw(303, kind="JPEG")), ("both.png", draw(304)), ("both.cls", b"0")],
        )
        text = refused(source(shards))
        assert "4 of 12 images cannot be used" in text
        assert "val/empty.jpg: zero bytes" in text
        assert "val/half.png: truncated" in text
        assert "val/imageless: the sample has no image" in text
        assert "more than one image (jpg, png)" in text
        facts = source(shards, bad_images="quarantine").facts()
        assert (facts.validation_images, len(facts.quarantined)) == (1, 4)

    def test_one_key_in_two_shards(self, shards, samples):
        """Keys must be unique over all shards of a split."""
        write_shard(shards / "train-001.tar", *samples(2, seed=5, prefix="a/"))
        assert "train/a/0.png (2 times)" in refused(source(shards))

    def test_one_name_twice_in_a_shard(self, shards, draw):
        """The second would hide the first."""
        write_shard(shards / "val.tar", ("x.png", draw(1)), ("x.cls", b"0"), ("y.cls", b"0"), ("x.png", draw(2)))
        assert "val.tar: holds x.png twice" in refused(source(shards))

    def test_a_compressed_shard(self, shards):
        """Nothing can be found at a byte of a compressed file; the message says to decompress it."""
        path = shards / "val.tar"
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert "not a whole, uncompressed tar archive" in refused(source(shards))

    @pytest.mark.parametrize("content", [b"", b"x" * 2000, bytes(100)])
    def test_a_file_that_is_no_tar(self, shards, content):
        """Other files are refused."""
        (shards / "val.tar").write_bytes(content)
        assert "val.tar: not a whole, uncompressed tar archive" in refused(source(shards))

    def test_a_shard_cut_anywhere(self, shards):
        """Cut at any block, also exactly between two members, a shard is refused: no sample is lost in silence."""
        path = shards / "val.tar"
        whole = path.read_bytes()
        with tarfile.open(path) as archive:
            last = archive.getmembers()[-1]
        end = last.offset_data + 512
        for cut in [*range(512, end + 1, 512), end - 100]:
            path.write_bytes(whole[:cut])
            text = refused(source(shards))
            assert "val.tar: " in text
            assert "in the middle" in text or "not a whole" in text

    def test_a_damaged_header_in_the_middle(self, shards):
        """tarfile would stop there without a word."""
        path = shards / "val.tar"
        content = bytearray(path.read_bytes())
        with tarfile.open(path) as archive:
            offset = archive.getmembers()[1].offset
        content[offset + 10] ^= 0xFF
        path.write_bytes(content)
        assert f"ends in the middle (after byte {offset})" in refused(source(shards))

    def test_two_archives_in_one_file(self, shards):
        """After the end mark of the first, the second would never be seen."""
        path = shards / "val.tar"
        path.write_bytes(path.read_bytes() + (shards / "train-000.tar").read_bytes())
        assert "in the middle" in refused(source(shards))

    def test_an_empty_shard(self, shards):
        """A tar without samples is told."""
        write_shard(shards / "val.tar")
        assert "val.tar: no samples in this shard" in refused(source(shards))

    def test_a_shard_that_changes_during_the_run(self, shards):
        """Bytes that are no image any more are told with the sample's id."""
        images = source(shards).train()
        (shards / "train-000.tar").write_bytes(bytes(10240))
        with pytest.raises(DataError, match=r"train/a/2\.png"):
            images.load(2)
        (shards / "train-000.tar").unlink()
        with pytest.raises(DataError, match="cannot be read"):
            images.load(2)

    @pytest.mark.parametrize(("content", "reason"), [(b"cat\ncat\n", "once"), (b"", "once"), (b"\xff", "cannot be read")])
    def test_a_class_file_that_is_none(self, shards, content, reason):
        """Names given twice, no names, other encodings and a missing file."""
        (shards / "classes.txt").write_bytes(content)
        assert reason in refused(source(shards, class_file=shards / "classes.txt"))
        assert "cannot be read" in refused(source(shards, class_file=shards / "nowhere.txt"))

    def test_a_name_that_is_not_utf8(self, shards, draw):
        """Such a sample could be written into no record."""
        with tarfile.open(shards / "val.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
            for name, content in (("caf\xe9.png", draw(1)), ("caf\xe9.cls", b"0"), ("ok.png", draw(2)), ("ok.cls", b"1")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        assert "val/caf\\xe9.png: its name is not UTF-8" in refused(source(shards))


def test_links_and_folders_in_a_shard_are_no_samples(tmp_path, samples):
    """Only regular members count; a link leads nowhere."""
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("evil.png", tarfile.SYMTYPE), ("d.png", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, content in samples(6):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    facts = WebDataset(train=tmp_path / "x.tar", val_fraction=0.5).facts()
    assert facts.train_images + facts.validation_images == 6


def test_the_orientation_is_applied_in_shards_too(tmp_path, draw):
    """Images in shards go through the one decoder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    members = []
    for number in range(4):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(draw(number))).save(buffer, "PNG", exif=exif)
        members += [(f"{number}.png", buffer.getvalue()), (f"{number}.cls", str(number % 2).encode())]
    images = WebDataset(train=write_shard(tmp_path / "x.tar", *members), val_fraction=0.5).train()
    assert images.load(0).shape == (16, 12, 3)

"""A bundle that was changed anywhere is found out, folder or archive."""

import random
import shutil
from pathlib import Path

import pytest

from edgekd import inspection
from edgekd.core import bundles
from edgekd.core.archives import MANIFEST, write_archive
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.records import FileRef, InputContract, MadeBy, TensorSpec
from edgekd.core.side_records import Bundle
from edgekd.core.store import file_ref, write_record

LONG = bytes(range(256)) * 700  # several blocks of the archive


def contract(model: FileRef, classes: tuple[str, ...] = ("cat", "dog")) -> Bundle:
    return Bundle(
        made_by=MadeBy(version="0"),
        runtime="onnxruntime",
        precision="fp32",
        measured_with="onnxruntime 1",
        files=(model,),
        inputs=(TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=("batch", 2), dtype="float32"),),
        opset=18,
        input=InputContract(size_px=(8, 8), resize_px=8, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=classes,
        images=4,
        top1_correct=3,
        top5_correct=None,
        top1_agreements=4,
        licences={},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    (root / "model").mkdir(parents=True)
    (root / "model" / "model.onnx").write_bytes(LONG)
    made = contract(file_ref(root / "model" / "model.onnx", folder=root))
    write_record(root / bundles.CONTRACT, made)
    (root / bundles.CLASSES).write_text(bundles.classes_json(made.classes), encoding="utf-8")
    seal(root)
    return root


def seal(root: Path) -> None:
    (root / MANIFEST).write_text(bundles.manifest_of(root), encoding="utf-8")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    write_archive(folder, tmp_path / "bundle.tar.gz")
    return tmp_path / "bundle.tar.gz"


def flipped(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def test_a_whole_bundle_passes(folder: Path, archive: Path) -> None:
    """Folder and archive hold the same contract, and `edgekd verify` says ok."""
    assert bundles.check(folder) == bundles.check(archive)
    for path in (folder, archive):
        (line,) = inspection.verify(path)
        assert line.startswith(f"ok  {path}  onnxruntime fp32")


def test_any_flipped_byte_of_the_folder_is_found(folder: Path) -> None:
    """In every file, at either end and at places in between, the manifest included."""
    seeded = random.Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(seeded.randrange(len(content)) for _ in range(30))}
        for place in places:
            path.write_bytes(flipped(content, place, seeded.randrange(1, 256)))
            with pytest.raises(IntegrityError):
                bundles.check(folder)
        path.write_bytes(content)
    bundles.check(folder)


def test_any_flipped_bit_of_the_archive_is_found(archive: Path) -> None:
    """Also in what neither checksum nor digest covers: gzip's header, the bits that pad a block, tar's blanks."""
    seeded = random.Random(0)
    content = archive.read_bytes()
    blocks = list(range(10, len(content) - 8, 5 + 65535))
    places = [
        *range(40),
        *range(len(content) - 40, len(content)),
        *blocks,
        *(seeded.randrange(len(content)) for _ in range(200)),
    ]
    for place in places:
        archive.write_bytes(flipped(content, place, 1 << seeded.randrange(8)))
        with pytest.raises(IntegrityError):
            bundles.check(archive)
    for changed in (content[:-1], content + b"\0", content + content, b""):
        archive.write_bytes(changed)
        with pytest.raises(IntegrityError):
            bundles.check(archive)


def test_what_is_missing_or_too_much_is_named(folder: Path) -> None:
    """A file that was taken away, one that was added, a folder that holds a build."""
    (folder / "model" / "extra.bin").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"'model/extra.bin' is not listed"):
        bundles.check(folder)
    (folder / "model" / "extra.bin").unlink()
    (folder / bundles.CLASSES).rename(folder.parent / "taken")
    with pytest.raises(IntegrityError, match=r"'classes.json' is missing"):
        bundles.check(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(IntegrityError, match="holds no SHA256SUMS"):
        bundles.check(folder)


def test_a_link_is_no_file_of_a_bundle(folder: Path, tmp_path: Path) -> None:
    """What it leads to may change without the bundle."""
    shutil.copy(folder / bundles.CLASSES, tmp_path / "elsewhere")
    (folder / bundles.CLASSES).unlink()
    (folder / bundles.CLASSES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is a link"):
        bundles.check(folder)


@pytest.mark.parametrize("lie", ["model", "classes", "contract"])
def test_a_fresh_manifest_does_not_cover_a_lie(folder: Path, lie: str) -> None:
    """Model, contract and classes must fit together, whoever wrote the manifest anew."""
    if lie == "model":
        (folder / "model" / "model.onnx").write_bytes(LONG[1:])
    elif lie == "classes":
        (folder / bundles.CLASSES).write_text(bundles.classes_json(("dog", "cat")), encoding="utf-8")
    else:
        text = (folder / bundles.CONTRACT).read_text(encoding="utf-8")
        (folder / bundles.CONTRACT).write_text(text.replace('"top1_correct": 3', '"top1_correct": 4'), encoding="utf-8")
    seal(folder)
    with pytest.raises(IntegrityError):
        bundles.check(folder)


def test_what_does_not_exist_is_the_askers_mistake(tmp_path: Path) -> None:
    """A misspelt name is no broken bundle."""
    with pytest.raises(UsageError, match="no such"):
        inspection.verify(tmp_path / "bundle.tar.gz")

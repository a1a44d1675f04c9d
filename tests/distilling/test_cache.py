"""The teacher cache: what its key depends on, that its files come out the same, and that wrong ones are refused.

Run as a script it is one process that fills a cache: `python test_cache.py ROOT PAUSE_S`.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from edgekd.core.console import Console, silent
from edgekd.core.contracts import FeatureSpec, Sample
from edgekd.core.errors import DataError, IntegrityError, MachineError, UsageError
from edgekd.distilling import cache, feature_files, filling
from edgekd.distilling.cache import Cut, fill
from edgekd.distilling.feature_store import FeatureStore

IMAGES, VIEWS, SIDE = 37, 3, 4
WIDTHS = {"cls": (6,), "patch_mean": (5,), "grid_2": (3, 2, 2), "tokens": (17, 6), "map": (3, 7, 7)}
CPU = torch.device("cpu")


class Pictures:
    """Random images; `sha256` tells whether the set knows the digests of its files."""

    def __init__(self, *, order: list[int] | None = None, labels: bool = True, sha256: bool = True, seed: int = 0) -> None:
        self._seed = seed
        self._order = list(range(IMAGES)) if order is None else order
        self.samples = [
            Sample(id=f"img/{n:03d}", label=n % 3 if labels else -1, locator=n, sha256=f"{n:064x}" if sha256 else "")
            for n in self._order
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> np.ndarray:
        number = self._order[index]
        return np.random.default_rng([self._seed, number]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def pixels(pictures: Pictures, index: int, view: int) -> np.ndarray:
    """Return image_CHW of a view: the image rolled by so many columns."""
    return np.ascontiguousarray(np.roll(pictures.load(index), view, axis=1).transpose(2, 0, 1))


def cut_of(pictures: Pictures, *, views: int = VIEWS, **facts: Any) -> Cut:
    def batch(indices: Any, view: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([pixels(pictures, index, view) for index in indices]))

    return Cut(facts={"kind": "rolled", "size_px": [SIDE, SIDE], **facts}, views=views, batch=batch)


class Linear:
    """A teacher whose taps are linear maps of the pixels; it remembers what it was asked."""

    name, licence, size_px, parameters = "linear", "mit", (SIDE, SIDE), 0

    def __init__(self, *, weights: str = "a" * 64, scale: float = 1.0, pause_s: float = 0.0) -> None:
        self.weights_sha256 = weights
        self.asked: list[tuple[str, ...]] = []
        self.images = 0
        self._scale, self._pause_s = scale, pause_s

    def to(self, device: Any) -> "Linear":
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return FeatureSpec(name=self.name, shapes={tap: WIDTHS[tap] for tap in taps})

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        time.sleep(self._pause_s)
        self.asked.append(taps)
        self.images += len(image_BCHW)
        return {tap: torch.from_numpy(self.answer(image_BCHW.numpy(), tap)) for tap in taps}

    def answer(self, image_BCHW: np.ndarray, tap: str) -> np.ndarray:
        shape = WIDTHS[tap]
        map_ED = np.random.default_rng(len(tap)).normal(size=(3 * SIDE * SIDE, int(np.prod(shape)))).astype(np.float32)
        flat_BD = image_BCHW.reshape(len(image_BCHW), -1).astype(np.float32) @ map_ED
        return self._scale * flat_BD.reshape(-1, *shape)


def small_files() -> None:
    """Have 8 rows in a file and 4 in a batch, so that a few images make many files."""
    feature_files.MIN_ROWS = feature_files.MAX_ROWS = 8
    filling.BATCH = {"cpu": 4, "cuda": 4}


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "MIN_ROWS", 8)
    monkeypatch.setattr(feature_files, "MAX_ROWS", 8)
    monkeypatch.setattr(filling, "BATCH", {"cpu": 4, "cuda": 4})


def run(root: Path, *, teacher: Linear | None = None, pictures: Pictures | None = None, **changes: Any) -> Any:
    pictures = pictures or Pictures()
    options = {"taps": ("cls",), "dtype": "fp16", "device": CPU, "console": silent(), "cut": cut_of(pictures), **changes}
    cut = options.pop("cut")
    return fill(teacher or Linear(), pictures, cut, root=root, **options)


def expected(pictures: Pictures, tap: str, index_B: Any, view_B: Any) -> np.ndarray:
    """Return the teacher's own answers, in float64."""
    image_BCHW = np.stack([pixels(pictures, int(i), int(v)) for i, v in zip(index_B, view_B, strict=True)]) / 255.0
    map_ED = np.random.default_rng(len(tap)).normal(size=(3 * SIDE * SIDE, int(np.prod(WIDTHS[tap]))))
    return (image_BCHW.reshape(len(image_BCHW), -1) @ map_ED).reshape(-1, *WIDTHS[tap])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def process(root: Path, *, pause_s: float) -> "subprocess.Popen[str]":
    """Start a process that fills a cache as soon as `root` has a file named `go`."""
    command = [sys.executable, __file__, str(root), str(pause_s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(root: Path, *, processes: int) -> None:
    """Let the processes begin together, once all have loaded what they need."""
    deadline_s = time.monotonic() + 120
    while len(list(root.glob("ready-*"))) < processes:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    (root / "go").touch()


# ------------------------------------------------------------------------------------------------------------------ answers
@pytest.mark.parametrize(("dtype", "relative"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_features_are_the_teachers_own(tmp_path: Path, dtype: str, relative: float) -> None:
    """Any rows that are asked for are the teacher's answers to those views, to the precision of the stored type."""
    pictures = Pictures(order=list(np.random.default_rng(3).permutation(IMAGES)))
    store = run(tmp_path, pictures=pictures, taps=("cls", "grid_2"), dtype=dtype)
    index_B = torch.tensor([36, 0, 5, 5, 17, 36])
    view_B = torch.tensor([0, 1, 2, 0, 1, 2])
    found = store.features(index_B, view_B)
    for tap in ("cls", "grid_2"):
        wanted = expected(pictures, tap, index_B, view_B)
        assert found[tap].dtype == torch.float32
        np.testing.assert_allclose(found[tap].numpy(), wanted, rtol=relative, atol=1e-6)


def test_joined_taps_are_stored_once(tmp_path: Path) -> None:
    """A joined tap is its parts side by side in the order as written, and only the parts are stored."""
    pictures = Pictures()
    store = run(tmp_path, pictures=pictures, taps=("patch_mean+cls", "cls"))
    found = store.features([4, 9], [0, 2])
    assert set(found) == {"patch_mean+cls", "cls"}
    assert torch.equal(found["patch_mean+cls"][:, 5:], found["cls"])
    wanted = expected(pictures, "patch_mean", [4, 9], [0, 2])
    np.testing.assert_allclose(found["patch_mean+cls"][:, :5].numpy(), wanted, rtol=2**-11, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / store.key).iterdir() if path.is_dir()) == ["cls", "patch_mean"]


def everything(store: FeatureStore, tap: str) -> torch.Tensor:
    """Return all views of all images, view by view."""
    index_N, view_N = np.tile(np.arange(IMAGES), VIEWS), np.repeat(np.arange(VIEWS), IMAGES)
    return store.features(index_N, view_N)[tap]


def test_every_view_of_every_image_is_there(tmp_path: Path) -> None:
    """All rows are the teacher's own answers, by the indices of the set that the caller goes by."""
    pictures = Pictures(order=list(reversed(range(IMAGES))))
    rows = everything(run(tmp_path, pictures=pictures), "cls")
    wanted = expected(pictures, "cls", list(range(IMAGES)) * VIEWS, np.repeat(range(VIEWS), IMAGES))
    np.testing.assert_allclose(rows.numpy(), wanted, rtol=2**-11, atol=1e-6)


@pytest.mark.parametrize(("index", "view"), [(IMAGES, 0), (-1, 0), (0, VIEWS), (0, -1)])
def test_what_is_not_stored_is_refused(tmp_path: Path, index: int, view: int) -> None:
    """An image or view outside of the cache is an error, never another row."""
    with pytest.raises(IndexError, match="the cache holds"):
        run(tmp_path).features([index], [view])


def test_batches_may_be_float(tmp_path: Path) -> None:
    """Images that are cut as float in [0, 1] give the same answers as the same images in uint8."""
    pictures = Pictures()
    plain = cut_of(pictures)
    floats = replace(plain, facts={"kind": "float"}, batch=lambda i, v: plain.batch(i, v).float() / 255)
    one, other = run(tmp_path, pictures=pictures), run(tmp_path, pictures=pictures, cut=floats)
    assert one.key != other.key
    assert torch.equal(everything(one, "cls"), everything(other, "cls"))


# --------------------------------------------------------------------------------------------------------------------- key
def test_key_depends_on_all_that_the_answers_do(tmp_path: Path) -> None:
    """Other weights, cut, views, size, precision, stored type or images have a folder of their own."""
    pictures = Pictures()
    larger = Linear()
    larger.size_px = (8, 8)
    renamed = Linear()
    renamed.name = "other"
    stores = [
        run(tmp_path),
        run(tmp_path, teacher=Linear(weights="b" * 64)),
        run(tmp_path, teacher=larger),
        run(tmp_path, teacher=renamed),
        run(tmp_path, cut=cut_of(pictures, seed=1)),
        run(tmp_path, cut=cut_of(pictures, views=2)),
        run(tmp_path, dtype="bf16"),
        run(tmp_path, precision="bf16"),
        run(tmp_path, pictures=Pictures(order=list(range(36)))),
        run(tmp_path, pictures=Pictures(sha256=False)),
        run(tmp_path, pictures=Pictures(sha256=False, seed=1)),
    ]
    assert len({store.key for store in stores}) == len(stores)


def test_labels_and_order_do_not_matter(tmp_path: Path) -> None:
    """The same images with other labels in another order find their answers there, and the teacher is not asked."""
    run(tmp_path)
    teacher = Linear()
    pictures = Pictures(order=list(reversed(range(IMAGES))), labels=False)
    store = run(tmp_path, teacher=teacher, pictures=pictures)
    assert teacher.asked == []
    np.testing.assert_allclose(store.features([0], [1])["cls"], expected(pictures, "cls", [0], [1]), rtol=2**-11, atol=1e-6)


def test_second_tap_alone_is_computed(tmp_path: Path) -> None:
    """A method that wants one tap more has the teacher asked for that one only, and the other's files stay."""
    first = run(tmp_path)
    before = contents(tmp_path / first.key / "cls")
    teacher = Linear()
    store = run(tmp_path, teacher=teacher, taps=("cls", "patch_mean"))
    assert store.key == first.key
    assert set(teacher.asked) == {("patch_mean",)}
    assert teacher.images == IMAGES * VIEWS
    assert contents(tmp_path / first.key / "cls") == before


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    """A teacher that does not say which weights it has cannot be cached."""
    with pytest.raises(UsageError, match="does not say which weights"):
        run(tmp_path, teacher=Linear(weights=""))


# ------------------------------------------------------------------------------------------------------------------- files
def test_plain_readers_can_read_it(tmp_path: Path) -> None:
    """With json and safetensors alone every row is found again by its image's id and its view."""
    pictures = Pictures(order=list(reversed(range(IMAGES))))
    store = run(tmp_path, pictures=pictures)
    folder = tmp_path / store.key
    ids = json.loads((folder / "ids.json").read_text())
    index = json.loads((folder / "cls" / "index.json").read_text())
    assert ids == [f"img/{n:03d}" for n in range(IMAGES)]
    assert (index["tap"], index["shape"], index["dtype"], index["views"], index["images"]) == ("cls", [6], "fp16", 3, 37)
    assert index["made_from"]["teacher"]["weights_sha256"] == "a" * 64
    seen = set()
    for shard in index["shards"]:
        with safe_open(folder / "cls" / shard["file"]["path"], framework="numpy") as file:
            rows = file.get_tensor(index["tensor"])
        numbers = range(shard["first_row"], shard["first_row"] + shard["rows"])
        place = [IMAGES - 1 - int(ids[n][-3:]) for n in numbers]
        wanted = expected(pictures, "cls", place, [shard["view"]] * len(rows))
        np.testing.assert_allclose(rows, wanted, rtol=2**-11, atol=1e-6)
        seen |= {(shard["view"], n) for n in numbers}
    assert len(seen) == IMAGES * VIEWS


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("shape", [(6,), (1024,), (3, 2, 2)])
def test_size_is_known_beforehand(dtype: Any, shape: tuple[int, ...]) -> None:
    """The size that is told before anything is written is the file's, to the byte."""
    from safetensors.torch import save

    shard = feature_files.Shard(view=0, first_row=0, rows=8)
    content = save({"features": torch.zeros(8, *shape, dtype=feature_files.DTYPES[dtype])})
    assert feature_files.shard_bytes(shard, shape=shape, dtype=dtype) == len(content)


def test_rows_of_a_file_are_a_power_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of narrow rows holds 2048 of them, one of wide rows about 8 MiB but never fewer than a batch."""
    monkeypatch.setattr(feature_files, "MIN_ROWS", 256)
    monkeypatch.setattr(feature_files, "MAX_ROWS", 2048)
    found = [feature_files.rows_per_shard(shape) for shape in [(192,), (2048,), (3072,), (1024, 4, 4), (1024, 7, 7)]]
    assert found == [2048, 2048, 1024, 256, 256]


def test_rows_are_mapped_and_no_file_stays_open(tmp_path: Path) -> None:
    """A store of many files reads them by mapping and holds no handle of any."""
    store = run(tmp_path)
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    shard = str(tmp_path / store.key / "cls" / "view-0_0.safetensors")
    assert shard in Path("/proc/self/maps").read_text()
    handles = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            handles.append(str(handle.readlink()))
        except OSError:
            continue
    assert shard not in handles


def test_size_and_time_are_said_before(tmp_path: Path) -> None:
    """The user is told how much will be stored, and after the first batch about how long it will take."""
    stream = io.StringIO()
    store = run(tmp_path, console=Console(stream=stream))
    said = stream.getvalue()
    assert f"caching cls of 37 images x 3 views: {cache.sized(store.size_bytes)} in " in said
    assert "by its first batch, the teacher will take about" in said
    assert store.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))


# ------------------------------------------------------------------------------------------------------------ interruption
def test_killed_process_leaves_the_same_files(tmp_path: Path) -> None:
    """Killed between two files, a cache is continued, not begun again, and comes out the same byte for byte."""
    whole = run(tmp_path / "whole", taps=("cls", "patch_mean"))
    killed = process(tmp_path / "killed", pause_s=0.05)
    start(tmp_path / "killed", processes=1)
    folder = tmp_path / "killed" / whole.key
    try:
        while not list(folder.glob("*/view-0_8.safetensors")):
            assert killed.poll() is None, killed.communicate()[1]
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    (folder / "cls" / ".view-1_8.safetensors.abcd.tmp").write_bytes(b"cut of")
    there = len(list(folder.glob("*/*.safetensors")))
    assert not list(folder.glob("*/index.json"))
    teacher = Linear()
    store = run(tmp_path / "killed", teacher=teacher, taps=("cls", "patch_mean"))
    assert 3 <= there < 30
    assert teacher.images <= IMAGES * VIEWS - 8
    assert store.key == whole.key
    assert contents(folder) == contents(tmp_path / "whole" / whole.key)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """Two processes that fill one cache at once compute every row once between them, and both end with all of it."""
    whole = run(tmp_path / "whole", taps=("cls", "patch_mean"))
    both = [process(tmp_path / "shared", pause_s=0.05) for _ in range(2)]
    start(tmp_path / "shared", processes=2)
    answers = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], answers
    computed = [int(out) for out, _ in answers]
    assert sum(computed) == IMAGES * VIEWS
    assert min(computed) > 0
    assert contents(tmp_path / "shared" / whole.key) == contents(tmp_path / "whole" / whole.key)


def test_batches_ahead_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches cut ahead by a thread, as for a GPU, the files are the same."""
    plain = run(tmp_path / "plain", taps=("cls", "patch_mean"))
    monkeypatch.setattr(filling, "AHEAD", {"cpu": 2, "cuda": 2})
    run(tmp_path / "ahead", taps=("cls", "patch_mean"))
    assert contents(tmp_path / "ahead" / plain.key) == contents(tmp_path / "plain" / plain.key)


@pytest.mark.parametrize("ahead", [0, 2])
def test_broken_image_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    """What goes wrong while a batch is cut reaches the caller, also from a thread, and the files written before are kept."""
    monkeypatch.setattr(filling, "AHEAD", {"cpu": ahead, "cuda": ahead})
    pictures = Pictures()
    sound = cut_of(pictures)

    def batch(indices: Any, view: int) -> torch.Tensor:
        if view == 1:
            raise DataError("this image cannot be read")
        return sound.batch(indices, view)

    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path, cut=replace(sound, batch=batch))
    teacher = Linear()
    store = run(tmp_path, teacher=teacher)
    assert IMAGES * (VIEWS - 1) <= teacher.images <= IMAGES * (VIEWS - 1) + 8
    assert store.images == IMAGES


# ----------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", ["cls/view-1_8.safetensors", "ids.json"])
def test_changed_file_is_refused_until_deleted(tmp_path: Path, name: str) -> None:
    """One flipped bit is found when the cache is opened; once the file is deleted only what it held is made again."""
    store = run(tmp_path)
    path, before = tmp_path / store.key / name, contents(tmp_path / store.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="its bytes are not those") as caught:
        run(tmp_path)
    assert str(path) in str(caught.value).replace("cls/../", "")
    assert "delete it and run again" in str(caught.value)
    path.unlink()
    teacher = Linear()
    run(tmp_path, teacher=teacher)
    assert teacher.images == (8 if name.startswith("cls") else 0)
    assert contents(tmp_path / store.key) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.pop("shards"),
        lambda index: index.update(shape=[7]),
        lambda index: index["made_from"]["teacher"].update(weights_sha256="b" * 64),
        lambda index: index.update(tap="patch_mean"),
        lambda index: index["shards"].pop(),
        lambda index: index["shards"][0]["file"].update(path="../../elsewhere"),
        lambda index: index.update(views=4),
        lambda index: index.update(format_version=2),
    ],
)
def test_changed_index_is_refused(tmp_path: Path, change: Any) -> None:
    """An index that says anything else than what is stored is refused, whatever was changed in it."""
    store = run(tmp_path)
    path = tmp_path / store.key / "cls" / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="delete it and run again"):
        run(tmp_path)


def test_foreign_shard_is_refused(tmp_path: Path) -> None:
    """A file of another shape that stands where a shard should be is not taken into the index."""
    store = run(tmp_path)
    folder = tmp_path / store.key / "cls"
    (folder / "index.json").unlink()
    shutil.copy(folder / "view-0_32.safetensors", folder / "view-0_0.safetensors")
    with pytest.raises(IntegrityError, match=r"view-0_0.safetensors: it holds \(5, 6\)"):
        run(tmp_path)


def test_disk_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk cannot hold the answers with five percent to spare nothing is computed or written."""
    need_bytes = run(tmp_path / "elsewhere").size_bytes
    free = namedtuple("free", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free(int(need_bytes * 1.05) - 1))
    teacher = Linear()
    with pytest.raises(MachineError, match=f"{need_bytes} bytes are needed"):
        run(tmp_path / "full", teacher=teacher)
    assert teacher.asked == []
    assert not list((tmp_path / "full").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free(int(need_bytes * 1.05) + 1))
    assert run(tmp_path / "full").size_bytes == need_bytes


def test_full_disk_midway_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while the cache is written is an error of the machine that says how to go on."""
    real, written = os.fsync, []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) > 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(MachineError, match="the disk is full"):
        run(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))


def test_overflow_of_fp16_is_refused(tmp_path: Path) -> None:
    """Numbers above fp16's largest name the tap, the image and the way out; with bf16 they are stored."""
    with pytest.raises(UsageError, match=r"its `cls` of img/000 \(view 0\) holds numbers above 65504") as caught:
        run(tmp_path, teacher=Linear(scale=1e7))
    assert "dtype: bf16" in str(caught.value)
    stored = everything(run(tmp_path, teacher=Linear(scale=1e7), dtype="bf16"), "cls")
    assert stored.isfinite().all()
    assert stored.abs().max() > 65504


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A teacher that answers with NaN is refused in every type, and no other type is recommended."""
    with pytest.raises(UsageError, match="infinite or none at all") as caught:
        run(tmp_path, teacher=Linear(scale=float("nan")), dtype="bf16")
    assert "dtype: bf16" not in str(caught.value)


@pytest.mark.parametrize(("tap", "raw_bytes", "grid_bytes"), [("tokens", 102, 96), ("map", 147, 48)])
def test_raw_maps_are_refused(tmp_path: Path, tap: str, raw_bytes: int, grid_bytes: int) -> None:
    """Token and feature maps are not stored; the error says how large they would be and offers a grid."""
    with pytest.raises(UsageError, match="are not cached") as caught:
        run(tmp_path, taps=(f"cls+{tap}",))
    assert cache.sized(2 * raw_bytes * IMAGES * VIEWS) in caught.value.message
    assert f"`grid_4` is {cache.sized(2 * grid_bytes * IMAGES * VIEWS)}" in caught.value.mend


if __name__ == "__main__":
    small_files()
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    (folder / f"ready-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    asked = Linear(pause_s=float(sys.argv[2]))
    run(folder, teacher=asked, taps=("cls", "patch_mean"))
    sys.stdout.write(str(asked.images))

"""The teacher cache: a frozen teacher answers every view of every image once, and the answers are kept.

Answers are kept under a key of everything that they depend on, the labels and the order of the images left out. Each tap has
files of its own, so that a method that wants one tap more has only that one computed. The files are described in
`feature_files`, how they come to be in `filling`, how rows are read from them in `feature_store`.

Axes: B batch, C channels, H height, W width.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.core.console import Console
from edgekd.core.contracts import FrozenModel, ImageSet
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.records import digest_of
from edgekd.core.store import disk_errors
from edgekd.distilling.feature_files import FORMAT_VERSION, Dtype, is_complete, shard_bytes, shards_of
from edgekd.distilling.feature_store import FeatureStore, parts_of
from edgekd.distilling.filling import Filling, Job
from edgekd.distilling.scan import in_threads

RAW_TAPS = ("tokens", "map")
DISK_MARGIN = 1.05
_PIXEL_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How images are shown to a teacher: `facts` say it in JSON and enter the key, `batch` does it.

    `batch` takes indices into the image set and a view number below `views`, and returns image_BCHW on the CPU, uint8 or
    float in [0, 1].
    """

    facts: Mapping[str, Any]
    views: int
    batch: Callable[[Sequence[int], int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Which images there are, whatever their order and labels: ids in row order, each row's index in the set, a digest."""

    ids: tuple[str, ...]
    order_N: tuple[int, ...]
    sha256: str


def fill(
    teacher: FrozenModel,
    images: ImageSet,
    cut: Cut,
    *,
    taps: tuple[str, ...],
    dtype: Dtype,
    root: Path,
    device: torch.device,
    console: Console,
    precision: str = "fp32",
) -> FeatureStore:
    """Compute what is not there yet of a teacher's answers (its forward runs in `precision`), and open all of them.

    Several processes may fill the same cache, and one that was killed goes on where it was. Raises `UsageError` for taps that
    are too large to keep or numbers too large for `dtype`, `MachineError` if the disk cannot hold the answers,
    `IntegrityError` if a file was changed.
    """
    inventory = inventory_of(images)
    facts = key_facts(teacher, inventory, cut, dtype=dtype, precision=precision)
    folder = root / key_of(facts)
    parts = parts_of(taps)
    for tap in parts:
        if not tap.isidentifier():
            raise UsageError(f"{tap!r} is not the name of a tap")
        if tap in RAW_TAPS:
            raise _too_large(teacher, tap, answers=len(inventory.ids) * cut.views)
    missing = tuple(tap for tap in parts if not is_complete(folder / tap))
    if missing:
        shapes = {tap: tuple(shape) for tap, shape in teacher.spec(missing).shapes.items()}
        _check_disk(folder, shapes, facts, console)
        Filling(
            Job(
                teacher=teacher.to(device),
                batch=cut.batch,
                views=cut.views,
                ids=inventory.ids,
                order_N=inventory.order_N,
                shapes=shapes,
                facts=facts,
                folder=folder,
                device=device,
            ),
            console,
        ).go()
    return FeatureStore(folder, taps=taps, order_N=inventory.order_N, views=cut.views)


def inventory_of(images: ImageSet) -> Inventory:
    """Return which images a set holds; where the source does not know an image's sha256, its decoded pixels are hashed."""
    sha256 = [sample.sha256 for sample in images.samples]
    unknown = [index for index, known in enumerate(sha256) if not known]
    for start in range(0, len(unknown), _PIXEL_CHUNK):
        chunk = unknown[start : start + _PIXEL_CHUNK]
        for index, found in zip(chunk, in_threads(lambda index: _pixels_sha256(images, index), chunk), strict=True):
            sha256[index] = found
    rows = sorted((sample.id, sha256[index], index) for index, sample in enumerate(images.samples))
    return Inventory(
        ids=tuple(row[0] for row in rows),
        order_N=tuple(row[2] for row in rows),
        sha256=digest_of([row[:2] for row in rows]),
    )


def key_facts(teacher: FrozenModel, inventory: Inventory, cut: Cut, *, dtype: str, precision: str) -> dict[str, Any]:
    """Return everything that a teacher's stored answers depend on, in plain words."""
    if not teacher.weights_sha256:
        raise UsageError(f"{teacher.name} does not say which weights it has, so its answers cannot be kept apart from others'")
    return {
        "format_version": FORMAT_VERSION,
        "teacher": {
            "name": teacher.name,
            "weights_sha256": teacher.weights_sha256,
            "size_px": list(teacher.size_px),
            "precision": precision,
            **_meaning(teacher),
        },
        "images": {"count": len(inventory.ids), "sha256": inventory.sha256},
        "cut": dict(cut.facts),
        "views": cut.views,
        "dtype": dtype,
    }


def _meaning(teacher: FrozenModel) -> dict[str, Any]:
    """Return what a teacher's own logits stand for, where it says so: the same numbers in another order are other answers."""
    classes, texts = getattr(teacher, "classes", ()), getattr(teacher, "zero_shot_sha256", "")
    return {**({"classes": list(classes)} if classes else {}), **({"zero_shot_sha256": texts} if texts else {})}


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the name of the folder that holds the answers with these facts."""
    return digest_of(facts)


def _pixels_sha256(images: ImageSet, index: int) -> str:
    image_HWC = images.load(index)
    return hashlib.sha256(f"{image_HWC.shape}\n".encode() + image_HWC.tobytes()).hexdigest()


def _check_disk(folder: Path, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any], console: Console) -> None:
    """Say what the missing files will take, and refuse if the disk cannot hold them."""
    count, views, name = facts["images"]["count"], facts["views"], facts["teacher"]["name"]
    need_bytes = sum(
        shard_bytes(shard, shape=shape, dtype=facts["dtype"])
        for tap, shape in shapes.items()
        for shard in shards_of(views=range(views), rows=range(count), shape=shape)
        if not (folder / tap / shard.name).is_file()
    )
    with disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder.parent).free
    what = f"{', '.join(shapes)} of {count} images x {views} views"
    if need_bytes * DISK_MARGIN > free_bytes:
        raise MachineError(
            f"{folder.parent}: the disk cannot hold {name}'s {what}: {need_bytes} bytes are needed and 5 % more to spare, "
            f"{free_bytes} are free",
            mend="free some space, cache fewer views, or put the cache's folder on another disk",
        )
    console.say(f"{name}: caching {what}: {sized(need_bytes)} in {folder}")


def _too_large(teacher: FrozenModel, tap: str, *, answers: int) -> UsageError:
    shape = teacher.spec((tap,)).shapes[tap]
    width = shape[-1] if tap == "tokens" else shape[0]
    return UsageError(
        f"{teacher.name}: raw `{tap}` are not cached: {' x '.join(map(str, shape))} numbers for each of {answers} views of "
        f"images are {sized(2 * answers * prod(shape))}",
        mend=f"ask for a grid: `grid_4` is {sized(2 * answers * width * 16)}, `grid_2` a quarter of that",
    )


def sized(size_bytes: int) -> str:
    """Return a size in decimal units: 950 kB, 12.3 MB, 4.5 GB."""
    for step, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size_bytes >= step:
            return f"{size_bytes / step:.1f} {unit}"
    return f"{size_bytes} bytes"

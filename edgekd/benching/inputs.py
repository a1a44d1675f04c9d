"""What workers are fed: real photographs, prepared as the model's contract says, and the same ones as a camera encodes them.

For the whole way, from photograph to classes, every source's images are encoded as JPEG once more (quality 90): sources hold
arrays, archives and files of five formats, and what is measured is to be the same way for all of them. The program that
decodes and prepares on the device stands alone (`preparing.py`); prepared tensors would leave out the costly half.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.core.contracts import ImageSet, Source
from edgekd.core.errors import DataError
from edgekd.core.images import prepare_batch
from edgekd.core.records import InputContract, digest_of
from edgekd.core.store import disk_errors

if TYPE_CHECKING:
    Images = np.ndarray[Any, np.dtype[np.float32 | np.uint8]]

JPEG_QUALITY = 90
MIN_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What one model is fed, and where it lies."""

    inputs_npy: Path
    photographs_npz: Path | None
    images: int
    sha256: str
    constant: bool
    synthetic: bool


class Photographs:
    """Seeded validation images of a source, or noise where there is none; prepared once for each contract."""

    def __init__(self, source: Source | None, folder: Path, *, count: int, seed: int, zeros: bool = False) -> None:
        self._source, self._folder, self._count, self._seed, self._zeros = source, folder, count, seed, zeros
        self._made: dict[str, Fed] = {}

    def for_contract(self, contract: InputContract) -> Fed:
        """Return what a model with this contract is fed."""
        key = digest_of(contract.model_dump(mode="json"))
        if key not in self._made:
            self._made[key] = self._make(contract, key[:16])
        return self._made[key]

    def made_up(self, shape: Sequence[int], dtype: str) -> Fed:
        """Return noise of the shape of one image, for a model of which nothing else is known."""
        draw = np.random.default_rng(self._seed)
        if dtype == "uint8":
            images: Images = draw.integers(0, 256, (self._count, *shape), dtype=np.uint8)
        else:
            images = draw.random((self._count, *shape), dtype=np.float32)
        return self._written(np.zeros_like(images) if self._zeros else images, "made_up", None, synthetic=True)

    def _make(self, contract: InputContract, name: str) -> Fed:
        if self._source is None:
            sides = contract.size_px
            shape, dtype = ((*sides, 3), "uint8") if contract.takes_bytes else ((3, *sides), "float32")
            return self.made_up(shape, dtype)
        val = self._source.val()
        frames = self._same_size(contract, val)
        images = prepare_batch(val, self._chosen, frames)
        encoded = self._encoded(val, name, frames) if contract.resize_inside else self._encoded(val, "as_they_are", None)
        return self._written(images, name, encoded, synthetic=False)

    @cached_property
    def _chosen(self) -> list[int]:
        assert self._source is not None
        found = len(self._source.val())
        if found == 0:
            raise DataError("there are no validation images to time with")
        return [int(index) for index in np.random.default_rng(self._seed).permutation(found)[: self._count]]

    def _same_size(self, contract: InputContract, val: ImageSet) -> InputContract:
        """Return the contract; for a graph that resizes by itself, one that brings all to one size, as a camera does."""
        if not contract.resize_inside:
            return contract
        size_px = val.load(self._chosen[0]).shape[:2]
        return contract.model_copy(update={"size_px": size_px, "crop": "squash", "resize_inside": False})

    def _encoded(self, val: ImageSet, name: str, frames: InputContract | None) -> Path:
        from PIL import Image

        path = self._folder / f"{name}.npz"
        if path.is_file():
            return path
        encoded = []
        for index in self._chosen:
            image_HWC = val.load(index) if frames is None else prepare_batch(val, [index], frames)[0]
            buffer = io.BytesIO()
            Image.fromarray(image_HWC).save(buffer, "JPEG", quality=JPEG_QUALITY)
            encoded.append(buffer.getvalue())
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        with disk_errors(path):
            np.savez(path, bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8), ends=ends)
        return path

    def _written(self, images: "Images", name: str, photographs: Path | None, *, synthetic: bool) -> Fed:
        path = self._folder / f"{name}.npy"
        with disk_errors(path, size_bytes=images.nbytes):
            np.save(path, images, allow_pickle=False)
        return Fed(
            inputs_npy=path,
            photographs_npz=photographs,
            images=len(images),
            sha256=hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            constant=_is_constant(images),
            synthetic=synthetic,
        )


def _is_constant(images: "Images") -> bool:
    """Return whether no two inputs differ, or no input has two values."""
    flat_ND = images.reshape(len(images), -1)
    same = len(flat_ND) > 1 and bool((flat_ND == flat_ND[0]).all())
    return same or bool((flat_ND.min(axis=1) == flat_ND.max(axis=1)).all())

"""Views: random crops of training images that can be drawn again, bit for bit.

A view is a pure function of (seed, image id, view number), whatever the order, the worker or the machine. So a teacher's answer
to a view can be kept and met again. All randomness comes from the raw output of Philox counters, which NumPy keeps stable
across releases, unlike the distributions built on it.

Axes: B batch, C channels, H height, W width, N images.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from edgekd.core.contracts import ImageSet, Sample

_ATTEMPTS = 10
_RATIO = (3 / 4, 4 / 3)
_DRAWS = 4 * _ATTEMPTS + 5
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


ViewItem = tuple[Tensor, int, int, int]
"""One view: image uint8 CHW, label (-1 unknown), the image's index in its set, the view's number."""


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What a view does to an image: crop `box` (left, top, right, bottom in pixels), then flip, then colour.

    `colour` holds the factors of brightness, contrast and saturation, `order` the order in which they are applied.
    """

    box: tuple[int, int, int, int]
    flip: bool
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: tuple[int, int, int] = (0, 1, 2)


class Views(Dataset[ViewItem]):
    """The views of a set of images, each asked for by (index, view number)."""

    def __init__(
        self,
        images: ImageSet,
        *,
        size_px: int | tuple[int, int],
        seed: int,
        crop_area: tuple[float, float] = (0.35, 1.0),
        flip: float = 0.5,
        colour_jitter: float = 0.0,
        interpolation: str = "bicubic",
    ) -> None:
        self.images = images
        self.size_px = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.seed = seed
        self.crop_area = crop_area
        self.flip = flip
        self.colour_jitter = colour_jitter
        self.interpolation = interpolation

    def __len__(self) -> int:
        """Return the number of images; the number of views of each is unlimited."""
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> ViewItem:
        """Return view `key[1]` of image `key[0]`."""
        index, view = key
        sample = self.images.samples[index]
        image_HWC = self.images.load(index)
        plan = view_plan(
            sample.id,
            view,
            image_px=(image_HWC.shape[0], image_HWC.shape[1]),
            seed=self.seed,
            crop_area=self.crop_area,
            flip=self.flip,
            colour_jitter=self.colour_jitter,
        )
        cut_HWC = geometric(image_HWC, plan, size_px=self.size_px, interpolation=self.interpolation)
        cut_CHW = photometric(cut_HWC, plan).transpose(2, 0, 1)
        return torch.from_numpy(np.array(cut_CHW, order="C")), sample.label, index, view


def view_plan(
    image_id: str,
    view: int,
    *,
    image_px: tuple[int, int],
    seed: int,
    crop_area: tuple[float, float],
    flip: float,
    colour_jitter: float = 0.0,
) -> ViewPlan:
    """Return what view number `view` does to an image of (height, width) `image_px`.

    The crop covers a uniform share in `crop_area` of the image at a log-uniform aspect ratio in 3/4..4/3, as in timm's
    RandomResizedCrop; colour factors are uniform in 1 - `colour_jitter`..1 + `colour_jitter`.
    """
    draws = _uniforms(f"view\n{seed}\n{view}\n{image_id}", count=_DRAWS)
    crop, (flips, order, *factors) = draws[: 4 * _ATTEMPTS], draws[4 * _ATTEMPTS :]
    low, high = max(0.0, 1 - colour_jitter), 1 + colour_jitter
    brightness, contrast, saturation = (low + (high - low) * factor for factor in factors)
    return ViewPlan(
        box=_box(crop, image_px, crop_area),
        flip=flips < flip,
        colour=(brightness, contrast, saturation),
        order=_ORDERS[int(order * len(_ORDERS))],
    )


def geometric(image_HWC: Pixels, plan: ViewPlan, *, size_px: tuple[int, int], interpolation: str) -> Pixels:
    """Return the crop of a uint8 image resized to (height, width) `size_px` in one antialiased step, flipped if planned.

    At the crop's edge the filter also sees the pixels just outside it, as it would in the whole image resized and then cut.
    """
    height_px, width_px = size_px
    kernel = Image.Resampling[interpolation.upper()]
    cut = Image.fromarray(image_HWC).resize((width_px, height_px), kernel, box=plan.box)
    cut_HWC: Pixels = np.asarray(cut)
    return cut_HWC[:, ::-1] if plan.flip else cut_HWC


def photometric(image_HWC: Pixels, plan: ViewPlan) -> Pixels:
    """Return a uint8 image with its brightness, contrast and saturation changed as planned; its geometry stays."""
    if plan.colour == (1.0, 1.0, 1.0):
        return image_HWC
    photo = Image.fromarray(np.ascontiguousarray(image_HWC))
    for step in plan.order:
        photo = _ENHANCERS[step](photo).enhance(plan.colour[step])
    return np.asarray(photo)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, view): every epoch goes once through all images in its own order, and the view is the epoch's number.

    `samples` ends it after so many in all (None: never), `start` skips the first so many, `views` makes view numbers repeat
    (epoch modulo `views`). The sequence is a pure function of the seed, so a stopped run goes on where it was.
    """

    def __init__(self, images: int, *, seed: int, samples: int | None = None, start: int = 0, views: int | None = None) -> None:
        if images < 1:
            raise ValueError("there is nothing to sample from")
        self.images = images
        self.seed = seed
        self.samples = samples
        self.start = start
        self.views = views

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start
        while self.samples is None or position < self.samples:
            epoch, first = divmod(position, self.images)
            view = epoch if self.views is None else epoch % self.views
            last = self.images if self.samples is None else min(self.images, first + self.samples - position)
            for index in self.order(epoch)[first:last].tolist():
                yield index, view
            position += last - first

    def __len__(self) -> int:
        """Return how many are left from `start`; an endless sampler has no length."""
        if self.samples is None:
            raise TypeError("this sampler never ends")
        return max(0, self.samples - self.start)

    def order(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.intp]]":
        """Return the permutation of an epoch."""
        return np.argsort(_raw(f"epoch\n{self.seed}\n{epoch}", count=self.images), kind="stable")


# ------------------------------------------------------------------------------------------------------------- image sets
def concat(first: ImageSet, second: ImageSet) -> ImageSet:
    """Return the images of both sets, those of `first` first."""
    if len(second) == 0:
        return first
    return second if len(first) == 0 else _Concat(first, second)


class InMemory:
    """A set of images decoded once: as many as fit into `limit_bytes` stay in memory, the others are read each time.

    Make it before the data workers are forked, and they share it.
    """

    def __init__(self, images: ImageSet, *, limit_bytes: int) -> None:
        self.samples = images.samples
        self._images = images
        self._held: list[Pixels] = []
        self.held_bytes = 0
        for index in range(len(images)):
            image_HWC = images.load(index)
            if self.held_bytes + image_HWC.nbytes > limit_bytes:
                break
            image_HWC.flags.writeable = False
            self._held.append(image_HWC)
            self.held_bytes += image_HWC.nbytes

    @property
    def complete(self) -> bool:
        """Say whether every image is held."""
        return len(self._held) == len(self._images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def load(self, index: int) -> Pixels:
        """Return image `index` as uint8 RGB HWC, read-only if it is held in memory."""
        at = range(len(self))[index]
        return self._held[at] if at < len(self._held) else self._images.load(at)


class _Concat:
    def __init__(self, first: ImageSet, second: ImageSet) -> None:
        self.samples: Sequence[Sample] = _ConcatSamples(first.samples, second.samples)
        self._sets = (first, second)

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Pixels:
        at = range(len(self))[index]
        first, second = self._sets
        return first.load(at) if at < len(first) else second.load(at - len(first))


class _ConcatSamples(Sequence[Sample]):
    def __init__(self, first: Sequence[Sample], second: Sequence[Sample]) -> None:
        self._parts = (first, second)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        first, second = self._parts
        return first[at] if at < len(first) else second[at - len(first)]


# ------------------------------------------------------------------------------------------------------------- randomness
def _raw(purpose: str, *, count: int) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    key = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], dtype="<u8")
    return np.asarray(np.random.Philox(key=key).random_raw(count))


def _uniforms(purpose: str, *, count: int) -> list[float]:
    # The upper 53 bits, as a double in [0, 1).
    drawn: list[float] = ((_raw(purpose, count=count) >> np.uint64(11)) * 2.0**-53).tolist()
    return drawn


def _box(draws: Sequence[float], image_px: tuple[int, int], crop_area: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = image_px
    low_ratio, high_ratio = (math.log(ratio) for ratio in _RATIO)
    for attempt in range(_ATTEMPTS):
        area_draw, ratio_draw, left_draw, top_draw = draws[4 * attempt : 4 * attempt + 4]
        area = height * width * (crop_area[0] + (crop_area[1] - crop_area[0]) * area_draw)
        ratio = math.exp(low_ratio + (high_ratio - low_ratio) * ratio_draw)
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(left_draw * (width - wide + 1)), int(top_draw * (height - tall + 1))
            return left, top, left + wide, top + tall
    return _central_box(height, width)


def _central_box(height: int, width: int) -> tuple[int, int, int, int]:
    wide = min(width, max(1, round(height * _RATIO[1])))
    tall = min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall

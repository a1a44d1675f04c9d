"""Views: random crops of training images that can be drawn again, bit for bit.

What teacher and student both see, crop and flip, is a pure function of (seed, image id, view number), whatever the order, the
worker or the machine; so a teacher's answer to a view can be kept and met again. What only the student sees, colours and
erased boxes, is a pure function of (seed, image id, epoch).

Axes: B batch, C channels, H height, W width, N images.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, get_worker_info

from edgekd.core.contracts import ImageSet, Sample
from edgekd.core.host import usable_cores
from edgekd.distilling.imagesets import Pixels
from edgekd.distilling.randomness import uniforms

_ATTEMPTS = 10
_RATIO = (3 / 4, 4 / 3)
_DRAWS = 4 * _ATTEMPTS + 1
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 10 / 3)
_GREY_RGB = (124, 116, 104)
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

ViewItem = tuple[Tensor | int, ...]
"""The student's image uint8 CHW, label (-1 unknown), the image's index in its set, the view's number, the teachers' images."""

Size = tuple[int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What a view does to an image: crop `box` (left, top, right, bottom in pixels), then flip."""

    box: tuple[int, int, int, int]
    flip: bool


@dataclass(frozen=True, kw_only=True)
class Retouch:
    """What is done to the student's image alone.

    `colour` holds the factors of brightness, contrast and saturation, `order` the order in which they are applied, `erased` the
    box (left, top, right, bottom as shares of the image) that is painted over.
    """

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: tuple[int, int, int] = (0, 1, 2)
    erased: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The crops of images that teachers and students share; with `views`, epoch `e` shows view `e` modulo `views`."""

    seed: int
    views: int | None = None
    crop_area: tuple[float, float] = (0.35, 1.0)
    flip: float = 0.5
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"

    def facts(self, size_px: Size) -> dict[str, Any]:
        """Return what the pixels of a view of this size depend on, beside the image and the view's number."""
        return {
            "kind": "crop",
            "drawn_by": 2,
            "seed": self.seed,
            "crop_area": list(self.crop_area),
            "flip": self.flip,
            "interpolation": self.interpolation,
            "size_px": list(size_px),
        }

    def view(self, epoch: int) -> int:
        """Return the number of the view that an epoch shows."""
        return epoch if self.views is None else epoch % self.views

    def cut(self, image_HWC: Pixels, image_id: str, view: int, *, sizes_px: Sequence[Size]) -> list[Pixels]:
        """Return one view of an image at each of these (height, width)."""
        image_px = (image_HWC.shape[0], image_HWC.shape[1])
        plan = view_plan(image_id, view, image_px=image_px, seed=self.seed, crop_area=self.crop_area, flip=self.flip)
        cut = {size: geometric(image_HWC, plan, size_px=size, interpolation=self.interpolation) for size in set(sizes_px)}
        return [cut[size] for size in sizes_px]

    def batch(self, images: ImageSet, indices: Sequence[int], view: int, *, size_px: Size) -> Tensor:
        """Return view number `view` of several images as uint8 image_BCHW."""

        def one(index: int) -> Tensor:
            return _chw(self.cut(images.load(index), images.samples[index].id, view, sizes_px=(size_px,))[0])

        return _stacked(in_threads(one, indices))


class Views(Dataset[ViewItem]):
    """What a training step sees of a set of images, asked for by (index, epoch)."""

    def __init__(
        self,
        images: ImageSet,
        *,
        size_px: int | Size,
        crops: Crops,
        seed: int = 0,
        colour_jitter: float = 0.0,
        erasing: float = 0.0,
        teachers_px: Sequence[Size] = (),
    ) -> None:
        self.images = images
        self.size_px = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.crops = crops
        self.seed = seed
        self.colour_jitter = colour_jitter
        self.erasing = erasing
        self.teachers_px = tuple(teachers_px)

    def __len__(self) -> int:
        """Return the number of images; the number of epochs is unlimited."""
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> ViewItem:
        """Return what epoch `key[1]` shows of image `key[0]`."""
        index, epoch = key
        sample: Sample = self.images.samples[index]
        view = self.crops.view(epoch)
        own_HWC, *others = self.crops.cut(self.images.load(index), sample.id, view, sizes_px=(self.size_px, *self.teachers_px))
        if self.colour_jitter or self.erasing:
            plan = retouch_plan(sample.id, epoch, seed=self.seed, colour_jitter=self.colour_jitter, erasing=self.erasing)
            own_HWC = photometric(own_HWC, plan)
        return (_chw(own_HWC), sample.label, index, view, *map(_chw, others))

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[ViewItem]:
        """Return several items at once, as torch's loader asks; cut on as many threads as this process may use."""
        return in_threads(self.__getitem__, keys)


def view_plan(
    image_id: str,
    view: int,
    *,
    image_px: Size,
    seed: int,
    crop_area: tuple[float, float],
    flip: float,
) -> ViewPlan:
    """Return what view number `view` does to an image of (height, width) `image_px`.

    The crop covers a uniform share in `crop_area` of the image at a log-uniform aspect ratio in 3/4..4/3, as in timm's
    RandomResizedCrop.
    """
    draws = uniforms(f"view\n{seed}\n{view}\n{image_id}", count=_DRAWS)
    return ViewPlan(box=_box(draws, image_px, crop_area), flip=draws[4 * _ATTEMPTS] < flip)


def retouch_plan(image_id: str, epoch: int, *, seed: int, colour_jitter: float, erasing: float) -> Retouch:
    """Return what an epoch does to the student's image alone.

    Colour factors are uniform in 1 - `colour_jitter`..1 + `colour_jitter`. With probability `erasing` a box of 2 % to a third
    of the image is painted over (Zhong et al. 2020).
    """
    order, *factors, erases, area, ratio, left, top = uniforms(f"retouch\n{seed}\n{epoch}\n{image_id}", count=9)
    low, high = max(0.0, 1 - colour_jitter), 1 + colour_jitter
    brightness, contrast, saturation = (low + (high - low) * factor for factor in factors)
    return Retouch(
        colour=(brightness, contrast, saturation),
        order=_ORDERS[int(order * len(_ORDERS))],
        erased=_erased(area, ratio, left, top) if erases < erasing else None,
    )


def geometric(image_HWC: Pixels, plan: ViewPlan, *, size_px: Size, interpolation: str) -> Pixels:
    """Return the crop of a uint8 image resized to (height, width) `size_px` with antialiasing, flipped if planned.

    Bilinear and bicubic are torch's, which agree with Pillow's to one grey level and take less time.
    """
    left, top, right, bottom = plan.box
    box_HWC = np.array(image_HWC[top:bottom, left:right])
    if interpolation == "lanczos":
        cut_HWC: Pixels = np.array(Image.fromarray(box_HWC).resize(size_px[::-1], Image.Resampling.LANCZOS))
    else:
        box_1CHW = torch.from_numpy(box_HWC).permute(2, 0, 1).unsqueeze(0)
        cut_1CHW = functional.interpolate(box_1CHW, size_px, mode=interpolation, antialias=True)
        cut_HWC = cut_1CHW[0].permute(1, 2, 0).numpy()
    return cut_HWC[:, ::-1] if plan.flip else cut_HWC


def photometric(image_HWC: Pixels, plan: Retouch) -> Pixels:
    """Return a uint8 image with brightness, contrast and saturation changed and a box erased as planned."""
    if plan.colour != (1.0, 1.0, 1.0):
        photo = Image.fromarray(np.ascontiguousarray(image_HWC))
        for step in plan.order:
            photo = _ENHANCERS[step](photo).enhance(plan.colour[step])
        image_HWC = np.array(photo)
    if plan.erased is not None:
        height, width = image_HWC.shape[:2]
        left, top, right, bottom = plan.erased
        image_HWC = np.array(image_HWC)
        image_HWC[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = _GREY_RGB
    return image_HWC


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work(item)` for each item, on this process's threads (Pillow and NumPy release the interpreter)."""
    threads = 1 if get_worker_info() is not None else min(usable_cores(), torch.get_num_threads())
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    chunk = -(-len(items) // (4 * threads))
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return [result for results in pool.map(lambda part: [work(item) for item in part], chunks) for result in results]


def collated(items: Sequence[ViewItem]) -> tuple[Tensor, ...]:
    """Return the items of a batch stacked: images uint8 BCHW that lie in memory as BHWC, numbers as int64."""
    columns = zip(*items, strict=True)
    return tuple(_stacked(column) if isinstance(column[0], Tensor) else torch.tensor(column) for column in columns)


def _chw(image_HWC: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    return torch.stack([image_CHW.permute(1, 2, 0) for image_CHW in images]).permute(0, 3, 1, 2)


def _erased(area: float, ratio: float, left: float, top: float) -> tuple[float, float, float, float]:
    share = _ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * area
    low, high = (math.log(bound) for bound in _ERASED_RATIO)
    aspect = math.exp(low + (high - low) * ratio)
    wide, tall = min(1.0, math.sqrt(share * aspect)), min(1.0, math.sqrt(share / aspect))
    left, top = left * (1 - wide), top * (1 - tall)
    return left, top, left + wide, top + tall


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

"""From an encoded photograph to a model's input: a file of its own, for Python 3.9 with numpy and Pillow, here and on devices.

The arithmetic is that of `edgekd.core.images` for JPEG photographs; a test holds the two together. Sizes and offsets are
rounded as torchvision and timm round them.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image


def batch(photographs: Sequence[bytes], rules: Mapping[str, Any]) -> Any:
    """Return photographs as float32 BCHW in [0, 1], or as uint8 BHWC where `dtype` says so; `rules` are an input contract's."""
    if rules["takes_bytes"]:
        return np.stack([pixels(photograph, rules) for photograph in photographs])
    images_BCHW = np.empty((len(photographs), 3, *rules["size_px"]), dtype=np.float32)
    for row, photograph in enumerate(photographs):
        np.divide(pixels(photograph, rules).transpose(2, 0, 1), np.float32(255), out=images_BCHW[row], dtype=np.float32)
    return images_BCHW


def pixels(photograph: bytes, rules: Mapping[str, Any]) -> Any:
    """Return a photograph as uint8 HWC: decoded, resized with antialiasing, cropped; only decoded where the graph resizes."""
    photo: Image.Image = Image.open(io.BytesIO(photograph))
    if photo.mode != "RGB":
        photo = photo.convert("RGB")
    if rules["resize_inside"]:
        return np.asarray(photo)
    height, width = rules["size_px"]
    kernel = Image.Resampling[rules["interpolation"].upper()]
    if rules["crop"] == "squash":
        return np.asarray(photo.resize((width, height), kernel))
    side = rules["resize_px"]
    short, long = sorted(photo.size)
    resized_long = int(side * long / short)
    new_width, new_height = (resized_long, side) if photo.width > photo.height else (side, resized_long)
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    if (new_width, new_height) != photo.size:
        photo = photo.resize((new_width, new_height), kernel)
    return np.asarray(photo.crop((left, top, left + width, top + height)))

"""Photographs made on the spot, and an index of images that no other test or user shares."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own empty folder for what edgekd remembers between runs."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEKD_CACHE", str(folder))
    return folder


@pytest.fixture
def draw() -> Draw:
    """Return a function seed -> the bytes of a small lossless image of its own."""

    def draw_one(seed: int, *, height: int = 12, width: int = 16, kind: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return draw_one


@pytest.fixture
def class_folders(draw: Draw) -> Callable[..., Path]:
    """Return a function that writes `{class: images}` as one folder for each class; `seed` makes the images its own."""

    def write(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
        for number, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True)
            for image in range(count):
                (root / name / f"{image:03d}.png").write_bytes(draw(1000 * (seed + 1) + 100 * number + image))
        return root

    return write

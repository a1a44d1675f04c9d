"""A small experiment on drawn pictures: three classes that even a tiny network, the smallest of timm's, can tell apart."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.cli import main

CLASSES = ("disc", "bars", "plain")

RECIPE = """\
name: tiny
seed: 3
data: {use: folder, train: images/train, val: images/val, labels_per_class: 4}
teachers:
  - {use: timm, model: test_vit, weights: random, size: 32}
student: {use: timm, model: test_efficientnet, weights: random, size: 32}
method: {use: kd, temperature: 2.0}
train:
  duration: {images: 32}
  batch: 8
  lr: 1e-3
export:
  - {use: onnxruntime, precision: fp32}
bench: {profile: quick, rounds: 1, warmup: 2, iterations: 12, images: 4}
budgets:
  - {metric: size.bytes, max: 9MB}
  - {metric: parity.top1_agreement, min_counted: 90%}
quick:
  train: {duration: {images: 16}}
"""


def draw(kind: str, seed: int) -> Image.Image:
    """Return a 40 x 48 picture of a kind in seeded colours."""
    rng = np.random.default_rng(seed)
    pixels = np.full((40, 48, 3), rng.integers(0, 120, 3), dtype=np.uint8)
    colour = rng.integers(130, 256, 3)
    if kind == "disc":
        y, x = np.mgrid[:40, :48]
        pixels[(y - 20) ** 2 + (x - 24) ** 2 < rng.integers(100, 250)] = colour
    if kind == "bars":
        pixels[:, :: rng.integers(4, 8)] = colour
    return Image.fromarray(pixels)


def write_images(root: Path, *, train: int = 8, val: int = 4) -> Path:
    """Write `root/{train,val}/<class>/<n>.png`."""
    for split, count, offset in (("train", train, 0), ("val", val, 1000)):
        for number, kind in enumerate(CLASSES):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                draw(kind, offset + 100 * number + i).save(folder / f"{i}.png")
    return root


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Return the recipe of a small experiment in a folder of its own."""
    write_images(tmp_path / "images")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    return recipe


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def edgekd(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def _run_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    homes: dict[str, Path] = {}

    def home_of(text: str) -> Path:
        if text not in homes:
            home = tmp_path_factory.mktemp("finished")
            write_images(home / "images")
            (home / "recipe.yaml").write_text(text)
            with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
                patch.setenv("EDGEKD_CACHE", str(tmp_path_factory.mktemp("cache")))  # of no test
                main(["run", str(home / "recipe.yaml"), "--out", str(home / "run"), "--quiet"])
            assert stopped.value.code == 0
            homes[text] = home
        return homes[text]

    return home_of


@pytest.fixture
def finished_by(_run_once: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return what makes of a recipe a folder with `recipe.yaml`, `images/` and the finished `run/`, to be spoiled at will.

    It is run once a session; every test gets its own copy.
    """

    def copied(text: str) -> Path:
        shutil.copytree(_run_once(text), tmp_path, dirs_exist_ok=True)
        return tmp_path

    return copied


@pytest.fixture
def finished(finished_by: Callable[[str], Path]) -> Path:
    """Return such a folder of the small experiment."""
    return finished_by(RECIPE)

"""What one teacher more costs in a cached epoch, as a ratio of epochs that are taken in turns.

    python benchmarks/several_teachers.py --data DATA [--epochs 16] [--images 640] [--methods ensemble,unic] [--out FILE]

DATA holds imagenette160/{train,val}. A student is distilled from the kept answers of one, two and three teachers, by three
processes that take turns: an epoch of the first, of the second, of the third, and back again; the others wait meanwhile, so
that whatever makes the machine slow for some seconds makes all three slow. The rate of an epoch is that of its steps after the
first two (what the loader had ready before the turn is no work of it), loader included; the first two epochs do not count.

    cost of teacher n + 1 = the median over the epochs of (rate with n) / (rate with n + 1) - 1

The teachers are random models of the usual widths (384, 768 and 1280 numbers) at 32 px: how long they take to fill their cache
is not asked here (`distillation_speed.py` does), and what a cached epoch costs depends on the widths alone.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from _stopwatch import machine, some_images, spread, write_recipe, write_result

from edgekd import pipeline
from edgekd.core.console import Console, Progress
from edgekd.core.host import usable_cores
from edgekd.distilling.allocator import keep_freed_memory

TEACHERS = [
    {"use": "timm", "model": "vit_small_patch16_224", "weights": "random", "size": 32},
    {"use": "timm", "model": "vit_base_patch16_224", "weights": "random", "size": 32},
    {"use": "timm", "model": "mobilenetv2_100", "weights": "random", "size": 32},
]
METHODS: dict[str, dict[str, Any]] = {
    "ensemble": {},
    "ensemble_gate": {"use": "ensemble", "weighting": "gate"},
    "unic": {"label_weight": 1.0},
    "feed": {},
    "log_euclidean": {},
    "amalgamation": {},
    "customkd": {},
}
STUDENT = ("mobilenetv3_small_100", 96)
BATCH, BAR, UNCOUNTED_STEPS, UNCOUNTED_EPOCHS = 64, 0.10, 2, 2


class Turns(Console):
    """A console that tells the rate of every pass over the images through a pipe, and waits there for its next turn."""

    def __init__(self, pipe: "Connection[Any, Any]", images: int) -> None:
        super().__init__(quiet=True)
        self.pipe, self.images, self.done, self.began_s = pipe, images, 0, 0.0

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "") -> Iterator[Progress]:
        show = self._show if label.startswith("distil") else lambda _: None
        yield Progress(label=label, total=total, unit=unit, clock=time.perf_counter, show=show)

    def _show(self, progress: Progress) -> None:
        uncounted = UNCOUNTED_STEPS * BATCH
        if progress.done == self.done:
            return
        self.done = progress.done
        if self.done % self.images == uncounted:
            self.began_s = time.perf_counter()
        elif self.done % self.images == 0:
            self.pipe.send((self.images - uncounted) / (time.perf_counter() - self.began_s))
            self.pipe.recv()


def distill(recipe: Path, images: int, pipe: "Connection[Any, Any]") -> None:
    """Distil in a process of its own, beginning when the pipe says so; None goes through it at the end."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    pipe.recv()
    pipeline.distill(recipe, out=recipe.with_suffix(""), console=Turns(pipe, images))
    pipe.send(None)


def rates_in_turns(method: str, images: Path, folder: Path, *, count: int, epochs: int) -> list[list[float]]:
    """Return the images/s of every epoch that counts: with one teacher, with two, with three."""
    context = multiprocessing.get_context("spawn")
    pipes, rates = list["Connection[Any, Any]"](), [list[float]() for _ in TEACHERS]
    for teachers in range(1, len(TEACHERS) + 1):
        recipe = write_recipe(folder / f"{method}_{teachers}.yaml", _sections(method, images, folder, teachers, epochs))
        here, there = context.Pipe()
        context.Process(target=distill, args=(recipe, count, there), daemon=True).start()
        there.close()
        pipes.append(here)
    for turn in range(epochs + 1):
        for number in list(range(len(pipes)))[:: -1 if turn % 2 else 1]:
            pipes[number].send("go on")
            told = pipes[number].recv()
            if UNCOUNTED_EPOCHS <= turn < epochs:
                rates[number].append(told)
    return rates


def _sections(method: str, images: Path, folder: Path, teachers: int, epochs: int) -> dict[str, Any]:
    model, size_px = STUDENT
    return {
        "name": "speed",
        "data": {"use": "folder", "train": str(images / "train"), "val": str(images / "val")},
        "teachers": TEACHERS[:teachers],
        "student": {"use": "timm", "model": model, "weights": "random", "size": size_px},
        "method": {"use": method} | METHODS[method],
        "cache": {"views": 2, "folder": str(folder / "cache")},
        "train": {"duration": {"epochs": epochs}, "batch": BATCH, "clip_norm": 1.0, "evaluate_every": 0.0},
        "baseline": None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--images", type=int, default=640, help=f"training images, a multiple of {BATCH}")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    if options.images % BATCH or options.images <= UNCOUNTED_STEPS * BATCH or options.epochs <= UNCOUNTED_EPOCHS:
        parser.error(
            f"--images must be a multiple of {BATCH}, over {UNCOUNTED_STEPS * BATCH}; --epochs over {UNCOUNTED_EPOCHS}"
        )
    if set(options.methods) - set(METHODS):
        parser.error(f"--methods are of {', '.join(METHODS)}")
    facts, rows = machine(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="teachers-") as folder:
        os.environ["EDGEKD_CACHE"] = f"{folder}/edgekd"
        images = some_images(Path(options.data).resolve(), Path(folder) / "images", train=options.images)
        for method in options.methods:
            rates = rates_in_turns(method, images, Path(folder), count=options.images, epochs=options.epochs)
            rows.append(_row(method, rates))
            told = "\t".join(f"teacher {number}: {cost['median']:+.1%}" for number, cost in rows[-1]["cost"].items())
            print(f"{method}\t{told}\t(at most {BAR:.0%})", flush=True)
    protocol = {"images": options.images, "batch": BATCH, "epochs": options.epochs, "threads": usable_cores()}
    print("wrote", write_result("several_teachers", {"machine": facts, "protocol": protocol, "rows": rows}, options.out))


def _row(method: str, rates: list[list[float]]) -> dict[str, Any]:
    cost = dict[str, dict[str, Any]]()
    for number, (fewer, more) in enumerate(itertools.pairwise(rates), start=2):
        each = [one / other - 1 for one, other in zip(fewer, more, strict=True)]
        cost[str(number)] = spread(each) | {"quartiles": [round(value, 3) for value in statistics.quantiles(each)]}
    return {
        "method": method,
        "student": STUDENT[0],
        "size_px": STUDENT[1],
        "images_per_s": {str(number): spread(each) for number, each in enumerate(rates, start=1)},
        "cost": cost,
        "bar_met": all(one["median"] <= BAR for one in cost.values()),
    }


if __name__ == "__main__":
    main()

"""What distilling costs beyond its parts, as ratios within one run.

    python benchmarks/distillation_speed.py --data DATA [--rounds 3] [--images 640] [--out FILE]

DATA holds imagenette160/{train,val} and weights/. For each teacher and student, in turn and in every second round backwards:

    fill        filling the cache (images read, cut, answered, written)  against  bare: the teacher alone, crops in memory
    cached      a distillation epoch from the cache  against  supervised: the same student and loader, on labels
    online      a distillation epoch with the teacher in every step  against  1 / (1 / bare + 1 / supervised)

Training rates are those of the epochs after the first, loader included, evaluation not.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _stopwatch import Stopwatch, machine, some_images, spread, write_recipe, write_result

from edgekd import pipeline
from edgekd.core.contracts import FrozenModel
from edgekd.core.host import usable_cores
from edgekd.distilling.allocator import keep_freed_memory
from edgekd.distilling.filling import BATCH as FILL_BATCH
from edgekd.recipe import load_recipe

TEACHERS = {
    "ViT-Tiny/16": {
        "use": "timm",
        "model": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "weights": "weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors",
        "size": 224,
    },
    "ViT-S/14": {"use": "timm", "model": "vit_small_patch14_dinov2", "weights": "random", "size": 224},
}
STUDENTS = (("mobilenetv3_small_100", 96, 8), ("mobilenetv3_small_100", 224, 3), ("mobilenetv2_100", 128, 4))  # size, epochs
ONLINE_EPOCHS = 2
BATCH = 32
BARS = {"fill": 0.90, "cached": 0.95, "online": 0.95}
LEARNED = {"method": {"use": "queue_similarity", "queue": 256}}  # fits on 256 answers before it trains; that is not timed


class Bench:
    """One teacher over a folder of images; every number is images/s."""

    def __init__(self, teacher: dict[str, Any], images: Path, *, count: int, folder: Path) -> None:
        self.teacher, self.images, self.count, self.folder = teacher, images, count, folder
        self.cache = folder / "cache"

    def recipe(self, student: tuple[str, int, int], *, views: int, epochs: int, **changes: Any) -> Path:
        """Write a recipe."""
        model, size_px, _ = student
        sections = {
            "name": "speed",
            "data": {"use": "folder", "train": str(self.images / "train"), "val": str(self.images / "val")},
            "teachers": [self.teacher],
            "student": {"use": "timm", "model": model, "weights": "random", "size": size_px},
            "cache": {"views": views, "folder": str(self.cache)},
            "train": {"duration": {"epochs": epochs}, "batch": BATCH, "clip_norm": 1.0, "evaluate_every": 0.0},
            "baseline": None,
        }
        return write_recipe(self.folder / "speed.yaml", sections | LEARNED | changes)

    def bare(self, student: tuple[str, int, int]) -> float:
        """Return the rate of the teacher alone: the method's taps, batches as filling makes them, crops in memory."""
        loaded = load_recipe(self.recipe(student, views=1, epochs=1))
        frozen, taps = loaded.teachers[0].load(), loaded.method.needs().teacher_taps
        image_BCHW = torch.rand(FILL_BATCH["cpu"], 3, *frozen.size_px)
        _answer(frozen, image_BCHW, taps)
        began = time.perf_counter()
        for _ in range(self.count // len(image_BCHW)):
            _answer(frozen, image_BCHW, taps)
        return self.count // len(image_BCHW) * len(image_BCHW) / (time.perf_counter() - began)

    def fill(self, student: tuple[str, int, int]) -> float:
        """Return the rate of filling an empty cache with one view of each image."""
        shutil.rmtree(self.cache, ignore_errors=True)
        watch = Stopwatch()
        pipeline.cache(self.recipe(student, views=1, epochs=1), console=watch)
        assert watch.fill is not None
        return watch.fill.per_s

    def supervised(self, student: tuple[str, int, int]) -> float:
        """Return the rate of training on labels."""
        return self._train(self.recipe(student, views=1, epochs=student[2], teachers=[], method={"use": "supervised"}))

    def cached(self, student: tuple[str, int, int]) -> float:
        """Return the rate of distilling from the cache."""
        return self._train(self.recipe(student, views=1, epochs=student[2]))

    def online(self, student: tuple[str, int, int]) -> float:
        """Return the rate of distilling with the teacher in every step."""
        return self._train(self.recipe(student, views=0, epochs=ONLINE_EPOCHS))

    def _train(self, recipe: Path) -> float:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        watch = Stopwatch()
        pipeline.distill(recipe, out=self.folder / "run", console=watch)
        return statistics.median(watch.training.passes_per_s(self.count)[1:])


@torch.inference_mode()
def _answer(frozen: FrozenModel, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> None:
    frozen.features(image_BCHW, taps)


def one_round(bench: Bench, *, backwards: bool) -> list[dict[str, Any]]:
    """Return one row for each student: every rate once."""
    step = -1 if backwards else 1
    teaching: list[Callable[[tuple[str, int, int]], float]] = [bench.bare, bench.fill]
    alone = {measure.__name__: measure(STUDENTS[0]) for measure in teaching[::step]}
    rows = []
    for student in STUDENTS[::step]:
        training: list[Callable[[tuple[str, int, int]], float]] = [bench.supervised, bench.cached, bench.online]
        rows.append(
            {"student": student[0], "size_px": student[1], **alone} | {m.__name__: m(student) for m in training[::step]}
        )
    return rows


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Return the three ratios of a row."""
    return {
        "fill": row["fill"] / row["bare"],
        "cached": row["cached"] / row["supervised"],
        "online": row["online"] * (1 / row["bare"] + 1 / row["supervised"]),
    }


def summary(teacher: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what several rounds say of one teacher, a row for each student."""
    found = []
    for student, size_px, _ in STUDENTS:
        own = [row for row in rows if (row["student"], row["size_px"]) == (student, size_px)]
        rates = {name: spread([row[name] for row in own]) for name in ("bare", "fill", "supervised", "cached", "online")}
        each = {name: spread([ratios(row)[name] for row in own]) for name in BARS}
        met = {name: each[name]["median"] >= bar for name, bar in BARS.items()}
        found.append(
            {"teacher": teacher, "student": student, "size_px": size_px, "images_per_s": rates, "ratio": each, "bar_met": met}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=640, help="training images, a multiple of 32")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    if options.images % BATCH:
        parser.error(f"--images must be a multiple of {BATCH}")
    data = Path(options.data).resolve()
    facts = machine()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TEACHERS}
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        os.environ["EDGEKD_CACHE"] = f"{folder}/edgekd"
        images = some_images(data, Path(folder) / "images", train=options.images)
        for number in range(options.rounds):
            for name, teacher in TEACHERS.items():
                weights = teacher["weights"] if teacher["weights"] == "random" else str(data / str(teacher["weights"]))
                bench = Bench(teacher | {"weights": weights}, images, count=options.images, folder=Path(folder))
                for row in one_round(bench, backwards=number % 2 == 1):
                    rows[name].append(row)
                    rates = (f"{key} {value:.1f}" for key, value in sorted(row.items()) if isinstance(value, float))
                    print(name, row["student"], row["size_px"], *rates, sep="\t", flush=True)
    found = [row for name in TEACHERS for row in summary(name, rows[name])]
    protocol = {"images": options.images, "batch": BATCH, "rounds": options.rounds, "threads": torch.get_num_threads()}
    print("wrote", write_result("distillation_speed", {"machine": facts, "protocol": protocol, "rows": found}, options.out))
    for row in found:
        each = "\t".join(f"{name} {row['ratio'][name]['median']:.2f} (>= {bar:.2f})" for name, bar in BARS.items())
        print(f"{row['teacher']}\t{row['student']} {row['size_px']} px\t{each}")


if __name__ == "__main__":
    main()

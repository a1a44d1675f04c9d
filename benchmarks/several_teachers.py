"""What one teacher more costs in a cached epoch, as a ratio of epochs within one run.

    python benchmarks/several_teachers.py --data DATA [--rounds 3] [--images 640] [--methods ensemble,unic] [--out FILE]

DATA holds imagenette160/{train,val}. A student is distilled from the kept answers of one, two and three teachers, in turn and
in every second round backwards; an epoch's rate is the median of those after the first, loader included, evaluation not.

    cost of teacher n + 1 = (time of an epoch with n + 1) / (time with n) - 1

The teachers are random models of the usual widths (384, 768 and 1280 numbers) at 32 px: how long they take to fill their cache
is not asked here (`distillation_speed.py` does), and what a cached epoch costs depends on the widths alone.
"""

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _stopwatch import Stopwatch, machine, some_images, spread, write_recipe, write_result

from edgekd import pipeline
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
EPOCHS, BATCH, BAR = 5, 64, 0.10


class Bench:
    """Epochs of one student from kept answers; every number is images/s."""

    def __init__(self, images: Path, *, count: int, folder: Path) -> None:
        self.images, self.count, self.folder = images, count, folder

    def rate(self, method: str, teachers: int) -> float:
        """Return the rate of distilling from so many teachers."""
        model, size_px = STUDENT
        sections = {
            "name": "speed",
            "data": {"use": "folder", "train": str(self.images / "train"), "val": str(self.images / "val")},
            "teachers": TEACHERS[:teachers],
            "student": {"use": "timm", "model": model, "weights": "random", "size": size_px},
            "method": {"use": method} | METHODS[method],
            "cache": {"views": 2, "folder": str(self.folder / "cache")},
            "train": {"duration": {"epochs": EPOCHS}, "batch": BATCH, "clip_norm": 1.0, "evaluate_every": 0.0},
            "baseline": None,
        }
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        watch = Stopwatch()
        pipeline.distill(write_recipe(self.folder / "speed.yaml", sections), out=self.folder / "run", console=watch)
        return statistics.median(watch.training.passes_per_s(self.count)[1:])


def costs(rates: list[float]) -> list[float]:
    """Return what the second and the third teacher add to an epoch, as a share of it."""
    return [fewer / more - 1 for fewer, more in itertools.pairwise(rates)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=640, help=f"training images, a multiple of {BATCH}")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    if options.images % BATCH or set(options.methods) - set(METHODS):
        parser.error(f"--images must be a multiple of {BATCH}, --methods of {', '.join(METHODS)}")
    facts = machine()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    found: dict[str, list[list[float]]] = {method: [] for method in options.methods}
    with tempfile.TemporaryDirectory(prefix="teachers-") as folder:
        os.environ["EDGEKD_CACHE"] = f"{folder}/edgekd"
        images = some_images(Path(options.data).resolve(), Path(folder) / "images", train=options.images)
        bench = Bench(images, count=options.images, folder=Path(folder))
        bench.rate(options.methods[0], 1)  # the first run of a process is slower than any other
        for number in range(options.rounds):
            step = -1 if number % 2 else 1
            for method in options.methods[::step]:
                counts = list(range(1, len(TEACHERS) + 1))[::step]
                rates = {count: bench.rate(method, count) for count in counts}
                found[method].append([rates[count] for count in sorted(rates)])
                print(method, *(f"{rate:.1f}" for rate in found[method][-1]), "images/s", sep="\t", flush=True)
    rows = [_row(method, rounds) for method, rounds in found.items()]
    protocol = {"images": options.images, "batch": BATCH, "rounds": options.rounds, "threads": torch.get_num_threads()}
    print("wrote", write_result("several_teachers", {"machine": facts, "protocol": protocol, "rows": rows}, options.out))
    for row in rows:
        told = "\t".join(f"teacher {number}: {cost['median']:+.1%} (<= {BAR:.0%})" for number, cost in row["cost"].items())
        print(f"{row['method']}\t{told}")


def _row(method: str, rounds: list[list[float]]) -> dict[str, Any]:
    each = [costs(rates) for rates in rounds]
    cost = {str(number + 2): spread([one[number] for one in each]) for number in range(len(TEACHERS) - 1)}
    rates = {str(number + 1): spread([one[number] for one in rounds]) for number in range(len(TEACHERS))}
    return {
        "method": method,
        "student": STUDENT[0],
        "size_px": STUDENT[1],
        "images_per_s": rates,
        "cost": cost,
        "bar_met": all(one["median"] <= BAR for one in cost.values()),
    }


if __name__ == "__main__":
    main()

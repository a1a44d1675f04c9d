"""How long does it take to score a thousand MobileNet-class students, and does the memory stay flat?

    python benchmarks/search_speed.py --data DATA [--students 1000] [--size 96] [--workers 2] [--out FILE]

DATA holds imagenette160/train and weights/vit_tiny_*.safetensors. Students are drawn at random from the default MobileNet-class
space at one size and scored as `edgekd search` does by default: 32 photographs, three initialisations, the two scores of its
defaults, against ViT-Tiny through a probe. Memory is that of this process and its workers, after a tenth of the students and at
the end.
"""

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any, cast

from _stopwatch import machine, write_result

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Source, Teacher
from edgekd.core.search_contracts import Space
from edgekd.core.search_plan import Search
from edgekd.searching.exam import make_exam
from edgekd.searching.scoring import scoring

TEACHER = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--students", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    told = machine()
    space = cast(Space, parts.load("space", "mobile")(sizes=(options.size,)))
    plan = Search(space=space.ref())
    source = cast(Source, parts.load("source", "folder")(train=options.data / "imagenette160" / "train", val_fraction=0.1))
    weights = options.data / "weights" / f"{TEACHER}.safetensors"
    teacher = cast(Teacher, parts.load("teacher", "timm")(model=TEACHER, weights=weights))
    began_s = time.perf_counter()
    exam = make_exam(plan, source, teacher, size_px=options.size, seed=0)
    ready_s = time.perf_counter() - began_s
    dice, memory = random.Random(0), dict[int, int]()
    began_s = time.perf_counter()
    with (
        scoring(exam, workers=options.workers) as submit,
        Console().progress("scored", options.students, "students") as progress,
    ):
        waiting: list[Any] = []
        for number in range(options.students):
            waiting.append(submit(space.student(space.drawn(dice)), None))
            if len(waiting) > 2 * options.workers:
                waiting.pop(0).result()
                progress.update(number)
            if number in (options.students // 10, options.students - 1):
                memory[number + 1] = resident_bytes()
        for future in waiting:
            future.result()
        took_s = time.perf_counter() - began_s
    result = {
        "students": options.students,
        "size_px": options.size,
        "workers": options.workers,
        "minutes": round(took_s / 60, 2),
        "students_per_s": round(options.students / took_s, 2),
        "exam_seconds": round(ready_s, 1),
        "resident_bytes_after": memory,
    }
    print(result)
    print(f"wrote {write_result('search_speed', {'machine': told, 'result': result}, options.out)}")


def resident_bytes() -> int:
    """Return the memory of this process and its children, as Linux counts it."""
    own, total = os.getpid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if folder.name == str(own) or status.get("PPid", "").strip() == str(own):
            total += 1024 * int(status.get("VmRSS", "0 kB").split()[0])
    return total


if __name__ == "__main__":
    main()

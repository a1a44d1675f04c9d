"""What the speed benchmarks share: times read off the console's progress, a few images, and where results go."""

import datetime
import itertools
import json
import platform
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.console import Console, Progress
from edgekd.core.host import device_facts, made_by

BUSY_LOAD = 0.3  # a neighbour on one of two cores slows two-thread torch 5 to 20 times


@dataclass
class Phase:
    """One piece of work that told its progress: when it began, and how much was done when."""

    label: str
    unit: str
    began_s: float
    marks: list[tuple[float, int]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Return what was done in a second, from the beginning to the last word of progress."""
        return self.marks[-1][1] / (self.marks[-1][0] - self.began_s)

    def passes_per_s(self, images: int) -> list[float]:
        """Return the images/s of each complete pass over so many images."""
        passes = self.marks[-1][1] // images
        ends = [next(at for at, done in self.marks if done >= images * number) for number in range(1, passes + 1)]
        return [images / (after - before) for before, after in itertools.pairwise([self.began_s, *ends])]


class Stopwatch(Console):
    """A console that writes warnings only, and remembers when what was done."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.phases: list[Phase] = []

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "") -> Iterator[Progress]:
        phase = Phase(label, unit, began_s=time.perf_counter())
        self.phases.append(phase)

        def show(progress: Progress) -> None:
            phase.marks.append((time.perf_counter(), progress.done))

        yield Progress(label=label, total=total, unit=unit, clock=time.perf_counter, show=show)

    @property
    def fill(self) -> Phase | None:
        """Return the filling of the cache with views, if there was one; that with the whole images comes before it."""
        return next((phase for phase in reversed(self.phases) if phase.unit == "views" and phase.marks), None)

    @property
    def training(self) -> Phase:
        """Return the training."""
        return next(phase for phase in reversed(self.phases) if phase.label.startswith("distil"))


def some_images(data: Path, out: Path, *, train: int, val: int = 20) -> Path:
    """Copy the first images of each class of imagenette160 to `out`/{train,val}, so many in all."""
    for split, count in (("train", train), ("val", val)):
        classes = sorted(folder for folder in (data / "imagenette160" / split).iterdir() if folder.is_dir())
        for number, folder in enumerate(classes):
            share = count // len(classes) + (number < count % len(classes))
            to = out / split / folder.name
            to.mkdir(parents=True)
            for image in sorted(folder.iterdir())[:share]:
                shutil.copyfile(image, to / image.name)
    return out


def write_recipe(path: Path, sections: Mapping[str, Any]) -> Path:
    """Write a recipe; JSON is YAML."""
    path.write_text(json.dumps(sections, indent=1))
    return path


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def machine() -> dict[str, Any]:
    """Return what a reader has to know about the machine, as it is before the measurement; warn if it is busy."""
    import torch

    facts = device_facts()
    idle = facts.load_1min is not None and facts.load_1min < BUSY_LOAD
    if not idle:
        print(f"warning: the machine is busy (load {facts.load_1min}): these rates will not be worth much", flush=True)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": made_by(None).git,
        "cpu": facts.cpu,
        "cores": facts.usable_cores,
        "bf16_instructions": [flag for flag in ("avx512_bf16", "amx_bf16") if f" {flag} " in flags],
        "load_1min": facts.load_1min,
        "idle": idle,
        "torch": torch.__version__,
    }


def write_result(what: str, result: Mapping[str, Any], out: Path | None) -> Path:
    """Write a result to `out` or beside this file, named `<what>_<machine>_<date>.json`."""
    name = f"{what}_{platform.machine()}-{result['machine']['cores']}core_{result['machine']['date']}.json"
    path = out or Path(__file__).with_name(name)
    path.write_text(json.dumps({"what": what, **result}, indent=1) + "\n")
    return path

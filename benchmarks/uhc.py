"""Three teachers that know overlapping thirds of CIFAR-100's classes; one student of all of them, without a label.

    python benchmarks/uhc.py --data DIR [--images 32000] [--seeds 0,1,2] [--rows uhc,each] [--jobs 2] [--out DIR]
    python benchmarks/uhc.py --data DIR --tune 1e-4,3e-4,1e-3,3e-3     rates, on a tenth of the training images held out

Every teacher is ViT-Tiny with a last layer fitted on the labelled images of its own 40 classes (0-39, 30-69, 60-99); it says
nothing of the others. The students begin with the same ImageNet weights, see equally many images of all classes, in the same
views, learn from no label (one image a class keeps its own, for the probes that every record states), and differ in their
teachers:

    uhc                 the three teachers, unified into one distribution by cross entropy (Vongkulbhisal et al. 2019)
    uhc_factorisation   the same by the factorisation
    each                each teacher separately: KL to the student's answers restricted to that teacher's classes
    oracle              one teacher like the three that was fitted on all classes

Each row has the rate that was best for it on images held out, from the teachers as well; the test images had no part in that.
What is done is kept, so the command can be stopped and given again. `--smoke` shrinks everything to see that it works.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
THIRDS = {"first": range(40), "second": range(30, 70), "third": range(60, 100)}
ROWS: dict[str, dict[str, Any]] = {
    "uhc": {"use": "uhc"},
    "uhc_factorisation": {"use": "uhc", "estimator": "factorisation"},
    "each": {"use": "uhc", "estimator": "each"},
    "oracle": {"use": "kd", "head": "own", "temperature": 1.0, "label_weight": 0.0},
}
RATES = dict.fromkeys(ROWS, 3e-4)  # the best of 1e-4 to 3e-3 for each of them
TUNING_SEED = 100


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    _write_parts(options)
    names = [*THIRDS, "all"]
    with ThreadPoolExecutor(options.jobs) as pool:
        teachers = dict(zip(names, pool.map(lambda name: _teacher(name, options), names), strict=True))
        for name, record in teachers.items():
            print(f"teacher {name:8} {len(record['classes'])} classes, top-1 on them {_top1(record):.3f}", flush=True)
        runs = [(row, seed, rate) for seed in options.seeds for row in options.rows for rate in options.tune or [RATES[row]]]
        found = list(pool.map(lambda run: _student(*run, options=options), runs))
    _print(found)
    _write({"teachers": {name: _top1(record) for name, record in teachers.items()}, "students": found}, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), help="folder of the data (EDGEKD_DATA)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help="only these rows")
    parser.add_argument("--tune", type=lambda text: [float(rate) for rate in text.split(",")], default=[], help="rates to try")
    parser.add_argument("--images", type=int, default=32000, help="images that each student sees")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/uhc"), help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="few images of few pixels; writes no table")
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data or set EDGEKD_DATA")
    options.data, options.out = Path(options.data).resolve(), options.out.resolve()
    if options.smoke:
        options.images, options.seeds = min(options.images, 640), options.seeds[:1]
    if options.tune:
        options.out, options.seeds = options.out / "tuning", [TUNING_SEED]
    return options


# ------------------------------------------------------------------------------------------------------------------- images
def _write_parts(options: argparse.Namespace) -> None:
    """Write the images of each third with its own classes, and those of all classes; for rates, every tenth is the test."""
    for split in ("train", "test"):
        source = "train" if options.tune else split
        with np.load(options.data / "cifar100" / f"{source}.npz", allow_pickle=False) as archive:
            images, label, names = archive["images"], archive["fine_label"], archive["fine_names"]
        if options.tune:
            taken = (np.arange(len(images)) % 10 == 0) == (split == "test")
            images, label = images[taken], label[taken]
        if options.smoke:
            kept = np.concatenate([np.flatnonzero(label == k)[:4] for k in range(len(names))])
            images, label = images[kept], label[kept]
        for name, classes in {**THIRDS, "all": range(len(names))}.items():
            own = np.isin(label, list(classes))
            _save(options.out / f"{name}-{split}.npz", images[own], label[own] - min(classes), names[list(classes)])


def _save(path: Path, images: Any, label: Any, names: Any) -> None:
    if not path.is_file():
        np.savez(path, images=images, label=label, names=names)


def _data(train: Path, val: Path) -> dict[str, Any]:
    keys = {"labels_key": "label", "names_key": "names", "allow_leaks": True}
    return {"use": "npz", "train": str(train), "val": str(val), **keys}


# --------------------------------------------------------------------------------------------------------------------- runs
def _teacher(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit ViT-Tiny's last layer on the labelled images of these classes, and return its checkpoint."""
    vit = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    student = {"use": "timm", "model": vit, "weights": str(options.data / "weights" / f"{vit}.safetensors")}
    recipe = {
        "name": f"uhc-teacher-{name}",
        "data": _data(options.out / f"{name}-train.npz", options.out / f"{name}-test.npz"),
        "student": student | {"size": _size(options)},
        "method": {"use": "supervised"},
        "train": {"duration": {"steps": 1}, "freeze": "all"},
        "baseline": None,
        "bench": None,
    }
    return _run(f"teacher-{name}", recipe, options)


def _student(row: str, seed: int, rate: float, *, options: argparse.Namespace) -> dict[str, Any]:
    known = ["all"] if row == "oracle" else list(THIRDS)
    taught = [options.out / f"teacher-{name}" / "checkpoint" for name in known]
    weights = options.data / "weights" / "mobilenetv2_100.imagenet1k.safetensors"
    recipe = {
        "name": f"uhc-{row}",
        "seed": seed,
        "data": _data(options.out / "all-train.npz", options.out / "all-test.npz") | {"labels_per_class": 1},
        "teachers": [
            {
                "use": "timm",
                "model": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
                "weights": str(folder / "student.safetensors"),
                "classes": str(folder / "checkpoint.json"),
                "size": _size(options),
            }
            for folder in taught
        ],
        "student": {"use": "timm", "model": "mobilenetv2_100", "weights": str(weights), "size": 32 if options.smoke else 64},
        "method": ROWS[row],
        "cache": {"views": 1, "folder": str(options.out / "answers")},
        "train": {
            "duration": {"images": options.images},
            "batch": 64,
            "lr": rate,
            "warmup": 0.1,
            "clip_norm": 2.0,
            "evaluate_every": 0.0,
        },
        "baseline": None,
        "bench": None,
    }
    record = _run(f"{row}-seed{seed}-{options.images}-{rate:g}", recipe, options)
    print(f"{row:20} seed {seed}  rate {rate:g}  top-1 {_top1(record):.3f}", flush=True)
    return {"row": row, "seed": seed, "rate": rate, "top1": _top1(record), "images_seen": record["training"]["images_seen"]}


def _size(options: argparse.Namespace) -> int:
    return 32 if options.smoke else 96


def _run(name: str, recipe: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    path, folder = options.out / f"{name}.yaml", options.out / name
    path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    command = [sys.executable, "-c", "from edgekd.cli import main; main()", "distill", str(path), "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--quiet"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}:\n{done.stderr}")
    found: dict[str, Any] = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())
    return found


# -------------------------------------------------------------------------------------------------------------------- table
def _top1(record: dict[str, Any]) -> float:
    return float(record["accuracy"]["top1_correct"] / record["accuracy"]["images"])


def _print(found: list[dict[str, Any]]) -> None:
    print("\n| learns from | rate | images seen | top-1 over all 100 classes |\n|---|---|---|---|")
    for row, rate in dict.fromkeys((one["row"], one["rate"]) for one in found):
        figures = [100 * one["top1"] for one in found if (one["row"], one["rate"]) == (row, rate)]
        spread = f" ({statistics.stdev(figures):.1f})" if len(figures) > 1 else ""
        print(f"| {row} | {rate:g} | {found[0]['images_seen']} | {statistics.mean(figures):.1f}{spread} |")


def _write(table: dict[str, Any], options: argparse.Namespace) -> None:
    if options.smoke:
        print("\na smoke run: no table is written")
        return
    from edgekd.core.host import made_by

    what = "uhc_tuning" if options.tune else "uhc"
    path = HERE / f"{what}_{platform.machine()}-{os.cpu_count()}core_{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps({"made_by": made_by(["benchmarks/uhc.py"]).model_dump(mode="json"), **table}, indent=1) + "\n")
    print(f"\nwrote {path.name}")


if __name__ == "__main__":
    main()

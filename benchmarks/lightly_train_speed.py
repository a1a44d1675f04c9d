"""edgekd and LightlyTrain side by side: images/s of distilling ViT-S/14 into MobileNetV3, same images, same machine.

    python benchmarks/lightly_train_speed.py --data DATA --lightly VENV/bin/python [--rounds 4] [--students ...] [--out FILE]

DATA holds imagenette160/{train,val}. VENV is an environment of its own:

    python3 -m venv VENV && VENV/bin/pip install torch==2.13.0 torchvision==0.28.0 'pillow<13' 'lightly-train[timm]==0.18.0'

Every run is a fresh process. Rounds go through all contenders forwards, then backwards, and so on. Runs are timed from inside:
LightlyTrain from the start of an epoch to the end of its last step, by a Lightning callback in place of its own; edgekd by the
progress that its training tells after every step, from the first request for a batch. LightlyTrain's telemetry, progress bar,
loggers, checkpoints and monitors are off, which can only make it faster. After the first round only the faster number of
workers goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STUDENTS = ("mobilenetv3_small_100", "mobilenetv3_large_100")
PRECISIONS = ("32-true", "bf16-mixed")
LIGHTLY_WORKERS = (0, 1)  # 1 is what its `auto` takes on two cores
BATCH, SIZE_PX, QUEUE = 32, 224, 128  # what LightlyTrain takes by itself for 250 to 500 images
PROTOCOL = {
    "teacher": "ViT-S/14 of DINOv2 without registers, random weights, 224 px",
    "batch": BATCH,
    "lightly_train": {
        "method": "distillationv1: KL of the similarities to a queue of 128 teacher embeddings; the cheapest of its three"
        " (v2 and v3, its default, add a loss on every patch)",
        "images": "crop 0.14..1, flip, colour jitter, grey, blur; mixup; the teacher sees the mixed images",
        "optimiser": "LARS (its default)",
    },
    "edgekd": {
        "method": "queue_similarity: the same loss and queue",
        "images": "crop 0.14..1, flip, colour jitter (student alone); mixup of images and of the teacher's answers",
        "optimiser": "AdamW",
        "online": "the teacher sees a new crop of every image in every epoch, as in LightlyTrain",
        "cached": "the teacher sees `views` crops of every image once; epochs go through them in turn",
    },
    "epoch": "first: images/s of the first epoch, filling the cache included; later: median of the other epochs",
}


# ------------------------------------------------------------------------------------------------- one run, in a fresh process
def run_lightly(job: dict[str, Any]) -> dict[str, Any]:
    """Run in LightlyTrain's environment, which has no edgekd."""
    import torch

    _declare_torchvision_operators()
    import lightly_train
    from lightly_train._commands import train_helpers
    from lightly_train._models.dinov2_vit.dinov2_vit_package import DINOV2_VIT_PACKAGE
    from pytorch_lightning import Callback

    # Version 1 reads the stock weights before those that it is given, and would fetch them if they were not here.
    weights = Path(os.environ["LIGHTLY_TRAIN_MODEL_CACHE_DIR"], "dinov2_vits14_pretrain.pth")
    torch.manual_seed(0)
    torch.save(DINOV2_VIT_PACKAGE.get_model("vits14-noreg", load_weights=False).state_dict(), weights)
    began, ended, epochs_s = 0.0, 0.0, list[float]()

    class Clock(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            nonlocal began
            began = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            nonlocal ended
            ended = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            epochs_s.append(ended - began)

    make_trainer = train_helpers.get_trainer
    train_helpers.get_trainer = lambda **given: make_trainer(**(given | {"callbacks": [Clock()]}))
    lightly_train.pretrain(
        out=f"{job['folder']}/out",
        data=job["images"] + "/train",
        model=f"timm/{job['student']}",
        model_args={"pretrained": False},
        method="distillationv1",
        method_args={"teacher": "dinov2/vits14-noreg", "teacher_weights": str(weights)},
        epochs=job["epochs"],
        batch_size=BATCH,
        num_workers=job["workers"],
        accelerator="cpu",
        devices=1,
        precision=job["precision"],
        loggers={"jsonl": None, "tensorboard": None},
        trainer_args={"enable_checkpointing": False, "enable_progress_bar": False},
    )
    return {
        "version": lightly_train.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "epochs_per_s": [job["count"] // BATCH * BATCH / seconds for seconds in epochs_s],
    }


def run_edgekd(job: dict[str, Any]) -> dict[str, Any]:
    """Run `edgekd distill` (by its function, so that progress can be timed) on a recipe in a folder of its own."""
    import torch
    from _stopwatch import Stopwatch, write_recipe

    from edgekd import __version__, pipeline

    folder = Path(job["folder"])
    sections = {
        "name": "speed",
        "data": {"use": "folder", "train": job["images"] + "/train", "val": job["images"] + "/val"},
        "teachers": [{"use": "timm", "model": "vit_small_patch14_dinov2", "weights": "random", "size": SIZE_PX}],
        "student": {"use": "timm", "model": job["student"], "weights": "random", "size": SIZE_PX},
        "method": {"use": "queue_similarity", "queue": QUEUE},
        "cache": {"views": job["views"], "folder": str(folder / "cache")},
        "train": {
            "duration": {"epochs": job["epochs"]},
            "batch": BATCH,
            "clip_norm": 1.0,
            "evaluate_every": 0.0,
            "augment": {"crop_area": [0.14, 1.0], "colour_jitter": 0.4, "mixup": 1.0},
        },
        "baseline": None,
    }
    watch = Stopwatch()
    checkpoint = pipeline.distill(write_recipe(folder / "speed.yaml", sections), out=folder / "run", console=watch)
    epochs_per_s = watch.training.passes_per_s(job["count"])
    found = {
        "version": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "teacher_precision": checkpoint.teachers[0].precision,
        "epochs_per_s": epochs_per_s,
    }
    if job["views"]:
        assert watch.fill is not None
        found["fill_per_s"] = watch.fill.per_s
        found["epochs_per_s"] = [1 / (1 / epochs_per_s[0] + job["views"] / watch.fill.per_s), *epochs_per_s[1:]]
    return found


def _declare_torchvision_operators() -> None:
    """Let torchvision's public wheel load beside a CPU build of torch: declare the two operators that it takes for granted."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        global _kept
        _kept = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _kept.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


RUNS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"lightly-train": run_lightly, "edgekd": run_edgekd}


# ------------------------------------------------------------------------------------------------------------- the comparison
def contenders(views: int) -> dict[str, dict[str, Any]]:
    """Return name -> job of everyone who runs."""
    lightly = {
        f"lightly-train {precision}, {workers} workers": {"tool": "lightly-train", "precision": precision, "workers": workers}
        for precision in PRECISIONS
        for workers in LIGHTLY_WORKERS
    }
    return lightly | {
        "edgekd online": {"tool": "edgekd", "views": 0},
        f"edgekd cached, {views} views": {"tool": "edgekd", "views": views},
    }


def fresh(job: dict[str, Any], *, python: str) -> dict[str, Any]:
    """Run one job in a fresh process and folder; add the seconds of the whole process."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        (Path(folder) / "models").mkdir()
        result = Path(folder) / "result.json"
        environment = os.environ | {
            "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
            "LIGHTLY_TRAIN_MODEL_CACHE_DIR": f"{folder}/models",
            "EDGEKD_CACHE": f"{folder}/edgekd",
        }
        began = time.perf_counter()
        command = [python, __file__, job["tool"], json.dumps(job | {"folder": folder}), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command[:3]} failed:\n{done.stderr[-3000:]}")
        return json.loads(result.read_text()) | {"process_s": round(time.perf_counter() - began, 1)}


def measure(student: str, options: argparse.Namespace, images: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of every contender, a run for each round."""
    jobs = contenders(options.views)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for number in range(options.rounds):
        names = [name for name in jobs if number == 0 or jobs[name]["tool"] == "edgekd" or name in quickest(jobs, runs)]
        for name in names if number % 2 == 0 else reversed(names):
            job = jobs[name] | {"student": student, "images": str(images), "count": options.images, "epochs": options.epochs}
            python = str(options.lightly) if job["tool"] == "lightly-train" else sys.executable
            found = fresh(job, python=python)
            runs[name].append(found)
            rates = "  ".join(f"{rate:.1f}" for rate in found["epochs_per_s"])
            fill = f"  fill {found['fill_per_s']:.1f}" if "fill_per_s" in found else ""
            print(f"{student}\t{name}\tround {number + 1}\t{rates}{fill}", flush=True)
    return runs


def quickest(jobs: dict[str, dict[str, Any]], runs: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Return, for each precision, the number of LightlyTrain's workers that was faster in the first round."""
    return {
        max((name for name in jobs if jobs[name].get("precision") == precision), key=lambda name: later(runs[name][0]))
        for precision in PRECISIONS
    }


def later(run: dict[str, Any]) -> float:
    """Return the images/s of the epochs after the first."""
    return statistics.median(run["epochs_per_s"][1:])


def table(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each contender; edgekd's ratios are to LightlyTrain's fastest, round by round."""
    from _stopwatch import spread

    full = max(len(found) for found in runs.values())
    rivals = [name for name in runs if name.startswith("lightly") and len(runs[name]) == full]
    best = max(rivals, key=lambda name: statistics.median(map(later, runs[name])))
    rows = []
    for name, found in runs.items():
        row: dict[str, Any] = {
            "contender": name,
            "first_images_per_s": spread([run["epochs_per_s"][0] for run in found]),
            "later_images_per_s": spread([later(run) for run in found]),
            "process_s": spread([run["process_s"] for run in found]),
        }
        if name.startswith("edgekd"):
            pairs = list(zip(found, runs[best], strict=True))
            row["against"] = best
            row["first_ratio"] = spread([ours["epochs_per_s"][0] / theirs["epochs_per_s"][0] for ours, theirs in pairs])
            row["later_ratio"] = spread([later(ours) / later(theirs) for ours, theirs in pairs])
        if "fill_per_s" in found[0]:
            row["fill_images_per_s"] = spread([run["fill_per_s"] for run in found])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--lightly", type=Path, required=True, help="the python of LightlyTrain's environment")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=320, help="training images, a multiple of 32")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--views", type=int, default=2, help="views of each image in edgekd's cache")
    parser.add_argument("--students", nargs="+", default=STUDENTS)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    if options.images % BATCH or options.epochs < 2:
        parser.error(f"--images must be a multiple of {BATCH}, and --epochs at least 2")
    from _stopwatch import machine, some_images, write_result

    facts = machine()
    protocol = PROTOCOL | {"images": options.images, "epochs": options.epochs, "rounds": options.rounds}
    students = []
    with tempfile.TemporaryDirectory(prefix="speed-images-") as folder:
        images = some_images(Path(options.data), Path(folder), train=options.images)
        for student in options.students:
            runs = measure(student, options, images)
            students.append({"student": student, "rows": table(runs), "runs": runs})
    result = {"machine": facts, "protocol": protocol, "students": students}
    print("wrote", write_result("lightly_train_speed", result, options.out))
    for student in students:
        for row in student["rows"]:
            rates = f"first {row['first_images_per_s']['median']:.1f}\tlater {row['later_images_per_s']['median']:.1f} images/s"
            ratio = f"\tx {row['first_ratio']['median']:.2f}\tx {row['later_ratio']['median']:.2f}" if "against" in row else ""
            print(f"{student['student']}\t{row['contender']}\t{rates}{ratio}")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in RUNS:
        Path(sys.argv[3]).write_text(json.dumps(RUNS[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        main()

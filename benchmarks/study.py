"""One table of a study: every recipe of a folder, several seeds, the same images and the same start for all.

    python benchmarks/study.py kdep_imagenette --data DIR [--seeds 0,1,2] [--jobs 2] [--rows svd,svd_pts] [--out DIR]
    python benchmarks/study.py kdep_imagenette --data DIR --tune 1e-3,3e-3,1e-2     rates, on images held out
    python benchmarks/study.py kdep_imagenette --data DIR --images 8000,16000,32000 a plot against images seen

A row is one YAML of `studies/<study>/`; a row called `start` is run first, and the others begin with its checkpoint of the same
seed. A row called `teacher` is run before everything, once for all seeds: `TEACHER/` in a recipe stands for the folder of its
checkpoint, `DATA/` for the folder given by `--data` (or EDGEKD_DATA). What is done is kept, so the command can be stopped and
given again; on another machine `--keep RESULT.json` takes over the rows of a table that was half made, each with its commit.
Every run is `edgekd distill` in a process of its own with one thread.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).parent
TUNING_SEED = 100
TEACHER_SEED = 0
FIRST = ("teacher", "start")
SETTING = re.compile(r"([a-z]+)_((?:0|[1-9]\d*)(?:\.\d+)?)")
"""A row that stands for one value of one setting: `n_3`, `t_0.1`; `net_03` is a name."""


def main() -> None:
    options = _options()
    study = HERE / "studies" / options.study
    rows = sorted(path.stem for path in study.glob("*.yaml"))
    if not rows:
        sys.exit(f"{study}: holds no recipes; there are {', '.join(sorted(p.name for p in study.parent.iterdir()))}")
    chosen = [row for row in rows if row in (options.rows or rows)]
    if options.tune:
        _tune(study, [row for row in chosen if row not in FIRST], options)
        return
    first = _first(study, chosen)
    teachers = [("teacher", TEACHER_SEED, {})] if "teacher" in first else []
    starts = [("start", seed, {}) for seed in options.seeds] if "start" in first else []
    budgets = [{"train.duration.images": images} for images in options.images] or [{}]
    runs = [(row, seed, budget) for budget in budgets for seed in options.seeds for row in chosen if row not in FIRST]
    done = _all(study, teachers, options) + _all(study, starts, options) + _all(study, runs, options)
    table = dict[tuple[str, int], list[dict[str, Any]]]()
    for found in done:
        table.setdefault((found["row"], found["images_seen"]), []).append(found)
    _print(table)
    _write(f"{options.study}_by_images_seen" if options.images else options.study, table, study)
    if options.images:
        _plot(table, HERE / f"{options.study}_by_images_seen.svg")
    elif all(SETTING.fullmatch(row) for row, _ in table):
        _plot_settings(table, HERE / f"{options.study}.svg")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), help="folder of the data (EDGEKD_DATA)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these rows")
    parser.add_argument("--tune", type=lambda text: text.split(","), help="learning rates to try")
    parser.add_argument("--images", type=lambda text: text.split(","), default=[], help="numbers of images to see")
    parser.add_argument("--collect", action="store_true", help="run nothing; make the table of the runs that are there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, action="append", default=[], metavar="RESULT.json", help="take over its rows")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data or set EDGEKD_DATA")
    options.data = Path(options.data).resolve()
    options.kept = {_which(found): found for path in options.keep for found in _runs_in(path)}
    return options


def _runs_in(path: Path) -> list[dict[str, Any]]:
    """Return the runs of an earlier table, each with what made it; `start` and `teacher` are needed anew, for their weights."""
    table = json.loads(path.read_text())
    runs = [{"made_by": table["made_by"], **found} for row in table["rows"] for found in row["seeds"]]
    return [found for found in runs if found["row"] not in FIRST]


def _which(found: dict[str, Any]) -> str:
    return json.dumps([found["row"], found["seed"], found["changes"]], sort_keys=True)


def _tune(study: Path, rows: list[str], options: argparse.Namespace) -> None:
    """Try each rate once, on a tenth of the training images held out with their labels; the test images are not touched."""
    held_out = {"data.val": "null", "data.val_fraction": "0.1"}
    for first in _first(study, rows):
        _all(study, [(first, TUNING_SEED, held_out)], options)
    tried = [(row, TUNING_SEED, {**held_out, "train.lr": rate}) for row in rows for rate in options.tune]
    done = _all(study, tried, options)
    for row in rows:
        print(row, {found["changes"]["train.lr"]: found[_judged_by(found)] for found in done if found["row"] == row})
    path = HERE / f"{study.name}_tuning_{_machine()}_{datetime.now(UTC):%Y-%m-%d}.json"
    table = {"made_by": _made_by(), "held_out": held_out, "set": options.assignments, "runs": done}
    path.write_text(json.dumps(table, indent=1) + "\n")


def _first(study: Path, rows: list[str]) -> list[str]:
    """Return which of `teacher` and `start` these rows need; the teacher is asked for by its folder."""
    needed = {"start": True, "teacher": "teacher" in rows or any("TEACHER/" in _text(study, row) for row in rows)}
    return [first for first in FIRST if needed[first] and (study / f"{first}.yaml").is_file()]


def _text(study: Path, row: str) -> str:
    return (study / f"{row}.yaml").read_text()


def _all(study: Path, runs: list[tuple[str, int, dict[str, str]]], options: argparse.Namespace) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        found = pool.map(lambda run: _one(study, *run, options=options), runs)
        return [one for one in found if one is not None]


def _one(study: Path, row: str, seed: int, changes: dict[str, str], *, options: argparse.Namespace) -> dict[str, Any] | None:
    if kept := options.kept.get(_which({"row": row, "seed": seed, "changes": changes})):
        return kept
    tuning = "data.val" in changes
    tag = f"_tune_{changes.get('train.lr', '')}" if tuning else ""
    if "train.duration.images" in changes:
        tag = f"_{changes['train.duration.images']}"
    folder = options.out / study.name / f"{row}_seed{seed}{tag}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe = folder.with_suffix(".yaml")
    teacher = options.out / study.name / (f"teacher_seed{TUNING_SEED}_tune_" if tuning else f"teacher_seed{TEACHER_SEED}")
    text = _text(study, row).replace("TEACHER/", f"{teacher.resolve()}/checkpoint/")
    recipe.write_text(text.replace("DATA/", f"{options.data}/"))
    settings = {"seed": str(seed), **changes}
    if row not in FIRST and (study / "start.yaml").is_file():
        start = options.out / study.name / f"start_seed{seed}{'_tune_' if tuning else ''}"
        settings["start.checkpoint"] = str((start / "checkpoint/checkpoint.json").resolve())
    command = [
        sys.executable,
        "-c",
        "from edgekd.cli import main; main()",
        "distill",
        str(recipe),
        "--out",
        str(folder),
        "--quiet",
    ]
    for assignment in [f"{key}={value}" for key, value in settings.items()] + options.assignments:
        command += ["--set", assignment]
    if not options.collect:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # one thread each: two processes do not slow each other down
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{row}, seed {seed}:\n{done.stderr}")
    path = folder / "checkpoint/checkpoint.json"
    if options.collect and not path.is_file():
        return None
    record = json.loads(path.read_text())
    found = {
        "row": row,
        "seed": seed,
        "changes": changes,
        "method": record["method"],
        "top1": record["accuracy"]["top1_correct"] / record["accuracy"]["images"],
        "probe_top1": record["probe_top1"],
        "knn_top1": record["knn_top1"],
        "head": record["head"],
        "images_seen": record["training"]["images_seen"],
        "final_loss": record["training"]["final_loss"],
        "teacher_probe_top1": [teacher["probe_top1"] for teacher in record["teachers"]],
    }
    print(
        f"{row:24} seed {seed} {tag:8} top-1 {found['top1']:.3f}  probe {found['probe_top1']:.3f}  kNN {found['knn_top1']:.3f}"
    )
    sys.stdout.flush()
    return found


def _judged_by(found: dict[str, Any]) -> str:
    """Return the figure that a row is judged by: top-1 where the method trains a head, else the probe on its features."""
    return "top1" if found["head"] == "trained" else "probe_top1"


def _print(table: dict[tuple[str, int], list[dict[str, Any]]]) -> None:
    print("\n| row | images seen | top-1 | linear probe | kNN |\n|---|---|---|---|---|")
    for (row, images), found in table.items():
        cells = [_mean_sd([one[key] for one in found]) for key in ("top1", "probe_top1", "knn_top1")]
        print(f"| {row} | {images} | {' | '.join(cells)} |")


def _plot(table: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for row in dict.fromkeys(row for row, _ in table):
        points = sorted(
            (images, 100 * statistics.mean(one["probe_top1"] for one in found))
            for (name, images), found in table.items()
            if name == row
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=row)
    axes.set(xscale="log", xlabel="images seen", ylabel="linear probe, % of validation images")
    _ticks_at(axes, sorted({images for _, images in table}))
    axes.legend(fontsize="small")
    figure.savefig(path)


def _plot_settings(table: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = dict[str, list[tuple[float, float]]]()
    for (row, _), found in table.items():
        name, value = cast(re.Match[str], SETTING.fullmatch(row)).groups()
        panels.setdefault(name, []).append((float(value), 100 * statistics.mean(one["probe_top1"] for one in found)))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.5), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (name, points) in zip(axes[0], panels.items(), strict=True):
        panel.plot(*zip(*sorted(points), strict=True), marker="o")
        panel.set(xscale="log", xlabel=name)
        _ticks_at(panel, [value for value, _ in points])
    axes[0, 0].set_ylabel("linear probe, % of validation images")
    figure.savefig(path)


def _ticks_at(axes: Any, values: list[float]) -> None:
    axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _mean_sd(values: list[float]) -> str:
    spread = f" ({100 * statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _write(name: str, table: dict[tuple[str, int], list[dict[str, Any]]], study: Path) -> None:
    path = HERE / f"{name}_{_machine()}_{datetime.now(UTC):%Y-%m-%d}.json"
    rows = [
        {"row": row, "recipe": f"studies/{study.name}/{row}.yaml", "images_seen": images, "seeds": found}
        for (row, images), found in table.items()
    ]
    path.write_text(json.dumps({"made_by": _made_by(), "rows": rows}, indent=1) + "\n")
    print(f"\nwrote {path.name}")


def _machine() -> str:
    return f"{platform.machine()}-{os.cpu_count()}core"


def _made_by() -> dict[str, Any]:
    from edgekd.core.host import made_by

    return made_by(["benchmarks/study.py"]).model_dump(mode="json")


if __name__ == "__main__":
    main()

"""int8 of a distilled MobileNetV3-small: the naive path, the search, and distillation that went on with int8 in view.

    python benchmarks/int8_aware.py --data DATA [--images 25600] [--epochs 4] [--seeds 0 1 2] [--out FILE]

DATA holds imagenette160/{train,val} and weights/. ViT-Tiny teaches through its probe; the student sees so many images at 96 px.
Then it is exported in fp32 and int8 (once as it is, once trained on for some epochs with fake quantisation, same method, same
kept answers), and each artifact answers the 800 validation photographs through its own runtime. A drop is in points of top-1
against the fp32 artifact of the same runtime and seed. The naive candidate (per tensor, signed, extremes) is judged on half the
photographs, like every candidate of the search, against fp32 on the same half. How long the four exports take is in the file.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _stopwatch import machine, write_result

from edgekd import pipeline
from edgekd.core.console import Console
from edgekd.core.records import Report
from edgekd.core.store import RunFolder, read_record

RUNTIMES = ("onnxruntime", "openvino")
RECIPE = """\
name: int8-aware
seed: {seed}
data: {{use: folder, train: {data}/imagenette160/train, val: {data}/imagenette160/val}}
teachers:
  - use: timm
    model: vit_tiny_patch16_224.augreg_in21k_ft_in1k
    weights: {data}/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors
student: {{use: timm, model: mobilenetv3_small_100, weights: random, size: 96}}
method: {{use: kd, temperature: 2.0}}
cache: {{views: 4}}
train: {{duration: {{images: {images}}}, batch: 32, lr: 6e-3, weight_decay: 0.05, warmup: 0.1, clip_norm: 2.0}}
finetune: {finetune}
baseline: null
export:
  - {{use: onnxruntime}}
  - {{use: onnxruntime, precision: int8, quantise: {quantise}}}
  - {{use: openvino}}
  - {{use: openvino, precision: int8, quantise: {quantise}}}
bench: {{threads: 1, profile: quick}}
"""
# A slower one is wanted too; one that loses more than a point is refused, and stands in the table all the same.
QUANTISE = "{images: 300, keep_slower: true}"


def rows_of(report: Report, *, aware: bool, seed: int) -> list[dict[str, Any]]:
    """Return each runtime's int8 artifact beside its fp32 one."""
    made = {artifact.name: artifact for artifact in report.artifacts}
    p50_ms = {found.artifact: found.p50_ms for found in report.latencies}
    rows = []
    for runtime in RUNTIMES:
        clean, int8 = made[f"{runtime}-fp32"], made[f"{runtime}-int8"]
        search = int8.quantisation
        assert clean.accuracy is not None
        assert int8.accuracy is not None
        assert search is not None
        naive = next(one for one in search.candidates if one.top1_correct is not None)
        chosen = next(one for one in search.candidates if one.outcome == "chosen")
        assert naive.top1_correct is not None
        rows.append(
            {
                "runtime": runtime,
                "aware": aware,
                "seed": seed,
                "images": clean.accuracy.images,
                "fp32_top1": clean.accuracy.top1,
                "int8_top1": int8.accuracy.top1,
                "drop_points": 100 * (clean.accuracy.top1 - int8.accuracy.top1),
                "chosen": chosen.name,
                "refused": search.refused,
                "first_of_grid": naive.name,
                "first_of_grid_drop_points": 100 * (search.float_top1_correct - naive.top1_correct) / search.judged_images,
                "judged_images": search.judged_images,
                "fp32_p50_ms": p50_ms[clean.name],
                "int8_p50_ms": p50_ms[int8.name],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--images", type=int, default=25600, help="images seen in distillation")
    parser.add_argument("--epochs", type=float, default=4.0, help="of training on with int8 in view")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    facts, rows, exports_s = machine(), list[dict[str, Any]](), list[float]()
    with tempfile.TemporaryDirectory(prefix="int8-aware-") as temporary:
        for seed in options.seeds:
            recipe, out = Path(temporary) / f"{seed}.yaml", Path(temporary) / f"run{seed}"
            # The second recipe differs in `finetune` alone, so the student of the first run is kept.
            for finetune in ("null", f"{{duration: {{epochs: {options.epochs}}}}}"):
                settings = {"seed": seed, "data": Path(options.data).resolve(), "images": options.images}
                recipe.write_text(RECIPE.format(**settings, finetune=finetune, quantise=QUANTISE))
                pipeline.distill(recipe, out=out, console=Console())
                began = time.perf_counter()
                pipeline.export(out, console=Console())
                exports_s.append(round(time.perf_counter() - began, 1))
                pipeline.run(recipe, out=out, console=Console())
                rows += rows_of(read_record(Report, RunFolder(out).report), aware=finetune != "null", seed=seed)
    protocol = {"images_seen": options.images, "aware_epochs": options.epochs, "size_px": 96, "threads": 1}
    result = {"machine": facts, "protocol": protocol, "exports_s": exports_s, "rows": rows}
    print("wrote", write_result("int8_aware", result, options.out))
    print(f"four exports (the second of each seed makes the int8 ones anew): {exports_s} s")
    for runtime in RUNTIMES:
        for aware in (False, True):
            found = [row for row in rows if row["runtime"] == runtime and row["aware"] == aware]
            drops = [row["drop_points"] for row in found]
            naive = [row["first_of_grid_drop_points"] for row in found]
            print(
                f"{runtime}\t{'trained on for int8' if aware else 'as distilled'}\tdrop {statistics.mean(drops):.2f} points"
                f" ({min(drops):.2f} to {max(drops):.2f})\tfirst of the grid {statistics.mean(naive):.2f}"
            )


if __name__ == "__main__":
    main()

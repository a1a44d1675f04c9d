"""Ten MobileNet-class students, exported, held against torch and measured through both runtimes.

    python benchmarks/ten_students.py --data DATA [--images 1920] [--lr 2e-3] [--size 224] [--students NAME ...] [--runs DIR]

DATA holds imagenette160/{train,val}. Every student starts from random weights and is trained on so many images with their
labels, so that its answers differ from image to image: untrained networks answer all images alike, and agree for no reason.
The table says how large a part of the images gets the answer that a student gives most. How right it is is not the point here.
Agreement is that of the first answer on the 800 validation photographs; latency is the median of one thread. A student that
fails stays in the table, with the error's words. What is finished in `--runs` is not done again.
"""

import argparse
import os
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from _stopwatch import machine, write_result

from edgekd import pipeline
from edgekd.core.console import Console
from edgekd.core.errors import EdgekdError
from edgekd.core.predictions import read_answers
from edgekd.core.records import Artifact, Report
from edgekd.core.store import RunFolder, read_record

STUDENTS = (
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "mobileone_s0",
    "repvit_m0_9",
    "ghostnetv2_100",
    "fastvit_t8",
    "efficientformerv2_s0",
)
RECIPE = """\
name: {name}
data: {{use: folder, train: {data}/imagenette160/train, val: {data}/imagenette160/val}}
student: {{use: timm, model: {name}, weights: random, size: {size}}}
method: {{use: supervised}}
train: {{duration: {{images: {images}}}, batch: 32, lr: {lr}, clip_norm: 2.0}}
baseline: null
export:
  - {{use: onnxruntime}}
  - {{use: openvino}}
bench: {{threads: 1, profile: quick}}
"""


def rows_of(name: str, run: RunFolder) -> list[dict[str, Any]]:
    """Return what each runtime made of one student."""
    report = read_record(Report, run.report)
    measured = {found.artifact: found for found in report.latencies}
    return [{"student": name, **row(artifact, run, measured[artifact.name].p50_ms)} for artifact in report.artifacts]


def row(artifact: Artifact, run: RunFolder, p50_ms: float | None) -> dict[str, Any]:
    """Return an artifact's agreement with torch, the part of its commonest answer, its accuracy, size and latency."""
    assert artifact.parity is not None
    assert artifact.accuracy is not None
    answers = read_answers(artifact.accuracy, folder=run.artifact(artifact.name).parent)
    said = Counter(answer.said for answer in answers.values())
    return {
        "artifact": artifact.name,
        "runtime": artifact.runtime,
        "images": artifact.parity.images,
        "top1_agreements": artifact.parity.top1_agreements,
        "commonest_answers": said.most_common(1)[0][1],
        "max_abs": artifact.parity.max_abs,
        "parity": artifact.parity.decision.outcome if artifact.parity.decision else None,
        "top1": artifact.accuracy.top1,
        "size_bytes": artifact.size_bytes,
        "opset": artifact.opset,
        "p50_ms": p50_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--images", type=int, default=1920, help="images seen in training")
    parser.add_argument("--lr", type=float, default=2e-3, help="its highest learning rate")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="NAME")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    facts, rows = machine(), list[dict[str, Any]]()
    if options.runs:
        options.runs.mkdir(parents=True, exist_ok=True)
    with nullcontext(options.runs) if options.runs else tempfile.TemporaryDirectory(prefix="ten-students-") as temporary:
        for name in options.students:
            recipe, out = Path(temporary) / f"{name}.yaml", Path(temporary) / name
            settings = {"images": options.images, "lr": options.lr, "size": options.size}
            recipe.write_text(RECIPE.format(name=name, data=Path(options.data).resolve(), **settings))
            try:
                pipeline.run(recipe, out=out, console=Console())
            except EdgekdError as error:
                rows.append({"student": name, "error": str(error)})
                continue
            rows += rows_of(name, RunFolder(out))
    protocol = {"images_seen": options.images, "lr": options.lr, "size_px": options.size, "threads": 1}
    print("wrote", write_result("ten_students", {"machine": facts, "protocol": protocol, "rows": rows}, options.out))
    for one in rows:
        told = one.get("error") or (
            f"{one['artifact']}\t{one['top1_agreements']}/{one['images']} agree\tmax abs {one['max_abs']:.1e}\t"
            f"commonest answer {one['commonest_answers']}\t"
            f"p50 {one['p50_ms']:.2f} ms\t{one['size_bytes'] / 1e6:.1f} MB"
        )
        print(f"{one['student']}\t{told}")


if __name__ == "__main__":
    main()

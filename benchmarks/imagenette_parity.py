"""Do the runtimes answer like torch? ViT-Tiny teaches MobileNetV2 on Imagenette; 800 validation photographs through each.

    python benchmarks/imagenette_parity.py --data DATA [--images 640] [--out DIR]

DATA holds imagenette160/{train,val} and weights/. The result is written beside this file.
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

from edgekd import run
from edgekd.core.host import device_facts
from edgekd.core.records import Report
from edgekd.core.store import RunFolder, read_record

RECIPE = """\
name: imagenette-parity
data: {{use: folder, train: {data}/imagenette160/train, val: {data}/imagenette160/val}}
teachers:
  - use: timm
    model: vit_tiny_patch16_224.augreg_in21k_ft_in1k
    weights: {data}/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors
    sha256: a22e9b3685d1feca11a382fbed2db95defc965fe037c026069331b6c243268a6
    size: 160
    precision: bf16
student:
  use: timm
  model: mobilenetv2_100
  weights: {data}/weights/mobilenetv2_100.imagenet1k.safetensors
  sha256: 9b27c74630bc198a5a8c070d3e925732b3e0dcb151c98485437ca097309d1a67
  size: 224
method: {{use: kd, temperature: 2.0}}
train: {{duration: {{images: {images}}}, batch: 32, lr: 5e-4, clip_norm: 2.0}}
export:
  - {{use: torch, precision: fp32}}
  - {{use: onnxruntime, precision: fp32}}
  - {{use: onnxruntime, precision: fp16}}
  - {{use: openvino, precision: fp32}}
  - {{use: openvino, precision: fp16}}
bench: {{threads: 1, profile: quick}}
budgets:
  - {{metric: parity.top1_agreement, min_counted: 99.5%}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--images", type=int, default=640, help="images seen by the student")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenette-parity"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    recipe = options.out.with_suffix(".yaml")
    recipe.write_text(RECIPE.format(data=Path(options.data).resolve(), images=options.images))
    run(recipe, out=options.out)
    report = read_record(Report, RunFolder(options.out).report)
    p50_ms = {latency.artifact: (latency.p50_ms, latency.trusted) for latency in report.latencies}
    rows = [
        {
            "artifact": artifact.name,
            "runtime": artifact.runtime,
            "executed_precision": artifact.executed_precision,
            "images": artifact.parity.images,
            "agreements": artifact.parity.top1_agreements,
            "max_abs": artifact.parity.max_abs,
            "logit_cosine_min": artifact.parity.logit_cosine_min,
            "top1": artifact.accuracy.top1,
            "size_bytes": artifact.size_bytes,
            "p50_ms": p50_ms[artifact.name][0],
            "latency_trusted": p50_ms[artifact.name][1],
        }
        for artifact in report.artifacts
    ]
    facts = device_facts()
    result = {
        "what": "imagenette_parity",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": report.made_by.git,
        "cpu": facts.cpu,
        "cores": facts.usable_cores,
        "student_top1": report.student.accuracy.top1,
        "baseline_top1": report.baseline.accuracy.top1 if report.baseline else None,
        "images_seen": report.student.training.images_seen,
        "rows": rows,
    }
    machine = f"{platform.machine()}-{facts.usable_cores}core"
    out = Path(__file__).with_name(f"imagenette_parity_{machine}_{result['date']}.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(*(f"{value}" for value in row.values()), sep="\t")


if __name__ == "__main__":
    main()

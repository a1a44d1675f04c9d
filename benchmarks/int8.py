"""int8 of MobileNetV2 (ImageNet weights, 1,000 classes) through each runtime: accuracy, speed, and every candidate tried.

    python benchmarks/int8.py --data DATA [--images 300] [--threads 1] [--out FILE]

DATA holds imagenette160/{train,val} and weights/. The float graph is taken up as a foreign ONNX file would be, judged on the
800 validation photographs among all 1,000 classes, and exported in fp32 and int8; ranges come from training photographs.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _imagenet_student import write_model
from _stopwatch import machine, write_result

from edgekd import importing, pipeline
from edgekd.core.console import Console
from edgekd.core.records import Artifact, Measurement
from edgekd.importing import Images

RUNTIMES = ("onnxruntime", "openvino")


def row(artifact: Artifact, measured: Measurement) -> dict[str, Any]:
    """Return an artifact's own figures and the search behind it."""
    assert artifact.accuracy is not None
    search = artifact.quantisation
    return {
        "artifact": artifact.name,
        "runtime": artifact.runtime,
        "executed_precision": artifact.executed_precision,
        "images": artifact.accuracy.images,
        "top1": artifact.accuracy.top1,
        "p50_ms": statistics.median(worker.p50_ns for worker in measured.workers if worker.p50_ns is not None) / 1e6,
        "trusted": measured.trusted,
        "untrusted_because": measured.untrusted_because,
        "size_bytes": artifact.size_bytes,
        "search": search.model_dump(mode="json") if search is not None else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--images", type=int, default=300, help="images that ranges are found on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    options = parser.parse_args()
    data, facts = Path(options.data).resolve(), machine()
    asked = [f"{{use: {use}}}, {{use: {use}, precision: int8, quantise: {{images: {options.images}}}}}" for use in RUNTIMES]
    with tempfile.TemporaryDirectory(prefix="int8-") as temporary:
        folder = Path(temporary)
        model = write_model(data, folder)
        images = Images(data=data / "imagenette160/train", val=data / "imagenette160/val", classes=folder / "classes.tsv")
        settings = (f"export=[{', '.join(asked)}]", f"bench.threads={options.threads}", "bench.profile=quick")
        run, _ = importing.import_onnx(
            model, images, contract=folder / "contract.yaml", out=folder / "run", assignments=settings, console=Console()
        )
        began = time.perf_counter()
        artifacts = pipeline.export(run)
        export_s = time.perf_counter() - began
        measured = {found.artifact: found for found in pipeline.bench(run)}  # by the digest of what was measured
        rows = [row(artifact, measured[artifact.digest()]) for artifact in artifacts]
    protocol = {"calibration_images": options.images, "threads": options.threads, "export_s": round(export_s, 1)}
    print("wrote", write_result("int8", {"machine": facts, "protocol": protocol, "rows": rows}, options.out))
    for one in rows:
        print(f"{one['artifact']}\ttop-1 {100 * one['top1']:.2f} %\tp50 {one['p50_ms']:.2f} ms\t{one['executed_precision']}")


if __name__ == "__main__":
    main()

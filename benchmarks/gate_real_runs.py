"""The gate over real runs: unchanged code, a student made slower by widening, students made less accurate by noise.

    python benchmarks/gate_real_runs.py --data DATA [--gates 20] [--slower 10] [--size 128] [--parts same slower]
                                        [--images all] [--out FILE]

DATA holds imagenette160/{train,val} and weights/. The student is MobileNetV2 with its ImageNet weights, taken up as an ONNX
file and judged on the 800 validation photographs among 1,000 classes (`--images all`: on all 3,300, the training ones too:
nobody trains here, and what counts is the difference to the baseline). Every gate is what CI does: `edgekd bench` in turns with
the baseline run, then `edgekd gate` by eight budgets.

large:   four artifacts x two runtimes x eight budgets, of the same file taken up and exported once more; wall time counts.
same:    one artifact for each runtime, measured and judged again and again; a failure is a false alarm.
slower:  the same network with more channels inside each block (--wider 0.14), which answers alike; not failing is a miss.
worse:   weights with noise, until top-1 is 3 points lower (must fail) or 0.2 (inconclusive or passed); nothing is timed.

Workers are shorter than those of the profile `gate` (half a second instead of six), which makes noise larger, never smaller.
What FILE holds of parts that are not asked for stays in it, if the protocol is the same.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from _imagenet_student import noisy, widened, write_model
from _stopwatch import machine, write_result

from edgekd import importing, pipeline, verdicts
from edgekd.core.console import Console
from edgekd.core.records import Artifact, Verdict
from edgekd.core.store import RunFolder, read_record
from edgekd.importing import Images

RUNTIMES = ("onnxruntime", "openvino")
SMALL = [{"use": use} for use in RUNTIMES]
KINDS = ({}, {"precision": "fp16"}, {"precision": "int8", "quantise": {"images": 200, "keep_slower": True}})
LARGE = [{"use": use, **kind} for use in RUNTIMES for kind in (*KINDS, {"batch": 1, "name": f"{use}-batch1"})]
BENCH = {"profile": "gate", "threads": 1, "warmup": 50, "iterations": 450, "reference": False}
BUDGETS = """\
version: 1
budgets:
  - {id: not-slower, metric: latency.p50, max_ratio: {to: baseline, value: 1.05}}
  - {id: fast, metric: latency.p50, max: 50ms}
  - {id: even, metric: latency.p90, max: 100ms}
  - {id: whole-way, metric: latency.e2e.p50, max: 100ms}
  - {id: not-worse, metric: accuracy.top1, max_drop: {to: baseline, points: 0.5}}
  - {id: good, metric: accuracy.top1, min: 40%}
  - {id: small, metric: size.bytes, max: 16MB}
  - {id: parity, metric: parity.top1_agreement, min_counted: 85%}
"""
LATENCY, ACCURACY = "not-slower", "not-worse"
PARTS = ("worse", "same", "slower", "large")


class Bed:
    """Where models, runs and budgets lie."""

    def __init__(self, data: Path, folder: Path, size: int, *, all_images: bool) -> None:
        self.data, self.folder, self.size = data, folder, size
        self.images = data / "imagenette160"
        if all_images:
            self.images = folder / "all"
            for half in ("train", "val"):
                for image in (data / "imagenette160" / half).glob("*/*"):
                    (self.images / image.parent.name).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(image, self.images / image.parent.name / f"{half}-{image.name}")
        self.budgets = folder / "budgets.yaml"
        self.budgets.write_text(BUDGETS)

    def run_of(self, name: str, changed: Any, exports: list[dict[str, Any]]) -> Path:
        """Take a network up as a file from outside, and export it."""
        folder = self.folder / name
        model = write_model(self.data, folder, size=self.size, changed=changed)
        run, _ = importing.import_onnx(
            model,
            Images(data=self.images, classes=folder / "classes.tsv"),
            contract=folder / "contract.yaml",
            out=folder / "run",
            assignments=(f"export={json.dumps(exports)}", f"bench={json.dumps(BENCH)}"),
            console=Console(quiet=True),
        )
        pipeline.export(run, console=Console(quiet=True))
        return run

    def gate(self, run: Path, baseline: Path, *, timed: bool = True) -> dict[str, Any]:
        """Measure anew in turns with the baseline, judge, and return what came of it."""
        began = time.perf_counter()
        if timed:
            shutil.rmtree(RunFolder(run).root / "measurements", ignore_errors=True)
            pipeline.bench(run, against=baseline, console=Console(quiet=True))
        measured_s = time.perf_counter() - began
        verdicts.report(run, console=Console(quiet=True))
        began = time.perf_counter()
        verdict = verdicts.gate(run, budgets=self.budgets, baseline=str(baseline), console=Console(quiet=True))
        return {"measured_s": round(measured_s, 1), "judged_s": round(time.perf_counter() - began, 2), **told(verdict)}

    def top1(self, run: Path) -> float:
        """Return the accuracy through ONNX Runtime in fp32."""
        artifact = read_record(Artifact, RunFolder(run).artifact("onnxruntime-fp32"))
        assert artifact.accuracy is not None
        return artifact.accuracy.top1


def told(verdict: Verdict) -> dict[str, Any]:
    """Return the outcome of each budget, and the findings of those that did not pass."""
    of: dict[str, list[str]] = {}
    for finding in verdict.findings:
        of.setdefault(finding.id, []).append(finding.outcome)
    return {
        "outcome": verdict.outcome,
        "findings": len(verdict.findings),
        "budgets": {name: sorted(set(outcomes)) for name, outcomes in of.items()},
        "because": [
            f"{one.id} {one.subject}: {one.outcome}: {one.because}" for one in verdict.findings if one.outcome != "pass"
        ],
    }


def worse_by(bed: Bed, points: float, within: float, baseline: Path, seed: int) -> tuple[Path, float]:
    """Return a run whose top-1 is so many points below the baseline's: the amount of noise is found by halving."""
    low, high, wanted = 0.0, 0.05, 100 * bed.top1(baseline) - points
    for step in range(14):
        amount = (low + high) / 2
        name = f"worse-{points:g}-{seed}-{step}"
        run = bed.run_of(name, lambda net, amount=amount: noisy(net, amount, seed), [{"use": "onnxruntime"}])
        found = 100 * bed.top1(run)
        print(f"noise {amount:.4f}, seed {seed}: {found:.2f} %, wanted {wanted:.2f} %", flush=True)
        if abs(found - wanted) <= within:
            break
        shutil.rmtree(bed.folder / name)
        low, high = (amount, high) if found > wanted else (low, amount)
    else:
        raise SystemExit(f"no amount of noise costs {points:g} points with seed {seed}")
    return run, 100 * bed.top1(baseline) - found


def repeated(bed: Bed, what: str, run: Path, baseline: Path, times: int) -> list[dict[str, Any]]:
    """Return what so many gates said."""
    rows = []
    for number in range(times):
        rows.append(bed.gate(run, baseline))
        print(f"{what} {number + 1}: {rows[-1]['outcome']} in {rows[-1]['measured_s']} s; {rows[-1]['budgets']}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--gates", type=int, default=20, help="of unchanged code")
    parser.add_argument("--slower", type=int, default=10, help="gates of the wider student")
    parser.add_argument("--wider", type=float, default=0.14, help="share of channels added inside each block")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3, help="students made worse, of each kind")
    parser.add_argument("--worse", type=float, nargs="+", default=[3.0, 0.2], help="by how many points")
    parser.add_argument("--images", choices=("val", "all"), default="val")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: beside this file)")
    asked = parser.parse_args()
    facts, rows = machine(), dict[str, list[dict[str, Any]]]()
    protocol = {"size_px": asked.size, "bench": BENCH, "budgets": BUDGETS}
    if asked.out and asked.out.is_file() and (before := json.loads(asked.out.read_text()))["protocol"] == protocol:
        rows = before["gates"]
    with tempfile.TemporaryDirectory(prefix="gates-") as temporary:
        bed = Bed(Path(asked.data).resolve(), Path(temporary), asked.size, all_images=asked.images == "all")
        as_it_is = lambda net: net  # noqa: E731
        if "worse" in asked.parts:
            only = bed.run_of("only", as_it_is, [{"use": "onnxruntime"}])
            for points in asked.worse:
                within = min(0.25, 0.65 * points) if asked.images == "val" else min(0.1, points / 2)
                found = rows[f"worse by {points:g} points, judged on {asked.images}"] = []
                for seed in range(asked.seeds):
                    run, drop = worse_by(bed, points, within, only, seed)
                    found.append({"drop_points": round(drop, 3), **bed.gate(run, only, timed=False)})
                    print(f"worse by {drop:.2f} points: {found[-1]['budgets'][ACCURACY]}", flush=True)
        if {"same", "slower"} & {*asked.parts}:
            base = bed.run_of("base", as_it_is, SMALL)
        if "same" in asked.parts:
            rows["same"] = repeated(bed, "same", bed.run_of("same", as_it_is, SMALL), base, asked.gates)
        if "slower" in asked.parts:
            slower = bed.run_of("slower", lambda net: widened(net, asked.wider), SMALL)
            rows[f"slower by {asked.wider:.0%} of channels"] = repeated(bed, "slower", slower, base, asked.slower)
        if "large" in asked.parts:
            large_base = bed.run_of("large-base", as_it_is, LARGE)
            rows["large"] = repeated(bed, "large", bed.run_of("large", as_it_is, LARGE), large_base, 1)
    print("wrote", write_result("gate_real_runs", {"machine": facts, "protocol": protocol, "gates": rows}, asked.out))
    for what, of in rows.items():
        decided = ACCURACY if what.startswith("worse") else LATENCY
        outcomes = [outcome for one in of for outcome in one["budgets"][decided]]
        print(f"{what}: {len(of)} gates, {decided}: " + ", ".join(f"{outcomes.count(o)} {o}" for o in sorted(set(outcomes))))


if __name__ == "__main__":
    main()

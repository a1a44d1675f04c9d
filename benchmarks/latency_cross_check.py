"""edgekd's latencies beside those of the vendors' own tools: same model, threads and precision, in turns, in one run.

    python benchmarks/latency_cross_check.py [--model FILE.onnx] [--rounds 7] [--seconds 3] [--threads 1] [--out FILE]

onnxruntime: a bare loop over `session.run`, with nothing between two calls but reading the clock.
openvino:    `benchmark_app -api sync` with one stream (what its hint `latency` sets), which times `infer()`;
             edgekd's query also copies the answer out.

In each round every tool is one fresh process on the same cores, and they take turns of a fifth of a second: all but one are
stopped. That breaks one query in so many, which a median does not feel, and a neighbour of the machine slows all of them down.
The warm-up takes a third of the time. The ratio is edgekd's median over the tool's, round by round, as geometric mean with a
95 % interval; the two agree if it is within 3 %. Without
--model the pinned reference model is taken, its batch fixed to 1. All are fed made-up images: the bare loop the same 32 in turn
as edgekd, benchmark_app one of its own again and again, so edgekd is also fed one, which is what is compared. The row with 32
says what that one image, always in the processor's cache, leaves out.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import onnx
from _stopwatch import machine, write_result

from edgekd.benching import worker
from edgekd.benching.answers import read_answer, samples_of
from edgekd.benching.devices.local import Local
from edgekd.benching.inputs import Fed
from edgekd.benching.reference import reference_model
from edgekd.benching.subjects import Load, Subject, environment, plan_of
from edgekd.core import latency, parts
from edgekd.core.contracts import ArmName, Backend, Workbench

WITHIN = 0.03
SLICE_S = 0.2
BARE_LOOP = """
import json, sys, time
import numpy as np, onnxruntime
model, images, threads, warmup, iterations = json.loads(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
feeds = [{name: np.ascontiguousarray(image[None])} for image in np.load(images, allow_pickle=False)]
run, clock, count = session.run, time.perf_counter_ns, len(feeds)
for index in range(warmup):
    run(None, feeds[index % count])
times = [0] * iterations
for index in range(iterations):
    feed = feeds[index % count]
    start = clock()
    run(None, feed)
    times[index] = clock() - start
print(json.dumps(times))
"""


class Tool(NamedTuple):
    """How a process is started, what it is told on stdin, and how its median in ms is read from what it says."""

    command: list[str]
    told: str
    median_ms: Callable[[str], float]


def fixed(model: Path | None, folder: Path) -> Path:
    """Write the model with its batch fixed to 1, so that every tool runs the same shape."""
    loaded = onnx.load_model_from_string(reference_model()) if model is None else onnx.load(model)
    for port in (*loaded.graph.input, *loaded.graph.output):
        port.type.tensor_type.shape.dim[0].ClearField("dim_param")
        port.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(loaded, folder / "model.onnx")
    return folder / "model.onnx"


def with_edgekd(bench: Workbench, backend: str, folder: Path, images_npy: Path, counts: dict[str, int], threads: int) -> Tool:
    """Return how one worker is started, and how its median in ms is read."""
    images = len(np.load(images_npy, mmap_mode="r"))
    fed = Fed(inputs_npy=images_npy, photographs_npz=None, images=images, sha256="", constant=False, synthetic=True)
    part = cast("Backend", parts.load("backend", backend)())
    subject = Subject(
        arm=ArmName(artifact=backend, arm="candidate"),
        backend=part,
        folder=folder,
        files=("model.onnx",),
        digest="",
        contract=None,
    )
    plan = plan_of(subject, fed, Load(threads=threads), bench) | counts

    def median_ms(told: str) -> float:
        infer_ns = samples_of(read_answer(told.encode(), code=0, whose=backend), whose=backend)["infer"]
        return latency.nearest_rank(np.sort(infer_ns), 50.0) / 1e6

    return Tool([sys.executable, "-P", worker.__file__], json.dumps(plan), median_ms)


def with_bare_loop(model: Path, images_npy: Path, counts: dict[str, int], threads: int) -> Tool:
    """Return how the loop is started, and how its median in ms is read."""
    asked = json.dumps([str(model), str(images_npy), threads, counts["warmup"], counts["iterations"]])

    def median_ms(told: str) -> float:
        return float(statistics.median(json.loads(told.splitlines()[-1]))) / 1e6

    return Tool([sys.executable, "-c", BARE_LOOP, asked], "", median_ms)


def with_benchmark_app(model: Path, counts: dict[str, int], threads: int) -> Tool:
    """Return how benchmark_app is started, and how the median that it reports is read, in ms."""
    program = shutil.which("benchmark_app", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        raise SystemExit("benchmark_app is not installed; it comes with openvino")
    # What the hint "latency" means, spelled out: benchmark_app takes no number of threads beside a hint.
    command = [program, "-m", str(model), "-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads)]
    command += ["-api", "sync", "-infer_precision", "f32", "-niter", str(counts["iterations"])]

    def median_ms(told: str) -> float:
        found = re.search(r"Median:\s+([\d.]+) ms", told)
        if found is None:
            raise SystemExit(f"benchmark_app failed:\n{told[-2000:]}")
        return float(found[1])

    return Tool(command, "", median_ms)


def in_slices(tools: Sequence[Tool], threads: int) -> list[float]:
    """Start each tool and stop it at once, let one after the other go on for a while until all have ended; return medians."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in tools]
        processes = []
        for tool, file in zip(tools, files, strict=True):
            process = subprocess.Popen(
                tool.command, stdin=subprocess.PIPE, stdout=file, env=os.environ | environment(threads), text=True
            )
            stack.callback(process.kill)
            process.send_signal(signal.SIGSTOP)
            cast("IO[str]", process.stdin).write(tool.told + "\n")  # a plan fits into a pipe
            cast("IO[str]", process.stdin).close()
            processes.append(process)
        while running := [process for process in processes if process.poll() is None]:
            for process in running:
                process.send_signal(signal.SIGCONT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=SLICE_S)
                process.send_signal(signal.SIGSTOP)
        for file in files:
            file.seek(0)
        return [tool.median_ms(file.read()) for tool, file in zip(tools, files, strict=True)]


def compared(name: str, tool: str, own: list[float], others: list[float]) -> dict[str, Any]:
    """Return one row of the table."""
    found = latency.paired(others, own)
    return {
        "runtime": name,
        "tool": tool,
        "edgekd_p50_ms": round(statistics.median(own), 4),
        "tool_p50_ms": round(statistics.median(others), 4),
        "ratio": round(found.ratio, 4),
        "low95": round(found.low95, 4),
        "high95": round(found.high95, 4),
        "rounds": found.pairs,
        "pair_sd": round(found.pair_sd, 4),
        "within_3_percent": abs(found.ratio - 1) <= WITHIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an ONNX file whose only input is images (default: the reference model)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each process counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="cross-") as temporary, Local().ready() as bench:
        folder = Path(temporary)
        model = fixed(asked.model, folder)
        shape = [dim.dim_value for dim in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
        images_npy, one_npy = folder / "images.npy", folder / "one.npy"
        images = np.random.default_rng(0).random((32, *shape[1:]), dtype=np.float32)
        np.save(images_npy, images)
        np.save(one_npy, images[:1])
        cores = worker.bound_to(asked.threads)  # and all that is started from here
        probed = with_edgekd(bench, "onnxruntime", folder, images_npy, {"warmup": 20, "iterations": 50}, asked.threads)
        iterations = max(20, round(asked.seconds * 1000 / in_slices([probed], asked.threads)[0]))
        counts = {"warmup": max(10, iterations // 3), "iterations": iterations}
        tools = {
            ("onnxruntime", "edgekd"): with_edgekd(bench, "onnxruntime", folder, images_npy, counts, asked.threads),
            ("onnxruntime", "bare loop"): with_bare_loop(model, images_npy, counts, asked.threads),
            ("openvino", "edgekd, one image"): with_edgekd(bench, "openvino", folder, one_npy, counts, asked.threads),
            ("openvino", "edgekd"): with_edgekd(bench, "openvino", folder, images_npy, counts, asked.threads),
            ("openvino", "benchmark_app"): with_benchmark_app(model, counts, asked.threads),
        }
        found: dict[tuple[str, str], list[float]] = {key: [] for key in tools}
        draw = random.Random(0)
        for number in range(asked.rounds):
            order = draw.sample(sorted(tools), len(tools))
            for key, median_ms in zip(order, in_slices([tools[key] for key in order], asked.threads), strict=True):
                found[key].append(median_ms)
            told = "  ".join(f"{'/'.join(key)} {times[-1]:.3f}" for key, times in found.items())
            print(f"round {number + 1}: {told} ms", flush=True)
    rows = [
        compared("onnxruntime", "bare loop", found["onnxruntime", "edgekd"], found["onnxruntime", "bare loop"]),
        compared("openvino", "benchmark_app", found["openvino", "edgekd, one image"], found["openvino", "benchmark_app"]),
        compared(
            "openvino", "benchmark_app, edgekd with 32 images", found["openvino", "edgekd"], found["openvino", "benchmark_app"]
        ),
    ]
    protocol = {
        "threads": asked.threads,
        "cores": cores,
        "slice_s": SLICE_S,
        **counts,
        "model": asked.model.name if asked.model else "reference",
        "shape": shape,
    }
    result = {"machine": facts, "protocol": protocol, "rows": rows, "medians_ms": {"/".join(k): v for k, v in found.items()}}
    print("wrote", write_result("latency_cross_check", result, asked.out))
    for row in rows:
        verdict = "agrees" if row["within_3_percent"] else "DIFFERS"
        bounds = f"[{row['low95']:.3f} to {row['high95']:.3f}]"
        print(f"{row['runtime']} against {row['tool']}: x {row['ratio']:.3f} {bounds} {verdict}")


if __name__ == "__main__":
    main()

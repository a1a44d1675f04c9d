"""Does the worker read backends right whose latency is known? Each in a fresh process, in turns, on the machine's own clock.

    python benchmarks/latency_known.py [--seconds 2] [--out FILE]

null:  answers at once; what is read is what the worker itself costs (at most 20 us).
busy:  computes for 1, 5 or 20 ms, by looking at the clock; read to within 1 % + 20 us.
async: answers at once with what is ready 20 ms later; read as 20 ms, give or take one: the worker waits for the numbers.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _stopwatch import machine, write_result

from edgekd.benching import worker
from edgekd.benching.answers import samples_of
from edgekd.benching.devices.local import Local
from edgekd.core import latency

RUNNER = """
import time
import numpy as np

class Refusal(Exception):
    exit_code, message, mend = 4, "", ""

class Later:
    def __init__(self, ready_at):
        self.ready_at, self.shape = ready_at, (1, 10)
    def __array__(self, dtype=None, copy=None):
        while time.perf_counter_ns() < self.ready_at:
            time.sleep(0)
        return np.zeros((1, 10), np.float32)

class Session:
    runtime, executed_on, executed_precision = "known", "CPU", "fp32"
    shape, dtype = ("batch", 3, 8, 8), "float32"
    def __init__(self, kind, ns):
        self.host_readable, self.ns, self.answer = kind != "async", ns, [np.zeros((1, 10), np.float32)]
        self.run = getattr(self, kind)
    def null(self, batch):
        return self.answer
    def busy(self, batch):
        until = time.perf_counter_ns() + self.ns
        while time.perf_counter_ns() < until:
            pass
        return self.answer
    def __getattr__(self, name):
        if name != "async":
            raise AttributeError(name)
        return lambda batch: [Later(time.perf_counter_ns() + self.ns)]
    def close(self):
        pass

def load_runtime():
    pass

def open(folder, files, *, threads, options):
    return Session(options["kind"], options["ns"])
"""
KNOWN_MS = (("null", 0.0), ("busy", 1.0), ("busy", 5.0), ("busy", 20.0), ("async", 20.0))


def allowed_ms(kind: str, known_ms: float) -> float:
    """Return how far from what is known the median may be."""
    return {"null": 0.020, "async": 1.0}.get(kind, 0.01 * known_ms + 0.020)


def plan_for(folder: Path, kind: str, known_ms: float, seconds: float) -> dict[str, Any]:
    """Return what one worker is asked."""
    iterations = max(50, min(100_000, round(seconds * 1000 / max(known_ms, 0.01))))
    return {
        "protocol": worker.PROTOCOL,
        "whose": f"{kind} {known_ms:g} ms",
        "folder": str(folder),
        "files": [],
        "runner": "runner.py",
        "options": {"kind": kind, "ns": round(known_ms * 1e6)},
        "threads": 1,
        "inputs": "images.npy",
        "batch": 1,
        "mode": "single",
        "warmup": max(5, iterations // 10),
        "iterations": iterations,
    }


def read(answer: dict[str, Any], kind: str, known_ms: float) -> dict[str, Any]:
    """Return what one worker read of one backend."""
    infer_ns = np.sort(samples_of(answer, whose=kind)["infer"])
    p50_ms = latency.nearest_rank(infer_ns, 50.0) / 1e6
    return {
        "backend": kind,
        "known_ms": known_ms,
        "p50_ms": round(p50_ms, 6),
        "p99_ms": round(latency.nearest_rank(infer_ns, 99.0) / 1e6, 6),
        "allowed_ms": allowed_ms(kind, known_ms),
        "samples": len(infer_ns),
        "held": abs(p50_ms - known_ms) <= allowed_ms(kind, known_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each process counts")
    parser.add_argument(
        "--processes", type=int, default=3, help="fresh ones for each backend; the median of their medians counts"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    facts, rows = machine(), []
    with tempfile.TemporaryDirectory(prefix="known-") as temporary, Local().ready() as bench:
        folder = Path(temporary)
        (folder / "runner.py").write_text(RUNNER)
        np.save(folder / "images.npy", np.random.default_rng(0).random((32, 3, 8, 8), dtype=np.float32))
        plans = [plan_for(folder, kind, known_ms, asked.seconds) for kind, known_ms in KNOWN_MS]
        rounds = [bench.work({"turns": plans}, timeout_s=600)["answers"] for _ in range(asked.processes)]
        for (kind, known_ms), answers in zip(KNOWN_MS, zip(*rounds, strict=True), strict=True):
            found = [read(answer, kind, known_ms) for answer in answers]
            row = sorted(found, key=lambda one: one["p50_ms"])[len(found) // 2]
            row |= {"processes_p50_ms": [one["p50_ms"] for one in found], "held": all(one["held"] for one in found)}
            rows.append(row)
            verdict = "held" if row["held"] else "MISSED"
            print(f"{kind:5} {known_ms:4g} ms: p50 {row['p50_ms']:.4f}, p99 {row['p99_ms']:.4f} ms: {verdict}")
    print("wrote", write_result("latency_known", {"machine": facts, "rows": rows}, asked.out))


if __name__ == "__main__":
    main()

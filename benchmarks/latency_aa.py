"""How often the gate is wrong on this machine: a model against itself, and against itself made slower on purpose.

    python benchmarks/latency_aa.py [--comparisons 60] [--slower 1.05] [--seconds 0.6] [--threads 1] [--out FILE]

Each session is one as `edgekd bench --against` runs it: one fresh process an arm in every round, in turns, decided at 7, 12, 20
or 40 rounds. It has three arms: a file, the same file again (a decision of "slower" is a false alarm), and the
same file with every query lengthened by a factor, by waiting busily inside the worker (a decision other than "slower" is a
miss). So both comparisons see the same machine. The counts of queries are calibrated once; workers are shorter than those of
the profile `gate` (its 3 s would take a day), which makes the noise larger, never smaller. What is done is written after every
session, and a second call goes on.
"""

import argparse
import json
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from _stopwatch import machine, write_result

from edgekd.benching.calibration import calibrate
from edgekd.benching.devices.local import Local
from edgekd.benching.inputs import Fed
from edgekd.benching.profiles import LOOKS, PROFILES
from edgekd.benching.reference import FILE, reference_model
from edgekd.benching.sessions import Session
from edgekd.benching.subjects import Load, Subject, plan_of
from edgekd.core import latency, parts, sequential
from edgekd.core.contracts import ArmName, Backend, Pairing, Workbench

SLOWED = """
import importlib.util, os, time
spec = importlib.util.spec_from_file_location("runner_itself", os.path.join(os.path.dirname(__file__), "runner_itself.py"))
itself = importlib.util.module_from_spec(spec)
spec.loader.exec_module(itself)
Refusal, load_runtime, FACTOR = itself.Refusal, itself.load_runtime, {factor}

def open(folder, files, *, threads, options):
    session = itself.open(folder, files, threads=threads, options=options)
    run, clock = session.run, time.perf_counter_ns
    def slowed(batch):
        start = clock()
        answer = run(batch)
        until = start + FACTOR * (clock() - start)
        while clock() < until:
            pass
        return answer
    session.run = slowed
    return session
"""
A = ArmName(artifact="reference", arm="baseline")
OTHERS = {kind: ArmName(artifact=kind, arm="candidate") for kind in ("same", "slower")}


def plan_for(bench: Workbench, folder: Path, backend: Backend, threads: int) -> dict[str, Any]:
    """Return the plan of both arms, all but the counts."""
    fed = Fed(inputs_npy=folder / "images.npy", photographs_npz=None, images=32, sha256="", constant=False, synthetic=True)
    subject = Subject(arm=A, backend=backend, folder=folder, files=(FILE,), digest="", contract=None)
    return plan_of(subject, fed, Load(threads=threads), bench)


def slowed(bench: Workbench, plan: dict[str, Any], folder: Path, backend: Backend, factor: float) -> dict[str, Any]:
    """Return the plan with a runner whose every query takes `factor` times as long."""
    runner = backend.runner_file()
    assert runner is not None
    (folder / "slow.py").write_text(SLOWED.replace("{factor}", repr(factor)))
    files = {FILE: folder / FILE, "images.npy": folder / "images.npy"}
    brought = bench.bring(files | {"runner.py": folder / "slow.py", "runner_itself.py": runner})
    return plan | {"folder": brought, "runner": "runner.py", "inputs": "images.npy"}


def one(bench: Workbench, plans: dict[ArmName, dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """Run one session until both comparisons are decided, and return what came of each."""
    session = Session(bench=bench, plans=plans, seed=seed, timeout_s=600)
    pairings = tuple(Pairing(a=A, b=other) for other in OTHERS.values())
    session.run(looks=LOOKS, cap_s=1e9, comparisons=pairings, tell=lambda *_: None)
    medians = session.percentiles(50.0)
    drift = latency.drift([worker.latency_ns for worker in session.workers[A]])
    found = {}
    for kind, pairing in zip(OTHERS, pairings, strict=True):
        decision = sequential.decide(session.ratios(pairing))
        found[kind] = {
            "outcome": decision.outcome,
            "pairs": decision.look,
            "ratio": round(decision.ratio or math.nan, 5),
            "pair_sd": round(decision.pair_sd or math.nan, 5),
            "process_sd": round(statistics.stdev(np.log(medians[A]).tolist()), 5),
            "drift": drift.share if drift else None,
        }
    return found


def told(rows: list[dict[str, Any]], wrong: str) -> dict[str, Any]:
    """Return the count of each outcome, and what the noise was."""
    outcomes = [row["outcome"] for row in rows]
    return {
        "comparisons": len(rows),
        **{outcome: outcomes.count(outcome) for outcome in ("pass", "fail", "inconclusive")},
        "wrong": wrong,
        "pairs": sum(row["pairs"] for row in rows),
        "ratio_median": statistics.median(row["ratio"] for row in rows),
        "pair_sd_median": statistics.median(row["pair_sd"] for row in rows),
        "pair_sd_max": max(row["pair_sd"] for row in rows),
        "process_sd_median": statistics.median(row["process_sd"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=60)
    parser.add_argument("--slower", type=float, default=1.05)
    parser.add_argument("--seconds", type=float, default=0.6, help="how long each worker counts, at least")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds, at least")
    parser.add_argument("--calibrate", type=float, default=10.0, help="seconds, at first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument(
        "--out", type=Path, default=Path("latency_aa.json"), help="what is done so far, and in the end the result"
    )
    asked = parser.parse_args()
    facts, backend = machine(), cast("Backend", parts.load("backend", asked.backend)())
    settings = {key: value for key, value in vars(asked).items() if key not in ("out", "sessions")}
    before = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    rows: dict[str, list[dict[str, Any]]] = before.get("rows", {}) if before.get("settings") == settings else {}
    rows = {"same": rows.get("same", []), "slower": rows.get("slower", [])}
    profile = replace(
        PROFILES["gate"], calibrate_s=asked.calibrate, min_s=asked.seconds, least_warmup_s=asked.warmup, min_iterations=100
    )
    with tempfile.TemporaryDirectory(prefix="aa-") as temporary, Local().ready() as bench:
        folder = Path(temporary)
        (folder / FILE).write_bytes(reference_model())
        np.save(folder / "images.npy", np.random.default_rng(0).random((32, 3, 224, 224), dtype=np.float32))
        plan = plan_for(bench, folder, backend, asked.threads)
        counts = calibrate(bench, plan, profile, timeout_s=600)
        plan |= {"warmup": counts.warmup, "iterations": counts.iterations}
        arms = {A: plan, OTHERS["same"]: plan, OTHERS["slower"]: slowed(bench, plan, folder, backend, asked.slower)}
        for number in range(len(rows["same"]), asked.sessions):
            for kind, row in one(bench, arms, seed=number).items():
                rows[kind].append(row)
                print(f"{number + 1}: {kind}: {row['outcome']} after {row['pairs']} pairs, x {row['ratio']:.4f}", flush=True)
            asked.out.write_text(json.dumps({"settings": settings, "rows": rows}) + "\n")
    result = {
        "machine": facts,
        "settings": settings,
        "counts": counts.model_dump(mode="json"),
        "same": told(rows["same"], wrong="fail"),
        "slower": told(rows["slower"], wrong="pass or inconclusive"),
        "rows": rows,
    }
    print("wrote", write_result("latency_aa", result, asked.out))
    print(f"a model against itself: {result['same']['fail']} false alarms of {len(rows['same'])}")
    print(f"x {asked.slower:g}: {result['slower']['fail']} of {len(rows['slower'])} caught")


if __name__ == "__main__":
    main()

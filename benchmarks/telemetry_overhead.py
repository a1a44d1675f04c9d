"""What watching a machine costs: the same work with and without the probe beside it, and the probe's own processor time.

    python benchmarks/telemetry_overhead.py [--pairs 20] [--hz 2] [--out FILE]

Each pair is two fresh processes in random order, one of them watched. A process multiplies matrices on all usable cores and
answers its median. The ratio watched / not watched is the geometric mean over the pairs, with a 95 % t interval. The probe's
share is its processor time over the time that it ran.
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from _stopwatch import machine, write_result
from scipy import stats

from edgekd.benching.probe import watch_here
from edgekd.core.host import usable_cores

WORK = """
import statistics, time
import numpy as np
a = np.random.default_rng(0).random((384, 384), dtype=np.float32)
for _ in range(50):
    a @ a
times = []
for _ in range(600):
    start = time.perf_counter_ns()
    a @ a
    times.append(time.perf_counter_ns() - start)
print(statistics.median(times))
"""


def worked_ns(*, watched: bool, hz: float) -> float:
    """Return the median of one fresh process."""
    threads = str(usable_cores())
    environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    with watch_here(hz=hz) if watched else nullcontext():
        told = subprocess.run([sys.executable, "-c", WORK], env=environment, check=True, capture_output=True, text=True)
    return float(told.stdout)


def own_share(*, seconds: float, hz: float) -> float:
    """Return the probe's processor time as a share of one core."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with watch_here(hz=hz) as log:
        time.sleep(seconds)
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(log.rows)} samples in {took:.1f} s", file=sys.stderr)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--hz", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the probe is watched itself")
    parser.add_argument("--out", type=Path, help="the file of results; by default beside this script")
    asked = parser.parse_args()
    where = machine()
    order, ratios = random.Random(0), []
    for pair in range(asked.pairs):
        first = order.random() < 0.5
        took = {watched: worked_ns(watched=watched, hz=asked.hz) for watched in (first, not first)}
        ratios.append(math.log(took[True] / took[False]))
        print(f"pair {pair + 1}: {math.exp(ratios[-1]):.4f}", file=sys.stderr)
    mean, error = statistics.fmean(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios))
    half = float(stats.t.ppf(0.975, len(ratios) - 1)) * error
    found = {
        "ratio": math.exp(mean),
        "ratio_low": math.exp(mean - half),
        "ratio_high": math.exp(mean + half),
        "pairs": asked.pairs,
        "hz": asked.hz,
        "probe_share_of_a_core": own_share(seconds=asked.seconds, hz=asked.hz),
        "log_ratios": ratios,
    }
    print(json.dumps({name: value for name, value in found.items() if name != "log_ratios"}, indent=1))
    print(write_result("telemetry_overhead", {"machine": where, **found}, asked.out))


if __name__ == "__main__":
    main()

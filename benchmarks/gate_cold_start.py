"""How long `edgekd gate` takes on a finished run, from a cold process to the exit code.

    python benchmarks/gate_cold_start.py RUN... [--budgets FILE] [--baseline RUN] --out gate_cold_start_<machine>_<date>.json

Each gate is a process of its own, started `--times` times (the first, which may read from the disk, is shown apart); wall and
processor time of the whole process, interpreter included. Give each RUN as a folder that `edgekd run` finished.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from edgekd.core.host import made_by


def once(command: list[str]) -> tuple[float, float, int]:
    """Return wall seconds, processor seconds and exit code of one process."""
    before, start = os.times(), time.perf_counter()
    code = subprocess.run(command, capture_output=True, check=False).returncode
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent, code


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--budgets", type=Path)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    rows = []
    for run in given.runs:
        command = [sys.executable, "-c", "from edgekd.cli import main; main()", "gate", str(run), "--quiet"]
        for option in ("budgets", "baseline"):
            if getattr(given, option):
                command += [f"--{option}", str(getattr(given, option))]
        found = [once(command) for _ in range(given.times + 1)]
        walls, spent = [wall for wall, _, _ in found[1:]], [used for _, used, _ in found[1:]]
        rows.append(
            {
                "run": run.name,
                "exit_codes": sorted({code for _, _, code in found}),
                "first_wall_s": found[0][0],
                "median_wall_s": statistics.median(walls),
                "max_wall_s": max(walls),
                "median_cpu_s": statistics.median(spent),
                "times": given.times,
            }
        )
    made = made_by(["python", "benchmarks/gate_cold_start.py"])
    head = {"version": made.version, "git": made.git, "at": made.at, "machine": platform.machine(), "cores": os.cpu_count()}
    table = {"made_by": head, "gates": rows}
    given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

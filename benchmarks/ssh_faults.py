"""What a connection that breaks does to a measurement over ssh: seeded fault schedules against a real sshd on loopback.

    python benchmarks/ssh_faults.py [--schedules 100] [--first 0] [--out FILE]

A schedule brings files, samples the machine and has three workers work, while a TCP proxy cuts, resets, freezes (half-open),
delays or refuses the connection at one to three moments drawn with the seed: at any request, before, during or after it, or
after any number of bytes of a new connection. Counted are schedules that hang (60 s), processes left running on the device,
workers that overlap, and wrong numbers; each answer is known beforehand. Heartbeats are 1 s instead of 30 s.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from _stopwatch import machine, write_result

TESTS = Path(__file__).parents[1] / "tests" / "benching"


def loaded(name: str) -> ModuleType:
    """Return a module of the tests, which do the same with fewer schedules."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    world, faults = loaded("loopback_ssh"), loaded("ssh_faults")
    sshd = world.find_sshd()
    if sshd is None:
        sys.exit("sshd is not installed (Debian: apt-get install openssh-server)")
    where, rows = machine(), []
    with tempfile.TemporaryDirectory(prefix="edgekd-faults-") as folder:
        loopback = world.Loopback(Path(folder), sshd)
        os.environ["EDGEKD_CONFIG"] = str(loopback.config_folder)
        try:
            for seed in range(asked.first, asked.first + asked.schedules):
                place = Path(folder) / f"schedule-{seed}"
                place.mkdir()
                drawn = faults.drawn(seed, world.FaultyProxy.KINDS)
                one = faults.run_schedule(seed, drawn, world=world, loopback=loopback, folder=place, python=sys.executable)
                rows.append(asdict(one))
                print(f"{seed:4} {one.ended:8} {one.seconds:6.2f} s  lost {one.losses}  {one.message}", file=sys.stderr)
        finally:
            loopback.close()
    total = summary(rows)
    print("\n".join(f"{name:<24} {value}" for name, value in total.items()))
    print(write_result("ssh_faults", {"machine": where, "summary": total, "rows": rows}, asked.out))
    return int(total["hung"] or total["wrong_numbers"] or total["orphans"] or total["overlapping_workers"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what came of all schedules together."""
    ended = Counter(row["ended"] for row in rows)
    return {
        "schedules": len(rows),
        "faults": sum(len(row["faults"]) for row in rows),
        "hung": ended["hung"],
        "orphans": sum(row["orphans"] for row in rows),
        "wrong_numbers": sum(row["wrong"] for row in rows),
        "overlapping_workers": sum(row["overlapping"] for row in rows),
        "right_numbers": sum(row["right"] for row in rows),
        "ended_without_a_loss": ended["clean"],
        "resumed": ended["resumed"],
        "refused_with_exit_code_4": ended["refused"],
        "longest_s": max(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    sys.exit(main())

"""The probe as a program: `fingerprint` answers once, `telemetry` goes on until its standard input ends."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import files, fingerprint, telemetry

MAX_HZ = 50.0


def main() -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(prog="probe", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("fingerprint", help="print what this machine is, as JSON")
    many = commands.add_parser("telemetry", help="print one line of JSON a sample, until standard input ends")
    for command in (one, many):
        command.add_argument("--root", type=Path, default=files.REAL_ROOT, help="read below this folder instead of /")
    many.add_argument("--hz", type=float, default=2.0, help="samples in a second")
    asked = parser.parse_args()
    if asked.command == "fingerprint":
        told = fingerprint.fields(asked.root)
        sys.stdout.write(json.dumps({"fields": told, "unknown": fingerprint.unknown(told)}) + "\n")
        return 0
    if not 0 < asked.hz <= MAX_HZ:
        parser.error(f"--hz is {asked.hz:g}; above 0, at most {MAX_HZ:g}")
    return watch(asked.root, asked.hz)


def watch(root: Path, hz: float) -> int:
    """Print a sample every 1/hz seconds until standard input ends or nobody reads; what is measured goes first."""
    with suppress(OSError):
        os.nice(5)
    sampler = telemetry.Sampler(root, hz=hz)
    period_ns = int(1e9 / hz)
    due_ns = time.perf_counter_ns()
    try:
        while True:
            sys.stdout.write(json.dumps(sampler.sample(), separators=(",", ":")) + "\n")
            sys.stdout.flush()
            now_ns = time.perf_counter_ns()
            due_ns = max(due_ns + period_ns, now_ns)  # a late sample is not made up for by a burst
            if _ended_within((due_ns - now_ns) / 1e9):
                return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains once more when it ends
        return 0
    finally:
        sampler.close()


def _ended_within(seconds: float) -> bool:
    """Wait, and return whether standard input has ended meanwhile; whatever is written to it is read and forgotten."""
    until_ns = time.perf_counter_ns() + int(1e9 * seconds)
    while True:
        left_s = max(0.0, (until_ns - time.perf_counter_ns()) / 1e9)
        ready, _, _ = select.select([0], [], [], left_s)
        if not ready:
            return False
        if not os.read(0, 4096):
            return True


if __name__ == "__main__":
    sys.exit(main())

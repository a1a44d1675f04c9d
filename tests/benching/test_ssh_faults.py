"""Harm is done to the connection at every step: it ends in the right numbers or in one message, and leaves nobody behind.

Many more schedules, and their table: `benchmarks/ssh_faults.py`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SEEDS = range(12)


@pytest.fixture(scope="module")
def faults(load_module: Any) -> ModuleType:
    return load_module("benching/ssh_faults.py")  # type: ignore[no-any-return]


def checked(outcome: Any) -> Any:
    assert outcome.ended in ("clean", "resumed", "refused"), outcome
    assert (outcome.wrong, outcome.overlapping, outcome.orphans) == (0, 0, 0), outcome
    assert outcome.ended == "refused" or outcome.right == 3, outcome
    return outcome


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seeded_schedule_hangs_nowhere_and_lies_nowhere(
    seed: int, faults: ModuleType, ssh_world: ModuleType, trusted: Any, tmp_path: Path
) -> None:
    """One to three faults anywhere: all answers are right, or the command ends with exit code 4; no process is left behind."""
    drawn = faults.drawn(seed, ssh_world.FaultyProxy.KINDS)
    checked(faults.run_schedule(seed, drawn, world=ssh_world, loopback=trusted, folder=tmp_path, python=sys.executable))


@pytest.mark.parametrize("kind", ["cut", "reset", "half-open", "delay"])
def test_a_worker_whose_connection_is_lost_is_measured_anew(
    kind: str, faults: ModuleType, ssh_world: ModuleType, trusted: Any, tmp_path: Path
) -> None:
    """While the second of three works; all three answer, one at a time. A short delay costs nothing."""
    planned = [faults.Fault(kind=kind, step="work", when="during", nth=2)]
    outcome = faults.run_schedule(5000, planned, world=ssh_world, loopback=trusted, folder=tmp_path, python=sys.executable)
    assert checked(outcome).ended == ("clean" if kind == "delay" else "resumed")
    assert outcome.losses == (kind != "delay")


def test_without_harm_nothing_is_lost(faults: ModuleType, ssh_world: ModuleType, trusted: Any, tmp_path: Path) -> None:
    """The schedule itself is sound."""
    outcome = faults.run_schedule(6000, [], world=ssh_world, loopback=trusted, folder=tmp_path, python=sys.executable)
    assert (checked(outcome).ended, outcome.losses) == ("clean", 0)

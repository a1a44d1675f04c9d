"""Killed at any moment, the next run goes on from the last finished stage; asked to stop, it stops cleanly."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def start(recipe: Path, run: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from edgekd.cli import main; main()", "run", str(recipe), "--out", str(run)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def stop_at(recipe: Path, run: Path, sign: str, number: int) -> tuple[int, str]:
    """Start a run, send it a signal when stderr shows a sign, and return exit code and stderr."""
    with start(recipe, run) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if re.search(sign, line):
                os.kill(process.pid, number)
                break
        seen += process.stderr.read()
    return process.returncode, seen


@pytest.mark.timeout(280)
def test_a_run_killed_in_every_stage_ends_like_an_undisturbed_one(finished: Path) -> None:
    """kill -9 while probing, training, exporting and measuring; what was finished is kept, the end is the same student."""
    recipe, run = finished / "recipe.yaml", finished / "killed"
    for sign, kept in (
        ("probing", ""),
        ("student: top-1", ""),
        ("exporting", "student: kept"),
        ("wrote .*report.json|bench", "baseline: kept"),
    ):
        code, err = stop_at(recipe, run, sign, signal.SIGKILL)
        assert code == -signal.SIGKILL, err
        assert kept in err
    with start(recipe, run) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "student: kept" in err
    weights = "checkpoint/student.safetensors"
    assert (run / weights).read_bytes() == (finished / "run" / weights).read_bytes()
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_its_code_and_no_traceback(experiment: Path, number: int, code: int) -> None:
    """SIGINT is 130, SIGTERM 143; the message says that finished stages are kept."""
    found, err = stop_at(experiment, experiment.parent / "stopped", "probing", number)
    assert found == code
    assert "Traceback" not in err
    assert "finished stages are kept" in err

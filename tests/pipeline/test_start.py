"""A student that begins where another training ended: its own first one, or an earlier run's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgekd.core.records import Checkpoint
from edgekd.core.store import RunFolder, read_record

Call = Callable[..., tuple[int, str, str]]
FEATURE = ("--set", "method={use: feature, label_weight: 0}")


@pytest.fixture
def started(experiment: Path) -> Path:
    """Return the small experiment, its student trained on the labels first."""
    experiment.write_text(experiment.read_text() + "start: {duration: {steps: 2}, lr: 2e-3}\n")
    return experiment


def records(run: Path) -> dict[str, Checkpoint]:
    folder = RunFolder(run)
    names = ("start", "checkpoint", "baseline")
    return {name: read_record(Checkpoint, folder.checkpoint(name)) for name in names if folder.checkpoint(name).is_file()}


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x04
    path.write_bytes(bytes(data))


def test_student_and_baseline_share_a_start_that_is_trained_once(started: Path, edgekd: Call) -> None:
    """Both name its digest; a second run keeps it, and a longer one is trained anew with all that follows."""
    run = started.parent / "run"
    code, _, err = edgekd("distill", started, "--out", run)
    assert code == 0, err
    made = records(run)
    assert made["start"].method.use == "supervised"
    assert (made["start"].training.steps, made["start"].training.images_seen) == (2, 16)
    assert made["checkpoint"].from_["start"] == made["baseline"].from_["start"] == made["start"].digest()
    assert made["start"].teachers == ()

    code, _, err = edgekd("distill", started, "--out", run)
    assert code == 0
    assert all(f"{name}: kept" in err for name in ("start", "student", "baseline"))
    assert records(run) == made

    code, _, err = edgekd("distill", started, "--out", run, "--set", "start.duration.steps=3")
    assert code == 0
    assert "kept" not in err
    again = records(run)
    assert again["checkpoint"].from_["start"] == again["start"].digest() != made["start"].digest()


def test_the_start_is_where_the_student_begins(started: Path, edgekd: Call) -> None:
    """At next to no rate the student ends with the start's weights, head included."""
    run = started.parent / "run"
    assert edgekd("distill", started, "--out", run, "--quiet", "--set", "train.lr=1e-12")[0] == 0
    begun, ended, beside = (load_file(run / name / "student.safetensors") for name in ("start", "checkpoint", "baseline"))
    for key, value in begun.items():
        if "running_" not in key and "num_batches" not in key:
            assert float((ended[key] - value).abs().max()) < 1e-6
            assert float((beside[key] - value).abs().max()) < 1e-6


def test_a_start_that_is_left_out_is_removed(started: Path, edgekd: Call) -> None:
    """The student is then trained from its own weights again."""
    run = started.parent / "run"
    assert edgekd("distill", started, "--out", run, "--quiet")[0] == 0
    assert edgekd("distill", started, "--out", run, "--quiet", "--set", "start=null")[0] == 0
    assert set(records(run)) == {"checkpoint", "baseline"}
    assert "start" not in records(run)["checkpoint"].from_


def test_an_earlier_checkpoint_can_be_the_start(finished: Path, edgekd: Call) -> None:
    """Named by a path beside the recipe; both name its digest, a second run keeps all, nothing of it is copied."""
    recipe, run = finished / "recipe.yaml", finished / "second"
    recipe.write_text(recipe.read_text() + "start: {checkpoint: run/baseline/checkpoint.json}\n")
    code, _, err = edgekd("distill", recipe, "--out", run)
    assert code == 0, err
    given = read_record(Checkpoint, finished / "run/baseline/checkpoint.json")
    made = records(run)
    assert set(made) == {"checkpoint", "baseline"}
    assert made["checkpoint"].from_["start"] == made["baseline"].from_["start"] == given.digest()
    code, _, err = edgekd("distill", recipe, "--out", run)
    assert "student: kept" in err
    assert "baseline: kept" in err
    assert edgekd("verify", run)[0] == 0
    spoil(finished / "run/baseline/student.safetensors")
    code, _, err = edgekd("distill", recipe, "--out", run, "--set", "train.lr=2e-3")
    assert code == 5
    assert "student.safetensors" in err


def test_a_start_cannot_be_given_in_two_ways(started: Path, edgekd: Call) -> None:
    """Neither a place nor a duration too many; the line is told."""
    started.write_text(started.read_text().replace("start: {", "start: {checkpoint: a.json, "))
    line = started.read_text().splitlines().index(next(x for x in started.read_text().splitlines() if x.startswith("start")))
    code, _, err = edgekd("distill", started, "--out", started.parent / "run")
    assert code == 2
    assert f"recipe.yaml:{line + 1}:1: `start`: give exactly one of" in err


def test_verify_goes_back_to_the_start_and_to_what_the_method_learned(started: Path, edgekd: Call) -> None:
    """Every digest holds; a flipped byte in the start's weights or in the criterion's, or another start, does not."""
    run = started.parent / "run"
    code, _, err = edgekd("distill", started, "--out", run, "--quiet", *FEATURE)
    assert code == 0, err
    code, out, _ = edgekd("verify", run)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == [
        f"{name}/checkpoint.json" for name in ("start", "checkpoint", "baseline")
    ]
    for victim in ("start/student.safetensors", "checkpoint/criterion.safetensors"):
        whole = (run / victim).read_bytes()
        spoil(run / victim)
        code, _, err = edgekd("verify", run)
        assert code == 5
        assert Path(victim).name in err
        (run / victim).write_bytes(whole)
    assert edgekd("verify", run)[0] == 0
    facts: dict[str, Any] = json.loads((run / "start/checkpoint.json").read_text())
    facts["seed"] += 1
    (run / "start/checkpoint.json").write_text(json.dumps(facts))
    code, _, err = edgekd("verify", run)
    assert code == 5
    assert "start" in err


def test_a_start_with_a_teacher_has_its_answers_kept_beforehand(started: Path, edgekd: Call) -> None:
    """`edgekd cache` settles on the views of the start's own duration, so that training it asks for nothing more."""
    options = ("--set", "start.method=kd", "--set", "start.duration.steps=7")
    code, _, err = edgekd("cache", started, *options)
    assert code == 0, err
    assert "caching" in err
    code, _, err = edgekd("distill", started, "--out", started.parent / "run", *options)
    assert code == 0, err
    assert "caching" not in err

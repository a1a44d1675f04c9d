"""`edgekd cache` and runs that meet the answers that it kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def kept(experiment: Path) -> Path:
    """Return the folder in which the small experiment is told to keep its teacher's answers."""
    experiment.write_text(experiment.read_text() + "cache: {views: 2, folder: kept}\n")
    return experiment.parent / "kept"


def test_answers_are_kept_beforehand_once_and_then_found(experiment: Path, kept: Path, edgekd: Call) -> None:
    """No run folder is made; a second call computes nothing, and neither does the training that follows."""
    code, out, err = edgekd("cache", experiment)
    assert (code, out) == (0, ""), err
    assert "caching" in err
    assert not (experiment.parent / "runs").exists()
    before = files(kept)
    shards = [name for name in before if name.endswith(".safetensors")]
    assert len(shards) == 4  # two views of the training images, the whole labelled and the whole validation images
    code, _, err = edgekd("cache", experiment)
    assert code == 0
    assert "caching" not in err
    assert files(kept) == before
    code, _, err = edgekd("distill", experiment, "--out", experiment.parent / "run")
    assert code == 0, err
    assert "caching" not in err
    assert files(kept) == before


def test_nothing_to_keep_is_refused(experiment: Path, edgekd: Call) -> None:
    """With `cache.views: 0` the teachers run in every step, and `edgekd cache` says so with exit code 2."""
    code, out, err = edgekd("cache", experiment, "--set", "cache.views=0")
    assert (code, out) == (2, "")
    assert "cache.views" in err
    assert "Traceback" not in err


def test_mistakes_are_told_as_by_run(experiment: Path, edgekd: Call) -> None:
    """A wrong recipe, a method without its teacher."""
    assert edgekd("cache", experiment, "--set", "method.use=kdd")[0] == 2
    code, _, err = edgekd("cache", experiment, "--set", "teachers=[]")
    assert code == 2
    assert "needs a teacher" in err


def test_a_changed_answer_is_an_integrity_error(experiment: Path, kept: Path, edgekd: Call) -> None:
    """One flipped byte in a kept file stops the next run with exit code 5 and the file's name."""
    assert edgekd("cache", experiment, "--quiet")[0] == 0
    shard = sorted(kept.rglob("view-1_*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 0x01
    shard.write_bytes(bytes(data))
    code, _, err = edgekd("distill", experiment, "--out", experiment.parent / "run", "--quiet")
    assert code == 5
    assert shard.name in err


def test_a_teacher_that_runs_leaves_nothing_behind(experiment: Path, kept: Path, edgekd: Call) -> None:
    """`--set cache.views=0` trains without keeping answers, and the record still names the teacher."""
    out = experiment.parent / "run"
    code, text, err = edgekd("distill", experiment, "--out", out, "--json", "--quiet", "--set", "cache.views=0")
    assert code == 0, err
    assert not kept.exists()
    assert json.loads(text)["teachers"][0]["name"] == "test_vit"

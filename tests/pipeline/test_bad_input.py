"""A user's mistake gives one clear message and the right exit code, and leaves what was there intact."""

import errno
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fails(experiment: Path, edgekd: Call) -> Callable[..., str]:
    """Run the small experiment with changes and expect a code; return the message, checked to be one and no traceback."""

    def call(*changes: str, code: int = 2, verb: str = "run") -> str:
        options = [part for change in changes for part in ("--set", change)]
        found, out, err = edgekd(verb, experiment, "--out", experiment.parent / "out", "--quiet", *options)
        assert found == code, err
        assert out == ""
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        return err

    return call


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("export.0.precision=fp3",), r"export.0.precision.*'fp32'.*\(found 'fp3'\)"),
        (("export.0.opset=10",), r"export.0.opset.*greater than or equal to 11 \(found 10\)"),
        (("export.0.opset=99",), r"export.0.opset.*less than or equal to 24 \(found 99\)"),
        (("export.0.inputs=bytes",), r"export.0.inputs.*'float' or 'uint8' \(found 'bytes'\)"),
        (("export.0.resize=inside",), r"`resize: inside` needs `inputs: uint8`"),
        (("export.0.use=onnxrt",), r"no backend is called 'onnxrt'. Did you mean onnxruntime"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_before_training(fails: Callable[..., str], changes: tuple, said: str) -> None:
    """Unknown precision, opset out of reach, unknown backend: the key, what is allowed, what was found."""
    assert re.search(said, fails(*changes))


def test_a_backend_without_its_package(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 before anything is trained, with the line to install it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    said = fails("export=[openvino]", code=4)
    assert "openvino needs the package openvino, which is not installed" in said
    assert "pip install 'edgekd[openvino]'" in said


def test_a_missing_folder(fails: Callable[..., str]) -> None:
    """The message names the folder."""
    assert "nowhere" in fails("data.train=nowhere")


def test_an_empty_class(experiment: Path, fails: Callable[..., str]) -> None:
    """A class folder without images is named."""
    (experiment.parent / "images/train/empty").mkdir()
    assert "empty" in fails()


def test_one_image_only(experiment: Path, fails: Callable[..., str]) -> None:
    """One image is too little to learn from, and the message says what is needed."""
    first, *others = sorted((experiment.parent / "images/train").rglob("*.png"))
    for path in others:
        path.unlink()
    for folder in (experiment.parent / "images/train").iterdir():
        if folder != first.parent:
            folder.rmdir()
    assert "class" in fails("data.labels_per_class=1")


def test_broken_images_are_listed_all_at_once(experiment: Path, fails: Callable[..., str]) -> None:
    """A truncated, an empty and a text file are told together, each with its reason, and how to leave them out."""
    train = experiment.parent / "images/train/disc"
    whole = (train / "0.png").read_bytes()
    (train / "0.png").write_bytes(whole[: len(whole) // 2])
    (train / "1.png").write_bytes(b"")
    (train / "note.jpg").write_text("this is no photograph")
    err = fails()
    assert all(name in err for name in ("0.png", "1.png", "note.jpg"))
    assert "quarantine" in err


def test_quarantined_images_are_counted_in_the_report(experiment: Path, edgekd: Call) -> None:
    """With the policy `quarantine` the run goes on, and the record lists what was left out."""
    (experiment.parent / "images/train/disc/1.png").write_bytes(b"")
    out = experiment.parent / "out"
    code, text, err = edgekd("distill", experiment, "--out", out, "--json", "--quiet", "--set", "data.bad_images=quarantine")
    assert code == 0, err
    assert [q["image"] for q in json.loads(text)["data"]["quarantined"]] == ["train/disc/1.png"]
    assert "1 images were left out" in err


def test_a_label_that_no_class_has(experiment: Path, fails: Callable[..., str]) -> None:
    """A validation class that training does not know is refused by name."""
    (experiment.parent / "images/val/disc").rename(experiment.parent / "images/val/dsic")
    err = fails()
    assert "dsic" in err


def test_weights_of_another_model(experiment: Path, fails: Callable[..., str]) -> None:
    """Wrong keys are counted; nothing is loaded halfway."""
    import numpy as np

    path = experiment.parent / "w.safetensors"
    save_file({"nonsense": np.zeros(3, dtype=np.float32)}, path)
    err = fails(f"student.weights={path}")
    assert "not the weights of test_efficientnet" in err
    assert "nonsense" in err


def test_weights_with_a_wrong_sha256(experiment: Path, fails: Callable[..., str]) -> None:
    """A digest that does not match is an integrity error."""
    path = experiment.parent / "w.safetensors"
    path.write_bytes(b"x")
    assert "sha256" in fails(f"teachers.0.weights={path}", f"teachers.0.sha256={'ab' * 32}", code=5)


def test_an_unknown_model(fails: Callable[..., str]) -> None:
    """Nearest names are shown."""
    assert "mobilenetv3_small_050" in fails("student.model=mobilenetv3_smal_050")


def test_an_unknown_part(fails: Callable[..., str]) -> None:
    """So are the nearest parts."""
    assert "Did you mean feature?" in fails("method.use=featur")


def test_an_unknown_key_says_where(experiment: Path, fails: Callable[..., str]) -> None:
    """File, line and nearest match."""
    experiment.write_text(experiment.read_text().replace("  lr: 1e-3", "  lrr: 1e-3"))
    err = fails()
    assert "recipe.yaml:11:3" in err
    assert "Did you mean lr?" in err


def test_nothing_in_common_to_match(fails: Callable[..., str]) -> None:
    """A thousand outputs against three classes is refused before training."""
    err = fails("method.head=own")
    assert "nothing in common" in err
    assert "head: probe" in err


def test_a_method_without_its_teacher(fails: Callable[..., str]) -> None:
    """kd needs a teacher."""
    assert "needs a teacher" in fails("teachers=[]")


def test_a_folder_that_is_not_ours(experiment: Path, fails: Callable[..., str]) -> None:
    """A non-empty foreign folder is refused and nothing in it is touched."""
    out = experiment.parent / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert "--overwrite" in fails()
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("thesis.txt", "years of work")]


def test_a_full_disk(finished: Path, edgekd: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says so with exit code 4, the finished stages stay sound, and the run goes on once there is room."""
    fsync = os.fsync
    full = [False]

    def fsync_on_a_full_disk(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync_on_a_full_disk)
    full[0] = True
    code, _, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run", "--set", "budgets.0.max=8MB", "--quiet")
    assert code == 4
    assert "the disk is full" in err
    full[0] = False
    assert edgekd("verify", finished / "run")[0] == 0
    assert edgekd("run", finished / "recipe.yaml", "--out", finished / "run", "--set", "budgets.0.max=8MB", "--quiet")[0] == 0


@pytest.mark.parametrize(
    "victim",
    [
        "checkpoint/student.safetensors",
        "checkpoint/predictions.csv",
        "artifacts/onnxruntime-fp32/model.onnx",
        "measurements/onnxruntime-fp32@local.json",
    ],
)
def test_one_flipped_byte_is_an_integrity_error(finished: Path, edgekd: Call, victim: str) -> None:
    """verify and report refuse with exit code 5 and name the file."""
    path = finished / "run" / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x04
    path.write_bytes(bytes(data))
    for verb in ("verify", "report"):
        code, _, err = edgekd(verb, finished / "run")
        assert code == 5, err
        assert path.name in err


def test_a_folder_that_is_no_run(tmp_path: Path, edgekd: Call) -> None:
    """Commands on a run refuse other folders, and say how to make one."""
    for verb in ("export", "bench", "report", "gate"):
        code, _, err = edgekd(verb, tmp_path)
        assert code == 2
        assert "edgekd run" in err


def test_two_writers(finished: Path, edgekd: Call) -> None:
    """A second run in the same folder is told that there is a first."""
    from edgekd.core.store import locked

    with locked(finished / "run"):
        code, _, err = edgekd("run", finished / "recipe.yaml", "--out", finished / "run")
    assert code == 2
    assert "another edgekd" in err


def test_a_missing_runtime_says_what_to_install(experiment: Path, edgekd: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose package is not there stops the run before it starts, with exit code 4."""
    import importlib.util as util

    find = util.find_spec

    def without_openvino(name: str, *rest: Any) -> Any:
        return None if name == "openvino" else find(name, *rest)

    monkeypatch.setattr(util, "find_spec", without_openvino)
    code, _, err = edgekd("run", experiment, "--out", experiment.parent / "out", "--set", "export.0.use=openvino", "--quiet")
    assert code == 4
    assert "pip install 'edgekd[openvino]'" in err
    assert not (experiment.parent / "out").exists()

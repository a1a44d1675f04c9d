"""Torch checkpoints of others: weights are taken over, everything else is refused and never run."""

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from edgekd.cli import main
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.distilling.foreign_weights import convert

STATE = OrderedDict(
    {"body.weight": torch.arange(6.0).reshape(2, 3), "body.count": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}
)


def saved(folder: Path, value: Any, **options: Any) -> Path:
    torch.save(value, folder / "foreign.pth", **options)
    return folder / "foreign.pth"


def same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(folder / "out.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items())


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_plain_weights_are_taken_over(options: dict[str, Any], tmp_path: Path) -> None:
    """Values and types as they are; the file says what it came from."""
    lines = convert(saved(tmp_path, STATE, **options), tmp_path / "out.safetensors")
    same(tmp_path, dict(STATE))
    assert "3 tensors, 9 numbers" in lines[0]
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["from"] == "foreign.pth"
        assert len(file.metadata()["from_sha256"]) == 64


@pytest.mark.parametrize(
    ("whole", "key"),
    [
        ({"state_dict": STATE, "epoch": 3}, "state_dict"),
        ({"model": STATE, "optimizer": {"lr": 1.0}}, "model"),
        ({"teacher": {"ema": STATE}}, "teacher.ema"),
    ],
)
def test_weights_inside_are_taken_when_asked_for_by_name(whole: Any, key: str, tmp_path: Path) -> None:
    """And never guessed: without the name what is there is listed, with the option that would take it."""
    source = saved(tmp_path, whole)
    with pytest.raises(UsageError, match="It holds:") as caught:
        convert(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    if "." not in key:
        assert f"{key}: weights, 3 tensors" in caught.value.message
        assert caught.value.mend == f"say which: --key {key}"
    convert(source, tmp_path / "out.safetensors", key=key)
    same(tmp_path, dict(STATE))


def test_a_wrong_name_lists_what_is_there(tmp_path: Path) -> None:
    """The usual one is proposed first."""
    source = saved(tmp_path, {"ema": STATE, "state_dict": STATE, "epoch": 3, "args": {"lr": 1.0}})
    with pytest.raises(UsageError, match="there is no 'model'") as caught:
        convert(source, tmp_path / "out.safetensors", key="model")
    assert "epoch: int" in caught.value.message
    assert "args: a mapping of 1" in caught.value.message
    assert caught.value.mend == "say which: --key state_dict"


def test_a_prefix_is_taken_off(tmp_path: Path) -> None:
    """As data-parallel training puts before every name; two names must not become one."""
    source = saved(tmp_path, {f"module.{name}": tensor for name, tensor in STATE.items()})
    convert(source, tmp_path / "out.safetensors", strip="module.")
    same(tmp_path, dict(STATE))
    with pytest.raises(UsageError, match="two tensors are called 'a'"):
        convert(saved(tmp_path, {"m.a": STATE["half"], "a": STATE["half"]}), tmp_path / "o.safetensors", strip="m.")


def test_names_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    """And a view is written as what it shows."""
    tensor = torch.arange(6.0)
    convert(saved(tmp_path, {"a": tensor, "b": tensor, "c": tensor[::2]}), tmp_path / "out.safetensors")
    same(tmp_path, {"a": tensor, "b": tensor, "c": torch.tensor([0.0, 2.0, 4.0])})


class _Touches:
    """What a hostile checkpoint holds: a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    """No fallback, by no option."""
    mark = tmp_path / "ran"
    source = saved(tmp_path, {"state_dict": STATE, "hook": _Touches(mark)})
    for key in (None, "state_dict"):
        with pytest.raises(IntegrityError, match="holds more than weights") as caught:
            convert(source, tmp_path / "out.safetensors", key=key)
        assert "weights_only=False" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.pth"]


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    """It names classes; its state_dict would do."""
    with pytest.raises(IntegrityError, match="state_dict"):
        convert(saved(tmp_path, torch.nn.Linear(2, 2)), tmp_path / "out.safetensors")


def packed(folder: Path) -> Path:
    """A checkpoint whose contents are compressed."""
    plain, path = io.BytesIO(), folder / "foreign.pth"
    torch.save(STATE, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


@pytest.mark.parametrize("what", ["text", "empty", "cut", "packed", "script", "onnx"])
def test_what_is_no_checkpoint_is_refused(what: str, tmp_path: Path) -> None:
    """By name and reason, never by traceback."""
    source = saved(tmp_path, STATE)
    if what == "packed":
        packed(tmp_path)
    else:
        content = {
            "text": b"hello",
            "empty": b"",
            "cut": source.read_bytes()[:-200],
            "onnx": b"\x08\x09\x3a\x02",
            "script": b"",
        }
        source.write_bytes(content[what])
    if what == "script":
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("m/constants.pkl", b"\x80\x02.")
    with pytest.raises(IntegrityError, match=r"foreign\.pth"):
        convert(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("value", [[1, 2], STATE["half"], {}, {"a": torch.ones(2).to_sparse()}, {"a": torch.ones(2) * 1j}])
def test_what_is_no_dense_weights_by_name_is_refused(value: Any, tmp_path: Path) -> None:
    """A list, a lone tensor, nothing, sparse or complex numbers."""
    with pytest.raises(UsageError, match=r"foreign\.pth"):
        convert(saved(tmp_path, value), tmp_path / "out.safetensors")


def test_nothing_is_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the target says by its name what it is."""
    source = saved(tmp_path, STATE)
    (tmp_path / "out.safetensors").touch()
    for target in ("out.safetensors", "out.bin"):
        with pytest.raises(UsageError, match=target):
            convert(source, tmp_path / target)
    with pytest.raises(SystemExit) as stopped:
        main(["import-weights", str(source), str(tmp_path / "out.safetensors"), "--overwrite"])
    assert stopped.value.code == 0
    assert "sha256 " in capsys.readouterr().out
    same(tmp_path, dict(STATE))


def test_a_missing_checkpoint_is_the_users_mistake(tmp_path: Path) -> None:
    """Not an integrity matter."""
    with pytest.raises(UsageError, match="no such file"):
        convert(tmp_path / "gone.pt", tmp_path / "out.safetensors")

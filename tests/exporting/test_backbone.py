"""A student without its head: weights that timm and torch load strictly, and an embedding that agrees with torch."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import load_file

from edgekd.core.console import Console
from edgekd.core.contracts import Student
from edgekd.core.errors import EvidenceError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Checkpoint, MadeBy
from edgekd.core.side_records import BackboneFiles
from edgekd.core.store import checked_file, read_record
from edgekd.distilling.students.timm import Timm
from edgekd.exporting import backbone
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.testing import TinySource, TinyStudent

Written = tuple[Checkpoint, Path]
SOURCE = TinySource()
TIMM = Timm(model="mobilenetv3_small_050", weights="random", size=32)


def settled(part: Student) -> torch.nn.Module:
    """Return a student whose batch-norm statistics are not those of a fresh one, so that folding them shows."""
    torch.manual_seed(0)
    net = part.build(SOURCE.class_count).train()
    with torch.no_grad():
        for _ in range(3):
            net.features(torch.rand(8, 3, 32, 32), ("logits",))
    return net.eval()


@pytest.fixture
def trained(write_checkpoint: Callable[..., Written]) -> tuple[Checkpoint, Path, Any]:
    """Return a timm student's record, the folder of its weights, and the student."""
    net = settled(TIMM)
    record, folder = write_checkpoint(SOURCE, TIMM, net.model)
    return record, folder, net


def write(
    checkpoint: Checkpoint, folder: Path, out: Path, *, part: Student = TIMM, real: bool = True, **wanted: Any
) -> BackboneFiles:
    return backbone.write(
        checkpoint=checkpoint,
        folder=folder,
        student=part,
        images=SOURCE.val() if real else None,
        out=out,
        wanted=backbone.Wanted(**wanted),
        made_by=MadeBy(version="0"),
        console=Console(quiet=True, stream=io.StringIO()),
    )


def test_every_form_loads_with_the_lines_that_stand_beside_it(
    trained: tuple[Checkpoint, Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three lines of the page, run as they are, give the student's own features."""
    record, folder, net = trained
    out = tmp_path / "backbone"
    made = write(record, folder, out)
    assert made == read_record(BackboneFiles, out / "backbone.json")
    assert made.parity is not None
    assert (made.parity.inputs, made.parity.images) == ("validation images", 9)
    assert made.parity.cosine_min > 0.99999
    assert made.parity.max_abs < 1e-4
    assert set(made.files) == set(made.usage) == {"timm", "torch", "onnx"}
    page = (out / "README.md").read_text()
    monkeypatch.chdir(out)
    image_BCHW = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    normal_BCHW = (image_BCHW - torch.tensor(record.input.mean).view(1, 3, 1, 1)) / torch.tensor(record.input.std).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        expected = net.features(image_BCHW, ("pre_logits", "pooled"))
        for name in ("timm", "torch"):
            assert made.usage[name] in page
            assert len(made.usage[name].splitlines()) == 3
            names: dict[str, Any] = {}
            exec(made.usage[name], names)
            torch.testing.assert_close(names["model"](normal_BCHW), expected["pre_logits"], rtol=1e-5, atol=1e-6)
    names = {"image_BCHW": image_BCHW.numpy()}
    exec(made.usage["onnx"], names)
    assert names["feature_BD"].shape == (3, made.width) == (3, 288)
    np.testing.assert_allclose(names["feature_BD"], expected["pooled"].numpy(), rtol=1e-3, atol=1e-5)


def test_the_weights_are_those_of_timm_without_a_classifier(trained: tuple[Checkpoint, Path, Any], tmp_path: Path) -> None:
    """`timm.create_model(name, num_classes=0)` takes them strictly; torch's file holds the same and nothing but tensors."""
    record, folder, net = trained
    write(record, folder, tmp_path / "out", formats=("timm", "torch"))
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=0)
    state = load_file(tmp_path / "out/backbone.safetensors")
    assert str(model.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    pickled = torch.load(tmp_path / "out/backbone.pth", weights_only=True)
    assert pickled.keys() == state.keys()
    assert all(torch.equal(pickled[key], state[key]) for key in state)
    assert all(torch.equal(state[key], net.model.state_dict()[key]) for key in state)
    assert set(net.model.state_dict()) - set(state) == {"classifier.weight", "classifier.bias"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "backbone.json",
        "backbone.pth",
        "backbone.safetensors",
    ]


def test_a_transformer_keeps_its_image_size(write_checkpoint: Callable[..., Written], tmp_path: Path) -> None:
    """Its position embedding has one entry a patch, so the line that makes the model says the size."""
    part = Timm(model="vit_tiny_patch16_224", weights="random", size=32)
    record, folder = write_checkpoint(SOURCE, part, part.build(3).model)
    made = write(record, folder, tmp_path / "out", part=part, formats=("timm",))
    assert "timm.create_model('vit_tiny_patch16_224', pretrained=False, num_classes=0, img_size=32)" in made.usage["timm"]
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32)
    model.load_state_dict(load_file(tmp_path / "out/backbone.safetensors"), strict=True)


@pytest.mark.parametrize("tap", ["pre_logits", "pooled+pre_act"])
def test_the_embedding_answers_with_the_tap_for_any_batch(
    trained: tuple[Checkpoint, Path, Any], tmp_path: Path, tap: str
) -> None:
    """One input `image` in [0, 1], one output `feature`, normalisation and folded batch norm inside, no classifier."""
    record, folder, net = trained
    made = write(record, folder, tmp_path / "out", tap=tap, formats=("onnx",))
    path = checked_file(made.files["onnx"], folder=tmp_path / "out")
    model = onnx.load(path)
    (taken,), (given,) = model.graph.input, model.graph.output
    shapes = [[side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] for value in (taken, given)]
    assert (taken.name, given.name, shapes) == ("image", "feature", [["batch", 3, 32, 32], ["batch", made.width]])
    assert not any(tensor.name.endswith("classifier.weight") for tensor in model.graph.initializer)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["tap"], said["weights_sha256"], said["checkpoint_sha256"]) == (tap, record.weights.sha256, record.digest())
    assert json.loads(said["input"])["mean"] == list(record.input.mean)
    assert json.loads(said["licences"]) == {"student tiny_net": "Apache-2.0", "teacher vit": "MIT"}
    assert "classes" not in said
    with OnnxRuntime().open(tmp_path / "out", (made.files["onnx"].path,), threads=1) as session:
        for size in (1, 5):
            image_BCHW = prepare_batch(SOURCE.val(), list(range(size)), record.input)
            with torch.no_grad():
                expected_BD = net.features(torch.from_numpy(image_BCHW), (tap,))[tap].numpy()
            np.testing.assert_allclose(session.run(image_BCHW), expected_BD, rtol=1e-3, atol=1e-5)


def test_a_student_of_no_library_has_an_embedding_all_the_same(
    write_checkpoint: Callable[..., Written], tmp_path: Path
) -> None:
    """Its plain weights would load nowhere and are refused; the ONNX file needs nobody, and without images noise checks it."""
    part = TinyStudent()
    record, folder = write_checkpoint(SOURCE, part)
    with pytest.raises(UsageError, match="no form that loads without edgekd"):
        write(record, folder, tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()
    made = write(record, folder, tmp_path / "out", part=part, formats=("onnx",), real=False)
    assert (made.width, list(made.files)) == (8, ["onnx"])
    assert made.parity is not None
    assert (made.parity.inputs, made.parity.images) == ("images of noise", 16)
    assert "16 images of noise" in (tmp_path / "out/README.md").read_text()


def test_an_embedding_that_answers_otherwise_is_refused(
    write_checkpoint: Callable[..., Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that does not do what the student does leaves no record behind."""
    from edgekd.exporting import running

    def turned(self: Any, image_BCHW: np.ndarray) -> np.ndarray:
        return -self._session.run(image_BCHW)[0]

    monkeypatch.setattr(running.RunnerSession, "run", turned)
    record, folder = write_checkpoint(SOURCE, TinyStudent())
    with pytest.raises(EvidenceError, match="answers otherwise than torch"):
        write(record, folder, tmp_path / "out", part=TinyStudent(), formats=("onnx",))
    assert not (tmp_path / "out/backbone.json").exists()


def test_what_is_not_ours_is_not_touched(trained: tuple[Checkpoint, Path, Any], tmp_path: Path) -> None:
    """A folder with other files is refused; an earlier backbone is replaced, forms that are not wanted any more included."""
    record, folder, _ = trained
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("mine")
    with pytest.raises(UsageError, match="nothing was touched"):
        write(record, folder, tmp_path / "mine", formats=("timm",))
    assert (tmp_path / "mine/README.md").read_text() == "mine"
    write(record, folder, tmp_path / "out", formats=("timm", "torch"))
    write(record, folder, tmp_path / "out", formats=("timm",))
    assert not (tmp_path / "out/backbone.pth").exists()


def test_a_map_is_no_embedding_and_an_unknown_form_is_told(trained: tuple[Checkpoint, Path, Any], tmp_path: Path) -> None:
    """Both before anything is written."""
    record, folder, _ = trained
    with pytest.raises(UsageError, match="an embedding is a vector"):
        write(record, folder, tmp_path / "out", tap="map")
    with pytest.raises(UsageError, match="there are timm, torch, onnx"):
        write(record, folder, tmp_path / "out", formats=("keras",))
    assert not (tmp_path / "out").exists()

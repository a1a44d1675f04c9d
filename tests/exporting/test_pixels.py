"""One preparation for every picture: the same bytes give the same tensor in evaluation, export, bench and the graph itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from edgekd.benching.inputs import Photographs
from edgekd.benching.worker import batches_of
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Exportable, Sample
from edgekd.core.errors import DataError, UsageError
from edgekd.core.images import decode, prepare, prepare_batch
from edgekd.core.records import Checkpoint, InputContract, MadeBy
from edgekd.distilling.evaluation import prepared_batches
from edgekd.exporting import exposing, graph, pixels, stage
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.testing import TinySource, TinyStudent, tiny_exportable, tiny_student

CONSOLE = Console(quiet=True)
NET = tiny_student()
CONTRACTS = [
    InputContract(
        size_px=(16, 16),
        resize_px=resize,
        interpolation=kernel,
        crop=crop,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    for resize, kernel, crop in ((18, "bilinear", "center"), (20, "bicubic", "center"), (16, "bicubic", "squash"))
]
IDS = ["bilinear", "bicubic", "squash"]


class Files:
    """Photographs in several formats, shapes and modes, as bytes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.contents = []
        for (width, height), mode, form in (
            ((40, 31), "RGB", "PNG"),
            ((31, 40), "RGB", "JPEG"),
            ((16, 16), "L", "JPEG"),
            ((90, 33), "RGBA", "PNG"),
            ((17, 64), "RGB", "WEBP"),
        ):
            low = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            written = BytesIO()
            low.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(written, form)
            self.contents.append(written.getvalue())
        self.samples = [Sample(id=f"{i}.img", label=0, locator=None) for i in range(len(self.contents))]

    def __len__(self) -> int:
        return len(self.contents)

    def load(self, index: int) -> np.ndarray:
        return decode(self.contents[index])


FILES = Files()


def exportable_of(contract: InputContract, module: nn.Module = NET) -> Exportable:
    return replace(tiny_exportable(module), input=contract)


# ------------------------------------------------------------------------------------------------------------------- golden
@pytest.mark.parametrize("contract", CONTRACTS, ids=IDS)
def test_the_same_bytes_give_the_same_tensor_everywhere(contract: InputContract) -> None:
    """Evaluation in training, export, bench and the graph that takes bytes: uint8 equal bit for bit, and so are the floats."""
    everything = list(range(len(FILES)))
    ((_, evaluated),) = prepared_batches(FILES, contract, device=torch.device("cpu"))
    exported_BCHW = prepare_batch(FILES, everything, contract)
    bytes_BHWC = prepare_batch(FILES, everything, contract.of_bytes())
    assert (exported_BCHW.dtype, bytes_BHWC.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(evaluated.numpy(), exported_BCHW)
    np.testing.assert_array_equal(bytes_BHWC.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255), exported_BCHW)
    np.testing.assert_array_equal(np.rint(exported_BCHW * 255).astype(np.uint8), bytes_BHWC.transpose(0, 3, 1, 2))
    fed = [one for image in np.split(bytes_BHWC, len(FILES)) for one in batches_of(image, 1)]
    np.testing.assert_array_equal(np.concatenate(fed), bytes_BHWC)
    graph_BCHW = unit_of(pixels.with_bytes(graph.to_onnx(exportable_of(contract)), contract.of_bytes()), bytes_BHWC)
    np.testing.assert_array_equal(graph_BCHW, exported_BCHW)


def unit_of(model: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    """Return the tensor in [0, 1] inside of a graph that takes bytes."""
    return exposing.shown_by_onnx(model).run([pixels.UNIT], given)[1]


def test_bytes_are_what_pillow_gives_worked_out_by_hand() -> None:
    """Two by two pixels squashed to one are the mean of their rows' means, each rounded: 15 and 35.5 to 36, then 25.5 to 26."""
    contract = CONTRACTS[2].model_copy(update={"size_px": (1, 1), "interpolation": "bilinear"}).of_bytes()
    image_HWC = np.array([[[0, 10, 255], [2, 20, 255]], [[4, 30, 255], [6, 41, 255]]], np.uint8)
    assert prepare(image_HWC, contract).tolist() == [[[3, 26, 255]]]


@pytest.mark.parametrize("value", [0, 1, 100, 254, 255])
def test_openvino_scales_to_the_last_bit_but_one(tmp_path: Path, value: int) -> None:
    """It multiplies by the reciprocal of 255 where the others divide: one unit in the last place, and no more."""
    written = OpenVino(inputs="uint8").export(exportable_of(CONTRACTS[0]), tmp_path)
    shown = exposing.shown_by_openvino(tmp_path / written.files[0])
    given = np.full((1, 16, 16, 3), value, np.uint8)
    unit_BCHW = shown.run([shown.computed[pixels.UNIT]], given)[1]
    np.testing.assert_array_max_ulp(unit_BCHW, np.full((1, 3, 16, 16), np.float32(value) / np.float32(255)), maxulp=1)


# ------------------------------------------------------------------------------------------------------------- the exported
@pytest.mark.parametrize("contract", CONTRACTS, ids=IDS)
@pytest.mark.parametrize("resize", ["outside", "inside"])
@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVino])
def test_a_graph_of_bytes_answers_like_torch(kind: type[Backend], resize: str, contract: InputContract, tmp_path: Path) -> None:
    """Photographs of any shape: with the resize outside like torch; inside, as near as a level of 255 here and there."""
    backend = kind(inputs="uint8", resize=resize)
    written = backend.export(exportable_of(contract), tmp_path)
    (image,) = written.inputs
    sides = (16, 16) if resize == "outside" else ("height", "width")
    assert (image.shape, image.dtype) == (("batch", *sides, 3), "uint8")
    fed = contract.of_bytes(resize_inside=resize == "inside")
    with backend.open(tmp_path, written.files, threads=1) as session:
        for index in range(len(FILES)):
            with torch.no_grad():
                expected_BK = NET(torch.from_numpy(prepare_batch(FILES, [index], contract))).numpy()
            found_BK = session.run(prepare_batch(FILES, [index], fed))
            np.testing.assert_allclose(found_BK, expected_BK, rtol=0, atol=1e-5 if resize == "outside" else 2e-3)


@pytest.mark.parametrize("contract", CONTRACTS, ids=IDS)
def test_resizing_inside_is_pillows_to_one_level(contract: InputContract) -> None:
    """Both halves of the way are compared apart: which pixels are cut out, and by how many levels they differ."""
    raw = contract.of_bytes(resize_inside=True)
    model = pixels.with_bytes(graph.to_onnx(exportable_of(contract)), raw)
    for index in range(len(FILES)):
        found_BCHW = unit_of(model, prepare_batch(FILES, [index], raw))
        apart = np.abs(found_BCHW - prepare_batch(FILES, [index], contract)) * 255
        assert apart.max() < 1.01
        assert (apart > 0.5).mean() < 0.1  # most where 16 px become 18 and many values are halves


def test_the_file_and_the_contract_say_bytes(tmp_path: Path) -> None:
    """Whoever finds the file alone sees NHWC and 0 to 255, and the mean that it applies inside."""
    OnnxRuntime(inputs="uint8", resize="inside").export(tiny_exportable(NET), tmp_path)
    about = {prop.key: prop.value for prop in onnx.load(tmp_path / "model.onnx").metadata_props}
    told = json.loads(about["input"])
    assert (told["layout"], told["value_range"], told["resize_inside"]) == ("NHWC", [0.0, 255.0], True)
    assert (told["mean"], told["normalisation_inside"]) == ([0.485, 0.456, 0.406], True)


@pytest.mark.parametrize("resize", ["outside", "inside"])
@pytest.mark.parametrize("batch", ["dynamic", 4])
def test_the_stage_feeds_bytes_and_the_bench_too(
    write_checkpoint: Callable[..., tuple[Checkpoint, Path]], tmp_path: Path, resize: str, batch: str | int
) -> None:
    """All nine images through the runtime, at any batch; the record says what it takes and the bench feeds that."""
    source, student = TinySource(), TinyStudent()
    checkpoint, folder = write_checkpoint(source, student)
    made = stage.export(
        reference=stage.Reference(
            checkpoint=checkpoint, folder=folder, student=student, source=source, threads=1, console=CONSOLE
        ),
        backend=OnnxRuntime(inputs="uint8", resize=resize, batch=batch),
        folder=tmp_path / "a",
        threads=1,
        from_={},
        made_by=MadeBy(version="0"),
        console=CONSOLE,
    )
    assert (made.parity.images, made.parity.top1_agreements) == (9, 9)
    assert made.parity.max_abs < (1e-6 if resize == "outside" else 1e-3)
    assert made.input == checkpoint.input.of_bytes(resize_inside=resize == "inside")
    images = np.load(Photographs(source, tmp_path, count=4, seed=0).for_contract(made.input).inputs_npy, allow_pickle=False)
    assert (images.dtype, images.shape[-1]) == (np.uint8, 3)
    if resize == "outside":
        assert images.shape == (4, 16, 16, 3)
    else:
        assert images.shape == (4, 20, 20, 3)
        assert any(np.array_equal(images[0], source.val().load(index)) for index in range(9))


# ------------------------------------------------------------------------------------------------------------- the own mean
class OwnMean(nn.Module):
    """Answers 1 where the red of an image is above its own mean, else 0; white and black are one standard deviation away."""

    mean: Tensor

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), mean))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        red_B = ((image_BCHW - self.mean) / self.mean).mean(dim=(2, 3))[:, 0]
        return torch.stack([-red_B, red_B, torch.full_like(red_B, -9.0)], dim=1)


def test_another_mean_cannot_be_fed(tmp_path: Path) -> None:
    """A model of mean 0.5, a grey between its mean and ImageNet's: normalised by the caller it errs; bytes leave no choice."""
    model, grey = OwnMean(0.5).eval(), 124  # 124 / 255 is 0.4863: below 0.5, above 0.485
    contract = CONTRACTS[2].model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    image_HWC = np.full((20, 20, 3), grey, np.uint8)
    backend = OnnxRuntime(inputs="uint8")
    written = backend.export(exportable_of(contract, model), tmp_path)
    right_BCHW = torch.from_numpy(prepare(image_HWC, contract)[None])
    others = (right_BCHW - 0.485) / 0.229  # what a caller with ImageNet's habits would feed
    with backend.open(tmp_path, written.files, threads=1) as session, torch.no_grad():
        found = session.run(prepare(image_HWC, contract.of_bytes())[None])
        assert found.argmax() == model(right_BCHW).argmax() == 0
        wrong = OwnMean(0.485)(right_BCHW)
        assert wrong.argmax() == 1
        with pytest.raises(UsageError, match=r"takes uint8 images of shape batch x 16 x 16 x 3(.|\n)*normalises them itself"):
            session.run(others.numpy())
    constants = [onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert any(value.shape == (1, 3, 1, 1) and (value == 0.5).all() for value in constants)


@pytest.mark.parametrize(
    ("model", "mean", "kernel", "resize_px"),
    [("vit_tiny_patch16_224", 0.5, "bicubic", 35), ("mobilenetv3_small_050", 0.485, "bicubic", 36)],
)
def test_a_students_own_preprocessing_is_in_its_contract_and_in_its_module(
    model: str, mean: float, kernel: str, resize_px: int
) -> None:
    """timm's mean, kernel and crop of this very model, and what it deploys subtracts the mean that the contract names."""
    from edgekd.distilling.students.timm import Timm

    student = Timm(model=model, weights="random", size=32)
    contract = student.input_contract()
    assert (contract.mean[0], contract.interpolation, contract.resize_px) == (mean, kernel, resize_px)
    deployed = student.exportable(student.build(3).eval())
    seen = []
    deployed.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        deployed(torch.tensor(contract.mean).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert seen[0].abs().max() == 0


# ----------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVino])
def test_floats_are_not_resized_inside(kind: type[Backend]) -> None:
    """Only bytes are resized as Pillow does it; on floats 15 % of the values would differ."""
    with pytest.raises(ValidationError, match="needs `inputs: uint8`"):
        kind(resize="inside")


@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVino])
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"interpolation": "lanczos"}, "lanczos is not an interpolation"), ({"resize_px": 12}, "cannot be cut out")],
)
def test_what_no_graph_does_like_pillow_is_refused(kind: type[Backend], changes: dict, said: str, tmp_path: Path) -> None:
    """Rather no graph than one that sees other pixels than training did."""
    contract = CONTRACTS[0].model_copy(update=changes)
    with pytest.raises(UsageError, match=said):
        kind(inputs="uint8", resize="inside").export(exportable_of(contract), tmp_path)


def test_an_older_opset_does_not_resize(tmp_path: Path) -> None:
    """Antialiasing came with opset 18; without it the pixels would be others. Bytes alone need nothing new."""
    with pytest.raises(UsageError, match="needs opset 18, not 17"):
        OnnxRuntime(inputs="uint8", resize="inside", opset=17).export(tiny_exportable(NET), tmp_path)
    assert OnnxRuntime(inputs="uint8", opset=17).export(tiny_exportable(NET), tmp_path).opset == 17


def test_photographs_of_several_sizes_are_no_batch() -> None:
    """One message instead of numpy's."""
    with pytest.raises(DataError, match="several sizes"):
        prepare_batch(FILES, [0, 1], CONTRACTS[0].of_bytes(resize_inside=True))


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    """A graph that resizes inside is written alike twice in one process."""
    for kind in (OnnxRuntime, OpenVino):
        contents = []
        for name in ("one", "two"):
            folder = tmp_path / f"{kind.__name__}-{name}"
            folder.mkdir()
            files = kind(inputs="uint8", resize="inside").export(tiny_exportable(NET), folder).files
            contents.append([(folder / file).read_bytes() for file in files])
        assert contents[0] == contents[1]

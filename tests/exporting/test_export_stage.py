"""The export stage: what is in the record, what it is made from, and what is refused."""

import csv
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Exportable, ExportedFiles
from edgekd.core.errors import DataError, EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, Checkpoint, MadeBy, TensorSpec
from edgekd.core.store import checked_file, read_record
from edgekd.core.thumbnails import read_thumbnails
from edgekd.exporting import stage
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.torch import Torch
from edgekd.testing import FakeBackend, TinySource, TinyStudent

SOURCE, STUDENT = TinySource(), TinyStudent()
CONSOLE = Console(quiet=True)
Written = tuple[Checkpoint, Path]


@pytest.fixture
def checkpoint(write_checkpoint: Callable[..., Written]) -> Written:
    return write_checkpoint(SOURCE, STUDENT)


def reference(checkpoint: Written, *, source: TinySource = SOURCE, student: TinyStudent = STUDENT) -> stage.Reference:
    return stage.Reference(
        checkpoint=checkpoint[0], folder=checkpoint[1], student=student, source=source, threads=1, console=CONSOLE
    )


def export(
    checkpoint: Written,
    folder: Path,
    backend: Backend,
    *,
    source: TinySource = SOURCE,
    student: TinyStudent = STUDENT,
    once: stage.Reference | None = None,
    pictures: bool = True,
) -> Artifact:
    return stage.export(
        reference=once or reference(checkpoint, source=source, student=student),
        backend=backend,
        folder=folder,
        threads=1,
        from_={"checkpoint": checkpoint[0].digest()},
        made_by=MadeBy(version="0"),
        console=CONSOLE,
        pictures=pictures,
    )


def torch_logits(net: nn.Module) -> Any:
    """Run a student over the validation images, apart from the stage."""
    image_BCHW = prepare_batch(SOURCE.val(), range(len(SOURCE.val())), STUDENT.input_contract())
    with torch.no_grad():
        return net(torch.from_numpy(image_BCHW)).numpy().astype(np.float64)


# --------------------------------------------------------------------------------------------------------------- the record
def test_the_record_says_what_was_made(checkpoint: Written, tmp_path: Path) -> None:
    """The artifact on disk is the one returned; its file is the one it was judged by."""
    folder = tmp_path / "artifacts" / "onnxruntime-fp32"
    made = export(checkpoint, folder, OnnxRuntime())
    assert read_record(Artifact, folder / "artifact.json") == made
    assert made.name == "onnxruntime-fp32"
    assert made.from_ == {"checkpoint": checkpoint[0].digest()}
    assert (made.precision, made.executed_precision, made.executed_on, made.opset) == ("fp32", "fp32", "CPU", 18)
    assert made.classes == SOURCE.classes
    assert made.input == STUDENT.input_contract()
    assert made.licences == {"student tiny_net": "Apache-2.0", "teacher vit": "MIT"}
    (model,) = made.files
    assert made.size_bytes == checked_file(model, folder=folder).stat().st_size
    assert {path.name for path in folder.iterdir()} == {"artifact.json", "model.onnx", "predictions.csv"}


def test_parity_and_accuracy_are_those_of_the_runtimes_own_answers(checkpoint: Written, tmp_path: Path) -> None:
    """Recounted apart from the stage: onnxruntime over the same pixels, against torch and against the labels."""
    made = export(checkpoint, tmp_path / "a", OnnxRuntime(opset=17))
    reference_NK = torch_logits(STUDENT.build(3).eval())
    image_BCHW = prepare_batch(SOURCE.val(), range(9), STUDENT.input_contract())
    with OnnxRuntime().open(tmp_path / "a", ("model.onnx",), threads=1) as session:
        found_NK = session.run(image_BCHW).astype(np.float64)
    assert made.parity.images == 9
    assert made.parity.max_abs == pytest.approx(np.abs(found_NK - reference_NK).max(), abs=2e-7)
    assert made.parity.top1_agreements == (found_NK.argmax(1) == reference_NK.argmax(1)).sum() == 9
    labels_N = np.array([sample.label for sample in SOURCE.val().samples])
    assert made.accuracy.top1_correct == (found_NK.argmax(1) == labels_N).sum()
    rows = list(csv.DictReader((tmp_path / "a" / "predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [sample.id for sample in SOURCE.val().samples]
    assert [row["label"] for row in rows] == [SOURCE.classes[label] for label in labels_N]
    assert [row["top1"] for row in rows] == [SOURCE.classes[top1] for top1 in found_NK.argmax(1)]


def test_the_file_tells_where_it_comes_from(checkpoint: Written, tmp_path: Path) -> None:
    """Digests of checkpoint, weights and data, the licences and edgekd's version are inside the ONNX file."""
    export(checkpoint, tmp_path / "a", OnnxRuntime(opset=17))
    about = {prop.key: prop.value for prop in onnx.load(tmp_path / "a" / "model.onnx").metadata_props}
    assert about["checkpoint_sha256"] == checkpoint[0].digest()
    assert about["weights_sha256"] == checkpoint[0].weights.sha256
    assert about["data_sha256"] == SOURCE.digest()
    assert json.loads(about["licences"]) == {"student tiny_net": "Apache-2.0", "teacher vit": "MIT"}
    assert about["edgekd"][0].isdigit()


def test_a_constant_error_is_found(checkpoint: Written, tmp_path: Path) -> None:
    """Half a logit too much in the first of three classes: 0.5 at most, 0.5 / 3 on average."""
    made = export(checkpoint, tmp_path / "a", FakeBackend(error=0.5))
    assert made.parity.max_abs == pytest.approx(0.5, abs=1e-6)
    assert made.parity.mean_abs == pytest.approx(0.5 / 3, abs=1e-6)


def test_turned_answers_are_listed_as_flips(checkpoint: Written, tmp_path: Path) -> None:
    """Every fourth image's logits are turned round: images 4 and 8 of 9 answer otherwise."""
    made = export(checkpoint, tmp_path / "a", FakeBackend(flip_every=4))
    samples = SOURCE.val().samples
    assert [flip.image for flip in made.parity.flips] == [samples[3].id, samples[7].id]
    assert made.parity.top1_agreements == 7
    assert made.parity.logit_cosine_min == pytest.approx(-1, abs=1e-6)
    assert set(read_thumbnails(made.flips, folder=tmp_path / "a")) == {samples[3].id, samples[7].id}
    assert export(checkpoint, tmp_path / "b", FakeBackend(flip_every=4), pictures=False).flips is None
    assert export(checkpoint, tmp_path / "c", FakeBackend()).flips is None


def test_nan_answers_are_counted_and_wrong(checkpoint: Written, tmp_path: Path) -> None:
    """Every third image's logits are NaN: they agree with nothing, and no answer of theirs is right."""
    made = export(checkpoint, tmp_path / "a", FakeBackend(nan_every=3))
    assert (made.parity.non_finite, made.parity.top1_agreements) == (3, 6)
    rows = list(csv.DictReader((tmp_path / "a" / "predictions.csv").read_text().splitlines()))
    assert [row["top1"] == "" for row in rows] == [False, False, True] * 3


@pytest.mark.parametrize("batch", [1, 4, 9, 20])
def test_a_fixed_batch_is_filled_up_and_cut(checkpoint: Written, tmp_path: Path, batch: int) -> None:
    """Nine images through batches of any size are still nine answers, the same ones."""
    made = export(checkpoint, tmp_path / "a", Torch(batch=batch))
    assert made.inputs[0].shape[0] == batch
    assert made.parity.images == made.accuracy.images == 9
    assert made.parity.top1_agreements == 9
    assert made.parity.max_abs < 1e-6


# ---------------------------------------------------------------------------------------------------------- the reference
def test_torch_is_run_once_for_several_artifacts(checkpoint: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference is made once; the stage then asks neither the student nor its weights again."""
    once = reference(checkpoint)
    monkeypatch.setattr(TinyStudent, "restore", lambda *_: pytest.fail("the student was loaded again"))
    for precision in FakeBackend.precisions:
        made = export(checkpoint, tmp_path / precision, FakeBackend(precision=precision), once=once)
        assert made.parity.max_abs == 0


def test_the_reference_is_the_student_before_it_was_folded(
    checkpoint: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `exportable` that changes the answers is caught: parity is with the trained student, not with its deployable form."""

    def spoiled(self: TinyStudent, student: nn.Module) -> nn.Module:
        other = TinyStudent(seed=1).build(3).eval()
        assert student is not other
        return other

    monkeypatch.setattr(TinyStudent, "exportable", spoiled)
    made = export(checkpoint, tmp_path / "a", FakeBackend())
    apart = np.abs(torch_logits(STUDENT.build(3).eval()) - torch_logits(TinyStudent(seed=1).build(3).eval()))
    assert made.parity.max_abs == pytest.approx(apart.max(), abs=1e-6) != 0


def test_torchs_threads_are_given_back(checkpoint: Written) -> None:
    """The reference runs with the threads asked for, and leaves the process as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        reference(checkpoint)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------- refusals
def test_changed_weights_are_refused(checkpoint: Written, tmp_path: Path) -> None:
    """One flipped bit and nothing is exported."""
    path = checkpoint[1] / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"student\.safetensors"):
        export(checkpoint, tmp_path / "a", FakeBackend())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(write_checkpoint: Callable[..., Written], tmp_path: Path, bad: float) -> None:
    """A diverged student is no student; the message names the tensor."""
    net = STUDENT.build(3)
    with torch.no_grad():
        net.head.bias[1] = bad
    with pytest.raises(IntegrityError, match=r"1 of \d+ weights hold NaN or infinity \(head\.bias\)"):
        export(write_checkpoint(SOURCE, STUDENT, net), tmp_path / "a", FakeBackend())


def test_a_student_that_answers_with_infinity_is_refused(write_checkpoint: Callable[..., Written], tmp_path: Path) -> None:
    """Finite weights can overflow; parity with infinity would say nothing."""
    net = STUDENT.build(3)
    with torch.no_grad():
        net.head.weight.fill_(3e38)
        net.body[1].bias.fill_(9.0)
    with pytest.raises(EvidenceError, match="itself answers with NaN or infinity on 9 of 9 images"):
        export(write_checkpoint(SOURCE, STUDENT, net), tmp_path / "a", FakeBackend())


def test_weights_of_another_student_are_refused(checkpoint: Written, tmp_path: Path) -> None:
    """The recipe's student must be the one that was trained."""
    with pytest.raises(UsageError, match="not the weights of this tiny student"):
        export(checkpoint, tmp_path / "a", FakeBackend(), student=TinyStudent(width=9))


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (TinySource(class_count=4), DataError, "knows 3 classes and the images have 4"),
        (TinySource(val_images=0), EvidenceError, "no validation images"),
    ],
)
def test_images_that_cannot_judge_the_checkpoint_are_refused(
    checkpoint: Written, tmp_path: Path, source: TinySource, error: type[Exception], said: str
) -> None:
    """Other classes, or no images at all."""
    with pytest.raises(error, match=said):
        export(checkpoint, tmp_path / "a", FakeBackend(), source=source)


def test_validation_images_without_labels_are_refused(
    checkpoint: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy needs every label; the message names the images."""
    hidden = TinySource(unlabelled_images=5).unlabelled()
    monkeypatch.setattr(TinySource, "val", lambda _: hidden)
    with pytest.raises(DataError, match="5 validation images have no label: unlabelled/class_0/000"):
        export(checkpoint, tmp_path / "a", FakeBackend())


class _WithoutItsPackage(FakeBackend):
    requires = ("no_such_runtime",)


class _WithTooManyClasses(FakeBackend):
    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        written = super().export(exportable, folder)
        logits = TensorSpec(name="logits", shape=("batch", 1000), dtype="float32")
        return ExportedFiles(files=written.files, inputs=written.inputs, outputs=(logits,))


class _OnAFullDisk(FakeBackend):
    calls: ClassVar[list[Path]] = []

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        self.calls.append(folder)
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("backend", "error", "said"),
    [
        (_WithoutItsPackage(), MachineError, "no_such_runtime, which is not installed"),
        (_WithTooManyClasses(), IntegrityError, "3 x 16 x 16 and 1000 per image, the checkpoint is one of 3 x 16 x 16 and 3"),
        (_OnAFullDisk(), MachineError, "the disk is full"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:20],
)
def test_a_backend_that_fails_leaves_no_record(
    checkpoint: Written, tmp_path: Path, backend: Backend, error: type[Exception], said: str
) -> None:
    """One message, and the artifact counts as not made."""
    with pytest.raises(error, match=said):
        export(checkpoint, tmp_path / "a", backend)
    assert not (tmp_path / "a" / "artifact.json").exists()


def test_what_stood_in_the_folder_before_is_gone(checkpoint: Written, tmp_path: Path) -> None:
    """The folder holds one artifact; a file of an earlier export would go to the device by mistake."""
    export(checkpoint, tmp_path / "a", OnnxRuntime(opset=17))
    (tmp_path / "a" / "model.onnx.data").write_bytes(b"left over")
    export(checkpoint, tmp_path / "a", FakeBackend())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"artifact.json", "model.fake", "predictions.csv"}


def test_a_failed_export_takes_the_old_record_with_it(checkpoint: Written, tmp_path: Path) -> None:
    """After a failure the old record must not vouch for files that are gone."""
    export(checkpoint, tmp_path / "a", FakeBackend())
    with pytest.raises(MachineError):
        export(checkpoint, tmp_path / "a", _OnAFullDisk())
    assert not (tmp_path / "a" / "artifact.json").exists()


# ------------------------------------------------------------------------------------------------------------------- fakes
def test_the_fakes_are_the_same_everywhere() -> None:
    """Images and weights come from seeds: a digest over them is a constant of the test-suite."""
    pixels = [SOURCE.val().load(i) for i in range(9)]
    assert [image.shape for image in pixels] == [(20, 20, 3)] * 9
    assert all(np.array_equal(a, b) for a, b in zip(pixels, [TinySource().val().load(i) for i in range(9)], strict=True))
    assert not np.array_equal(TinySource(seed=1).val().load(0), pixels[0])
    assert TinySource(seed=1).digest() != SOURCE.digest() == TinySource().digest()
    assert not {s.id for s in SOURCE.train().samples} & {s.id for s in SOURCE.val().samples}
    weights = [value for build in (STUDENT, TinyStudent()) for value in build.build(3).state_dict().values()]
    half = len(weights) // 2
    assert all(torch.equal(a, b) for a, b in zip(weights[:half], weights[half:], strict=True))


def test_the_fake_classes_can_be_told_apart() -> None:
    """Mean colours of a class are nearer to one another than to another class's, so a student can learn them."""
    images = SOURCE.train()
    colours = np.array([images.load(i).mean((0, 1)) for i in range(len(images))])
    labels = np.array([sample.label for sample in images.samples])
    centres = np.array([colours[labels == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(colours[:, None] - centres[None], axis=2).argmin(1)
    assert (nearest == labels).all()


def test_a_fake_session_remembers_what_was_done(tmp_path: Path, checkpoint: Written) -> None:
    """Tests of other rooms can ask how often and with which batches a session was run."""
    backend = FakeBackend()
    written = backend.export(reference(checkpoint).exportable, tmp_path)
    with backend.open(tmp_path, written.files, threads=3) as session:
        session.run(np.zeros((2, 3, 16, 16), np.float32))
        assert (session.threads, session.batches, session.closed) == (3, [(2, 3, 16, 16)], False)
    assert session.closed


# ------------------------------------------------------------------------------------------------------------ not executed
def test_what_cannot_run_here_is_recorded_as_not_executed(checkpoint: Written, tmp_path: Path) -> None:
    """The files are there, the reason is kept, and there are no figures; nothing is opened, no package asked for."""

    class Elsewhere(FakeBackend):
        requires = ("no_such_package",)

        def open(self, folder: Path, files: Any, *, threads: int) -> Any:
            raise AssertionError("it was opened")

    made = export(checkpoint, tmp_path / "a", Elsewhere(elsewhere="there is no such device here"))
    assert made.not_executed == "there is no such device here"
    assert (made.parity, made.accuracy) == (None, None)
    assert {made.runtime, made.executed_on, made.executed_precision} == {"not executed"}
    assert read_record(Artifact, tmp_path / "a" / "artifact.json") == made
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"artifact.json", "model.fake"}

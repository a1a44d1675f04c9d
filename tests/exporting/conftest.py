"""A trained tiny student on disk, as the distil stage would leave it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.parts import PartRef
from edgekd.core.records import Accuracy, Checkpoint, FileRef, MadeBy, TeacherFacts, TrainingFacts
from edgekd.core.store import MARKER, file_ref, write_record, write_text
from edgekd.exporting import stage
from edgekd.testing import TinySource, TinyStudent


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., tuple[Checkpoint, Path]]:
    """Return a function that writes a student's weights and returns its record and its folder."""

    def write(source: TinySource, student: TinyStudent, net: nn.Module | None = None) -> tuple[Checkpoint, Path]:
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        net = student.build(source.class_count) if net is None else net
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, folder / "student.safetensors")
        return checkpoint_of(source, student, file_ref(folder / "student.safetensors", folder=folder)), folder

    return write


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run folder once: a tiny student, exported to onnxruntime, OpenVINO (if it is there) and torch."""
    run, source, student = tmp_path_factory.mktemp("tiny") / "run", TinySource(class_count=7, val_images=14), TinyStudent()
    folder = run / "checkpoint"
    folder.mkdir(parents=True)
    write_text(run / MARKER, "{}\n")
    save_file(student.build(7).state_dict(), folder / "student.safetensors")
    checkpoint = checkpoint_of(source, student, file_ref(folder / "student.safetensors", folder=folder))
    write_record(folder / "checkpoint.json", checkpoint)
    console = Console(quiet=True)
    reference = stage.Reference(
        checkpoint=checkpoint, folder=folder, student=student, source=source, threads=1, console=console
    )
    for name in ("onnxruntime", "openvino", "torch"):
        if find_spec(name) is not None:
            backend = parts.load("backend", name)()
            stage.export(
                reference=reference,
                backend=backend,
                folder=run / "artifacts" / backend.artifact_name,
                threads=1,
                from_={"checkpoint": checkpoint.digest(), "data": source.digest()},
                made_by=MadeBy(version="0.1.0", command="edgekd export secret", at="2026-01-01"),
                console=console,
            )
    return run


def checkpoint_of(source: TinySource, student: TinyStudent, weights: FileRef) -> Checkpoint:
    nothing = FileRef(path="nothing", size_bytes=0, sha256="0" * 64)
    teacher = TeacherFacts(
        part=PartRef(use="timm"), name="vit", weights_sha256="1" * 64, licence="MIT", size_px=(32, 32), parameters=9
    )
    return Checkpoint(
        made_by=MadeBy(version="0"),
        name="tiny",
        weights=weights,
        history=nothing,
        student=student.ref(),
        student_name="tiny_net",
        parameters=1,
        licence="Apache-2.0",
        classes=source.classes,
        input=student.input_contract(),
        method=PartRef(use="kd"),
        teachers=(teacher,),
        data=source.facts(),
        training=TrainingFacts(
            steps=1,
            images_seen=8,
            seconds=1.0,
            images_per_second=8.0,
            data_wait_share=0.0,
            final_loss=1.0,
            device="cpu",
            precision="no",
        ),
        accuracy=Accuracy(images=9, top1_correct=3, top5_correct=None, predictions=nothing),
        knn_top1=None,
        probe_top1=None,
        seed=0,
    )

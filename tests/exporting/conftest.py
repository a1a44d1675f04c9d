"""A trained tiny student on disk, as the distil stage would leave it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from edgekd.core.parts import PartRef
from edgekd.core.records import Accuracy, Checkpoint, FileRef, MadeBy, TeacherFacts, TrainingFacts
from edgekd.core.store import file_ref
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

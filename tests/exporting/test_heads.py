"""Students with several heads: every output is exported with its classes, compared with torch, and judged by its own labels."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, Checkpoint, MadeBy
from edgekd.core.store import read_record
from edgekd.exporting import stage
from edgekd.exporting.backends.torch import Torch
from edgekd.testing import FakeBackend, TinySource, TinyStudent, tiny_calibration, tiny_exportable

SOURCE = TinySource()
HEADS = {"some": ("class_2", "class_1"), "others": ("newt", "class_0", "eft")}
CONSOLE = Console(quiet=True)


class Net(nn.Module):
    """A tiny student with a linear head for each of `HEADS`."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        generator = torch.Generator().manual_seed(1)
        self.further = nn.ModuleDict({name: nn.Linear(body.head.in_features, len(c)) for name, c in HEADS.items()})
        for head in self.further.values():
            nn.init.normal_(head.weight, std=3.0, generator=generator)
            nn.init.normal_(head.bias, generator=generator)

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        found = self.body.features(image_BCHW, ("logits", "pre_logits"))
        found |= {f"logits_{name}": head(found["pre_logits"]) for name, head in self.further.items()}
        return {tap: found[tap] for tap in taps}

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.features(image_BCHW, ("logits", *(f"logits_{name}" for name in HEADS))).values())

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return self.body.spec(taps)


class Headed(TinyStudent):
    """A part that builds it."""

    def build(self, classes: int, *, start: bool = True) -> nn.Module:
        return Net(super().build(classes, start=start))


@pytest.fixture
def written(write_checkpoint: Callable[..., tuple[Checkpoint, Path]]) -> tuple[Checkpoint, Path]:
    checkpoint, folder = write_checkpoint(SOURCE, Headed())
    return checkpoint.model_copy(update={"heads": HEADS}), folder


def export(written: tuple[Checkpoint, Path], folder: Path, backend: Backend) -> Artifact:
    reference = stage.Reference(
        checkpoint=written[0], folder=written[1], student=Headed(), source=SOURCE, threads=1, console=CONSOLE
    )
    return stage.export(
        reference=reference,
        backend=backend,
        folder=folder,
        threads=1,
        from_={},
        made_by=MadeBy(version="0"),
        console=CONSOLE,
    )


def answers() -> list[np.ndarray]:
    """Return what torch says to the validation images, output by output, apart from the stage."""
    image_BCHW = prepare_batch(SOURCE.val(), range(9), Headed().input_contract())
    with torch.no_grad():
        return [answer.numpy() for answer in Headed().build(3).eval()(torch.from_numpy(image_BCHW))]


@pytest.mark.parametrize("name", [n for n in ("torch", "onnxruntime", "openvino") if parts.load("backend", n).several_outputs])
def test_every_output_is_exported_with_its_classes_parity_and_accuracy(
    written: tuple[Checkpoint, Path], tmp_path: Path, name: str
) -> None:
    """Three outputs in order; the runtime's answers are torch's; accuracy counts the images of a head's own classes."""
    backend: Any = parts.load("backend", name)()
    made = export(written, tmp_path / "a", backend)
    assert read_record(Artifact, tmp_path / "a" / "artifact.json") == made
    assert [(spec.name, spec.shape[1:], spec.classes) for spec in made.outputs] == [
        ("logits", (3,), ()),
        ("logits_some", (2,), HEADS["some"]),
        ("logits_others", (3,), HEADS["others"]),
    ]
    expected = answers()
    labels = [SOURCE.classes[sample.label] for sample in SOURCE.val().samples]
    assert made.parity is not None
    assert made.parity.top1_agreements == 9
    for head, answer_NK in zip(made.heads, expected[1:], strict=True):
        assert head.parity is not None
        assert head.parity.top1_agreements == 9
        assert head.parity.max_abs < 1e-3
        own = [(head.classes.index(label), row) for label, row in zip(labels, answer_NK, strict=True) if label in head.classes]
        assert head.images == len(own) > 0
        assert head.top1_correct == sum(row.argmax() == label for label, row in own)
    image_BCHW = prepare_batch(SOURCE.val(), range(9), Headed().input_contract())
    with backend.open(tmp_path / "a", [file.path for file in made.files], threads=1) as session:
        found = session.run_all(image_BCHW)
        np.testing.assert_allclose(session.run(image_BCHW), expected[0], rtol=1e-3, atol=1e-4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


class Departing(Torch):
    """A runtime whose second head answers the other way round."""

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> Any:
        session = super().open(folder, files, threads=threads)
        run_all = session.run_all

        def wrong(image_BCHW: np.ndarray) -> list[np.ndarray]:
            first, some, others = run_all(image_BCHW)
            return [first, some, -others]

        session.run_all = wrong  # type: ignore[method-assign]
        return session


def test_a_head_that_departs_fails_the_artifact(written: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    """The first output agrees on every image, and yet no budget on parity may pass: the reason names the head."""
    made = export(written, tmp_path / "a", Departing())
    assert made.parity is not None
    assert made.parity.decision is not None
    assert made.parity.top1_agreements == 9
    assert made.parity.decision.outcome == "fail"
    assert made.parity.decision.because.startswith("output logits_others: ")


def test_a_backend_of_one_output_refuses_several(written: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    """Before anything is written, with those that can."""
    with pytest.raises(UsageError, match=r"(?s)exports one output, and this student has 3.*onnxruntime"):
        export(written, tmp_path / "a", FakeBackend())


def test_int8_keeps_every_output(tmp_path: Path) -> None:
    """A quantised graph has the same outputs in the same order, near the float ones."""
    backend: Any = parts.load("backend", "onnxruntime")(precision="int8")
    net = Headed().build(3).eval()
    exportable = replace(tiny_exportable(net), heads=HEADS)
    files = backend.quantiser(exportable, tiny_calibration()).grid()[1].write(tmp_path)
    assert [spec.name for spec in files.outputs] == ["logits", "logits_some", "logits_others"]
    image_BCHW = np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        expected = [answer.numpy() for answer in net(torch.from_numpy(image_BCHW))]
    with backend.open(tmp_path, files.files, threads=1) as session:
        for one, other in zip(session.run_all(image_BCHW), expected, strict=True):
            assert np.abs(one - other).max() < 0.2 * np.abs(other).max()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_tensors_inside_are_shown_beside_several_outputs(tmp_path: Path, name: str) -> None:
    """What bisecting reads is the first output and the tensor asked for, however many outputs there are."""
    from edgekd.exporting.exposing import shown_by

    backend: Any = parts.load("backend", name)()
    net = Headed().build(3).eval()
    files = backend.export(replace(tiny_exportable(net), heads=HEADS), tmp_path)
    shown = shown_by(tmp_path / files.files[0], precision="fp32")
    image_BCHW = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    with backend.open(tmp_path, files.files, threads=1) as session:
        expected = session.run_all(image_BCHW)
    key = next(iter(shown.computed.values()))
    logits_BK, inner = shown.run((key,), image_BCHW)
    np.testing.assert_allclose(logits_BK, expected[0], rtol=1e-4, atol=1e-5)
    assert inner.ndim == 4

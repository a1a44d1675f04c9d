"""exporting/quantize.py: which int8 candidate is kept, when none should be, and what the record says of the search."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from pydantic import Field

from edgekd.core import gpu, parts
from edgekd.core.console import Console
from edgekd.core.contracts import Attempt, Backend, Calibration, Exportable, ExportedFiles, Quantiser
from edgekd.core.errors import DataError, EvidenceError
from edgekd.core.plan import Quantise
from edgekd.core.records import Artifact, MadeBy, Quantisation, TensorSpec
from edgekd.core.store import read_record
from edgekd.exporting import quantize, stage, tensorrt_qdq
from edgekd.exporting.backends.onnxruntime import OnnxRuntime
from edgekd.exporting.backends.openvino import OpenVino
from edgekd.judging import quantisation
from edgekd.testing import TinyImages, TinySource, TinyStudent, tiny_exportable

SOURCE = TinySource(val_images=20, train_images=30)
LABELS = [sample.label for sample in SOURCE.val().samples]
CONSOLE = Console(quiet=True)
Model = tuple[int, float]
"""How many of the twenty validation images it has right, and how many milliseconds it takes."""


class Scripted(Backend):
    """A runtime whose models are right as often and take as long as a test says."""

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    precision: str = "int8"
    quantise: Quantise | None = None
    floats: dict[str, Model] = Field(default={"fp32": (20, 10.0), "fp16": (20, 8.0)})
    grid: dict[str, Model] = Field(default={})
    careful: dict[str, Model] = Field(default={})
    broken: tuple[str, ...] = ()

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        return written(folder, self.floats[self.precision])

    def quantiser(self, exportable: Exportable, calibration: Calibration) -> Quantiser:
        return ScriptedQuantiser(self, calibration)

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> Any:
        return ScriptedSession(*json.loads((folder / files[0]).read_text()))


class ScriptedQuantiser:
    engine = "script 1.0"

    def __init__(self, backend: Scripted, calibration: Calibration) -> None:
        self.backend, self.calibration = backend, calibration
        self.began_with: str | None = None

    def grid(self) -> tuple[Attempt, ...]:
        return tuple(self.attempt(name, model) for name, model in self.backend.grid.items())

    def careful(self, best: str) -> Iterator[Attempt]:
        for name, model in self.backend.careful.items():
            yield self.attempt(f"{best} {name}", model, kept_float=1)

    def attempt(self, name: str, model: Model, kept_float: int = 0) -> Attempt:
        def write(folder: Path) -> ExportedFiles:
            if name in self.backend.broken:
                raise RuntimeError("no such kernel\nat line 3")
            return written(folder, model)

        return Attempt(name=name, options={"ranges": "minmax"}, write=write, kept_float=kept_float)


class ScriptedSession:
    executed_on, executed_precision, runtime = "CPU", "int8", "script 1.0"

    def __init__(self, right: int, ms: float) -> None:
        self.right, self.ms, self.seen = right, ms, 0

    def run(self, image_BCHW: Any) -> Any:
        numbers = [(self.seen + at) % len(LABELS) for at in range(len(image_BCHW))]
        self.seen += len(image_BCHW)
        answers = [LABELS[n] if n < self.right else (LABELS[n] + 1) % 3 for n in numbers]
        return np.eye(3, dtype=np.float32)[answers]

    def __enter__(self) -> "ScriptedSession":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def written(folder: Path, model: Model) -> ExportedFiles:
    (folder / "model.txt").write_text(json.dumps(model))
    image = TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32")
    logits = TensorSpec(name="logits", shape=("batch", 3), dtype="float32")
    return ExportedFiles(files=("model.txt",), inputs=(image,), outputs=(logits,))


@pytest.fixture(autouse=True)
def _scripted_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scripted session take as long as it says; real ones are timed."""
    real = quantize._call_ns
    monkeypatch.setattr(
        quantize,
        "_call_ns",
        lambda session, image: round(session.ms * 1e6) if isinstance(session, ScriptedSession) else real(session, image),
    )


def search(folder: Path, *, source: Any = SOURCE, **options: Any) -> tuple[ExportedFiles, Quantisation]:
    fields = {name: options.pop(name) for name in ("grid", "careful", "floats", "broken") if name in options}
    settings = Quantise(**{"images": 6, "judged_share": 1.0, "max_drop": 5.0} | options)
    return quantize.Search(
        backend=Scripted(**fields, quantise=settings),
        settings=settings,
        exportable=tiny_exportable(),
        source=source,
        threads=1,
        folder=folder,
        console=CONSOLE,
    ).go()


def kept(folder: Path) -> Model:
    right, ms = json.loads((folder / "model.txt").read_text())
    return right, ms


GRID = {"naive": (10, 2.0), "slow": (20, 7.0), "fast": (19, 4.0)}


def test_the_fastest_that_keeps_the_accuracy_is_kept(tmp_path: Path) -> None:
    """`naive` is faster and loses half; `fast` loses one of twenty, which is the five points allowed."""
    files, found = search(tmp_path, grid=GRID)
    assert files.files == ("model.txt",)
    assert kept(tmp_path) == (19, 4.0)
    assert {one.name: one.outcome for one in found.candidates} == {"naive": "inaccurate", "slow": "slower", "fast": "chosen"}
    assert [(one.top1_correct, one.median_ms) for one in found.candidates] == [(10, 2.0), (20, 7.0), (19, 4.0)]
    assert (found.float_precision, found.float_median_ms, found.float_top1_correct) == ("fp16", 8.0, 20)
    assert (found.calibration_images, found.judged_images, found.refused) == (6, 20, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.txt"]


def test_alike_latencies_are_settled_by_the_answers(tmp_path: Path) -> None:
    """Three per cent are within what a clock can tell; then the one that answers more like float is taken."""
    _, found = search(tmp_path, grid={"a": (19, 4.0), "b": (20, 4.1)})
    assert {one.name: one.outcome for one in found.candidates} == {"a": "slower", "b": "chosen"}


def test_int8_that_is_not_faster_is_refused_unless_asked_for(tmp_path: Path) -> None:
    """It has to beat the faster of the float models; the reason names both times, and the model is kept to look at."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, found = search(tmp_path / "a", grid={"only": (20, 9.0)})
    assert found.refused == "int8 is not faster: 9.00 ms, fp16 8.00 ms (`keep_slower: true` takes it all the same)"
    assert kept(tmp_path / "a") == (20, 9.0)
    _, found = search(tmp_path / "b", grid={"only": (20, 9.0)}, keep_slower=True)
    assert (found.refused, found.keep_slower) == ("", True)


def test_careful_attempts_follow_when_the_grid_drops_too_much(tmp_path: Path) -> None:
    """They begin with the most accurate of the grid, stop at the first that keeps the accuracy, and are timed as well."""
    grid = {"naive": (10, 2.0), "best": (15, 3.0)}
    _, found = search(tmp_path, grid=grid, careful={"1 kept": (17, 3.5), "2 kept": (19, 4.5), "4 kept": (20, 5.0)})
    assert [one.name for one in found.candidates] == ["naive", "best", "best 1 kept", "best 2 kept"]
    assert [one.outcome for one in found.candidates] == ["inaccurate", "inaccurate", "inaccurate", "chosen"]
    assert found.candidates[-1].kept_float == 1
    assert (kept(tmp_path), found.refused) == ((19, 4.5), "")


def test_an_accuracy_that_cannot_be_kept_is_said_and_the_best_is_there(tmp_path: Path) -> None:
    """The refusal names the best candidate and what it loses."""
    _, found = search(tmp_path, grid={"naive": (10, 2.0), "better": (14, 3.0)}, careful={"1 kept": (16, 4.0)})
    assert found.refused == "no candidate keeps top-1 within 5 points of float; the best, better 1 kept, loses 20.00"
    assert kept(tmp_path) == (16, 4.0)
    assert [one.outcome for one in found.candidates] == ["inaccurate", "inaccurate", "chosen"]


def test_a_candidate_that_the_library_cannot_make_is_a_row(tmp_path: Path) -> None:
    """Its row holds the first line of the reason; the others are judged."""
    _, found = search(tmp_path, grid=GRID, broken=("slow",))
    failed = next(one for one in found.candidates if one.name == "slow")
    assert (failed.outcome, failed.note, failed.top1_correct, failed.median_ms) == ("failed", "no such kernel", None, None)
    assert kept(tmp_path) == (19, 4.0)


def test_nothing_that_can_be_made_is_no_artifact(tmp_path: Path) -> None:
    """With every candidate broken there is nothing to hand over."""
    with pytest.raises(EvidenceError, match="could make none of its 3 int8 candidates: no such kernel"):
        search(tmp_path, grid=GRID, broken=tuple(GRID))


def test_images_are_chosen_by_the_seed(tmp_path: Path) -> None:
    """A share of the validation images judges; the record says how many, and another seed takes others."""
    chosen = [
        quantize._judged(SOURCE.val(), Quantise(judged_share=0.5, seed=seed))  # half of twenty
        for seed in (0, 0, 1)
    ]
    assert [len(one) for one in chosen] == [10, 10, 10]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert chosen[0] != chosen[2]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    """Fewer training images than asked for, none at all, and no validation images: each says what to change."""

    class Few(TinySource):
        def calibration(self, n: int) -> TinyImages:
            raise DataError(f"{n} calibration images were asked for; there are 0 training images")

    with pytest.raises(DataError, match="6 calibration images were asked for; there are 0"):
        search(tmp_path, source=Few(), grid=GRID)
    with pytest.raises(EvidenceError, match="no validation images to judge"):
        search(tmp_path, source=TinySource(val_images=0), grid=GRID)


# ---------------------------------------------------------------------------------------------------------- the real ones
@pytest.mark.parametrize("backend", [OnnxRuntime, OpenVino])
def test_a_student_is_searched_for_through_its_own_runtime(
    backend: type[Backend], tmp_path: Path, write_checkpoint: Callable[..., Any]
) -> None:
    """The artifact runs in int8, agrees with the float student, and its record holds every candidate of the grid."""
    student = TinyStudent()
    checkpoint, folder = write_checkpoint(SOURCE, student)
    settings = Quantise(images=12, judged_share=1.0, max_drop=10.0, keep_slower=True)
    reference = stage.Reference(
        checkpoint=checkpoint, folder=folder, student=student, source=SOURCE, threads=1, console=CONSOLE
    )
    out = tmp_path / "int8"
    made = stage.export(
        reference=reference,
        backend=backend(precision="int8", quantise=settings),
        folder=out,
        threads=1,
        from_={},
        made_by=MadeBy(version="0"),
        console=CONSOLE,
    )
    assert "int8" in made.executed_precision
    assert made.parity.logit_cosine_mean > 0.9
    search = made.quantisation
    assert search is not None
    assert {one.outcome for one in search.candidates} <= {"chosen", "slower", "inaccurate"}
    assert sum(one.outcome == "chosen" for one in search.candidates) == 1
    assert len(search.candidates) >= 4
    assert read_record(Artifact, out / "artifact.json") == made
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["artifact.json", made.flips.path, made.accuracy.predictions.path, *(file.path for file in made.files)]
    )


def test_without_its_gpu_tensorrts_candidates_are_chosen_by_answers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_checkpoint: Callable[..., Any]
) -> None:
    """onnxruntime answers in its place: nothing is timed, the graph breaks no rule of TensorRT, the artifact did not run."""

    def none() -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(gpu, "_library", none)
    student = TinyStudent()
    checkpoint, folder = write_checkpoint(SOURCE, student)
    made = stage.export(
        reference=stage.Reference(
            checkpoint=checkpoint, folder=folder, student=student, source=SOURCE, threads=1, console=CONSOLE
        ),
        backend=parts.load("backend", "tensorrt")(
            precision="int8", quantise=Quantise(images=12, judged_share=1.0, max_drop=10.0)
        ),
        folder=tmp_path / "int8",
        threads=1,
        from_={},
        made_by=MadeBy(version="0"),
        console=CONSOLE,
    )
    assert made.not_executed
    assert (made.parity, made.accuracy) == (None, None)
    search = made.quantisation
    assert search is not None
    assert search.judged_through.startswith("onnxruntime")
    assert (search.float_median_ms, search.refused) == (None, "")
    assert {one.median_ms for one in search.candidates} == {None}
    assert {one.outcome for one in search.candidates} <= {"chosen", "less alike", "inaccurate"}
    broken = tensorrt_qdq.misplaced(onnx.load(tmp_path / "int8" / "model.onnx"))
    assert {one.rule for one in broken} <= {"weight scales"}
    assert Artifact.from_json(made.to_json()) == made
    assert "nothing was timed" in quantisation.told(search)
    assert all("None" not in cell for row in quantisation.rows(search) for cell in row)

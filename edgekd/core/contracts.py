"""What each kind of part promises. A part inherits from one of these and adds its options as fields.

Axes: B batch, C channels, H height, W width, D feature width, K classes, N images.
Images are RGB in [0, 1] everywhere outside a model; every model normalises for itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self

from pydantic import Field

from edgekd.core.errors import UsageError
from edgekd.core.evidence import Evidence
from edgekd.core.parts import Part
from edgekd.core.records import (
    ARTIFACT_NAME,
    Artifact,
    DataFacts,
    DeviceFacts,
    Finding,
    Fingerprint,
    InputContract,
    Report,
    TelemetryLog,
    TensorSpec,
    Verdict,
)
from edgekd.core.search_contracts import Scorer as Scorer
from edgekd.core.search_contracts import Space as Space

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

UNKNOWN_LABEL = -1


# ---------------------------------------------------------------------------------------------------------------- images
@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a source: a stable id (path relative to the source's root, `/` between parts), its label, its bytes.

    `label` is the class index or `UNKNOWN_LABEL`. `locator` is what the source needs to find the pixels again. `sha256` is
    that of the image's bytes, or empty where the source does not know it.
    """

    id: str
    label: int
    locator: Any
    sha256: str = ""


class ImageSet(Protocol):
    """Images in a fixed order. Instances are picklable and cheap to copy to data workers."""

    samples: Sequence[Sample]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        """Return image `index` as uint8 RGB HWC, EXIF rotation applied."""
        ...


class Source(Part):
    """Where images and labels come from. Listing, checking and splitting happen on first use and are then remembered."""

    def on_progress(self, progress: Callable[[int, int], None]) -> None:
        """Have `progress(done, total)` called while images are read for the first time; a source may ignore this."""

    def train(self) -> ImageSet:
        """Return the labelled training images."""
        raise NotImplementedError

    def unlabelled(self) -> ImageSet:
        """Return the training images whose labels are unknown or were hidden; may be empty."""
        raise NotImplementedError

    def val(self) -> ImageSet:
        """Return the labelled images that no training step ever sees."""
        raise NotImplementedError

    def calibration(self, n: int) -> ImageSet:
        """Return `n` seeded training images (labels unused)."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in index order."""
        raise NotImplementedError

    def digest(self) -> str:
        """Return the sha256 over ids, labels, split and image bytes: it changes when, and only when, those do."""
        raise NotImplementedError

    def facts(self) -> DataFacts:
        """Return the record of what this source holds, quarantined images included."""
        raise NotImplementedError


# -------------------------------------------------------------------------------------------------------------- learning
@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method asks for before training: taps of the student and of every teacher, labels, number of teachers.

    `taps_by_teacher` names each teacher's taps, in the recipe's order, where they are not the same for all. `fit_samples` is
    how many of the teachers' answers its criterion's `fit` wants to see; `feature_tap` is the student's vector that the
    method shapes, which probes and nearest neighbours judge. `peers` is how many further students it needs at least,
    `branches` into how many the student itself is branched; their taps are called `<peer>/<tap>`. With `class_sets` the
    teachers' own logits may be over other classes than the images'.
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    labels: bool = False
    teachers: bool = True
    only_labelled_images: bool = False
    fit_samples: int = 4096
    feature_tap: str = "pooled"
    peers: int = 0
    branches: int = 0
    class_sets: bool = False
    taps_by_teacher: tuple[tuple[str, ...], ...] = ()

    def taps_of(self, teachers: int) -> tuple[tuple[str, ...], ...]:
        """Return what each of so many teachers is asked; raise `UsageError` if taps are named for another number of them."""
        if not self.taps_by_teacher:
            return (self.teacher_taps,) * teachers
        if len(self.taps_by_teacher) != teachers:
            raise UsageError(
                f"the method names taps for {len(self.taps_by_teacher)} teachers, and there are {teachers}",
                mend="give one entry a teacher, in their order, or one name for all of them",
            )
        return self.taps_by_teacher

    @property
    def trains_head(self) -> bool:
        """Say whether the method trains the student's last layer; else it is fitted as a linear probe afterwards."""
        return "logits" in self.student_taps


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The widths of a model's taps: tap name -> shape without the batch axis.

    `classes` are the names of what its own logits stand for, in their order; empty where nobody knows. A student's are those
    of the images.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Batch:
    """What the loop hands to a method: the student's images, and labels that are -1 where unknown.

    With mixup, image i was blended as `mix * image[i] + (1 - mix) * image[partner_B[i]]`; else mix is 1.
    """

    image_BCHW: "torch.Tensor"
    label_B: "torch.Tensor"
    index_B: "torch.Tensor"
    view_B: "torch.Tensor"
    mix: float = 1.0
    partner_B: "torch.Tensor | None" = None


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The loss to minimise and its parts (unweighted, for the log)."""

    total: "torch.Tensor"
    parts: "Mapping[str, torch.Tensor]"


class FrozenModel(Protocol):
    """A teacher ready to answer: no gradients, evaluation mode, its own normalisation and input size."""

    name: str
    licence: str
    weights_sha256: str
    size_px: tuple[int, int]
    parameters: int
    precision: str

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of these taps; an unknown tap lists the known ones."""
        ...

    def features(self, image_BCHW: "torch.Tensor", taps: tuple[str, ...]) -> "dict[str, torch.Tensor]":
        """Return the tapped features (float32) of images in [0, 1] of any size; the model resizes for itself."""
        ...

    def to(self, device: Any) -> Self:
        """Move the weights and return self."""
        ...


class Teacher(Part):
    """A large pretrained model."""

    def load(self) -> FrozenModel:
        """Load the weights and return the frozen model."""
        raise NotImplementedError


class Student(Part):
    """A small model to be trained.

    `build` returns an `nn.Module` with `features(image_BCHW, taps)`, `spec(taps)` and `head`, its last linear layer.
    """

    def build(self, classes: int, *, start: bool = True) -> "nn.Module":
        """Return the student with a fresh head for `classes` classes; `start` loads its starting weights."""
        raise NotImplementedError

    def restore(self, classes: int, weights: Path) -> "nn.Module":
        """Return the student with the trained weights that a checkpoint's file holds; raise `UsageError` if they do not fit."""
        raise NotImplementedError

    def input_contract(self) -> InputContract:
        """Return how an image must be prepared for this student."""
        raise NotImplementedError

    def exportable(self, student: "nn.Module") -> "nn.Module":
        """Return a module image_BCHW in [0, 1] -> logits_BK for deployment: eval mode, reparameterised, normalising itself."""
        raise NotImplementedError

    def without_head(self, student: "nn.Module") -> "tuple[nn.Module, str]":  # noqa: ARG002 - for those that have one
        """Return the library's own model without its last layer, and the Python expression that makes such a model.

        Raises `UsageError` for a student that no other library knows.
        """
        raise UsageError(
            f"student {self.ref().use} has no form that loads without edgekd", mend="leave these formats out: --format onnx"
        )


class Method(Part):
    """A way to learn. `build` returns the criterion, an `nn.Module` with `forward(student, teachers, batch) -> Losses`.

    `student` and each of `teachers` map tap names to tensors. The criterion's own parameters (projectors) are trained with the
    student; the deployed student does not carry them. A criterion may offer more, and is asked if it does:

    - `fit(teachers)`, once, before training: the teachers' answers to views of training images, tap -> feature_ND (float32).
    - `begin_epoch(student, labelled) -> numbers for the log`, before every pass over the images. `labelled()` gives one pass of
      (the teachers' answers, label_B) over the labelled images; `student.head` is the student's last linear layer. What is
      trained here has its own optimiser, and `requires_grad` off in between.
    - `customised(teachers) -> tensors_ND`: the teachers' features as the student is asked to meet them, for the report.
    """

    def needs(self) -> Needs:
        """Return what this method asks for; checked before any training."""
        raise NotImplementedError

    def further_heads(self, teachers: tuple[FeatureSpec, ...]) -> dict[str, tuple[str, ...]]:  # noqa: ARG002
        """Return the heads that the student gets beside its last layer, with their classes; their taps are `logits_<name>`."""
        return {}

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> "nn.Module":
        """Return the criterion for models of these feature shapes."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------- deploying
class Session(Protocol):
    """A loaded artifact. A context manager; leaving it frees the runtime's memory.

    One whose calls take time that the model does not (another process, say) has an attribute `cannot_be_timed` with the reason.
    """

    @property
    def executed_on(self) -> str:
        """Return the device that the runtime says it runs on."""
        ...

    @property
    def executed_precision(self) -> str:
        """Return what convolutions and matrix products are computed in, as the runtime says; may cost time when asked."""
        ...

    @property
    def runtime(self) -> str:
        """Return the runtime's name and version."""
        ...

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return logits_BK as a host-readable float32 array; `image_BCHW` is float32 in [0, 1], or uint8 BHWC."""
        ...

    def __enter__(self) -> Self:
        """Return self."""
        ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Release the runtime."""
        ...


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """A trained student on its way to a runtime: the float32 module and what the file should say about itself.

    With `heads` (name -> classes) the module answers with a tuple: the logits, then those of each head in this order.
    """

    module: "nn.Module"
    input: InputContract
    classes: tuple[str, ...]
    metadata: Mapping[str, str]
    sample_BCHW: "torch.Tensor"
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportedFiles:
    """What a backend wrote: file names in the artifact's folder (the model first), its interface and opset."""

    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Real images for making a model int8: those that ranges are found on, and those (with labels) to judge by.

    Both yield float32 image_BCHW in [0, 1], prepared by the student's contract, anew at each call.
    """

    batches: "Callable[[], Iterator[np.ndarray[Any, Any]]]"
    judged: "Callable[[], Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]]"
    max_drop: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to make a model int8: `write` puts it into a folder, and may raise `ValueError` or `RuntimeError`."""

    name: str
    options: Mapping[str, str]
    write: "Callable[[Path], ExportedFiles]"
    kept_float: int = 0


class Quantiser(Protocol):
    """What a backend offers for int8: a small declared grid, and more careful attempts for when none of it will do."""

    @property
    def engine(self) -> str:
        """Return the quantising library's name and version."""
        ...

    def grid(self) -> "tuple[Attempt, ...]":
        """Return the declared candidates, the naive one first."""
        ...

    def careful(self, best: str) -> "Iterator[Attempt]":
        """Yield attempts that begin with the grid's candidate `best` and keep more and more in float."""
        ...


class Backend(Part):
    """Exporter and runner of one runtime, in one file. Module level imports neither torch nor the runtime.

    One with `several_outputs` exports students with further heads; its sessions have `run_all`, which returns every output.
    `name` tells two artifacts of one backend and precision apart, in the run's folders, in budgets and in reports.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    several_outputs: ClassVar[bool] = False
    name: Annotated[str, Field(pattern=ARTIFACT_NAME)] | None = None
    precision: str = "fp32"

    @property
    def artifact_name(self) -> str:
        """Return the name of the artifact's folder: `name`, or `<backend>-<precision>`."""
        return self.name or f"{self.ref().use}-{self.precision}"

    def cannot_run_here(self) -> str:
        """Return why this machine is the wrong one to run what it exports, and how to run it on the right one; '' if it is not.

        What is exported all the same is recorded as not executed, which no budget passes. A missing package is no reason.
        """
        return ""

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write the model into `folder` (it exists, is empty and belongs to this export)."""
        raise NotImplementedError

    def quantiser(self, exportable: Exportable, calibration: Calibration) -> Quantiser:
        """Return what finds int8 models for this backend; asked of those with `int8` among their precisions."""
        raise NotImplementedError

    def stand_in(self) -> "Backend | None":
        """Return a backend whose runtime can answer for this one's files where this one cannot run; None if there is none.

        It only helps to choose among int8 candidates by their answers. Its times say nothing, and its answers are no evidence.
        """
        return None

    def inspect(self, folder: Path, files: Sequence[str]) -> None:
        """Raise `IntegrityError` for files that must not reach the runtime; `open` asks too, and then it costs nothing.

        It is not part of what loading costs, so a benchmark calls it before the clock starts.
        """

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> Session:
        """Load the exported model with exactly `threads` threads."""
        raise NotImplementedError

    def runner_file(self) -> Path | None:
        """Return the stand-alone file with which a worker opens this runtime, or None: then it runs on this machine only.

        The file needs Python 3.9, numpy and the runtime, and nothing of edgekd. It has

        - `load_runtime()`, which imports the runtime before the clock starts;
        - `open(folder, files, *, threads, options)`, with this part's own options and `spin`, which gives a session with
          `run(batch)` (a list of arrays), `runtime`, `executed_on`, `executed_precision`, `shape` and `dtype` of the input, and
          `close()`; it may also have `host_readable` (answers need no copy), `compile_ns`, `spin` and `session_options`;
        - `Refusal`, an exception with `message`, `mend` and `exit_code`.
        """
        return None


# ------------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True, kw_only=True)
class ArmName:
    """One arm of a session: an artifact's name, and whose it is (`candidate`, `baseline` or `reference`)."""

    artifact: str
    arm: str


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """A comparison that a session must decide before it may stop: b against a, at most `max_ratio` times as slow.

    A ratio within `min_effect` of 1 is never called slower.
    """

    a: ArmName
    b: ArmName
    max_ratio: float = 1.05
    min_effect: float = 0.02


class Workbench(Protocol):
    """A device made ready: files can be brought to it, and one worker process at a time runs there."""

    def bring(self, files: Mapping[str, Path]) -> str:
        """Have a folder on the device hold these files under these names, and return its path there.

        Raises `MachineError` if the device cannot hold them, `IntegrityError` if what arrives is not what was sent.
        """
        ...

    def work(self, plan: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have one fresh worker process do a plan of `edgekd/benching/worker.py`, or `turns.py` several; return the answer.

        Raises `MachineError` if it crashes, hangs or talks nonsense, and what the worker complains of as its own kind of error.
        """
        ...

    def fingerprint(self) -> Fingerprint:
        """Return the circumstances that the device is in now."""
        ...

    def telemetry(self) -> AbstractContextManager[TelemetryLog]:
        """Sample clocks, temperatures and contention while the context is open; times are those of the workers' clock."""
        ...


class Device(Part):
    """A machine that can time an artifact."""

    def known_as(self) -> str:
        """Return the name that its facts and files carry; one that is far away knows it without being reached."""
        return self.facts().name

    def facts(self) -> DeviceFacts:
        """Return what is known of the machine."""
        raise NotImplementedError

    def default_threads(self) -> int:
        """Return min(cgroup quota, affinity, physical cores) of the machine, at least 1."""
        raise NotImplementedError

    def ready(self) -> AbstractContextManager[Workbench]:
        """Make the machine ready for workers, alone, and leave nothing of them behind."""
        raise NotImplementedError


# --------------------------------------------------------------------------------------------------------------- judging
class Budget(Part):
    """A limit on one metric. Pure: it knows the evidence only, and answers once for each subject it applies to.

    `metrics` are the names it judges, each beginning with the part's own; with several, the part has a field `metric`. What is
    not known is `inconclusive` with what would decide it in `needs`. With `shares_error` its findings carry a `p_value` for
    their fail, and those of all such budgets are held to one error together; `check` is asked again with the share left.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    shares_error: ClassVar[bool] = False

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return at least one finding; missing evidence is `inconclusive`, never `pass`."""
        raise NotImplementedError

    def pairings(self, artifacts: Sequence[Artifact]) -> tuple[Pairing, ...]:  # noqa: ARG002 - for those that compare
        """Return what a session that measures these artifacts must decide for this budget before it may stop."""
        return ()


class Format(Part):
    """A way to write a report. Pure."""

    file_name: ClassVar[str]

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the whole document."""
        raise NotImplementedError

    def beside(self, report: Report, verdict: Verdict) -> Mapping[str, bytes]:  # noqa: ARG002 - for those that have some
        """Return files that the document shows: path within the run folder -> content."""
        return {}


CONTRACTS: dict[str, type[Part]] = {
    "method": Method,
    "teacher": Teacher,
    "student": Student,
    "source": Source,
    "space": Space,
    "scorer": Scorer,
    "backend": Backend,
    "device": Device,
    "budget": Budget,
    "format": Format,
}

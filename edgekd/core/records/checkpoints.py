"""A trained student: what it learned from, how, how good it is, and how its images are prepared."""

from typing import ClassVar, Literal

from edgekd.core.growing import later
from edgekd.core.parts import PartRef
from edgekd.core.records.record import Fact, FileRef, Record

IMPORTED = "onnx"  # what is in a student's place where the model came as an ONNX file and was not trained here


class InputContract(Fact):
    """What a model is fed: how a photograph becomes the tensor image_BCHW, and what the graph does itself.

    Decode to RGB uint8 with the EXIF rotation applied; resize so that the short side is `resize_px` (or, with
    `crop: squash`, both sides to `size_px`); crop the centre `size_px`; divide by 255. `mean` and `std` are applied
    inside the graph (`normalisation_inside`), never by the caller. In layout NHWC the graph takes the bytes themselves
    (`value_range` 0 to 255, uint8) and divides; with `resize_inside` it resizes and crops too.
    """

    size_px: tuple[int, int]
    resize_px: int
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalisation_inside: bool = True
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB"] = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    resize_inside: bool = later(False)

    @property
    def takes_bytes(self) -> bool:
        """Return whether the graph takes uint8 NHWC, as decoded, and scales by itself; else float32 NCHW in [0, 1]."""
        return self.layout == "NHWC"

    def of_bytes(self, *, resize_inside: bool = False) -> "InputContract":
        """Return the contract of the same model in a graph that takes uint8 NHWC."""
        changes = {"layout": "NHWC", "value_range": (0.0, 255.0), "resize_inside": resize_inside}
        return self.model_copy(update=changes)


class Accuracy(Fact):
    """Counts of right answers over one set of images; `predictions` holds them image by image."""

    images: int
    top1_correct: int
    top5_correct: int | None
    predictions: FileRef

    @property
    def top1(self) -> float:
        """Return the share of images whose first answer is right."""
        return self.top1_correct / self.images

    @property
    def top5(self) -> float | None:
        """Return the share of images with the right answer among the first five; None below six classes."""
        return None if self.top5_correct is None else self.top5_correct / self.images


class Quarantined(Fact):
    """An image that was left out, and why."""

    image: str
    reason: str


class DataFacts(Fact):
    """The images a student learned from: counts, the digest over ids, labels and bytes, and what was left out."""

    source: PartRef
    digest: str
    classes: tuple[str, ...]
    train_images: int
    labelled_images: int
    validation_images: int
    quarantined: tuple[Quarantined, ...] = ()


class TeacherFacts(Fact):
    """A frozen teacher: name, weights, input size, and what its features are worth on these images (fractions).

    `classes` are what its own logits stand for, in order, where that is known. `accuracy` is that of a linear probe on its
    features, its answers to the validation images kept beside the student's.
    """

    part: PartRef
    name: str
    weights_sha256: str
    licence: str
    size_px: tuple[int, int]
    parameters: int
    precision: str = "fp32"
    probe_top1: float | None = None
    knn_top1: float | None = None
    classes: tuple[str, ...] = later(())
    accuracy: Accuracy | None = later(None)


class TrainingFacts(Fact):
    """What a training run did and what it cost: `seconds` in all; rate and wait are those of training without evaluation."""

    steps: int
    images_seen: int
    seconds: float
    images_per_second: float
    data_wait_share: float
    final_loss: float
    device: str
    precision: str


class Picture(Fact):
    """Features of the validation images in two dimensions: whose (`of`), how made, a point (x, y) an image in [-1, 1]."""

    of: str
    method: Literal["pca", "tsne"]
    points: tuple[tuple[float, float], ...]


class Representation(Fact):
    """How student and teachers see the same validation images.

    `labels` are the images' class indices, in the order of every picture's points. `cka` is the linear CKA of each pair
    `A ~ B`, None where it is not defined.
    """

    labels: tuple[int, ...]
    cka: dict[str, float | None]
    pictures: tuple[Picture, ...]


class StartFacts(Fact):
    """The earlier checkpoint whose weights a student began with: its digest, how it was made, whether its head was kept.

    `classes` counts those of the earlier head; `licences` holds what the weights stem from besides the student itself.
    """

    checkpoint: str
    method: PartRef
    classes: int
    head: Literal["kept", "fresh"]
    licences: dict[str, str]


class Checkpoint(Record):
    """A trained student; `heads` are its further outputs and the classes of each, in order."""

    kind: ClassVar[str] = "checkpoint"
    name: str
    weights: FileRef
    history: FileRef
    criterion: FileRef | None = None
    student: PartRef
    student_name: str
    parameters: int
    licence: str
    classes: tuple[str, ...]
    input: InputContract
    method: PartRef
    teachers: tuple[TeacherFacts, ...]
    data: DataFacts
    training: TrainingFacts
    accuracy: Accuracy
    head: Literal["trained", "probe", "untrained", "zero_shot"] = "trained"
    feature_tap: str = "pooled"
    knn_top1: float | None
    probe_top1: float | None
    seed: int
    representation: Representation | None = later(None)
    start: StartFacts | None = later(None)
    heads: dict[str, tuple[str, ...]] = later({})


def licences_of_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """Return whose licences bear on a student's weights: its own, its teachers', and those of the checkpoint it began with."""
    teachers = {f"teacher {teacher.name}": teacher.licence for teacher in checkpoint.teachers}
    earlier = checkpoint.start.licences if checkpoint.start is not None else {}
    return {f"student {checkpoint.student_name}": checkpoint.licence, **earlier, **teachers}

"""The records that the rooms hand to one another: facts on disk, frozen, each with its own schema number.

Every record says who made it (`made_by`) and from which records (`from_`, name -> digest), so that a verdict can be walked
back to the pixels. A record's digest is the sha256 of its canonical JSON without `made_by`: the same facts made twice have
the same digest. Units are in the names; shares are fractions in [0, 1].
"""

import hashlib
import json
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgekd.core.errors import IntegrityError
from edgekd.core.parts import PartRef

Outcome = Literal["pass", "fail", "inconclusive", "error"]
IMPORTED = "onnx"  # what is in a student's place where the model came as an ONNX file and was not trained here


class Fact(BaseModel):
    """A value inside a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True, allow_inf_nan=False)


class MadeBy(Fact):
    """Who made a record: edgekd's version, the command line, the git state of the folder it ran in, UTC time."""

    version: str
    command: str = ""
    git: str = ""
    at: str = ""


class FileRef(Fact):
    """A file beside the record: path relative to the record's folder, size and sha256."""

    path: str
    size_bytes: int
    sha256: str


class Record(Fact):
    """Base of the records; `kind` is the record's name on disk, `version` its schema number."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    made_by: MadeBy
    from_: dict[str, str] = Field(default={}, alias="from")

    def digest(self) -> str:
        """Return the sha256 of the record's facts (everything but `made_by`)."""
        facts = self.model_dump(mode="json", exclude={"made_by"})
        return hashlib.sha256(canonical_json({"record": self.kind, **facts})).hexdigest()

    def to_json(self) -> str:
        """Return the record as it is written to disk."""
        facts = self.model_dump(mode="json")
        envelope = {"record": self.kind, "schema": self.version, "digest": self.digest()}
        text = json.dumps({**envelope, **facts}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.encode("utf-8", "backslashreplace").decode()  # a file name may hold bytes that are not UTF-8

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "record") -> Self:
        """Read a record; raise `IntegrityError` if it is another kind or schema, malformed, or was changed by hand."""
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{where}: not JSON: {error}") from error
        if not isinstance(data, dict) or data.pop("record", None) != cls.kind:
            raise IntegrityError(f"{where}: not a {cls.kind} record")
        if (schema := data.pop("schema", None)) != cls.version:
            raise IntegrityError(
                f"{where}: {cls.kind} schema {schema}, this edgekd reads {cls.version}",
                mend="read it with the edgekd version named in its made_by, or make it again",
            )
        digest = data.pop("digest", None)
        try:
            record = cls.model_validate(data)
        except ValidationError as error:
            raise IntegrityError(f"{where}: not a valid {cls.kind} record: {_in_one_line(error)}") from error
        if record.digest() != digest:
            raise IntegrityError(
                f"{where}: the digest inside does not match its content; it was changed after it was made",
                mend="make it again, or restore the file",
            )
        return record


def canonical_json(value: Any) -> bytes:
    """Return the one JSON spelling of a value that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON-able value's canonical spelling."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _in_one_line(error: ValidationError) -> str:
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


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
    resize_inside: bool = False

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `resize_inside` where it is not so: records made before there was such a thing keep their digest."""
        facts: dict[str, Any] = write(self)
        if not self.resize_inside:
            facts.pop("resize_inside", None)
        return facts

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
    """A frozen teacher: name, weights, input size, and what its features are worth on these images (fractions)."""

    part: PartRef
    name: str
    weights_sha256: str
    licence: str
    size_px: tuple[int, int]
    parameters: int
    precision: str = "fp32"
    probe_top1: float | None = None
    knn_top1: float | None = None


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
    """A trained student."""

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
    head: Literal["trained", "probe", "untrained"] = "trained"
    feature_tap: str = "pooled"
    knn_top1: float | None
    probe_top1: float | None
    seed: int
    representation: Representation | None = None
    start: StartFacts | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an absent representation or start, so that checkpoints made before there was one keep their digest."""
        facts: dict[str, Any] = write(self)
        for name in ("representation", "start"):
            if getattr(self, name) is None:
                facts.pop(name, None)
        return facts


def licences_of_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """Return whose licences bear on a student's weights: its own, its teachers', and those of the checkpoint it began with."""
    teachers = {f"teacher {teacher.name}": teacher.licence for teacher in checkpoint.teachers}
    earlier = checkpoint.start.licences if checkpoint.start is not None else {}
    return {f"student {checkpoint.student_name}": checkpoint.licence, **earlier, **teachers}


class TensorSpec(Fact):
    """A named input or output; `batch` stands for a free batch axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Flip(Fact):
    """An image on which the artifact and the torch student answer differently."""

    image: str
    torch_class: str
    runtime_class: str
    label: str


class ParityDecision(Fact):
    """What an artifact's parity proves, held against the limits of its precision (shares are fractions).

    `agreement_low` and `agreement_high` are exact (Clopper-Pearson) bounds, each with 95 % confidence for itself.
    """

    outcome: Literal["pass", "fail", "inconclusive"]
    agreement_low: float
    agreement_high: float
    min_agreement: float | None
    min_cosine: float | None
    because: str


class Parity(Fact):
    """How far an artifact's logits, through its own runtime, are from the torch student's on the same real images."""

    images: int
    max_abs: float
    mean_abs: float
    logit_cosine_mean: float
    logit_cosine_min: float
    top1_agreements: int
    flips: tuple[Flip, ...]
    non_finite: int = 0
    decision: ParityDecision | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an absent decision, so that artifacts made before there was one keep their digest."""
        facts: dict[str, Any] = write(self)
        if self.decision is None:
            facts.pop("decision", None)
        return facts

    @property
    def top1_agreement(self) -> float:
        """Return the share of images on which both give the same first answer."""
        return self.top1_agreements / self.images


class Candidate(Fact):
    """One way to make a model int8, and what came of it; None where it was not tried so far."""

    name: str
    options: dict[str, str]
    kept_float: int = 0
    top1_correct: int | None = None
    agreements: int | None = None
    median_ms: float | None = None
    size_bytes: int | None = None
    outcome: Literal["chosen", "slower", "inaccurate", "failed"]
    note: str = ""


class Quantisation(Fact):
    """The search for an int8 model: what was allowed, the float model it was held against, and every candidate.

    Candidates were judged on `judged_images` of the validation images and timed beside the float models in one process; these
    figures chose between them, the artifact's own accuracy and latency are measured afterwards. `refused` says why none of
    them should be used, though the best is kept.
    """

    engine: str
    calibration_images: int
    calibration_digest: str
    seed: int
    judged_images: int
    max_drop: float
    keep_slower: bool
    float_precision: str
    float_top1_correct: int
    float_median_ms: float
    candidates: tuple[Candidate, ...]
    refused: str = ""


class Artifact(Record):
    """A student in the form that a runtime loads, with its parity and its accuracy through that runtime.

    Where it was made for another machine and has not run yet, `not_executed` says why and how to run it there; parity and
    accuracy are then None, and no budget that asks for them passes.
    """

    kind: ClassVar[str] = "artifact"
    backend: PartRef
    precision: str
    executed_precision: str
    executed_on: str
    runtime: str
    files: tuple[FileRef, ...]
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    classes: tuple[str, ...]
    input: InputContract
    parity: Parity | None
    accuracy: Accuracy | None
    licences: dict[str, str] = {}
    quantisation: Quantisation | None = None
    not_executed: str = ""

    @property
    def name(self) -> str:
        """Return `<backend>-<precision>`, the name of the artifact's folder."""
        return f"{self.backend.use}-{self.precision}"

    @model_validator(mode="after")
    def _ran_or_says_why_not(self) -> Self:
        if (self.parity is None, self.accuracy is None) != (bool(self.not_executed),) * 2:
            raise ValueError("an artifact has parity and accuracy, or says in `not_executed` why it has not")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said, so that artifacts made before it could be said keep their digest."""
        facts: dict[str, Any] = write(self)
        if self.quantisation is None:
            facts.pop("quantisation", None)
        if not self.not_executed:
            facts.pop("not_executed", None)
        return facts


class DeviceFacts(Fact):
    """The machine that something ran on; what could not be read is None, never left out."""

    name: str
    system: str
    machine: str
    cpu: str | None
    logical_cores: int | None
    usable_cores: int
    cgroup_quota_cores: float | None
    memory_bytes: int | None
    governor: str | None
    load_1min: float | None
    python: str
    container: str | None
    physical_cores: int | None = None
    affinity_cores: int | None = None


class WorkerSamples(Fact):
    """What one fresh process measured; times in nanoseconds from a monotonic clock."""

    load_ns: int
    first_ns: int
    warmup_iterations: int
    infer_ns: tuple[int, ...]


class Measurement(Record):
    """The latency of one artifact on one device: every sample, and whether it can be trusted.

    `blur` is the factor by which unsteady processes may mislead (1 for steady ones); a limit further away than that is
    decided all the same. None where the samples must not be used at all.
    """

    kind: ClassVar[str] = "measurement"
    artifact: str
    device: DeviceFacts
    protocol: str
    runtime: str
    executed_on: str
    executed_precision: str
    batch: int
    threads: int
    input_images: int
    workers: tuple[WorkerSamples, ...]
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None


class LatencySummary(Fact):
    """A measurement in a few numbers; a percentile that the samples cannot carry is None and `withheld` says why.

    `worker_*_ms` holds each process's own percentile and is empty if any process has too few samples for it.
    """

    artifact: str
    device: DeviceFacts
    protocol: str
    runtime: str
    executed_on: str
    executed_precision: str
    batch: int
    threads: int
    input_images: int
    warmup_iterations: tuple[int, ...]
    samples: int
    worker_p50_ms: tuple[float, ...]
    worker_p90_ms: tuple[float, ...]
    p50_ms: float | None
    p90_ms: float | None
    load_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    curve_ms: tuple[float, ...]
    withheld: tuple[str, ...]
    flags: tuple[str, ...]
    trusted: bool
    untrusted_because: tuple[str, ...]
    blur: float | None = None


class Interval(Fact):
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Comparison(Fact):
    """The student against the baseline on the same validation images."""

    images: int
    student_top1: Interval
    baseline_top1: Interval
    only_student_right: int
    only_baseline_right: int
    difference: Interval
    mcnemar_p: float


class CurvePoint(Fact):
    """One line of a training history."""

    images_seen: int
    loss: float
    top1: float | None


class Report(Record):
    """The facts side by side; no opinion."""

    kind: ClassVar[str] = "report"
    recipe: str
    student: Checkpoint
    baseline: Checkpoint | None
    comparison: Comparison | None
    student_curve: tuple[CurvePoint, ...]
    baseline_curve: tuple[CurvePoint, ...]
    artifacts: tuple[Artifact, ...]
    latencies: tuple[LatencySummary, ...]


class Finding(Fact):
    """What one budget found: value against limit in `unit`, and one of four outcomes."""

    budget: str
    subject: str
    value: float | None
    limit: float
    bound: Literal["at most", "at least"]
    unit: str
    outcome: Outcome
    because: str


class Verdict(Record):
    """The findings and one word. Unknown is not passed."""

    kind: ClassVar[str] = "verdict"
    outcome: Outcome
    exit_code: int
    findings: tuple[Finding, ...]

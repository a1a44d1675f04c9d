"""The records that stand beside a run: which teacher, which method, what features are worth, what leaves edgekd."""

from typing import ClassVar, Literal

from edgekd.core.parts import PartRef
from edgekd.core.records import (
    Artifact,
    Candidates,
    Checkpoint,
    DataFacts,
    Fact,
    FileRef,
    InputContract,
    Interval,
    LatencyTable,
    Measurement,
    Record,
    Report,
    TeacherFacts,
    TensorSpec,
    Verdict,
)


class LabelledShare(Fact):
    """What frozen features are worth with so many labels: right answers of each draw of labels, over the same `images`."""

    fraction: float
    labels: int
    images: int
    draws: tuple[int, ...]
    probe_correct: tuple[int, ...]
    knn_correct: tuple[int, ...]


class Probes(Record):
    """A checkpoint's frozen features judged by linear probe and nearest neighbours, at several shares of the labels."""

    kind: ClassVar[str] = "probes"
    student_name: str
    tap: str
    width: int
    data: DataFacts
    shares: tuple[LabelledShare, ...]


class EmbeddingParity(Fact):
    """How far an embedding through its runtime is from torch's, on the same real images or, without any, on noise."""

    images: int
    inputs: Literal["validation images", "images of noise"]
    max_abs: float
    mean_abs: float
    cosine_mean: float
    cosine_min: float
    runtime: str


class BackboneFiles(Record):
    """A student without its head, in forms that need no edgekd; `usage` holds, form by form, the code that loads it."""

    kind: ClassVar[str] = "backbone"
    student_name: str
    files: dict[str, FileRef]
    usage: dict[str, str]
    tap: str
    width: int
    input: InputContract
    opset: int | None
    parity: EmbeddingParity | None
    licences: dict[str, str]


class Bundle(Record):
    """What a bundle's folder holds and how it is used: `contract.json`, which the programs in it read.

    `files` are relative to the folder, the model first; `accuracy` and `parity` figures are the artifact's own, counted over
    the same `images`. What is not known is None or missing, never guessed.
    """

    kind: ClassVar[str] = "bundle"
    runtime: str
    precision: str
    measured_with: str
    files: tuple[FileRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    input: InputContract
    classes: tuple[str, ...]
    images: int
    top1_correct: int
    top5_correct: int | None
    top1_agreements: int
    licences: dict[str, str]


class RankedTeacher(Fact):
    """What a teacher's features of whole images are worth before anything is trained; None where labels are needed and missing.

    `compactness` is the mean distance within a class over the mean distance between class centres (ours, see
    `edgekd.distilling.ranking`); `forward_ms` is the rough time of one image on the machine that ranked.
    """

    facts: TeacherFacts
    width: int
    probe_top1: Interval | None
    knn_top1: Interval | None
    compactness: float | None
    participation_ratio: float
    effective_rank: float
    forward_ms: float


class TeacherRanking(Record):
    """Several teachers on the same images, the best linear probe first."""

    kind: ClassVar[str] = "teacher_ranking"
    data: DataFacts
    device: str
    teachers: tuple[RankedTeacher, ...]
    advice: str


class ArmScore(Fact):
    """What one arm of a pilot reached on one rung: means over the seeds, intervals of the validation images.

    `figure` says which share is ranked: the student's own `top1`, or the linear `probe` of its features where the method
    trains no head. `spread` is the standard deviation over seeds, None for one.
    """

    rung: int
    images_seen: int
    figure: Literal["top1", "probe"]
    share: Interval
    spread: float | None
    knn_top1: Interval | None
    checkpoints: tuple[str, ...]


class PilotArm(Fact):
    """One way to learn at one learning rate, in the order of rungs; `cannot_run` says why it has no score or stopped early."""

    name: str
    method: PartRef
    lr: float
    baseline: bool
    scores: tuple[ArmScore, ...]
    cannot_run: str = ""


class PilotResult(Record):
    """Several methods on small equal budgets, and which one to take.

    `difference` is the best method's share minus the baseline's on the last rung, None where they cannot be paired. `helps`
    is None where no baseline could run. The arms were ranked on the validation images, so the winner's share is optimistic.
    """

    kind: ClassVar[str] = "pilot"
    recipe: str
    data: DataFacts
    budgets: tuple[int, ...]
    keep: float
    seeds: tuple[int, ...]
    arms: tuple[PilotArm, ...]
    winner: str
    helps: bool | None
    difference: Interval | None
    decision: str


class TensorNoise(Fact):
    """How far one tensor of an exported graph is from the float32 graph's: `computed` by its node, or as `quantised` after it.

    `sqnr_db` is signal over error, None where the two are equal bit by bit; `lost_db` is how much of it this node cost,
    None if nothing. `non_finite` counts values that only the exported graph has NaN or infinite.
    """

    tensor: str
    node: str
    op: str
    form: Literal["computed", "quantised"]
    sqnr_db: float | None
    lost_db: float | None
    max_abs: float
    non_finite: int
    departs: bool


class Bisection(Record):
    """Where an exported graph departs from the float32 graph of the same student, tensor by tensor over the same images.

    `tensors` are in the order of computation; `unmatched` counts those of the float32 graph that the exported graph does not
    have under any name. Of the logits, `traced_db` is the SQNR of the float32 ONNX graph against torch, `shown_db` that of the
    exported graph with its tensors shown (and so less fused), `deployed_db` that of the artifact as it is.
    """

    kind: ClassVar[str] = "bisection"
    artifact: str
    precision: str
    runtime: str
    images: tuple[str, ...]
    tensors: tuple[TensorNoise, ...]
    unmatched: int
    first: TensorNoise | None
    worst: tuple[TensorNoise, ...]
    traced_db: float | None
    shown_db: float | None
    deployed_db: float | None
    finding: str


RECORDS: dict[str, type[Record]] = {
    record.kind: record
    for record in (
        *(Checkpoint, Artifact, Measurement, Report, Verdict),
        *(Probes, BackboneFiles, Bundle, TeacherRanking, PilotResult, Bisection, Candidates, LatencyTable),
    )
}

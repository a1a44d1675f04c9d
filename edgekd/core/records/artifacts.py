"""A student in the form that a runtime loads, with what that runtime made of it."""

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgekd.core.growing import later
from edgekd.core.parts import PartRef
from edgekd.core.records.checkpoints import Accuracy, InputContract
from edgekd.core.records.record import Fact, FileRef, Record

ARTIFACT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What an artifact may be called: it names a folder and files."""


class TensorSpec(Fact):
    """A named input or output; `batch` stands for a free batch axis.

    `classes` are what a further output answers over, in order; the first output's are the artifact's own.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    classes: tuple[str, ...] = later(())


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
    decision: ParityDecision | None = later(None)

    @property
    def top1_agreement(self) -> float:
        """Return the share of images on which both give the same first answer."""
        return self.top1_agreements / self.images


class HeadFacts(Fact):
    """A further output of an artifact: its parity with torch, and its accuracy over the images of its own classes.

    Both are None where the artifact was not executed, and the accuracy also where no validation image has one of its classes.
    """

    output: str
    classes: tuple[str, ...]
    parity: Parity | None
    images: int = 0
    top1_correct: int | None = None

    @property
    def top1(self) -> float | None:
        """Return the share of the images of its classes that it tells right."""
        return None if self.top1_correct is None else self.top1_correct / self.images


class Candidate(Fact):
    """One way to make a model int8, and what came of it; None where it was not tried so far."""

    name: str
    options: dict[str, str]
    kept_float: int = 0
    top1_correct: int | None = None
    agreements: int | None = None
    median_ms: float | None = None
    size_bytes: int | None = None
    outcome: Literal["chosen", "slower", "less alike", "inaccurate", "failed"]
    note: str = ""


class Quantisation(Fact):
    """The search for an int8 model: what was allowed, the float model it was held against, and every candidate.

    Candidates were judged on `judged_images` of the validation images and timed beside the float models in one process; these
    figures chose between them, the artifact's own accuracy and latency are measured afterwards. `refused` says why none of
    them should be used, though the best is kept. Where the artifact's own runtime could not run, `judged_through` names the one
    that answered in its place; nothing was timed then, and the first median is None.
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
    float_median_ms: float | None
    candidates: tuple[Candidate, ...]
    refused: str = ""
    judged_through: str = later("")


class Artifact(Record):
    """A student in the form that a runtime loads, with its parity and its accuracy through that runtime.

    Where it was made for another machine and has not run yet, `not_executed` says why and how to run it there; parity and
    accuracy are then None, and no budget that asks for them passes. `flips` is a file of small pictures of the worst images
    that it answers differently; `macs` are the student's multiply-accumulates for one image.
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
    licences: dict[str, str] = Field(default={})
    quantisation: Quantisation | None = later(None)
    not_executed: str = later("")
    macs: int | None = later(None)
    heads: tuple[HeadFacts, ...] = later(())
    flips: FileRef | None = later(None)

    @property
    def name(self) -> str:
        """Return the name of the artifact's folder: what the recipe calls it, or `<backend>-<precision>`."""
        return str(self.backend.options.get("name") or f"{self.backend.use}-{self.precision}")

    @model_validator(mode="after")
    def _has_the_name_of_a_folder(self) -> Self:
        name = self.backend.options.get("name")
        if name is not None and not (isinstance(name, str) and re.fullmatch(ARTIFACT_NAME, name)):
            raise ValueError(f"{name!r} cannot name an artifact")
        return self

    @model_validator(mode="after")
    def _ran_or_says_why_not(self) -> Self:
        if (self.parity is None, self.accuracy is None) != (bool(self.not_executed),) * 2:
            raise ValueError("an artifact has parity and accuracy, or says in `not_executed` why it has not")
        return self

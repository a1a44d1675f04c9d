"""How to search for a student, as a recipe says it; recipe and searching room both read this."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgekd.core.parts import PartRef
from edgekd.core.plan import Positive, Section


class SearchLatency(Section):
    """Which latency a search minds: predicted from blocks that are measured once, and of the finalists measured for real.

    Blocks and whole networks run on `device` in processes of their own; with `device: null` in this process, which is quicker
    and less to be trusted. `max_ms` is the limit; without it latencies are only shown. The prediction is corrected on
    `networks` whole ones.
    """

    backend: PartRef = PartRef(use="onnxruntime")
    device: PartRef | None = PartRef(use="local")
    threads: Positive = 1
    max_ms: Annotated[float, Field(gt=0)] | None = None
    networks: Annotated[int, Field(ge=20, le=1000)] = 24
    iterations: Positive = 40
    finalists: Positive = 3


class Search(Section):
    """How `edgekd search` finds a student before any is trained.

    `population`, `sample` and `top` are those of the evolution; the first `population` students are random in every strategy,
    and scores are standardised by them. `ahead` is how many students are drawn before the first of them is scored: 1 is the
    published search, more lets several processes work; whatever `workers` is, the same seed finds the same winner.
    `head` says how teachers get class gradients: from a linear probe on `probe_images` labelled images, or from their own head,
    where that is about the images' classes in the same order (a text head).
    """

    space: PartRef
    strategy: Literal["evolution", "random", "optuna"] = "evolution"
    evaluations: Positive = 1000
    population: Annotated[int, Field(ge=2)] = 36
    sample: Positive = 8
    top: Positive = 5
    ahead: Positive = 1
    scorers: Annotated[tuple[PartRef, ...], Field(min_length=1)] = (
        PartRef(use="relation_similarity"),
        PartRef(use="class_similarity"),
    )
    images: Annotated[int, Field(ge=4)] = 32
    head: Literal["probe", "own"] = "probe"
    probe_images: Annotated[int, Field(ge=16)] = 512
    size: Annotated[int, Field(ge=16)] | None = None
    initialisation: Literal["kaiming", "gaussian"] = "kaiming"
    initialisations: Annotated[int, Field(ge=1, le=100)] = 3
    max_parameters: Positive | None = None
    max_macs: Positive | None = None
    latency: SearchLatency | None = None
    compare: tuple[str, ...] = ("mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100")
    workers: Positive | None = None

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.sample > self.population:
            raise ValueError(f"`sample` ({self.sample}) is drawn from the `population` ({self.population}), so not larger")
        if self.top > self.sample:
            raise ValueError(f"`top` ({self.top}) are the best of the `sample` ({self.sample}), so not more")
        if self.evaluations < self.population:
            raise ValueError(f"`evaluations` ({self.evaluations}) count the first `population` ({self.population}) too")
        return self

"""What a search found: every student that was scored, untrained, and what its latency is thought to be.

An estimate carries `kind: estimate` all its life. It stands in no report, so no budget can pass on it.
"""

from typing import Any, ClassVar, Literal

from edgekd.core.growing import later
from edgekd.core.parts import PartRef
from edgekd.core.records.record import Fact, FileRef, Record
from edgekd.core.records.reports import Interval


class Score(Fact):
    """What a scorer says of a student, larger is better: mean over the initialisations and their standard deviation.

    `spread` is None for what does not depend on the initialisation.
    """

    value: float
    spread: float | None


class LatencyEstimate(Fact):
    """A latency that was predicted from blocks, with the interval that 95 % of the errors seen so far lie in."""

    kind: Literal["estimate"] = "estimate"
    value_ms: float
    low_ms: float
    high_ms: float


class LatencyMeasured(Fact):
    """A latency that was measured: the median, the quartiles, and over how many inferences."""

    kind: Literal["measured"] = "measured"
    p50_ms: float
    low_ms: float
    high_ms: float
    iterations: int


class ScoredStudent(Fact):
    """One untrained student; `parent` is the number of the candidate that it was made from, None for a random one."""

    genome: str
    student: PartRef
    parent: int | None
    scores: dict[str, Score]
    fitness: float
    parameters: int
    macs: int
    estimate: LatencyEstimate | None = None
    measured: LatencyMeasured | None = None


class Term(Fact):
    """One term of the fitness: weight x (score - mean) / deviation, both found on the first candidates, then fixed.

    A term of weight 0 is reported and not searched by; one that did not vary counts 0.
    """

    scorer: PartRef
    weight: float
    mean: float
    deviation: float


class RankAgreement(Fact):
    """How far two rankings of the candidates agree; `given_*` is Spearman's once that third ranking is known."""

    a: str
    b: str
    candidates: int
    spearman: Interval | None
    kendall: Interval | None
    given_parameters: Interval | None = None
    given_latency: Interval | None = None


class LatencyModel(Fact):
    """How latencies were predicted: factor x sum of blocks + per_block_ms x blocks + intercept_ms, fitted on whole networks.

    The errors are relative, each network predicted by a fit without it. `table` is the record of the blocks.
    """

    backend: PartRef
    runtime: str
    device: str
    threads: int
    table: FileRef
    blocks: int
    networks: int
    factor: float
    per_block_ms: float
    intercept_ms: float
    median_error: float
    p95_error: float


class Candidates(Record):
    """The record of a search; `winner` and `front` are numbers of candidates, in the order in which they were scored.

    The front holds those that no other beats in both fitness and cost (`front_by`). `standards` are known networks, scored and
    measured in the same way and not searched.
    """

    kind: ClassVar[str] = "search"
    name: str
    space: PartRef
    networks_in_space: int
    strategy: str
    settings: dict[str, Any]
    seed: int
    teacher: PartRef | None
    images: int
    terms: tuple[Term, ...]
    candidates: tuple[ScoredStudent, ...]
    standards: tuple[ScoredStudent, ...]
    front_by: Literal["latency", "macs"]
    front: tuple[int, ...]
    winner: int
    why: str
    agreements: tuple[RankAgreement, ...]
    latency: LatencyModel | None
    seconds: float
    ended: str

    def lineage(self) -> tuple[int, ...]:
        """Return the numbers of the winner's ancestors, the random one first, the winner last."""
        line, at = [self.winner], self.candidates[self.winner].parent
        while at is not None:
            line.append(at)
            at = self.candidates[at].parent
        return tuple(reversed(line))


class BlockLatency(Fact):
    """One block or whole network of a latency table: median and quartiles.

    `beside_ms` is what two networks of the same space took in the same turns (their geometric mean): p50 over the middle one of
    the turns' own ratios.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    iterations: int
    beside_ms: float | None = later(None)


class LatencyTable(Record):
    """Blocks and whole networks, timed on one device through one runtime; `networks` maps genome to its time."""

    kind: ClassVar[str] = "latency_table"
    backend: PartRef
    runtime: str
    device: str
    threads: int
    blocks: dict[str, BlockLatency]
    networks: dict[str, BlockLatency]

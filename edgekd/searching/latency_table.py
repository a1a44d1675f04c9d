"""Latency without building the whole: blocks timed once, their sum corrected by what whole networks really take.

    latency = factor x sum of the blocks + per_block_ms x number of blocks + intercept_ms

A block alone pays for being called, which a block inside a network does not; the second and third term take that back. They
are fitted on relative errors, for a millisecond matters more to a fast network. What comes out is an estimate.

The machine that one block found was not as fast as the next one's: neighbours come and go. So two networks of the space take
turns with whatever is timed, and times are what they would have been at the median pace of these. The pinned reference model
of `bench` would not do: a neighbour slows it down by less than half as much.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Student
from edgekd.core.errors import EvidenceError
from edgekd.core.parts import PartRef
from edgekd.core.records import BlockLatency, LatencyEstimate, digest_of
from edgekd.core.search_contracts import Space
from edgekd.searching.journal import Journal

if TYPE_CHECKING:
    from edgekd.core.search_contracts import Piece

FEWEST_NETWORKS = 20
_COEFFICIENTS = 3
_TOGETHER = 8  # ours
_BESIDE = 2  # ours: one alone would hand its own luck, as a process, to all that are timed with it


class Stopwatch(Protocol):
    """Times a module on one device through one runtime; the room that knows runtimes hands it in."""

    backend: PartRef
    runtime: str
    device: str
    threads: int
    identity: dict[str, str]

    def ready(self, *beside: "Piece") -> AbstractContextManager[None]:
        """Make the device ready for several modules, with which `beside` take turns; a call without it does so for itself."""
        ...

    def __call__(self, *pieces: "Piece") -> tuple[BlockLatency, ...]:
        """Return the latency of each module, for one image-like tensor of its shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class Correction:
    """From blocks to whole networks; errors are relative, each network predicted by a fit without it."""

    factor: float
    per_block_ms: float
    intercept_ms: float
    networks: int
    median_error: float
    p95_error: float

    def predict(self, blocks_ms: Sequence[float]) -> LatencyEstimate:
        """Return the estimate for a network of these blocks; its interval is the 95th percentile of the errors."""
        raw = self.factor * sum(blocks_ms) + self.per_block_ms * len(blocks_ms) + self.intercept_ms
        value_ms = max(raw, min(blocks_ms))
        return LatencyEstimate(
            value_ms=value_ms, low_ms=value_ms * (1 - min(self.p95_error, 1)), high_ms=value_ms * (1 + self.p95_error)
        )


def fit(blocks_ms: Sequence[Sequence[float]], whole_ms: Sequence[float]) -> Correction:
    """Return the correction that makes the relative squared errors over whole networks smallest.

    Raises `EvidenceError` with fewer than 20 networks.
    """
    if len(whole_ms) < FEWEST_NETWORKS:
        raise EvidenceError(
            f"the correction of a latency table is fitted on {len(whole_ms)} networks; at least {FEWEST_NETWORKS} are needed"
        )
    rows = np.array([[sum(blocks), len(blocks), 1.0] for blocks in blocks_ms])
    whole = np.array(whole_ms)
    errors = []
    for left_out in range(len(whole)):
        kept = np.arange(len(whole)) != left_out
        predicted = float(rows[left_out] @ _coefficients(rows[kept], whole[kept]))
        errors.append(abs(predicted / whole[left_out] - 1))
    factor, per_block_ms, intercept_ms = map(float, _coefficients(rows, whole))
    return Correction(
        factor=factor,
        per_block_ms=per_block_ms,
        intercept_ms=intercept_ms,
        networks=len(whole),
        median_error=float(np.median(errors)),
        p95_error=float(np.percentile(errors, 95)),
    )


def _coefficients(
    rows: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", whole: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    found = np.linalg.lstsq(rows / whole[:, None], np.ones(len(whole)), rcond=1e-10)[0]
    assert len(found) == _COEFFICIENTS
    return cast("np.ndarray[tuple[int], np.dtype[np.float64]]", found)


class Table:
    """The blocks of a space and some whole networks, timed; what was timed before on this device is not timed again."""

    def __init__(self, space: Space, classes: int, stopwatch: Stopwatch, kept: Path) -> None:
        self._space, self._classes, self._stopwatch = space, classes, stopwatch
        dice = random.Random("pace")
        self._beside = [space.drawn(dice) for _ in range(_BESIDE)]
        about = {**stopwatch.identity, "threads": str(stopwatch.threads), "beside": list(map(self._name, self._beside))}
        journal = kept / digest_of(about)[:16]
        self._blocks = Journal(journal / "blocks.jsonl", about)
        self._networks = Journal(journal / "networks.jsonl", about)

    def ready(self) -> AbstractContextManager[None]:
        """Make the device ready for all that is timed here."""
        return self._stopwatch.ready(*map(self._whole, self._beside))

    def block(self, key: str) -> BlockLatency | None:
        """Return a block's time if it is known."""
        return _known(self._blocks, key)

    def measure_blocks(self, console: Console) -> dict[str, BlockLatency]:
        """Time every block of the space that is not known yet, and return them all."""
        covering = self._space.covering()
        keys = {genome: dict.fromkeys(self._space.blocks(genome, self._classes)) for genome in covering}
        wanted = dict.fromkeys(key for one in keys.values() for key in one)
        with console.progress("blocks", len(wanted), "blocks timed") as progress:
            done = sum(_known(self._blocks, key) is not None for key in wanted)
            for genome, own in keys.items():
                missing = [key for key in own if _known(self._blocks, key) is None]
                if not missing:
                    continue
                pieces = self._space.pieces(genome, self.student(genome).build(self._classes, start=False).eval())
                for some in _groups(missing):
                    for key, found in zip(some, self._stopwatch(*(pieces[key] for key in some)), strict=True):
                        self._blocks.add(key, found.model_dump())
                    done += len(some)
                    progress.update(done)
        return {key: cast(BlockLatency, _known(self._blocks, key)) for key in wanted}

    def measure_networks(self, count: int, console: Console) -> dict[str, BlockLatency]:
        """Time so many whole networks, drawn from the space once and for all, and return them by genome."""
        dice, genomes = random.Random("latency"), dict[str, None]()
        for _ in range(100 * count):
            if len(genomes) == min(count, self._space.networks()):
                break
            genomes[self._space.drawn(dice)] = None
        names = {genome: self._name(genome) for genome in genomes}
        missing = [genome for genome, name in names.items() if _known(self._networks, name) is None]
        with console.progress("networks", len(genomes), "networks timed") as progress:
            for some in _groups(missing):
                for genome, found in zip(some, self._stopwatch(*map(self._whole, some)), strict=True):
                    self._networks.add(names[genome], found.model_dump())
                progress.update(len(genomes) - len(missing) + missing.index(some[-1]) + 1)
        return {genome: cast(BlockLatency, _known(self._networks, name)) for genome, name in names.items()}

    def _name(self, genome: str) -> str:
        return f"{genome} > {self._classes}"

    def _whole(self, genome: str) -> "Piece":
        student = self.student(genome)
        return student.exportable(student.build(self._classes, start=False)), (3, *student.input_contract().size_px)

    def student(self, genome: str) -> Student:
        """Return the student of a genome."""
        ref = self._space.student(genome)
        return cast(Student, parts.load("student", ref.use)(**ref.options))

    def correction(self, networks: dict[str, BlockLatency]) -> Correction:
        """Fit the correction on these networks."""
        return fit([self.parts_ms(genome) for genome in networks], [self.paced_ms(found) for found in networks.values()])

    def parts_ms(self, genome: str) -> list[float]:
        """Return the times of a network's blocks; each must have been timed."""
        return [self.paced_ms(cast(BlockLatency, self.block(key))) for key in self._space.blocks(genome, self._classes)]

    def paced_ms(self, found: BlockLatency) -> float:
        """Return what a block or network takes on a machine as fast as this one was in the middle of all that was timed."""
        if found.beside_ms is None:
            return found.p50_ms
        return found.p50_ms / found.beside_ms * self._usual_ms()

    def _usual_ms(self) -> float:
        entries = (entry for journal in (self._blocks, self._networks) for entry in (journal.found or {}).values())
        return float(median(entry["beside_ms"] for entry in entries if "beside_ms" in entry))


Predict = Callable[[str], LatencyEstimate]


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield a few at a time: so many processes take turns, and what a killed search loses is no more."""
    yield from (names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER))


def _known(journal: Journal, key: str) -> BlockLatency | None:
    entry = journal.get(key)
    return BlockLatency(**entry) if entry is not None else None

"""Latency without building the whole: blocks timed once, their sum corrected by what whole networks really take.

    latency = factor x sum of the blocks + per_block_ms x number of blocks + intercept_ms

A block alone pays for being called, which a block inside a network does not; the second and third term take that back. They
are fitted on relative errors, for a millisecond matters more to a fast network. What comes out is an estimate.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from torch import nn

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Student
from edgekd.core.errors import EvidenceError
from edgekd.core.parts import PartRef
from edgekd.core.records import BlockLatency, LatencyEstimate
from edgekd.core.search_contracts import Space
from edgekd.searching.journal import Journal

FEWEST_NETWORKS = 20
_COEFFICIENTS = 3


class Stopwatch(Protocol):
    """Times a module on one device through one runtime; the room that knows runtimes hands it in."""

    backend: PartRef
    runtime: str
    device: str
    threads: int
    identity: dict[str, str]

    def ready(self) -> AbstractContextManager[None]:
        """Make the device ready for several modules; a call without it does so for itself."""
        ...

    def __call__(self, module: nn.Module, input_CHW: tuple[int, int, int]) -> BlockLatency:
        """Return the latency of one image-like tensor of this shape."""
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

    def __init__(self, space: Space, classes: int, stopwatch: Stopwatch, journal: Path) -> None:
        self._space, self._classes, self._stopwatch = space, classes, stopwatch
        about = {**stopwatch.identity, "threads": str(stopwatch.threads)}
        self._blocks = Journal(journal / "blocks.jsonl", about)
        self._networks = Journal(journal / "networks.jsonl", about)

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
                for key in missing:
                    module, shape = pieces[key]
                    self._blocks.add(key, self._stopwatch(module.eval(), shape).model_dump())
                    done += 1
                    progress.update(done)
        return {key: cast(BlockLatency, _known(self._blocks, key)) for key in wanted}

    def measure_networks(self, count: int, console: Console) -> dict[str, BlockLatency]:
        """Time so many whole networks, drawn from the space once and for all, and return them by genome."""
        dice, genomes = random.Random("latency"), dict[str, None]()
        for _ in range(100 * count):
            if len(genomes) == min(count, self._space.networks()):
                break
            genomes[self._space.drawn(dice)] = None
        with console.progress("networks", len(genomes), "networks timed") as progress:
            for done, genome in enumerate(genomes):
                self.network(genome)
                progress.update(done + 1)
        return {genome: self.network(genome) for genome in genomes}

    def network(self, genome: str) -> BlockLatency:
        """Return the time of a whole network, timed now if it was not before."""
        name = f"{genome} > {self._classes}"
        if (known := _known(self._networks, name)) is not None:
            return known
        student = self.student(genome)
        module = student.exportable(student.build(self._classes, start=False))
        found = self._stopwatch(module, (3, *student.input_contract().size_px))
        self._networks.add(name, found.model_dump())
        return found

    def student(self, genome: str) -> Student:
        """Return the student of a genome."""
        ref = self._space.student(genome)
        return cast(Student, parts.load("student", ref.use)(**ref.options))

    def correction(self, networks: dict[str, BlockLatency]) -> Correction:
        """Fit the correction on these networks."""
        return fit([self.parts_ms(genome) for genome in networks], [time.p50_ms for time in networks.values()])

    def parts_ms(self, genome: str) -> list[float]:
        """Return the times of a network's blocks; each must have been timed."""
        return [cast(BlockLatency, self.block(key)).p50_ms for key in self._space.blocks(genome, self._classes)]


Predict = Callable[[str], LatencyEstimate]


def _known(journal: Journal, key: str) -> BlockLatency | None:
    entry = journal.get(key)
    return BlockLatency(**entry) if entry is not None else None

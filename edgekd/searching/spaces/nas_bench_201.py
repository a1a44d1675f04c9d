"""Cells of NAS-Bench-201."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from edgekd.core.genomes import NasBench201Genome
from edgekd.core.genomes.nas_bench_201 import EDGES, OPERATIONS
from edgekd.core.parts import PartRef
from edgekd.core.search_contracts import Space

if TYPE_CHECKING:
    from torch import nn

_GENES = tuple(f"{origin}>{to}" for to, origin in EDGES)
WIDTHS = (16, 32, 64)


class NasBench201(Space):
    """The 15,625 cells of NAS-Bench-201 (Dong & Yang 2020): six edges, five operations; DisWOT's space S1."""

    cells: Annotated[int, Field(ge=1, le=10)] = 5
    size: Annotated[int, Field(ge=8)] = 32

    def genes(self) -> Mapping[str, tuple[str, ...]]:
        """Return the operations of each edge."""
        return dict.fromkeys(_GENES, OPERATIONS)

    def spelled(self, choice: Mapping[str, str]) -> str:
        """Return the cell in the benchmark's spelling."""
        a, b, c, d, e, f = (choice[gene] for gene in _GENES)
        return str(NasBench201Genome((a, b, c, d, e, f)))

    def read(self, genome: str) -> dict[str, str]:
        """Return the operation of each edge."""
        return dict(zip(_GENES, NasBench201Genome.parse(genome).operations, strict=True))

    def student(self, genome: str) -> PartRef:
        """Return the student `nas_bench_201`."""
        self.read(genome)
        return PartRef(use="nas_bench_201", options={"genome": genome, "cells": self.cells, "size": self.size})

    def blocks(self, genome: str, classes: int) -> tuple[str, ...]:
        """Return stem, the cells' operations edge by edge, the two reductions, and head."""
        names, side = [f"stem 3>{WIDTHS[0]} @{self.size}"], self.size
        for stage, width in enumerate(WIDTHS):
            if stage:
                names.append(f"reduction {WIDTHS[stage - 1]}>{width} @{side}")
                side = (side + 1) // 2
            cell = [f"{operation} {width} @{side}" for operation in NasBench201Genome.parse(genome).operations]
            names += [name for name in cell if not name.startswith(("none", "skip"))] * self.cells
        return (*names, f"head {WIDTHS[-1]}>{classes} @{side}")

    def pieces(self, genome: str, student: "nn.Module") -> "Mapping[str, tuple[nn.Module, tuple[int, int, int]]]":
        """Return the operations of the built network, which knows them in order."""
        model: Any = student.model
        return dict(zip(self.blocks(genome, model.num_classes), model.pieces(self.size), strict=True))

    def covering(self) -> tuple[str, ...]:
        """Return three cells of one operation each: the others take no time."""
        busy = (operation for operation in OPERATIONS if operation not in ("none", "skip_connect"))
        return tuple(self.spelled(dict.fromkeys(_GENES, operation)) for operation in busy)

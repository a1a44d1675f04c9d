"""Small residual networks."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from edgekd.core.errors import UsageError
from edgekd.core.genomes import CifarResnetGenome
from edgekd.core.genomes.cifar_resnet import WIDTHS
from edgekd.core.parts import PartRef
from edgekd.core.search_contracts import Space

if TYPE_CHECKING:
    from torch import nn

_STAGES = ("first", "second", "third")


class CifarResnet(Space):
    """CIFAR ResNets; with the default depths the 64 networks of DisWOT's space S0."""

    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=99)], ...], Field(min_length=1)] = (1, 3, 5, 7)
    size: Annotated[int, Field(ge=8)] = 32

    def genes(self) -> Mapping[str, tuple[str, ...]]:
        """Return the depths of each stage."""
        return dict.fromkeys(_STAGES, tuple(map(str, self.depths)))

    def spelled(self, choice: Mapping[str, str]) -> str:
        """Return the genome with these depths."""
        return "-".join(choice[stage] for stage in _STAGES)

    def read(self, genome: str) -> dict[str, str]:
        """Return the depths of a genome."""
        found = CifarResnetGenome.parse(genome)
        if not set(found.depths) <= set(self.depths):
            raise UsageError(f"genome {genome!r}: this space has the depths {', '.join(map(str, self.depths))}")
        return dict(zip(_STAGES, map(str, found.depths), strict=True))

    def student(self, genome: str) -> PartRef:
        """Return the student `cifar_resnet`."""
        self.read(genome)
        return PartRef(use="cifar_resnet", options={"genome": genome, "size": self.size})

    def blocks(self, genome: str, classes: int) -> tuple[str, ...]:
        """Return stem, basic blocks and head."""
        names, width, side = [f"stem 3>{WIDTHS[0]} @{self.size}"], WIDTHS[0], self.size
        for depth, out in zip(CifarResnetGenome.parse(genome).depths, WIDTHS, strict=True):
            for _ in range(depth):
                names.append(f"basic {width}>{out} @{side}")
                side, width = ((side + 1) // 2 if out != width else side), out
        return (*names, f"head {width}>{classes} @{side}")

    def pieces(self, genome: str, student: "nn.Module") -> "Mapping[str, tuple[nn.Module, tuple[int, int, int]]]":
        """Return the blocks of the built network, which knows them in order."""
        model: Any = student.model
        return dict(zip(self.blocks(genome, model.num_classes), model.pieces(self.size), strict=True))

    def covering(self) -> tuple[str, ...]:
        """Return the deepest network: it has every block."""
        deepest = str(max(self.depths))
        return ("-".join([deepest] * len(_STAGES)),)

    def everything(self) -> tuple[str, ...]:
        """Return every genome of the space."""
        return tuple("-".join(map(str, depths)) for depths in product(self.depths, repeat=len(_STAGES)))

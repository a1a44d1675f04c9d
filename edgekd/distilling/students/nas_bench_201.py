"""Networks of NAS-Bench-201."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.core.genomes import NasBench201Genome
from edgekd.distilling.students._cifar_nets import cell_net
from edgekd.distilling.students._genome import CIFAR, GenomeStudent


class NasBench201(GenomeStudent):
    """A network of NAS-Bench-201 (Dong & Yang 2020) by its cell, in the benchmark's spelling.

    `cells` is how many of them each of the three stages has; the benchmark's networks have five.
    """

    cells: Annotated[int, Field(ge=1, le=10)] = 5
    size: Annotated[int, Field(ge=8, le=512)] = 32

    @field_validator("genome")
    @classmethod
    def _readable(cls, genome: str) -> str:
        try:
            NasBench201Genome.parse(genome)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return genome

    @property
    def size_px(self) -> int:
        """Return the side of the images that it takes."""
        return self.size

    def network(self, classes: int) -> nn.Module:
        """Return the network."""
        return cell_net(NasBench201Genome.parse(self.genome).operations, cells=self.cells, classes=classes)

    def preprocessing(self) -> dict[str, Any]:
        """Return CIFAR's: the whole image."""
        return {**CIFAR, "crop_pct": 1.0}

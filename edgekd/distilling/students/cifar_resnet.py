"""Residual networks for small images."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.core.genomes import CifarResnetGenome
from edgekd.distilling.students._cifar_nets import cifar_resnet
from edgekd.distilling.students._genome import CIFAR, GenomeStudent


class CifarResnet(GenomeStudent):
    """A CIFAR ResNet by the blocks of its three stages: 3-3-3 is ResNet20, 9-9-9 ResNet56 (He 2016)."""

    size: Annotated[int, Field(ge=8, le=512)] = 32

    @field_validator("genome")
    @classmethod
    def _readable(cls, genome: str) -> str:
        try:
            CifarResnetGenome.parse(genome)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return genome

    @property
    def size_px(self) -> int:
        """Return the side of the images that it takes."""
        return self.size

    def network(self, classes: int) -> nn.Module:
        """Return the network."""
        return cifar_resnet(CifarResnetGenome.parse(self.genome).depths, classes)

    def preprocessing(self) -> dict[str, Any]:
        """Return CIFAR's: the whole image."""
        return {**CIFAR, "crop_pct": 1.0}

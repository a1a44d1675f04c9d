"""MobileNet-class students that a search finds."""

from functools import partial
from typing import Any

from pydantic import field_validator
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.core.genomes import MobileGenome
from edgekd.distilling.students._genome import GenomeStudent


class Mobile(GenomeStudent):
    """A MobileNet-class network by genome, of timm's own blocks; `edgekd search` finds them.

    `small r224 w1 hard_swish k3e4d2 k5e4d3se k5e3d2se k5e6d3se` is close to MobileNetV3-Small (Howard et al. 2019): a stage
    has a kernel, an expansion, a depth, and squeeze-excite or not; before them stand skeleton, size, width and activation.
    """

    @field_validator("genome")
    @classmethod
    def _readable(cls, genome: str) -> str:
        try:
            MobileGenome.parse(genome)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return genome

    @property
    def size_px(self) -> int:
        """Return the side of the images that it takes."""
        return MobileGenome.parse(self.genome).size_px

    def network(self, classes: int) -> nn.Module:
        """Return timm's MobileNetV3 with these blocks."""
        from timm.layers import get_act_layer  # type: ignore[attr-defined]
        from timm.models._efficientnet_blocks import SqueezeExcite
        from timm.models._efficientnet_builder import decode_arch_def, round_channels
        from timm.models.mobilenetv3 import MobileNetV3

        genome = MobileGenome.parse(self.genome)
        stages = dict[str, list[str]]()
        for block in genome.blocks(classes):
            if block.timm:
                stages.setdefault(block.place.split(".")[0], []).append(block.timm)
        squeeze: Any = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels)
        network: nn.Module = MobileNetV3(
            block_args=decode_arch_def([list(blocks) for blocks in stages.values()]),
            num_classes=classes,
            stem_size=genome.channels(genome.frame.stem),
            fix_stem=True,  # the genome has rounded every width already
            num_features=genome.frame.hidden,
            act_layer=get_act_layer(genome.activation),
            se_layer=squeeze,
        )
        return network

"""MobileNet-class students."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edgekd.core.errors import UsageError
from edgekd.core.genomes import MobileGenome
from edgekd.core.genomes.mobile import SKELETONS
from edgekd.core.parts import PartRef
from edgekd.core.search_contracts import Space

if TYPE_CHECKING:
    from torch import nn

Depth = Annotated[int, Field(ge=1, le=8)]
Size = Annotated[int, Field(ge=32, le=512, multiple_of=16)]
_STAGE_GENES = ("kernel", "expansion", "depth", "squeezed")


class Mobile(Space):
    """MobileNet-class students of timm's inverted residuals: what is searched is what these lists name."""

    skeleton: Literal["small", "large"] = "small"
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)] = (160, 192, 224)
    widths: Annotated[tuple[Annotated[float, Field(ge=0.1, le=4)], ...], Field(min_length=1)] = (0.5, 0.75, 1.0)
    activations: Annotated[tuple[Literal["relu", "relu6", "hard_swish", "silu"], ...], Field(min_length=1)] = (
        "relu",
        "hard_swish",
    )
    kernels: Annotated[tuple[Literal[3, 5, 7], ...], Field(min_length=1)] = (3, 5, 7)
    expansions: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1)] = (3, 4, 6)
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)] = (2, 3, 4)
    squeezed: Annotated[tuple[bool, ...], Field(min_length=1)] = (False, True)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in ("sizes", "widths", "activations", "kernels", "expansions", "depths", "squeezed"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}`: each value once (found {', '.join(map(str, values))})")
        return self

    def genes(self) -> Mapping[str, tuple[str, ...]]:
        """Return size, width and activation, and kernel, expansion, depth and squeeze-excite of each stage."""
        found: dict[str, tuple[str, ...]] = {
            "size": tuple(map(str, self.sizes)),
            "width": tuple(f"{width:g}" for width in self.widths),
            "activation": self.activations,
        }
        values = {
            "kernel": tuple(map(str, self.kernels)),
            "expansion": tuple(map(str, self.expansions)),
            "depth": tuple(map(str, self.depths)),
            "squeezed": tuple("se" if squeezed else "" for squeezed in self.squeezed),
        }
        for stage in range(len(SKELETONS[self.skeleton].channels)):
            found |= {f"{gene} {stage}": values[gene] for gene in _STAGE_GENES}
        return found

    def spelled(self, choice: Mapping[str, str]) -> str:
        """Return the genome with these values."""
        stages = (
            "k{}e{}d{}{}".format(*(choice[f"{gene} {stage}"] for gene in _STAGE_GENES))
            for stage in range(len(SKELETONS[self.skeleton].channels))
        )
        return " ".join([self.skeleton, f"r{choice['size']}", f"w{choice['width']}", choice["activation"], *stages])

    def read(self, genome: str) -> dict[str, str]:
        """Return the values of a genome."""
        found = MobileGenome.parse(genome)
        if found.skeleton != self.skeleton:
            raise UsageError(f"genome {genome!r}: this space has the skeleton {self.skeleton!r}")
        choice = {"size": str(found.size_px), "width": f"{found.width:g}", "activation": found.activation}
        for number, stage in enumerate(found.stages):
            values = (str(stage.kernel), str(stage.expansion), str(stage.depth), "se" if stage.squeezed else "")
            choice |= {f"{gene} {number}": value for gene, value in zip(_STAGE_GENES, values, strict=True)}
        for gene, known in self.genes().items():
            if choice[gene] not in known:
                raise UsageError(f"genome {genome!r}: {gene} {choice[gene]!r} is not in this space: {', '.join(known)}")
        return choice

    def student(self, genome: str) -> PartRef:
        """Return the student `mobile`."""
        self.read(genome)
        return PartRef(use="mobile", options={"genome": genome})

    def blocks(self, genome: str, classes: int) -> tuple[str, ...]:
        """Return stem, residual blocks, last convolution and head."""
        return tuple(block.key for block in MobileGenome.parse(genome).blocks(classes))

    def pieces(self, genome: str, student: "nn.Module") -> "Mapping[str, tuple[nn.Module, tuple[int, int, int]]]":
        """Return timm's own modules of the built network; the stem begins with the normalisation that is deployed with it."""
        from torch import nn

        tapped: Any = student
        model, found = tapped.model, dict[str, tuple[nn.Module, tuple[int, int, int]]]()
        for block in MobileGenome.parse(genome).blocks(model.num_classes):
            if block.place == "stem":
                piece: nn.Module = nn.Sequential(_normalising(tapped), model.conv_stem, model.bn1)
            elif block.place == "head":
                layers = (model.global_pool, model.conv_head, model.norm_head, model.act2, model.flatten, model.classifier)
                piece = nn.Sequential(*layers)
            else:
                stage, number = block.place.split(".")
                piece = model.blocks[int(stage)][int(number)]
            found[block.key] = (piece, block.input_CHW)
        return found

    def covering(self) -> tuple[str, ...]:
        """Return the deepest networks whose stages are all alike: every block is in one of them."""
        genes, stages = self.genes(), range(len(SKELETONS[self.skeleton].channels))
        depth = str(max(self.depths))
        shared = [genes[gene] for gene in ("size", "width", "activation")]
        own = [genes[f"{gene} 0"] for gene in ("kernel", "expansion", "squeezed")]
        return tuple(
            self.spelled(
                {"size": size, "width": width, "activation": activation}
                | {f"kernel {stage}": kernel for stage in stages}
                | {f"expansion {stage}": expansion for stage in stages}
                | {f"squeezed {stage}": squeezed for stage in stages}
                | {f"depth {stage}": depth for stage in stages}
            )
            for size, width, activation, kernel, expansion, squeezed in product(*shared, *own)
        )


def _normalising(tapped: Any) -> "nn.Module":
    """Return (x - mean) / std as the deployed network computes it."""
    import torch
    from torch import Tensor, nn

    class Normalising(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.as_tensor(tapped.mean).clone())
            self.register_buffer("std", torch.as_tensor(tapped.std).clone())

        def forward(self, image_BCHW: Tensor) -> Tensor:
            return (image_BCHW - self.mean) / self.std

    return Normalising()

"""What the parts of a search promise: spaces of students, and scorers of untrained ones.

Axes: B batch, C channels, H height, W width, D width of the vector before the head, K classes.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from edgekd.core.parts import Part, PartRef

if TYPE_CHECKING:
    import torch
    from torch import nn

    Piece = tuple[nn.Module, tuple[int, int, int]]
    """A module, and the shape C x H x W of what comes in."""


@dataclass(kw_only=True)
class Sight:
    """What one network makes of the fixed batch of real images; all tensors are detached.

    `map_BCHW` is the feature map before pooling (a transformer's patch tokens on their grid), `vector_BD` what the head is
    given, `logits_BK` its answer over the images' classes. `weigh` returns how each class weighs the map's channels, K x C:
    the head's weights, or the gradients of the logits with respect to the map averaged over positions (Grad-CAM).
    """

    map_BCHW: "torch.Tensor"
    vector_BD: "torch.Tensor"
    logits_BK: "torch.Tensor"
    label_B: "torch.Tensor"
    weigh: "Callable[[], torch.Tensor]"

    @cached_property
    def gradient_KD(self) -> "torch.Tensor":  # noqa: N802 - axes
        """Return the gradient of the batch's mean cross entropy with respect to the head's weights: (p - y)^T v / B."""
        error_BK = self.logits_BK.double().softmax(dim=1)
        error_BK[range(len(error_BK)), self.label_B] -= 1
        return error_BK.T @ self.vector_BD.double() / len(error_BK)

    @cached_property
    def weights_KC(self) -> "torch.Tensor":  # noqa: N802 - axes
        """Return how each class weighs the map's channels."""
        return self.weigh()


@dataclass(kw_only=True)
class Look:
    """An untrained student under one initialisation, as scorers are shown it.

    `normal_deviations` holds, for each batch normalisation, the root of the mean variance of what comes in; `macs` counts
    multiply-accumulates of one image in convolutions and linear layers. Scorers leave weights and gradients as they found
    them. `latency_ms` is an estimate, None where none was asked for.
    """

    module: "nn.Module"
    image_BCHW: "torch.Tensor"
    student: Sight
    teacher: Sight | None
    normal_deviations: tuple[float, ...]
    parameters: int
    macs: int
    latency_ms: float | None = None


class Scorer(Part):
    """Says how good an untrained student looks; larger is better, distances are negated.

    `weight` is that of the standardised score in the fitness; with 0 it is reported and not searched by.
    """

    needs_teacher: ClassVar[bool] = False
    initialised: ClassVar[bool] = True
    """Whether the value depends on the weights; if not, it is asked for once and has no spread."""

    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0

    def value(self, look: Look) -> float:
        """Return the score under this initialisation; raise `UsageError` if student and teacher cannot be compared so."""
        raise NotImplementedError


class Space(Part):
    """A set of students: each gene has a few values, in their natural order, and together they spell a genome."""

    def genes(self) -> Mapping[str, tuple[str, ...]]:
        """Return the values that each gene can have here."""
        raise NotImplementedError

    def spelled(self, choice: Mapping[str, str]) -> str:
        """Return the genome with these values."""
        raise NotImplementedError

    def read(self, genome: str) -> dict[str, str]:
        """Return a genome's values; raise `UsageError` for a malformed one and for one outside this space."""
        raise NotImplementedError

    def student(self, genome: str) -> PartRef:
        """Return the student as a recipe names it."""
        raise NotImplementedError

    def blocks(self, genome: str, classes: int) -> tuple[str, ...]:
        """Return the names of the blocks that run one after the other; equal blocks have equal names."""
        raise NotImplementedError

    def pieces(self, genome: str, student: "nn.Module") -> "Mapping[str, Piece]":
        """Return each block of a built student by name: the module, and the shape C x H x W of what comes in."""
        raise NotImplementedError

    def covering(self) -> tuple[str, ...]:
        """Return genomes that hold every block of the space between them."""
        raise NotImplementedError

    def networks(self) -> int:
        """Return how many students the space holds."""
        count = 1
        for values in self.genes().values():
            count *= len(values)
        return count

    def drawn(self, dice: random.Random) -> str:
        """Return a random genome, every value of every gene equally likely."""
        return self.spelled({gene: dice.choice(values) for gene, values in self.genes().items()})

    def mutated(self, genome: str, dice: random.Random) -> str:
        """Return the genome with one gene changed to another value; the genome itself if nothing can change."""
        choice, genes = self.read(genome), self.genes()
        free = [gene for gene, values in genes.items() if len(values) > 1]
        if not free:
            return genome
        gene = dice.choice(free)
        value = dice.choice([value for value in genes[gene] if value != choice[gene]])
        return self.spelled({**choice, gene: value})

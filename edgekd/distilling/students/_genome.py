"""What students that are written as a genome have in common."""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from edgekd.core.config import FilePath
from edgekd.core.contracts import Student
from edgekd.core.records import InputContract
from edgekd.distilling.models import further_heads_in, load_strictly, read_weights
from edgekd.distilling.students._deployable import deployable
from edgekd.distilling.taps import TappedModel

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic"}
CIFAR = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762), "interpolation": "bilinear"}


class GenomeStudent(Student):
    """`weights` are random, or those of a .safetensors file, whose head need not fit the classes."""

    genome: str
    weights: Literal["random"] | FilePath = "random"
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None

    def network(self, classes: int) -> nn.Module:
        """Return the bare network, which answers as timm's models do, and its input size is `size_px`."""
        raise NotImplementedError

    @property
    def size_px(self) -> int:
        """Return the side of the images that it takes."""
        raise NotImplementedError

    def build(self, classes: int, *, start: bool = True) -> TappedModel:
        """Return the student with a fresh head for `classes` classes; `start` loads its starting weights."""
        if not start or self.weights == "random":
            return self._tapped(self.network(classes))
        state = read_weights(Path(self.weights), sha256=self.sha256)
        head = "classifier.weight"
        network: Any = self.network(len(state[head]) if head in state else classes)
        load_strictly(network, state, where=Path(self.weights), name=f"{self.ref().use} {self.genome}")
        network.reset_classifier(classes)
        return self._tapped(network)

    def restore(self, classes: int, weights: Path) -> TappedModel:
        """Return the student with the trained weights of a checkpoint."""
        student, state = self.build(classes, start=False), read_weights(weights)
        if heads := further_heads_in(state):
            student.set_heads(heads)
        load_strictly(student.model, state, where=weights, name=f"{self.ref().use} {self.genome}")
        return student.eval()

    def input_contract(self) -> InputContract:
        """Return how an image is prepared: resized, the centre cropped."""
        return self._tapped(self.network(2)).contract()

    def exportable(self, student: nn.Module) -> nn.Module:
        """Return the deployable form: evaluation mode, normalisation inside, image_BCHW -> logits_BK."""
        assert isinstance(student, TappedModel)
        return deployable(copy.deepcopy(student.model).eval(), student)

    def preprocessing(self) -> dict[str, Any]:
        """Return mean, std, interpolation and the share of the image that is cropped."""
        return {**IMAGENET, "crop_pct": 0.875}

    def _tapped(self, network: nn.Module) -> TappedModel:
        side, weights = self.size_px, "none (random weights)" if self.weights == "random" else "unknown"
        config = {**self.preprocessing(), "input_size": (3, side, side), "classifier": "classifier", "license": weights}
        network.pretrained_cfg = config  # type: ignore[assignment]
        return TappedModel(network, name=f"{self.ref().use} {self.genome}", size_px=(side, side))

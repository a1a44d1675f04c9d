"""Students from timm."""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from edgekd.core.config import FilePath
from edgekd.core.contracts import Student
from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract
from edgekd.distilling import heads, models
from edgekd.distilling.students._deployable import deployable
from edgekd.distilling.taps import FURTHER_HEADS, ZERO_SHOT, TappedModel
from edgekd.distilling.zero_shot import DEFAULT_SCALE, TEXTS, ZeroShotHead, read_texts


class Timm(Student):
    """Any timm model by name, started from timm's hub, a local .safetensors file or random weights.

    `zero_shot` is a file of text embeddings (`edgekd embed-classes`): the last layer then gives an image embedding, and the
    exported graph tells by the texts which class it is.
    """

    model: str
    weights: Literal["hub", "random"] | FilePath = "hub"
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    size: Annotated[int, Field(ge=16)] | None = None
    crop_share: Annotated[float, Field(gt=0, le=1)] | None = None
    zero_shot: FilePath | None = None

    def identity(self) -> dict[str, Any]:
        """Return name and options; a zero-shot head that is not asked for does not count, as when there was none."""
        known = super().identity()
        options = known["options"]
        return {**known, "options": {k: v for k, v in options.items() if k != "zero_shot" or self.zero_shot is not None}}

    def build(self, classes: int, *, start: bool = True) -> TappedModel:
        """Return the student with a fresh head; without `start` its weights are random, to be overwritten."""
        weights = self.weights if start else "random"
        sha256 = self.sha256 if start else None
        if self.zero_shot is None:
            return models.build(self.model, weights=weights, size=self.size, classes=classes, sha256=sha256)
        texts = read_texts(self.zero_shot)
        if len(texts.classes) != classes:
            raise UsageError(f"{self.zero_shot}: holds texts of {len(texts.classes)} classes, and the images have {classes}")
        student = models.build(self.model, weights=weights, size=self.size, classes=texts.text_KD.shape[1], sha256=sha256)
        student.end_zero_shot(ZeroShotHead(texts.text_KD, texts.logit_scale))
        student.class_names = texts.classes
        return student

    def restore(self, classes: int, weights: Path) -> TappedModel:
        """Return the student with the trained weights of a checkpoint, which hold the texts and further heads, too."""
        state = models.read_weights(weights)
        texts_KD = state.get(f"{ZERO_SHOT}.{TEXTS}")
        width = classes if texts_KD is None else texts_KD.shape[1]
        student = models.build(self.model, weights="random", size=self.size, classes=width)
        if texts_KD is not None:
            student.end_zero_shot(ZeroShotHead(texts_KD, DEFAULT_SCALE))
        if heads := models.further_heads_in(state):
            student.set_heads(heads)
        models.load_strictly(student.model, state, where=weights, name=self.model)
        return student.eval()

    def input_contract(self) -> InputContract:
        """Return timm's own preprocessing for this model, at this student's size."""
        tapped = models.build(self.model, weights="random", size=self.size)
        return tapped.contract(crop_share=self.crop_share)

    def exportable(self, student: nn.Module) -> nn.Module:
        """Return the deployable form: branches folded, evaluation mode, normalisation inside, image_BCHW -> logits_BK."""
        from timm.utils.model import reparameterize_model

        assert isinstance(student, TappedModel)
        folded = reparameterize_model(copy.deepcopy(student.model).eval(), inplace=True)
        return deployable(folded, student)

    def without_head(self, student: nn.Module) -> tuple[nn.Module, str]:
        """Return the bare timm model (normalised images -> features) and the call of `timm.create_model` that makes one."""
        import timm

        assert isinstance(student, TappedModel)
        options: dict[str, Any] = {"num_classes": 0}
        if self.size is not None and models.is_made_for_size(student.model):
            options["img_size"] = self.size
        bare: nn.Module = timm.create_model(self.model, pretrained=False, **options)
        head = heads.head_keys(student)
        own = (f"{ZERO_SHOT}.", f"{FURTHER_HEADS}.")
        state = {
            key: value
            for key, value in student.model.state_dict().items()
            if f"model.{key}" not in head and not key.startswith(own)
        }
        models.load_strictly(bare, state, where=Path(self.model), name=f"{self.model} without its head")
        call = ", ".join(f"{name}={value}" for name, value in options.items())
        return bare.eval(), f"timm.create_model({self.model!r}, pretrained=False, {call})"

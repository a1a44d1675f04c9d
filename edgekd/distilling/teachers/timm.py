"""Teachers from timm."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from edgekd.core.config import FilePath
from edgekd.core.contracts import FeatureSpec, Teacher
from edgekd.core.store import sha256_of
from edgekd.distilling import class_sets, models
from edgekd.distilling.taps import TappedModel
from edgekd.distilling.zero_shot import ZeroShotHead, check_embedding, read_texts

_CPU_BATCH = 8  # the activations of so many images stay in the processor's cache, which a small ViT's of 32 do not


class Timm(Teacher):
    """Any timm model by name, weights from timm's hub or from a local .safetensors file.

    `precision: auto` computes in bf16 where the processor multiplies it natively, in fp32 elsewhere. `classes` says what its
    own logits stand for: names in the order of its outputs, a file with one a line, or the checkpoint.json of an edgekd run.
    `zero_shot` is for the image towers of CLIPs (`vit_*_clip_*`): a file of text embeddings (`edgekd embed-classes`) that
    makes logits of their image embedding; the tap `embedding` is that itself.
    """

    model: str
    weights: Literal["hub", "random"] | FilePath = "hub"
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    size: Annotated[int, Field(ge=14)] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    classes: tuple[str, ...] | FilePath | None = None
    zero_shot: FilePath | None = None

    @model_validator(mode="after")
    def _classes_once(self) -> Self:
        if self.classes is not None and self.zero_shot is not None:
            raise ValueError("the classes are those of the `zero_shot` texts; leave `classes` out")
        return self

    def identity(self) -> dict[str, Any]:
        """Return name and options; those that are not given do not count, as when there were none."""
        known = super().identity()
        gone = [name for name in ("classes", "zero_shot") if getattr(self, name) is None]
        return {**known, "options": {key: value for key, value in known["options"].items() if key not in gone}}

    def load(self) -> "FrozenTimm":
        """Build the model and load its weights; raises as `edgekd.distilling.models.build`."""
        tapped = models.build(self.model, weights=self.weights, size=self.size, sha256=self.sha256)
        digest = sha256_of(self.weights) if isinstance(self.weights, Path) else models.state_digest(tapped.model)
        precision = self.precision if self.precision != "auto" else _fastest_precision()
        width, zero_shot_sha256 = int(getattr(tapped.model, "num_classes", 0)), ""
        classes = class_sets.named_classes(self.classes)
        class_sets.check_width(self.model, classes, width)
        if self.zero_shot is not None:
            texts = read_texts(self.zero_shot)
            check_embedding(self.model, texts, width)
            tapped.end_zero_shot(ZeroShotHead(texts.text_KD, texts.logit_scale))
            classes, zero_shot_sha256 = texts.classes, texts.sha256
        return FrozenTimm(
            tapped, weights_sha256=digest, precision=precision, classes=classes, zero_shot_sha256=zero_shot_sha256
        )


class FrozenTimm:
    """A timm model that only answers: evaluation mode, no gradients, bf16 inside if asked, float32 outside."""

    def __init__(
        self,
        tapped: TappedModel,
        *,
        weights_sha256: str,
        precision: str,
        classes: tuple[str, ...] = (),
        zero_shot_sha256: str = "",
    ) -> None:
        self.name = tapped.name
        self.licence = tapped.licence
        self.weights_sha256 = weights_sha256
        self.size_px = tapped.size_px
        self.parameters = sum(p.numel() for p in tapped.model.parameters())
        self.precision = precision
        self.classes = classes
        self.zero_shot_sha256 = zero_shot_sha256
        self._tapped = tapped.eval().requires_grad_(False)
        if precision == "bf16":
            tapped.model.bfloat16()
            if tapped.zero_shot is not None:
                tapped.zero_shot.float()  # a cosine times 100 would be off by half a unit
        self.to("cpu")

    def to(self, device: Any) -> Self:
        """Move the weights and return self."""
        self._device = torch.device(device)
        self._tapped.to(self._device)
        # torch's fused attention gains nothing from a CPU's bf16 instructions unless they are Intel's AMX; products of
        # matrices do, and are as exact.
        slow = self._device.type == "cpu" and self.precision == "bf16" and not torch.cpu.get_capabilities().get("amx_bf16")
        for module in self._tapped.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", not slow)  # noqa: B010 - timm's flag, which modules do not declare
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of these taps, and the classes of its own logits where they are known."""
        return replace(self._tapped.spec(taps), classes=self.classes)

    @torch.no_grad()
    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features in float32."""
        parts = image_BCHW.split(_CPU_BATCH if self._device.type == "cpu" else len(image_BCHW) or 1)
        answers = [self._tapped.features(part_BCHW, taps) for part_BCHW in parts]
        return {tap: torch.cat([answer[tap].float() for answer in answers]) for tap in taps}


def _fastest_precision() -> Literal["fp32", "bf16"]:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"

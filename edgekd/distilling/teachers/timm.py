"""Teachers from timm."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.config import FilePath
from edgekd.core.contracts import FeatureSpec, Teacher
from edgekd.core.store import sha256_of
from edgekd.distilling import models


class Timm(Teacher):
    """Any timm model by name, weights from timm's hub or from a local .safetensors file.

    `precision: auto` computes in bf16 where the processor multiplies it natively, in fp32 elsewhere.
    """

    model: str
    weights: Literal["hub", "random"] | FilePath = "hub"
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    size: Annotated[int, Field(ge=14)] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def load(self) -> "FrozenTimm":
        """Build the model and load its weights; raises as `edgekd.distilling.models.build`."""
        tapped = models.build(self.model, weights=self.weights, size=self.size, sha256=self.sha256)
        digest = sha256_of(self.weights) if isinstance(self.weights, Path) else models.state_digest(tapped.model)
        precision = self.precision if self.precision != "auto" else _fastest_precision()
        return FrozenTimm(tapped, weights_sha256=digest, precision=precision)


class FrozenTimm:
    """A timm model that only answers: evaluation mode, no gradients, bf16 inside if asked, float32 outside."""

    def __init__(self, tapped: models.TappedModel, *, weights_sha256: str, precision: str) -> None:
        self.name = tapped.name
        self.licence = tapped.licence
        self.weights_sha256 = weights_sha256
        self.size_px = tapped.size_px
        self.parameters = sum(p.numel() for p in tapped.model.parameters())
        self.precision = precision
        self._tapped = tapped.eval().requires_grad_(False)
        if precision == "bf16":
            tapped.model.bfloat16()

    def to(self, device: Any) -> Self:
        """Move the weights and return self."""
        self._tapped.to(device)
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of these taps."""
        return self._tapped.spec(taps)

    @torch.no_grad()
    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features in float32."""
        return {tap: value.float() for tap, value in self._tapped.features(image_BCHW, taps).items()}


def _fastest_precision() -> Literal["fp32", "bf16"]:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"

"""How to train, as a recipe says it: the sections that the recipe and the distilling room both read."""

from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the recipe; unknown keys are refused, nothing is converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Duration(Section):
    """How long to train, in exactly one unit."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    images: Positive | None = None

    def in_steps(self, *, batch: int, images_per_epoch: int) -> int:
        """Return the number of optimiser steps (at least 1) for an effective batch size and an epoch of so many images."""
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else cast(float, self.epochs) * images_per_epoch
        return max(1, round(images / batch))

    @model_validator(mode="after")
    def _exactly_one(self) -> "Duration":
        given = [name for name in ("epochs", "steps", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of epochs, steps, images (found {', '.join(given) or 'none'})")
        return self


class Augment(Section):
    """What happens to a training image before it is cut to the models' sizes; geometry first, then colour."""

    crop_area: tuple[Share, Share] = (0.35, 1.0)
    flip: Share = 0.5
    colour_jitter: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("crop_area")
    @classmethod
    def _a_range(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1]:
            raise ValueError(f"the smaller share comes first, and is above 0 (found {area[0]}, {area[1]})")
        return area


class Train(Section):
    """How to optimise."""

    duration: Duration
    batch: Positive = 64
    accumulate: Positive = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9
    warmup: Share = 0.05
    label_smoothing: Share = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    workers: Annotated[int, Field(ge=0)] | None = None
    evaluate_every: Share = 0.1
    augment: Augment = Augment()

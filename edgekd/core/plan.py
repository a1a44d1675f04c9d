"""How to train, as a recipe says it: the sections that the recipe and the distilling room both read."""

from math import ceil
from typing import Annotated, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from edgekd.core.config import FilePath
from edgekd.core.growing import later

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
    """What happens to a training image. Crop and flip are what the teacher sees too; the rest is the student's alone."""

    crop_area: tuple[Share, Share] = (0.35, 1.0)
    flip: Share = 0.5
    colour_jitter: Share = 0.0
    erasing: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("crop_area")
    @classmethod
    def _a_range(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1]:
            raise ValueError(f"the smaller share comes first, and is above 0 (found {area[0]}, {area[1]})")
        return area


class Train(Section):
    """How to optimise.

    `criterion_lr` is the rate of the method's own weights (projectors), by default `lr`. `labelled_share` is the part of each
    batch that is drawn from the labelled images, by default what their number gives. `freeze: backbone` trains the student's
    last layer alone; `freeze: all` takes no step, and the last layer is a linear probe on the labelled images.
    `fake_quantise` rounds weights and activations to int8 on the way forward.
    """

    duration: Duration
    batch: Positive = 64
    accumulate: Positive = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    criterion_lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9
    warmup: Share = 0.05
    label_smoothing: Share = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    workers: Annotated[int, Field(ge=0)] | None = None
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    evaluate_every: Share = 0.1
    freeze: Literal["backbone", "all"] | None = later(None)
    fake_quantise: bool = later(False)
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _room_for_both(self) -> "Train":
        if self.labelled_share is not None and self.batch < 2:
            raise ValueError("`labelled_share` needs a batch of at least 2: one labelled image and another")
        if self.fake_quantise and self.ema is not None:
            raise ValueError("`ema` averages weights that `fake_quantise` rounds: leave one of them out")
        return self


class Cache(Section):
    """Which answers of the teachers are kept: `views` crops of each image, or none (0: the teachers run in every step).

    Without a number there are as many views as epochs, but at most eight. A view's crop and flip are a pure function of
    (`seed`, image, view number), so runs of other seeds meet the same views. `answers: mean` teaches what the teacher says
    of an image on average over its kept views, whatever crop the student sees (Radosavovic et al. 2018, data distillation).
    """

    views: Annotated[int, Field(ge=0)] | None = None
    answers: Literal["each", "mean"] = "each"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    dtype: Literal["fp16", "bf16"] = "fp16"
    folder: FilePath | None = None

    @model_validator(mode="after")
    def _something_to_average(self) -> "Cache":
        if self.answers == "mean" and self.views == 0:
            raise ValueError("`answers: mean` is taken over kept views, and `views: 0` keeps none")
        return self

    def settled(self, *, epochs: float) -> "Cache":
        """Return these settings with the number of views that so many epochs ask for."""
        return self if self.views is not None else self.model_copy(update={"views": max(1, min(8, ceil(epochs)))})


class Quantise(Section):
    """How an int8 model is looked for.

    Ranges are found on `images` of the training images; candidates are judged on `judged_share` of the validation images,
    drawn by `seed`; the fastest whose top-1 falls by at most `max_drop` points is kept. One that is not faster than the
    best float model of the same backend is refused unless `keep_slower`. `keep_float` names layers that stay in float.
    """

    images: Positive = 300
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    judged_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0
    keep_slower: bool = False
    keep_float: tuple[str, ...] = ()

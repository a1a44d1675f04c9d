"""What every exported model looks like from outside: one input `image`, one output `logits`, and what it says of itself.

Axes: B batch, C channels, H height, W width, K classes.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekd.core.contracts import Backend, Exportable
from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

INPUT, OUTPUT, FEATURE = "image", "logits", "feature"
FREE_BATCH = "batch"
Batch = Literal["dynamic"] | Annotated[int, Field(ge=1, le=1024)]
"""A backend's option `batch`: `dynamic` leaves the batch axis free, a number fixes it."""


def properties(exportable: Exportable) -> dict[str, str]:
    """Return what the exported file says about itself: classes (if any) and input contract as JSON, then the stage's facts."""
    own = {"input": json.dumps(exportable.input.model_dump(mode="json"), sort_keys=True)}
    if exportable.classes:
        own["classes"] = json.dumps(exportable.classes, ensure_ascii=False)
    return dict(sorted({**own, **exportable.metadata}.items()))


def sample_of(exportable: Exportable, batch: Batch) -> "torch.Tensor":
    """Return the sample that a tracer sees: of the fixed batch, or of at least two images so that the axis stays free."""
    sample_BCHW = exportable.sample_BCHW
    size = max(2, len(sample_BCHW)) if batch == "dynamic" else batch
    copies = -(-size // len(sample_BCHW))
    return sample_BCHW.repeat(copies, 1, 1, 1)[:size].contiguous()


def check_input(image_BCHW: "np.ndarray[Any, Any]", shape: tuple[int | str, ...]) -> None:
    """Raise `UsageError` unless the images are float32 of the artifact's shape; a text in the shape is a free axis."""
    fits = len(image_BCHW.shape) == len(shape) and all(
        found == wanted or not isinstance(wanted, int) for found, wanted in zip(image_BCHW.shape, shape, strict=True)
    )
    if not fits or image_BCHW.dtype != "float32":
        raise UsageError(
            f"this artifact takes float32 images of shape {shown(shape)}, not {image_BCHW.dtype} {shown(image_BCHW.shape)}",
            mend="export it with `batch: dynamic`, or ask for the batch that it was exported with",
        )


def refuse_int8(backend: Backend) -> None:
    """Raise `UsageError` if a model is asked for at once that only a search finds."""
    if backend.precision == "int8":
        raise UsageError("an int8 model is found by a search over real images, not by a plain export")


def shown(shape: tuple[int | str, ...]) -> str:
    """Return a shape as people write it: `batch x 3 x 224 x 224`."""
    return " x ".join(str(side) for side in shape)

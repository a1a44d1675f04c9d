"""What every exported model looks like from outside: one input `image`, one output `logits`, and what it says of itself.

A student with further heads has an output `logits_<name>` for each, behind the first.

The input is float32 BCHW in [0, 1]; with `inputs: uint8` it is uint8 BHWC, the bytes of the prepared photograph, and with
`resize: inside` those of a photograph of any size.

Axes: B batch, C channels, H height, W width, K classes.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekd.core.contracts import Backend, Exportable
from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

INPUT, OUTPUT, FEATURE = "image", "logits", "feature"
FREE_BATCH = "batch"
Batch = Literal["dynamic"] | Annotated[int, Field(ge=1, le=1024)]
"""A backend's option `batch`: `dynamic` leaves the batch axis free, a number fixes it."""
Inputs = Literal["float", "uint8"]
"""A backend's option `inputs`: `float` takes what the contract prepares, `uint8` takes bytes and scales inside."""
Resize = Literal["outside", "inside"]
"""A backend's option `resize`: `inside` has the graph resize and crop too; only for `inputs: uint8`."""


def check_resize(*, inputs: Inputs, resize: Resize) -> None:
    """Raise `ValueError` for a graph that should resize floats: only bytes are resized as Pillow does it."""
    if resize == "inside" and inputs != "uint8":
        raise ValueError("`resize: inside` needs `inputs: uint8`")


def fed_as(exportable: Exportable, *, inputs: Inputs, resize: Resize) -> Exportable:
    """Return the exportable with the input contract that a backend's options ask for."""
    if inputs == "float":
        return exportable
    return replace(exportable, input=exportable.input.of_bytes(resize_inside=resize == "inside"))


def contract_of(image: TensorSpec, contract: InputContract) -> InputContract:
    """Return how images are prepared for an artifact with this input, made from a model with this contract."""
    if image.dtype != "uint8":
        return contract
    return contract.of_bytes(resize_inside=not isinstance(image.shape[1], int))


def outputs_of(exportable: Exportable, first: str = OUTPUT) -> tuple[str, ...]:
    """Return the names of the outputs: the first, and one for each further head."""
    return (first, *(f"{OUTPUT}_{name}" for name in exportable.heads))


def properties(exportable: Exportable) -> dict[str, str]:
    """Return what the exported file says about itself: classes (if any) and input contract as JSON, then the stage's facts."""
    own = {"input": json.dumps(exportable.input.model_dump(mode="json"), sort_keys=True)}
    if exportable.classes:
        own["classes"] = json.dumps(exportable.classes, ensure_ascii=False)
    if exportable.heads:
        own["heads"] = json.dumps({f"{OUTPUT}_{name}": found for name, found in exportable.heads.items()}, ensure_ascii=False)
    return dict(sorted({**own, **exportable.metadata}.items()))


def sample_of(exportable: Exportable, batch: Batch) -> "torch.Tensor":
    """Return the sample that a tracer sees: of the fixed batch, or of at least two images so that the axis stays free."""
    sample_BCHW = exportable.sample_BCHW
    size = max(2, len(sample_BCHW)) if batch == "dynamic" else batch
    copies = -(-size // len(sample_BCHW))
    return sample_BCHW.repeat(copies, 1, 1, 1)[:size].contiguous()


def check_input(image: "np.ndarray[Any, Any]", shape: tuple[int | str, ...], dtype: str = "float32") -> None:
    """Raise `UsageError` unless the images have the artifact's type and shape; a text in the shape is a free axis."""
    fits = len(image.shape) == len(shape) and all(
        found == wanted or not isinstance(wanted, int) for found, wanted in zip(image.shape, shape, strict=True)
    )
    if not fits or image.dtype != dtype:
        mends = {
            "float32": "export it with `batch: dynamic`, or ask for the batch that it was exported with",
            "uint8": "give it RGB bytes as decoded; the graph divides and normalises them itself",
        }
        raise UsageError(
            f"this artifact takes {dtype} images of shape {shown(shape)}, not {image.dtype} {shown(image.shape)}",
            mend=mends.get(dtype, ""),
        )


def refuse_int8(backend: Backend) -> None:
    """Raise `UsageError` if a model is asked for at once that only a search finds."""
    if backend.precision == "int8":
        raise UsageError(
            "an int8 model is found by a search over real images, not by a plain export",
            mend="name it under `export:` of a recipe and run `edgekd export RUN`",
        )


def shown(shape: tuple[int | str, ...]) -> str:
    """Return a shape as people write it: `batch x 3 x 224 x 224`."""
    return " x ".join(str(side) for side in shape)

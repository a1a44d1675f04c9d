"""What a classifier that came as an ONNX file is fed and answers: from the file, from a contract, or assumed and said so."""

from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract
from edgekd.exporting.interface import shown

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {1: "float32", 10: "float16", 2: "uint8"}


class Contract(BaseModel):
    """What a foreign model is fed and answers; what is left out is read from the file or, where that is silent, assumed.

    `mean` and `std` are those of the values that the model is fed, which span `range`, in the order of `channels`. `answers:
    probabilities` says that the model ends in a softmax.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    size: int | tuple[int, int] | None = None
    resize: int | None = None
    crop: Literal["center", "squash"] = "center"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    range: tuple[float, float] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: Literal["RGB", "BGR"] = "RGB"
    input: str | None = None
    output: str | None = None
    answers: Literal["logits", "probabilities"] = "logits"


class Interface(BaseModel):
    """How a foreign graph is fed and read, settled; written into the checkpoint as the student's options.

    `mean` and `std` are of RGB in [0, 1]; `classes` is None where the file does not say how many there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    input: str
    output: str
    dtype: Literal["float32", "float16", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    channels: Literal["RGB", "BGR"]
    batch: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    answers: Literal["logits", "probabilities"]
    classes: int | None

    @property
    def is_plain(self) -> bool:
        """Say whether the graph takes RGB in [0, 1] as it is."""
        return self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------- understanding
def understand(model: "ModelProto", contract: Contract) -> tuple[Interface, InputContract, list[str]]:
    """Return how a graph is fed and read, its input contract, and what had to be assumed, in words.

    Raises `UsageError` where file and contract leave it open or contradict one another.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = _one(contract.input, {value.name: value for value in model.graph.input if value.name not in stored}, "input")
    answer = _one(contract.output, {value.name: value for value in model.graph.output}, "output")
    dtype, sides = _tensor(fed)
    if dtype not in DTYPES.values() or len(sides) != 4:
        raise UsageError(f"the input {fed.name!r} is {dtype} {shown(sides)}; images are float32, float16 or uint8 of four axes")
    if 3 not in (sides[1], sides[3]):
        raise UsageError(f"the input {fed.name!r} is {shown(sides)}; where three channels are is not to be seen")
    layout: Literal["NCHW", "NHWC"] = "NCHW" if sides[1] == 3 else "NHWC"
    assumed: list[str] = []
    size = _size(contract, sides[2:4] if layout == "NCHW" else sides[1:3], fed.name)
    mean, std = _normalisation(contract, dtype, assumed)
    resize = contract.resize
    if resize is None:
        resize = max(size) if contract.crop == "squash" else round(max(size) / 0.875)
        if contract.crop == "center":
            assumed.append(f"resize {resize} px on the short side, then the centre of {size[0]} x {size[1]} (resize, crop)")
    interface = Interface(
        input=fed.name,
        output=answer.name,
        dtype=cast(Any, dtype),
        layout=layout,
        channels=contract.channels,
        batch=sides[0] if isinstance(sides[0], int) and sides[0] > 0 else None,
        mean=mean,
        std=std,
        answers=contract.answers,
        classes=_classes(answer),
    )
    wanted = InputContract(
        size_px=size, resize_px=resize, interpolation=contract.interpolation, crop=contract.crop, mean=mean, std=std
    )
    return interface, wanted, assumed


def _one(asked: str | None, found: dict[str, Any], what: str) -> Any:
    if asked is None and len(found) == 1:
        return next(iter(found.values()))
    if asked in found:
        return found[asked]
    names = ", ".join(found) or "none"
    if asked is None:
        raise UsageError(f"the model has {len(found)} {what}s: {names}", mend=f"say which with `{what}: NAME` in the contract")
    raise UsageError(f"the model has no {what} {asked!r}; it has {names}")


def _tensor(value: Any) -> tuple[str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    sides = tuple(side.dim_param or int(side.dim_value) or "?" for side in tensor.shape.dim)
    return DTYPES.get(tensor.elem_type, f"of element type {tensor.elem_type}"), sides


def _size(contract: Contract, sides: tuple[int | str, ...], name: str) -> tuple[int, int]:
    given = (contract.size, contract.size) if isinstance(contract.size, int) else contract.size
    size = tuple(given[at] if given and not isinstance(side, int) else side for at, side in enumerate(sides))
    if any(not isinstance(side, int) for side in size):
        raise UsageError(
            f"the input {name!r} does not say how large images are", mend="say it with `size: 224` in the contract"
        )
    if given is not None and given != size:
        raise UsageError(f"the contract says images of {shown(given)}, the input {name!r} takes {shown(size)}")
    return cast(tuple[int, int], size)


def _normalisation(contract: Contract, dtype: str, assumed: list[str]) -> tuple[Any, Any]:
    """Return mean and standard deviation as applied to RGB in [0, 1]."""
    if dtype == "uint8":
        if (contract.range or (0.0, 255.0)) != (0.0, 255.0) or contract.mean or contract.std:
            raise UsageError("the model takes bytes, so it normalises by itself; range, mean and std have no meaning for it")
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    low, high = contract.range or (0.0, 1.0)
    if not high > low or any(not value > 0 for value in contract.std or ()):
        raise UsageError("`range` goes from a smaller to a larger number, and every `std` is above 0")
    if contract.mean is None and contract.std is None and contract.range is not None:
        given_mean, given_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        assumed.append("neither mean nor std is applied (mean, std)")
    elif contract.mean is None or contract.std is None:
        given_mean, given_std = contract.mean or IMAGENET_MEAN, contract.std or IMAGENET_STD
        assumed.append(f"RGB in [0, 1] less the mean {given_mean}, by the std {given_std}: ImageNet's (range, mean, std)")
    else:
        given_mean, given_std = contract.mean, contract.std
    order = (2, 1, 0) if contract.channels == "BGR" else (0, 1, 2)
    span = high - low
    return tuple((given_mean[c] - low) / span for c in order), tuple(given_std[c] / span for c in order)


def _classes(answer: Any) -> int | None:
    dtype, sides = _tensor(answer)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"the output {answer.name!r} is {dtype}; logits are float32 or float16")
    counts = [side for side in sides[1:] if side != 1]
    if len(counts) > 1:
        raise UsageError(f"the output {answer.name!r} is {shown(sides)}; a classifier answers with one number for each class")
    return counts[0] if counts and isinstance(counts[0], int) else None

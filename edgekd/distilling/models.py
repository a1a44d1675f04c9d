"""timm models by name: built, and given weights that fit them exactly. Teachers and students come from here."""

import hashlib
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.store import sha256_of
from edgekd.distilling.taps import FURTHER_HEADS, TappedModel

Weights = Path | Literal["hub", "random"]


def build(
    name: str, *, weights: Weights, size: int | None, classes: int | None = None, sha256: str | None = None
) -> TappedModel:
    """Build a timm model, load its weights strictly, then give it a fresh head for `classes` (None keeps the head).

    A fresh head is one linear layer, also where timm's own is several of them or normalises first: what learns from features
    alone fits it afterwards.

    Raises `UsageError` for an unknown name or weights that do not fit, `IntegrityError` for a wrong sha256, `MachineError`
    when the hub cannot be reached.
    """
    known_name(name)
    if isinstance(weights, Path):
        model = _with_local_weights(name, weights, sha256=sha256, size=size)
    else:
        model = _create(name, pretrained=weights == "hub", size=size)
    if classes is not None:
        model.reset_classifier(classes)
    if size is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)  # resamples the position embedding of the loaded weights
    side = size or model.pretrained_cfg["input_size"][-1]
    tapped = TappedModel(model, name=name, size_px=(side, side))
    if classes and not _ends_in_one_layer(tapped):
        _end_in_one_layer(tapped, classes)
    return tapped


def known_name(name: str) -> None:
    """Raise `UsageError` with the nearest names if timm has no such model or no such pretrained tag."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        raise UsageError(f"timm has no model {architecture!r}. Nearest: {', '.join(close) or 'none'}.")
    tags = [known for known in timm.list_pretrained(architecture) if known.startswith(f"{architecture}.")]
    if tag and name not in tags:
        raise UsageError(f"timm has no weights {name!r}. Known: {', '.join(tags) or 'none'}.")


class _OneLayer:
    """What the class of a timm model gets in front of it where `last_layer` is all of its head."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        vector_BD: Tensor = super().forward_head(x, pre_logits=True)  # type: ignore[misc]
        return vector_BD if pre_logits else cast(Any, self).last_layer(vector_BD)

    def get_classifier(self) -> nn.Module:
        return cast(nn.Module, cast(Any, self).last_layer)


def _ends_in_one_layer(tapped: TappedModel) -> bool:
    """Say whether the logits are one linear layer of `pre_logits`.

    A model may have such a layer and do more: EfficientViT of MSRA normalises before it, VOLO adds the answers of the patches.
    """
    head = cast(Any, tapped.model).get_classifier()
    if not isinstance(head, nn.Linear):
        return False
    image_BCHW = torch.rand(2, 3, *tapped.size_px, generator=torch.Generator().manual_seed(0))
    was_training = tapped.training
    tapped.eval()
    with torch.no_grad():
        found = tapped.features(image_BCHW, ("pre_logits", "logits"))
        ends = torch.equal(head(found["pre_logits"]), found["logits"])
    tapped.train(was_training)
    return ends


def _end_in_one_layer(tapped: TappedModel, classes: int) -> None:
    model = cast(Any, tapped.model)
    (width,) = tapped.spec(("pre_logits",)).shapes["pre_logits"]
    model.reset_classifier(0)
    model.num_classes = classes
    model.last_layer = nn.Linear(width, classes)
    model.__class__ = type(type(model).__name__, (_OneLayer, type(model)), {})


def state_digest(model: nn.Module) -> str:
    """Return a sha256 over the names, shapes, types and bytes of a model's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def further_heads_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the further heads whose weights these are, by name, and how many classes each has."""
    pattern = re.compile(rf"{FURTHER_HEADS}\.(.+)\.weight")
    return {match[1]: len(value) for key, value in state.items() if (match := pattern.fullmatch(key))}


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file as float32; refuse other formats, a wrong sha256 and broken files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"{path}: there is no such weights file")
    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path}: only .safetensors weights are read (pickled weights can run code)",
            mend="convert them once with safetensors.torch.save_file",
        )
    if sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        raise IntegrityError(f"{path}: its sha256 is {found}, the recipe says {sha256}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: not a readable safetensors file: {error}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def is_made_for_size(model: nn.Module) -> bool:
    """Say whether a timm model is built for images of one size, which `timm.create_model` takes as `img_size`."""
    return hasattr(model, "set_input_size") or bool(cast(Any, model).pretrained_cfg.get("fixed_input_size"))


def _create(name: str, *, pretrained: bool, size: int | None, classes: int | None = None) -> Any:
    """Create a model, for another size than its own if that cannot be changed afterwards."""
    import timm

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    own_px = cast(Any, timm.get_pretrained_cfg(name, allow_unregistered=False)).input_size[-1]
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
        if size in (None, own_px) or not is_made_for_size(model) or hasattr(model, "set_input_size"):
            return model
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise MachineError(
            f"the weights of {name} could not be fetched from the hub: {str(error).splitlines()[0]}",
            mend="connect to the network once, fill the hub's cache, or give `weights: FILE.safetensors`",
        ) from error
    try:
        model = timm.create_model(name, pretrained=pretrained, img_size=size, **options)
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))  # some take the option and stay as they are
        return model.train()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UsageError(
            f"{name} cannot be built for images of {size} px: {str(error).splitlines()[0]}",
            mend=f"leave out `size`: it takes {own_px} px",
        ) from error


def _with_local_weights(name: str, path: Path, *, sha256: str | None, size: int | None) -> Any:
    import timm

    state = read_weights(path, sha256=sha256)
    heads = cast(Any, timm.get_pretrained_cfg(name, allow_unregistered=False)).classifier
    head = heads if isinstance(heads, str) else heads[0]
    rows = state[f"{head}.weight"].shape[0] if f"{head}.weight" in state else 0
    model = _create(name, pretrained=False, size=size, classes=rows)
    if size is not None and _was_saved_at(model, state, size):
        model.set_input_size(img_size=size)  # else its position embedding would be resampled twice, there and back
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    load_strictly(model, state, where=path, name=name)
    return model


def _was_saved_at(model: Any, state: Mapping[str, Tensor], size: int) -> bool:
    """Say whether a transformer's weights hold a position for each patch of an image of this size."""
    saved, patches = state.get("pos_embed"), getattr(model, "patch_embed", None)
    if saved is None or saved.ndim != 3 or patches is None or not hasattr(model, "set_input_size"):
        return False
    count = (size // patches.patch_size[0]) * (size // patches.patch_size[1])
    return bool(saved.shape[1] != model.pos_embed.shape[1] and saved.shape[1] - model.num_prefix_tokens == count)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], *, where: Path, name: str) -> None:
    """Load weights whose keys and shapes are exactly the model's; else raise `UsageError` that counts what differs."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, needs {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    complaints = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for found, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
        if found
    ]
    if complaints:
        raise UsageError(
            f"{where}: these are not the weights of {name}: keys {'; '.join(complaints)}",
            mend="name the model that the file was saved from, or convert its keys to timm's",
        )
    model.load_state_dict(dict(state))

"""Any timm model behind one face: images in [0, 1] go in, named taps come out. Teachers and students are built here.

Axes: B batch, C channels, H height, W width, N tokens, D feature width, K classes.

| tap | shape | meaning |
|---|---|---|
| `map` | B C H W | last feature map before pooling (convolutional models) |
| `tokens` | B N D | all tokens after the final norm (transformers) |
| `cls` | B D | class token after the final norm |
| `patch_mean` | B D | mean of the patch tokens after the final norm |
| `last_<k>` | B kD | class tokens (or pooled maps) of the last k blocks, concatenated, newest last |
| `pooled` | B D | mean of `map`; for transformers what the model itself pools |
| `pre_logits` | B D | input of the final linear layer |
| `logits` | B K | output of the model |
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.records import InputContract
from edgekd.core.store import sha256_of

Weights = Path | Literal["hub", "random"]


class TappedModel(nn.Module):
    """A timm model that normalises, resizes to its own input size, and answers with named taps."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, *, name: str, size_px: tuple[int, int]) -> None:
        super().__init__()
        from timm.data.config import resolve_model_data_config

        self.model = model
        self.name = name
        self.size_px = size_px
        config = resolve_model_data_config(model, args={"img_size": size_px[0]})
        self.config: dict[str, Any] = config
        self.interpolation: str = config["interpolation"]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    @property
    def licence(self) -> str:
        """Return the licence that timm states for this model's weights."""
        return str(cast(Any, self.model).pretrained_cfg.get("license") or "unknown")

    def prepared(self, image_BCHW: Tensor) -> Tensor:
        """Return the images resized to the model's own input size and normalised, in the weights' precision."""
        if tuple(image_BCHW.shape[-2:]) != self.size_px:
            mode = self.interpolation if self.interpolation in ("bilinear", "bicubic") else "bilinear"
            image_BCHW = functional.interpolate(image_BCHW, self.size_px, mode=mode, antialias=True)
            image_BCHW = image_BCHW.clamp(0, 1)
        normal_BCHW = (image_BCHW - self.mean.float()) / self.std.float()
        return normal_BCHW.to(next(self.model.parameters()).dtype)

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features of images in [0, 1]; an unknown tap lists those that this model has."""
        x_BCHW = self.prepared(image_BCHW)
        model = cast(Any, self.model)
        found: dict[str, Tensor] = {}
        depths = [int(match[1]) for tap in taps if (match := re.fullmatch(r"last_([1-9]\d*)", tap))]
        if depths:
            features, blocks = self._with_blocks(x_BCHW, max(depths))
            found |= {f"last_{k}": torch.cat(blocks[-k:], dim=1) for k in depths}
        else:
            features = model.forward_features(x_BCHW)
        found |= self._pooled(features)
        if "pre_logits" in taps:
            found["pre_logits"] = model.forward_head(features, pre_logits=True)
        if "logits" in taps:
            found["logits"] = model.forward_head(features)
        for tap in taps:
            if tap not in found:
                known = sorted({*found, "pre_logits", "logits", "last_<k>"})
                raise UsageError(f"{self.name} has no tap {tap!r}; it has {', '.join(known)}")
        return {tap: found[tap] for tap in taps}

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits_BK."""
        return self.features(image_BCHW, ("logits",))["logits"]

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of these taps, found by running one blank image."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            blank = torch.zeros(1, 3, *self.size_px, device=self.mean.device)
            features = self.features(blank, taps)
        self.train(was_training)
        return FeatureSpec(name=self.name, shapes={tap: tuple(f.shape[1:]) for tap, f in features.items()})

    def contract(self, *, crop_share: float | None = None) -> InputContract:
        """Return how a photograph is prepared for this model; `crop_share` overrides timm's `crop_pct`."""
        share = crop_share if crop_share is not None else float(self.config["crop_pct"])
        squash = self.config.get("crop_mode") == "squash"
        return InputContract(
            size_px=self.size_px,
            resize_px=self.size_px[0] if squash else int(self.size_px[0] / share),
            interpolation=cast(Any, self.interpolation),
            crop="squash" if squash else "center",
            mean=tuple(self.config["mean"]),
            std=tuple(self.config["std"]),
        )

    def _pooled(self, features: Tensor) -> dict[str, Tensor]:
        if features.ndim == 4:
            return {"map": features, "pooled": features.mean(dim=(2, 3))}
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        found = {"tokens": features, "patch_mean": features[:, prefix:].mean(dim=1)}
        if prefix:
            found["cls"] = features[:, 0]
        found["pooled"] = found["cls"] if getattr(self.model, "global_pool", "") == "token" else found["patch_mean"]
        return found

    def _with_blocks(self, x_BCHW: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        model = cast(Any, self.model)
        if hasattr(model, "num_prefix_tokens"):
            final, blocks = model.forward_intermediates(
                x_BCHW, indices=depth, return_prefix_tokens=True, norm=True, output_fmt="NLC"
            )
            return final, [prefix[:, 0] if prefix.shape[1] else patches.mean(1) for patches, prefix in blocks]
        final, blocks = model.forward_intermediates(x_BCHW, indices=depth)
        return final, [block.mean(dim=(2, 3)) for block in blocks]


def build(
    name: str, *, weights: Weights, size: int | None, classes: int | None = None, sha256: str | None = None
) -> TappedModel:
    """Build a timm model, load its weights strictly, then give it a fresh head for `classes` (None keeps the head).

    Raises `UsageError` for an unknown name or weights that do not fit, `IntegrityError` for a wrong sha256, `MachineError`
    when the hub cannot be reached.
    """
    known_name(name)
    if isinstance(weights, Path):
        model = _with_local_weights(name, weights, sha256=sha256)
    else:
        model = _create(name, pretrained=weights == "hub")
    if classes is not None:
        model.reset_classifier(classes)
    if size is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)  # resamples the position embedding of the loaded weights
    side = size or model.pretrained_cfg["input_size"][-1]
    return TappedModel(model, name=name, size_px=(side, side))


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


def state_digest(model: nn.Module) -> str:
    """Return a sha256 over the names, shapes, types and bytes of a model's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def _create(name: str, *, pretrained: bool, classes: int | None = None) -> Any:
    import timm

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise MachineError(
            f"the weights of {name} could not be fetched from the hub: {str(error).splitlines()[0]}",
            mend="connect to the network once, fill the hub's cache, or give `weights: FILE.safetensors`",
        ) from error


def _with_local_weights(name: str, path: Path, *, sha256: str | None) -> Any:
    import timm

    state = read_weights(path, sha256=sha256)
    heads = cast(Any, timm.get_pretrained_cfg(name, allow_unregistered=False)).classifier
    head = heads if isinstance(heads, str) else heads[0]
    rows = state[f"{head}.weight"].shape[0] if f"{head}.weight" in state else 0
    model = _create(name, pretrained=False, classes=rows)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    load_strictly(model, state, where=path, name=name)
    return model


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

"""Any timm model behind one face: images in [0, 1] go in, named taps come out. Teachers and students are built here.

Axes: B batch, C channels, H height, W width, N tokens, D feature width, K classes.

| tap | shape | meaning |
|---|---|---|
| `map` | B C H W | last feature map before pooling (convolutional models) |
| `tokens` | B N D | all tokens after the final norm (transformers) |
| `cls` | B D | class token after the final norm |
| `patch_mean` | B D | mean of the patch tokens after the final norm |
| `last_<k>` | B kD | class tokens (or pooled maps) of the last k blocks, concatenated, newest last |
| `exit_<k>` | B D | the class token (or pooled map) of the k-th block from the end alone: what an early exit would see |
| `pooled` | B D | mean of `map`; for transformers what the model itself pools |
| `pre_act` | B D | mean of the last feature map before its last activation (convolutional models) |
| `grid_<n>` | B D n n | `map`, or the patch tokens, averaged over an n by n grid |
| `pre_logits` | B D | input of the final linear layer |
| `logits` | B K | output of the model, over its classes; with a zero-shot head, what that makes of the embedding |
| `embedding` | B D | output of the last linear layer of a model that a zero-shot head ends |
| `logits_<name>` | B K | output of a further head |

Vectors are joined by `+`: `cls+patch_mean` is one tap, its parts one after the other.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from edgekd.distilling.zero_shot import ZeroShotHead

Weights = Path | Literal["hub", "random"]
EMBEDDING = "embedding"
ZERO_SHOT, FURTHER_HEADS = "zero_shot_head", "further_heads"  # what these are called among a model's modules and weights


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
        self.class_names: tuple[str, ...] = ()  # of a zero-shot head, in the order of its texts
        self._activation: tuple[nn.Module] | None = None  # in a tuple, lest it become a submodule a second time
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
        normal_BCHW = (image_BCHW - self.mean.float()).div_(self.std.float())
        return normal_BCHW.to(next(self.model.parameters()).dtype)

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features of images in [0, 1]; an unknown tap lists those that this model has."""
        x_BCHW = self.prepared(image_BCHW)
        model = cast(Any, self.model)
        wanted = {part for tap in taps for part in parts_of(tap)}
        found: dict[str, Tensor] = {}
        with _inputs_of(self._last_activation() if "pre_act" in wanted else None) as seen:
            depths = [int(match[1]) for tap in wanted if (match := re.fullmatch(r"(?:last|exit)_([1-9]\d*)", tap))]
            if depths:
                features, blocks = self._with_blocks(x_BCHW, max(depths))
                found |= {f"last_{k}": torch.cat(blocks[-k:], dim=1) for k in depths}
                found |= {f"exit_{k}": blocks[-k] for k in depths}
            else:
                features = model.forward_features(x_BCHW)
        if seen:
            found["pre_act"] = seen[-1].mean(dim=(2, 3))
        found |= self._pooled(features)
        for tap in wanted:
            if match := re.fullmatch(r"grid_([1-9]\d*)", tap):
                found[tap] = functional.adaptive_avg_pool2d(self._as_map(features), int(match[1]))
        if "pre_logits" in wanted:
            found["pre_logits"] = model.forward_head(features, pre_logits=True)
        if wanted & {"logits", EMBEDDING}:
            found |= self._answers(model.forward_head(features))
        for name, head in self.further_heads.items():
            if (tap := f"logits_{name}") in wanted:
                found[tap] = head(model.forward_head(features, pre_logits=True))
        for tap in wanted - set(found):
            known = sorted({*found, "pre_logits", "logits", "last_<k>", "exit_<k>", "grid_<n>"})
            raise UsageError(f"{self.name} has no tap {tap!r}; it has {', '.join(known)}")
        return {tap: joined(found, tap) for tap in taps}

    @property
    def zero_shot(self) -> ZeroShotHead | None:
        """Return the zero-shot head that ends this model, if there is one."""
        return cast(ZeroShotHead | None, getattr(self.model, ZERO_SHOT, None))

    def end_zero_shot(self, head: ZeroShotHead) -> None:
        """Have the model's output taken for an embedding, and this head's for its logits; it is saved with the weights."""
        self.model.add_module(ZERO_SHOT, head)

    @property
    def further_heads(self) -> dict[str, nn.Linear]:
        """Return the heads beside the last layer, by name."""
        return dict(cast(Any, getattr(self.model, FURTHER_HEADS, nn.ModuleDict())).items())

    def set_heads(self, heads: Mapping[str, int]) -> None:
        """Give the model further linear heads over so many classes each, beside its last layer; they are saved with it.

        A head that it has already, of the same name and as many classes, stays as it is; others go.
        """
        if not heads:
            if self.further_heads:
                delattr(self.model, FURTHER_HEADS)
            return
        width = self.spec(("pre_logits",)).shapes["pre_logits"][0]
        kept = {name: head for name, head in self.further_heads.items() if head.out_features == heads.get(name)}
        made = {name: kept.get(name) or nn.Linear(width, k) for name, k in heads.items()}
        self.model.add_module(FURTHER_HEADS, nn.ModuleDict(made))

    def _answers(self, output_BK: Tensor) -> dict[str, Tensor]:
        if self.zero_shot is None:
            return {"logits": output_BK}
        return {"logits": self.zero_shot(output_BK), EMBEDDING: output_BK}

    @property
    def head(self) -> nn.Linear:
        """Return the final linear layer; raise `UsageError` if this model ends otherwise."""
        head = cast(Any, self.model).get_classifier()
        if not isinstance(head, nn.Linear):
            raise UsageError(f"{self.name} does not end in a linear layer ({type(head).__name__})")
        return head

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

    def _as_map(self, features: Tensor) -> Tensor:
        if features.ndim == 4:
            return features
        patches_BND = features[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        height, width = cast(Any, self.model).patch_embed.grid_size
        return patches_BND.transpose(1, 2).reshape(len(patches_BND), -1, height, width)

    def _last_activation(self) -> nn.Module:
        """Return the module that applies the last activation of the feature map, so that its input can be tapped."""
        if self._activation is None:
            self._activation = (_find_last_activation(self),)
        return self._activation[0]

    def _with_blocks(self, x_BCHW: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        model = cast(Any, self.model)
        if hasattr(model, "num_prefix_tokens"):
            final, blocks = model.forward_intermediates(
                x_BCHW, indices=depth, return_prefix_tokens=True, norm=True, output_fmt="NLC"
            )
            return final, [prefix[:, 0] if prefix.shape[1] else patches.mean(1) for patches, prefix in blocks]
        final, blocks = model.forward_intermediates(x_BCHW, indices=depth)
        return final, [block.mean(dim=(2, 3)) for block in blocks]


def parts_of(tap: str) -> tuple[str, ...]:
    """Return the taps that a joined tap consists of."""
    return tuple(tap.split("+"))


def joined(found: Mapping[str, Tensor], tap: str) -> Tensor:
    """Return a tap of these features, the vectors of a joined one concatenated; raise `UsageError` if one is no vector."""
    if tap in found:
        return found[tap]
    vectors = [found[part] for part in parts_of(tap)]
    for part, vector in zip(parts_of(tap), vectors, strict=True):
        if vector.ndim != 2:
            raise UsageError(f"tap {tap!r}: only vectors can be joined, and {part} has shape {tuple(vector.shape[1:])}")
    return torch.cat(vectors, dim=1)


def build(
    name: str, *, weights: Weights, size: int | None, classes: int | None = None, sha256: str | None = None
) -> TappedModel:
    """Build a timm model, load its weights strictly, then give it a fresh head for `classes` (None keeps the head).

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


@contextmanager
def _inputs_of(module: nn.Module | None) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    if module is None:
        yield seen
        return
    hook = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _find_last_activation(tapped: TappedModel) -> nn.Module:
    """Return the module whose output is the feature map and which is an activation; it no longer works in place."""
    called: list[tuple[nn.Module, Tensor]] = []
    leaves = [module for module in tapped.model.modules() if not any(True for _ in module.children())]
    hooks = [leaf.register_forward_hook(lambda module, _inputs, out: called.append((module, out))) for leaf in leaves]
    was_training = tapped.training
    tapped.eval()
    try:
        with torch.no_grad():
            features = cast(Any, tapped.model).forward_features(
                tapped.prepared(torch.zeros(1, 3, *tapped.size_px, device=tapped.mean.device))
            )
    finally:
        tapped.train(was_training)
        for hook in hooks:
            hook.remove()
    # An activation has no weights; identities (drop path, pooling left out) hand on what they were given.
    last = [
        module
        for module, out in called
        if out is features and not isinstance(module, nn.Identity | nn.Dropout) and not any(True for _ in module.parameters())
    ]
    if not last or features.ndim != 4:
        raise UsageError(
            f"{tapped.name} has no tap 'pre_act': its feature map does not come out of an activation",
            mend="use the tap pooled",
        )
    activation = cast(Any, last[-1])
    if hasattr(activation, "inplace"):
        activation.inplace = False
    return last[-1]

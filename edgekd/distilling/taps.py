"""Any timm model behind one face: images in [0, 1] go in, named taps come out.

Axes: B batch, C channels, H height, W width, N tokens, D feature width, K classes.

| tap | shape | meaning |
|---|---|---|
| `map` | B C H W | last feature map before pooling (convolutional models) |
| `tokens` | B N D | all tokens after the final norm (transformers) |
| `cls` | B D | class token after the final norm |
| `patch_mean` | B D | mean of the patch tokens after the final norm |
| `last_<k>` | B kD | class tokens (or pooled maps) of the last k blocks, concatenated, newest last |
| `exit_<k>` | B D | the class token (or pooled map) of the k-th block from the end alone: what an early exit would see |
| `pooled` | B D | mean of `map`; for transformers and models of several branches what the model itself pools |
| `pre_act` | B D | mean of the last feature map before its last activation (convolutional models) |
| `grid_<n>` | B D n n | `map`, or the patch tokens, averaged over an n by n grid |
| `pre_logits` | B D | input of the final linear layer |
| `logits` | B K | output of the model, over its classes; with a zero-shot head, what that makes of the embedding |
| `embedding` | B D | output of the last linear layer of a model that a zero-shot head ends |
| `logits_<name>` | B K | output of a further head |

Vectors are joined by `+`: `cls+patch_mean` is one tap, its parts one after the other.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract
from edgekd.distilling.zero_shot import ZeroShotHead

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
            if depths and hasattr(model, "forward_intermediates"):
                features, blocks = self._with_blocks(x_BCHW, max(depths))
                found |= {f"last_{k}": torch.cat(blocks[-k:], dim=1) for k in depths}
                found |= {f"exit_{k}": blocks[-k] for k in depths}
            else:
                features = model.forward_features(x_BCHW)
        if seen:
            found["pre_act"] = seen[-1].mean(dim=(2, 3))
        found |= self._pooled(features)
        map_BDHW = self._as_map(features)
        grids = {tap: int(match[1]) for tap in wanted if (match := re.fullmatch(r"grid_([1-9]\d*)", tap))}
        if map_BDHW is not None:
            found |= {tap: functional.adaptive_avg_pool2d(map_BDHW, side) for tap, side in grids.items()}
        if "pre_logits" in wanted:
            found["pre_logits"] = model.forward_head(features, pre_logits=True)
        if wanted & {"logits", EMBEDDING}:
            found |= self._answers(model.forward_head(features))
        for name, head in self.further_heads.items():
            if (tap := f"logits_{name}") in wanted:
                found[tap] = head(model.forward_head(features, pre_logits=True))
        for tap in wanted - set(found):
            depths_known = ("last_<k>", "exit_<k>") if hasattr(model, "forward_intermediates") else ()
            known = sorted({*found, "pre_logits", "logits", *depths_known, *(("grid_<n>",) if map_BDHW is not None else ())})
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

    def _pooled(self, features: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """Return what there is without a number in its name; `features` are as timm returns them."""
        if not isinstance(features, Tensor):
            return {"pooled": cast(Any, self.model).forward_head(features, pre_logits=True)}
        if features.ndim == 4:
            map_BCHW = cast(Tensor, self._as_map(features))
            return {"map": map_BCHW, "pooled": map_BCHW.mean(dim=(2, 3))}
        found = {"tokens": features, "patch_mean": features[:, self._prefix :].mean(dim=1)}
        if self._prefix:
            found["cls"] = features[:, 0]
        by_token = getattr(self.model, "global_pool", "") == "token" and self._prefix
        found["pooled"] = found["cls" if by_token else "patch_mean"]
        return found

    @property
    def _prefix(self) -> int:
        """Return how many tokens stand before those of the patches."""
        has_class_token = getattr(self.model, "cls_token", None) is not None
        return int(getattr(self.model, "num_prefix_tokens", has_class_token))

    def _as_map(self, features: Tensor | list[Tensor]) -> Tensor | None:
        """Return the features as B C H W; None where they are several, or tokens whose places the model does not tell."""
        if not isinstance(features, Tensor):
            return None
        if features.ndim == 4:  # Swin and some others keep their channels last
            return features.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "") == "NHWC" else features
        patches_BND = features[:, self._prefix :]
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        if grid is None or grid[0] * grid[1] != patches_BND.shape[1]:
            return None
        map_BDHW: Tensor = patches_BND.transpose(1, 2).unflatten(2, tuple(grid))  # of an empty batch too
        return map_BDHW

    def _last_activation(self) -> nn.Module:
        """Return the module that applies the last activation of the feature map, so that its input can be tapped."""
        if self._activation is None:
            self._activation = (_find_last_activation(self),)
        return self._activation[0]

    def _with_blocks(self, x_BCHW: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        model = cast(Any, self.model)
        if "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters:
            options = {"return_prefix_tokens": True} if self._prefix else {}
            final, blocks = model.forward_intermediates(x_BCHW, indices=depth, norm=True, output_fmt="NLC", **options)
            return final, [block.mean(1) if isinstance(block, Tensor) else block[1][:, 0] for block in blocks]
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
            mend="use the tap pooled (`student_tap: pooled` under `method`), which no activation has touched",
        )
    activation = cast(Any, last[-1])
    if hasattr(activation, "inplace"):
        activation.inplace = False
    return last[-1]

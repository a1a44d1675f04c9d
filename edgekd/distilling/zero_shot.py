"""Zero-shot heads: what an image embedding says of classes that are only named, by the text tower of a CLIP.

A file of text embeddings is a `.safetensors` with the tensor `text_KD` (one row a class) and the metadata `classes` (a JSON
list of names in the order of the rows) and, where it is not 100, `logit_scale`.

Axes: B batch, K classes, D embedding width, P prompts.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.class_names import read_class_names
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.store import sha256_of, write_bytes
from edgekd.distilling.precision import full_precision

TEXTS = "text_KD"
DEFAULT_SCALE = 100.0  # exp of the logit scale that CLIP ends its training with, where it is capped
TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Text embeddings of unit length, one a class, in the order of `classes`; `logit_scale` multiplies their cosines."""

    text_KD: Tensor
    classes: tuple[str, ...]
    logit_scale: float
    sha256: str = ""


class ZeroShotHead(nn.Module):
    """Logits from image embeddings: logit_scale times the cosine to each class's text (CLIP, Radford et al. 2021, fig. 3).

    Nothing in it is trained; it is saved and exported with the model that it ends.
    """

    text_KD: Tensor
    logit_scale: Tensor

    def __init__(self, text_KD: Tensor, logit_scale: float) -> None:
        super().__init__()
        self.register_buffer("text_KD", functional.normalize(text_KD.float(), dim=1))
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return logits_BK."""
        return zero_shot(embedding_BD, self.text_KD, self.logit_scale)


@full_precision
def zero_shot(embedding_BD: Tensor, text_KD: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Return logits_BK = logit_scale times the cosines of image embeddings and text embeddings of unit length."""
    return logit_scale * (functional.normalize(embedding_BD, dim=1) @ text_KD.T)


def read_texts(path: Path) -> Texts:
    """Read a file of text embeddings; raise `UsageError` for another file, `IntegrityError` for numbers that are none."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: there is no such file of text embeddings", mend="make one: edgekd embed-classes")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            text_KD = file.get_tensor(TEXTS).float() if TEXTS in file.keys() else None  # noqa: SIM118 - no mapping
        classes = json.loads(metadata.get("classes", "null"))
        scale = float(metadata.get("logit_scale", DEFAULT_SCALE))
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable file of text embeddings: {error}") from error
    if text_KD is None or text_KD.ndim != 2 or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise UsageError(
            f"{path}: expected a matrix `{TEXTS}` and the names of its rows as a JSON list in the metadata `classes`",
            mend="write it with safetensors.torch.save_file({'text_KD': ...}, path, {'classes': json.dumps([...])})",
        )
    _check_rows(path, text_KD, tuple(classes), scale)
    return Texts(
        text_KD=functional.normalize(text_KD, dim=1), classes=tuple(classes), logit_scale=scale, sha256=sha256_of(path)
    )


def write_texts(path: Path, texts: Texts, *, about: dict[str, str]) -> None:
    """Write text embeddings with their classes, their logit scale and what else is known of them."""
    from safetensors.torch import save

    metadata = {
        **about,
        "classes": json.dumps(texts.classes, ensure_ascii=False),
        "logit_scale": repr(texts.logit_scale),
    }
    write_bytes(path, save({TEXTS: texts.text_KD.contiguous()}, metadata))


def embed_classes(
    classes: Path, *, model: str, pretrained: str, templates: Sequence[str] = TEMPLATES, sha256: str | None = None
) -> Texts:
    """Return the text embeddings of the classes of a file by an open_clip model; `pretrained` is a tag or a .safetensors.

    Every class is put into every template; the embeddings of unit length are averaged and made of unit length again (Radford
    et al. 2021, sec. 3.1.4). Where lines name a class several times between tabs, the first name is the images', the last one
    is put into the templates. Raises `UsageError` for a template without `{}`, `MachineError` without open_clip or its weights.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(f"the template {template!r} needs exactly one place for the class: {{}}")
    rows = read_class_names(classes).rows
    tower, tokenise = _text_tower(model, pretrained, sha256=sha256)
    text_KD = torch.stack([_of_prompts(tower, tokenise([t.replace("{}", row[-1]) for t in templates])) for row in rows])
    names = tuple(row[0] for row in rows)
    scale = float(tower.logit_scale.detach().exp())
    _check_rows(classes, text_KD, names, scale)
    return Texts(text_KD=text_KD, classes=names, logit_scale=scale)


@torch.no_grad()
def _of_prompts(tower: Any, tokens_PL: Tensor) -> Tensor:
    prompt_PD = functional.normalize(tower.encode_text(tokens_PL).float(), dim=1)
    return functional.normalize(prompt_PD.mean(dim=0), dim=0)


def _text_tower(model: str, pretrained: str, *, sha256: str | None) -> tuple[Any, Any]:
    try:
        import open_clip  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MachineError("text embeddings need the package open_clip", mend="pip install 'edgekd[clip]'") from error

    if model not in open_clip.list_models():
        raise UsageError(f"open_clip has no model {model!r}", mend=f"one of {', '.join(open_clip.list_models()[:12])}, ...")
    if pretrained.endswith((".pt", ".pth", ".bin")):
        raise UsageError(
            f"{pretrained}: only .safetensors weights are read (pickled weights can run code)",
            mend="convert them once with `edgekd import-weights`",
        )
    local = Path(pretrained).suffix == ".safetensors"
    if local and sha256 is not None and (found := sha256_of(Path(pretrained))) != sha256.lower():
        raise IntegrityError(f"{pretrained}: its sha256 is {found}, not {sha256}")
    try:
        tower = open_clip.create_model(model, pretrained=pretrained or None)
        return tower.eval(), open_clip.get_tokenizer(model)
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MachineError(
            f"the text tower of {model} ({pretrained}) cannot be had: {reason}",
            mend="connect to the network once, or give its weights as a .safetensors file",
        ) from error


def check_embedding(name: str, texts: Texts, width: int) -> None:
    """Raise `UsageError` if a model's image embedding is not as wide as the texts."""
    if texts.text_KD.shape[1] != width:
        raise UsageError(
            f"{name} ends in {width} outputs, and the texts of `zero_shot` are {texts.text_KD.shape[1]} wide",
            mend="embed the classes with the text tower that belongs to this image tower",
        )


def _check_rows(path: Path, text_KD: Tensor, classes: tuple[str, ...], scale: float) -> None:
    if len(classes) != len(text_KD) or len(set(classes)) < len(classes) or len(classes) < 2:
        raise UsageError(
            f"{path}: {len(text_KD)} texts and {len(set(classes))} names of classes; every text needs its own name"
        )
    if not bool(text_KD.isfinite().all()) or bool((text_KD.norm(dim=1) == 0).any()) or not math.isfinite(scale) or scale <= 0:
        raise IntegrityError(f"{path}: holds embeddings that are zero or not finite, or a logit scale of {scale}")

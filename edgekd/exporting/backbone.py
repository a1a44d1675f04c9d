"""A student without its head: plain weights that other programs load, and an embedding as ONNX.

Axes: B batch, C channels, H height, W width, D feature width, N images.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Exportable, ImageSet, Session, Student
from edgekd.core.errors import EvidenceError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Checkpoint, FileRef, MadeBy, licences_of_weights
from edgekd.core.side_records import BackboneFiles, EmbeddingParity
from edgekd.core.store import disk_errors, file_ref, read_record, sync_files, write_bytes, write_record, write_text
from edgekd.exporting import parity, stage
from edgekd.exporting.interface import FEATURE, INPUT

if TYPE_CHECKING:
    from torch import nn

    Array = np.ndarray[Any, Any]

FILES = {"timm": "backbone.safetensors", "torch": "backbone.pth", "onnx": "embedding.onnx"}
FORMATS = tuple(FILES)
RECORD, README = "backbone.json", "README.md"
MOST_IMAGES = 256
LEAST_COSINE = 0.999
_BATCH = 8
_NOISE_IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to write: forms, the embedding's tap (None: the one that the training shaped), threads for the parity check."""

    formats: tuple[str, ...] = FORMATS
    tap: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FILES]
        if unknown or not self.formats:
            raise UsageError(f"no backbone format is called {', '.join(unknown) or 'nothing'}; there are {', '.join(FORMATS)}")


def write(
    *,
    checkpoint: Checkpoint,
    folder: Path,
    student: Student,
    images: ImageSet | None,
    out: Path,
    wanted: Wanted,
    made_by: MadeBy,
    console: Console,
) -> BackboneFiles:
    """Write a checkpoint's student (its weights are in `folder`) without its head into `out`, and how to load each form.

    The embedding is held against torch on at most 256 of the `images`, or on noise if there are none. Raises `UsageError` if
    `out` holds anything else or the tap is no vector, `EvidenceError` if the embedding answers otherwise than torch.
    """
    module = stage.load_student(checkpoint, folder, student)
    tap = wanted.tap or checkpoint.feature_tap
    width = _width(module, tap)
    plain = student.without_head(module) if {"timm", "torch"} & set(wanted.formats) else None
    _clear(out)
    usage: dict[str, str] = {}
    if plain is not None:
        usage |= _write_weights(*plain, out=out, formats=wanted.formats)
    opset = measured = None
    if "onnx" in wanted.formats:
        opset, measured = _write_embedding(checkpoint, module, tap, images=images, out=out, wanted=wanted, console=console)
        usage["onnx"] = (
            "import onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{FILES["onnx"]}")\n'
            f'feature_BD = session.run(["{FEATURE}"], {{"{INPUT}": image_BCHW}})[0]'
        )
    sync_files(out)
    record = BackboneFiles(
        made_by=made_by,
        from_={"checkpoint": checkpoint.digest(), "weights": checkpoint.weights.sha256, "data": checkpoint.data.digest},
        student_name=checkpoint.student_name,
        files=dict(_files(out, usage)),
        usage=usage,
        tap=tap,
        width=width,
        input=checkpoint.input,
        opset=opset,
        parity=measured,
        licences=licences_of_weights(checkpoint),
    )
    write_text(out / README, readme(record))
    write_record(out / RECORD, record)
    return record


# ------------------------------------------------------------------------------------------------------------ plain weights
def _write_weights(bare: "nn.Module", create: str, *, out: Path, formats: Sequence[str]) -> dict[str, str]:
    import torch
    from safetensors.torch import save

    state = {key: value.detach().contiguous().cpu() for key, value in bare.state_dict().items()}
    package = create.partition(".")[0]
    usage = {}
    if "timm" in formats:
        write_bytes(out / FILES["timm"], save(state))
        usage["timm"] = (
            f"import {package}, safetensors.torch\n"
            f"model = {create}.eval()\n"
            f'model.load_state_dict(safetensors.torch.load_file("{FILES["timm"]}"))'
        )
    if "torch" in formats:
        written = io.BytesIO()
        torch.save(state, written)
        write_bytes(out / FILES["torch"], written.getvalue())
        usage["torch"] = (
            f"import {package}, torch\n"
            f"model = {create}.eval()\n"
            f'model.load_state_dict(torch.load("{FILES["torch"]}", weights_only=True))'
        )
    return usage


# -------------------------------------------------------------------------------------------------------------- embedding
def embedding(student: "nn.Module", tap: str) -> "nn.Module":
    """Return a module image_BCHW in [0, 1] -> feature_BD of a tap: a copy in evaluation mode, its branches folded."""
    from timm.utils.model import reparameterize_model
    from torch import Tensor, nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student: Any = reparameterize_model(copy.deepcopy(student).eval(), inplace=True)

        def forward(self, image_BCHW: Tensor) -> Tensor:
            feature_BD: Tensor = self.student.features(image_BCHW, (tap,))[tap]
            return feature_BD

    return Embedding().eval().requires_grad_(False)


def _write_embedding(
    checkpoint: Checkpoint,
    module: "nn.Module",
    tap: str,
    *,
    images: ImageSet | None,
    out: Path,
    wanted: Wanted,
    console: Console,
) -> tuple[int | None, EmbeddingParity]:
    from edgekd.exporting import graph

    backend = parts.load("backend", "onnxruntime")()
    assert isinstance(backend, Backend)
    parts.need_packages(backend)
    embed = embedding(module, tap)
    batches = list(_batches(images, checkpoint))
    torch_ND = _through(_eager(embed), batches)  # before the trace: some taps are found in the first run
    exportable = Exportable(
        module=embed,
        input=checkpoint.input,
        classes=(),
        metadata={**stage.about(checkpoint), "tap": tap},
        sample_BCHW=stage.sample_for(checkpoint.input),
    )
    console.say(f"onnx: exporting the tap {tap} of {checkpoint.student_name}")
    model = graph.to_onnx(exportable, output=FEATURE)
    with disk_errors(out):
        write_bytes(out / FILES["onnx"], graph.serialized(model))
    with backend.open(out, (FILES["onnx"],), threads=wanted.threads) as session:
        found = _parity(session, torch_ND, batches, real=images is not None)
    if not found.cosine_min >= LEAST_COSINE:  # also true of NaN
        raise EvidenceError(
            f"{out / FILES['onnx']}: the embedding answers otherwise than torch: smallest cosine {found.cosine_min:.4f}",
            mend="try another tap (--tap), or report this student",
        )
    return graph.opset_of(model), found


def _parity(session: Session, torch_ND: "Array", batches: "Sequence[Array]", *, real: bool) -> EmbeddingParity:
    onnx_ND = _through(session.run, batches)
    finite_N = parity.finite(torch_ND) & parity.finite(onnx_ND)
    cosine_N = np.where(finite_N, parity.cosines(np.nan_to_num(torch_ND), np.nan_to_num(onnx_ND)), 0.0)
    apart_ND = np.abs(torch_ND[finite_N].astype(np.float64) - onnx_ND[finite_N].astype(np.float64))
    return EmbeddingParity(
        images=len(torch_ND),
        inputs="validation images" if real else "images of noise",
        max_abs=float(apart_ND.max(initial=0.0)),
        mean_abs=float(apart_ND.mean()) if apart_ND.size else 0.0,
        cosine_mean=float(cosine_N.mean()),
        cosine_min=float(cosine_N.min()),
        runtime=session.runtime,
    )


def _eager(embed: "nn.Module") -> "Callable[[Array], Array]":
    import torch

    def answer(image_BCHW: "Array") -> "Array":
        with torch.inference_mode():
            found: Array = embed(torch.from_numpy(image_BCHW)).numpy()
            return found

    return answer


def _batches(images: ImageSet | None, checkpoint: Checkpoint) -> "Iterator[Array]":
    if images is None:
        noise_BCHW = np.random.default_rng(0).random((_NOISE_IMAGES, 3, *checkpoint.input.size_px), dtype=np.float32)
        yield from np.split(noise_BCHW, _NOISE_IMAGES // _BATCH)
        return
    # Spread over all images, lest they be of the first classes alone.
    chosen = np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).round().astype(int).tolist()
    for start in range(0, len(chosen), _BATCH):
        yield prepare_batch(images, chosen[start : start + _BATCH], checkpoint.input)


def _through(answer: "Callable[[Array], Array]", batches: "Sequence[Array]") -> "Array":
    return np.concatenate([answer(image_BCHW) for image_BCHW in batches])


def _width(module: Any, tap: str) -> int:
    shape = module.spec((tap,)).shapes[tap]
    if len(shape) != 1:
        raise UsageError(
            f"the tap {tap} has shape {tuple(shape)}; an embedding is a vector", mend="choose another --tap: pooled"
        )
    return int(shape[0])


# ------------------------------------------------------------------------------------------------------------- the folder
def readme(record: BackboneFiles) -> str:
    """Return the page that stands beside the files: what each is, what it takes, how to load it."""
    contract = record.input
    mean, std = (json.dumps(list(values)) for values in (contract.mean, contract.std))
    height, width = contract.size_px
    squash, centre = f"resized to {height} x {width}", f"short side resized to {contract.resize_px}, centre {height} x {width}"
    cut = squash if contract.crop == "squash" else centre
    lines = [
        f"# {record.student_name} without its head",
        "",
        f"Images: RGB, {cut} ({contract.interpolation}), in [0, 1].",
        f"Plain weights expect them normalised: mean {mean}, std {std}. They answer with what the head was given.",
        f"The embedding normalises by itself and answers with the tap `{record.tap}`, {record.width} numbers an image.",
        "",
    ]
    for name, code in record.usage.items():
        file = record.files[name]
        lines += [f"## {file.path}", "", f"sha256 {file.sha256}", "", "```python", code, "```", ""]
    if record.parity is not None:
        found = record.parity
        apart = f"largest difference {found.max_abs:.2g}, smallest cosine {found.cosine_min:.6f} ({found.runtime})"
        lines += [f"The embedding was held against torch on {found.images} {found.inputs}: {apart}.", ""]
    lines += ["Licences: " + "; ".join(f"{what}: {licence}" for what, licence in record.licences.items()), ""]
    return "\n".join(lines)


def _files(out: Path, usage: dict[str, str]) -> Iterator[tuple[str, FileRef]]:
    for name in usage:
        yield name, file_ref(out / FILES[name], folder=out)


def _clear(out: Path) -> None:
    """Make the folder, or take away what an earlier export wrote there; refuse one that holds anything else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file", mend="choose another --out")
    own = {*FILES.values(), RECORD, README}
    there = sorted(path.name for path in out.iterdir() if not path.match(".*.tmp")) if out.is_dir() else []
    foreign = [name for name in there if name not in own]
    if foreign or (README in there and RECORD not in there):  # an export that was killed left files of its own, and no page
        raise UsageError(
            f"{out}: is not empty and holds no backbone of edgekd; nothing was touched", mend="choose another --out"
        )
    if RECORD in there:
        read_record(BackboneFiles, out / RECORD)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (README, RECORD, *FILES.values()):
            (out / name).unlink(missing_ok=True)

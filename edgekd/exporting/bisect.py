"""`edgekd export --bisect`: the first node of an artifact that departs from the float32 graph, as a record.

Axes: B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.core import agreement
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Exportable, ImageSet
from edgekd.core.errors import EvidenceError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, MadeBy
from edgekd.core.side_records import Bisection
from edgekd.core.store import checked_file, write_record
from edgekd.exporting import exposing, graph, noise
from edgekd.exporting.interface import Batch
from edgekd.exporting.pixels import UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

RECORD = "bisect.json"
MOST_IMAGES = 16


def examine(
    *,
    artifact: Artifact,
    folder: Path,
    backend: Backend,
    exportable: Exportable,
    images: ImageSet,
    made_by: MadeBy,
    console: Console,
) -> Bisection:
    """Compare an artifact with the float32 ONNX graph of its student, tensor by tensor, and write `bisect.json` beside it.

    The images are those that flipped, then others spread over the set, 16 in all. Raises `UsageError` for a format that shows
    no tensors, `IntegrityError` if the artifact's files are not its record's, `EvidenceError` without images.
    """
    paths = [checked_file(file, folder=folder) for file in artifact.files]
    chosen = chosen_images(artifact, images)
    exported = exposing.shown_by(paths[0], precision=artifact.precision)
    console.say(f"{artifact.name}: {len(exported.computed)} tensors against the float32 graph, {len(chosen)} images")
    fixed = artifact.inputs[0].shape[0]
    batch: Batch = fixed if isinstance(fixed, int) else "dynamic"
    model = graph.to_onnx(exportable, opset=artifact.opset or graph.DEFAULT_OPSET, batch=batch)
    steps, copies = exposing.steps_of(model), fixed if isinstance(fixed, int) else 1
    inputs = [_fed(images, [index] * copies, exportable, artifact, exported) for index in chosen]
    found = noise.measure(steps, exposing.shown_by_onnx(model), exported, inputs)
    expected = noise.EXPECTED.get(artifact.precision, noise.EXPECTED["int8"])
    tensors = noise.judge(found, steps, expected)
    deployed = noise.Sums()
    with backend.open(folder, [file.path for file in artifact.files], threads=1) as session:
        for wanted_BK, (_, given) in zip(found.reference_logits, inputs, strict=True):
            deployed.add(wanted_BK, session.run(given))
    traced = _traced(exportable, [given for given, _ in inputs], found.reference_logits)
    record = Bisection(
        made_by=made_by,
        from_={"artifact": artifact.digest()},
        artifact=artifact.name,
        precision=artifact.precision,
        runtime=exported.runtime,
        images=tuple(images.samples[index].id for index in chosen),
        tensors=tensors,
        unmatched=found.unmatched,
        first=next((one for one in tensors if one.departs), None),
        worst=noise.worst(tensors),
        traced_db=traced.sqnr_db,
        shown_db=found.logits.sqnr_db,
        deployed_db=deployed.sqnr_db,
        finding=_finding(noise.said_of(tensors, found, expected), traced, found.logits, deployed, expected),
    )
    write_record(folder / RECORD, record)
    return record


def _fed(
    images: ImageSet, indices: list[int], exportable: Exportable, artifact: Artifact, exported: exposing.Shown
) -> "tuple[Array, Array]":
    """Return what the float32 graph and the artifact are fed for the same image.

    Where the artifact makes the tensor in [0, 1] by itself the float32 graph gets that one: how it scales and resizes is judged
    by its parity, and would hide here what its precision does.
    """
    given = prepare_batch(images, indices, artifact.input)
    if not artifact.input.takes_bytes:
        return given, given
    if UNIT in exported.computed:
        return exported.run([exported.computed[UNIT]], given)[1], given
    return prepare_batch(images, indices, exportable.input), given


def is_due(artifact: Artifact) -> bool:
    """Return whether an artifact's parity is not a pass under the limits of its precision."""
    parity = artifact.parity
    if parity is None:  # it has not run yet
        return False
    decided = parity.decision or agreement.decide(
        parity, precision=artifact.precision, executed_precision=artifact.executed_precision
    )
    return decided.outcome != "pass"


def chosen_images(artifact: Artifact, images: ImageSet) -> list[int]:
    """Return the indices of the images to look at: those that flipped first, then others spread over the set."""
    if len(images) == 0:
        raise EvidenceError("there are no validation images to look at", mend="give the source some")
    flipped = {flip.image for flip in artifact.parity.flips} if artifact.parity is not None else set()
    failed = [index for index, sample in enumerate(images.samples) if sample.id in flipped]
    spread = np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).round().astype(int).tolist()
    return list(dict.fromkeys([*failed, *spread]))[:MOST_IMAGES]


def _traced(exportable: Exportable, inputs: "Sequence[Array]", onnx_logits: "Sequence[Array]") -> noise.Sums:
    """Return how far the float32 ONNX graph is from torch: what is lost there, no precision has lost."""
    import torch

    sums = noise.Sums()
    for given, found_BK in zip(inputs, onnx_logits, strict=True):
        with torch.inference_mode():
            sums.add(exportable.module(torch.from_numpy(given)).float().numpy(), found_BK)
    return sums


def _finding(said: str, traced: noise.Sums, shown: noise.Sums, deployed: noise.Sums, expected: noise.Expected) -> str:
    exact = noise.EXPECTED["fp32"]
    if _level(traced) < exact.floor_db:
        at_fault = "the float32 ONNX graph itself departs from torch, so the tracing is at fault and not the precision"
        return f"SQNR {noise.db(traced.sqnr_db)}: {at_fault}. {said}"
    if _level(shown) - _level(deployed) > expected.step_db:
        kernels = f"as deployed, with its kernels fused, the graph has {noise.db(deployed.sqnr_db)}"
        return f"{said} But {kernels}: what departs is a fused kernel of the runtime, which shows no tensors inside."
    if _level(deployed) - _level(shown) > expected.step_db:
        wider = f"the logits have {noise.db(deployed.sqnr_db)} as deployed"
        return f"{said} But {wider}: this runtime computes wider than the file says, and another may not."
    return said


def _level(sums: noise.Sums) -> float:
    if sums.non_finite:
        return noise.LEAST_DB
    most_db = noise.EXPECTED["fp32"].ceiling_db
    return most_db if sums.sqnr_db is None else min(sums.sqnr_db, most_db)

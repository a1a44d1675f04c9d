"""`bench`: time one artifact on one device over real images, and say whether the samples can be trusted."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.benching.earlier_worker import PROTOCOL
from edgekd.benching.protocol import Inputs, judge
from edgekd.core.console import Console
from edgekd.core.contracts import Device, Samples, Source, TimingPlan
from edgekd.core.errors import DataError, EvidenceError, MachineError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, MadeBy, Measurement
from edgekd.core.store import checked_file, disk_errors, write_record

if TYPE_CHECKING:
    Images = np.ndarray[Any, np.dtype[np.float32 | np.uint8]]


def bench(
    *,
    artifact: Artifact,
    folder: Path,
    device: Device,
    source: Source,
    out: Path,
    from_: Mapping[str, str],
    made_by: MadeBy,
    console: Console,
    batch: int = 1,
    threads: int | None = None,
    workers: int = 3,
    warmup: int = 20,
    iterations: int = 200,
    images: int = 32,
    seed: int = 0,
) -> Measurement:
    """Time the artifact in `folder` and write the measurement to `out`; `threads` None leaves them to the device.

    `images` validation images, drawn with `seed`, are prepared as the artifact's input contract says and held in memory.
    Raises `UsageError` for a plan that the artifact cannot follow, `EvidenceError` for one that was not executed,
    `IntegrityError` if its files are not those of its record, `MachineError` if the device fails.
    """
    sizes = {"batch": batch, "workers": workers, "warmup": warmup, "iterations": iterations, "images": images}
    _check_plan(artifact, sizes if threads is None else sizes | {"threads": threads})
    for file in artifact.files:
        checked_file(file, folder=folder)
    facts = device.facts()
    threads = device.default_threads() if threads is None else threads
    images_NCHW = _prepared(source, artifact, images, seed)
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as temporary:
        images_npy = Path(temporary) / "images.npy"
        with disk_errors(images_npy, size_bytes=images_NCHW.nbytes):
            np.save(images_npy, images_NCHW, allow_pickle=False)
        plan = TimingPlan(
            batch=batch,
            threads=threads,
            workers=workers,
            warmup=warmup,
            iterations=iterations,
            images_npy=images_npy,
        )
        samples = _timed(artifact, folder, device, plan, console)
    inputs = Inputs(images=len(images_NCHW), constant=_is_constant(images_NCHW))
    judgement = judge(samples, artifact=artifact, facts=facts, threads=threads, inputs=inputs)
    measurement = Measurement(
        made_by=made_by,
        from_=dict(from_),
        artifact=artifact.digest(),
        device=facts,
        protocol=PROTOCOL,
        runtime=samples[0].runtime,
        executed_on=samples[0].executed_on,
        executed_precision=samples[0].executed_precision,
        batch=batch,
        threads=threads,
        input_images=len(images_NCHW),
        workers=tuple(one.worker for one in samples),
        flags=judgement.flags,
        trusted=judgement.trusted,
        untrusted_because=judgement.untrusted_because,
        blur=judgement.blur,
    )
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_record(out, measurement)
    return measurement


def _check_plan(artifact: Artifact, plan: Mapping[str, int]) -> None:
    if artifact.not_executed:
        raise EvidenceError(
            f"{artifact.name} was not executed, so it cannot be measured: {artifact.not_executed}",
            mend="run `edgekd export RUN` on the machine that it was made for, then `edgekd bench RUN` there",
        )
    for name, value in plan.items():
        least = 0 if name == "warmup" else 1
        if value < least:
            raise UsageError(f"bench.{name} is {value}; at least {least} is needed")
    fixed = artifact.inputs[0].shape[0]
    if isinstance(fixed, int) and fixed != plan["batch"]:
        raise UsageError(
            f"{artifact.name} was exported for batches of exactly {fixed}, bench.batch asks for {plan['batch']}",
            mend=f"set bench.batch to {fixed}, or export with a free batch axis",
        )


def _prepared(source: Source, artifact: Artifact, images: int, seed: int) -> "Images":
    """Return the images as the artifact takes them, at most `images`; a small validation set gives fewer.

    For a graph that resizes by itself all are brought to the size of the first, as a camera's would be.
    """
    val = source.val()
    if len(val) == 0:
        raise DataError("there are no validation images to time with")
    chosen = [int(index) for index in np.random.default_rng(seed).permutation(len(val))[:images]]
    if not artifact.input.resize_inside:
        return prepare_batch(val, chosen, artifact.input)
    size_px = val.load(chosen[0]).shape[:2]
    frames = artifact.input.model_copy(update={"size_px": size_px, "crop": "squash", "resize_inside": False})
    return prepare_batch(val, chosen, frames)


def _timed(artifact: Artifact, folder: Path, device: Device, plan: TimingPlan, console: Console) -> tuple[Samples, ...]:
    samples: list[Samples] = []
    with console.progress("bench", plan.workers, "processes") as progress:
        for one in device.time(artifact, folder, plan):
            samples.append(one)
            progress.update(len(samples), artifact.name)
    if len(samples) != plan.workers:
        raise MachineError(f"the device answered {len(samples)} of the {plan.workers} worker processes asked for")
    return tuple(samples)


def _is_constant(images_NCHW: "Images") -> bool:
    """Return whether no two inputs differ, or no input has two values."""
    flat_ND = images_NCHW.reshape(len(images_NCHW), -1)
    same = len(flat_ND) > 1 and bool((flat_ND == flat_ND[0]).all())
    return same or bool((flat_ND.min(axis=1) == flat_ND.max(axis=1)).all())

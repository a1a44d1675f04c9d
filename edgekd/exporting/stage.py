"""The export stage: a checkpoint in, an artifact with its parity and its accuracy out.

Axes: B batch, C channels, H height, W width, N images, K classes.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import agreement
from edgekd.core.console import Console
from edgekd.core.contracts import (
    UNKNOWN_LABEL,
    Backend,
    Exportable,
    ExportedFiles,
    ImageSet,
    Session,
    Source,
    Student,
)
from edgekd.core.errors import DataError, EvidenceError, IntegrityError
from edgekd.core.images import prepare_batch
from edgekd.core.parts import need_packages
from edgekd.core.plan import Quantise
from edgekd.core.predictions import write_predictions
from edgekd.core.records import Artifact, Checkpoint, FileRef, InputContract, MadeBy, Quantisation, licences_of_weights
from edgekd.core.store import begin_stage, checked_file, disk_errors, file_ref, sync_files, write_record
from edgekd.core.thumbnails import write_thumbnails
from edgekd.exporting import flips, heads, macs, parity
from edgekd.exporting.interface import OUTPUT, contract_of, outputs_of, shown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    Logits = np.ndarray[Any, Any]

RECORD = "artifact.json"
NOT_EXECUTED = "not executed"
_NAMED = 5  # flips named on the console; the record has them all
_BATCH = 8  # larger batches make glibc give memory back to the kernel at each step: torch then takes two to five times as long


class Reference:
    """A checkpoint's student ready for export, and torch's answers to the validation images; made once for all artifacts."""

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        folder: Path,
        student: Student,
        source: Source,
        threads: int,
        console: Console,
        held_against: Exportable | None = None,
    ) -> None:
        """Load the weights from `folder`, strictly, and run the student over every validation image.

        `held_against` is the float student that int8 must not lose to, if that is another one.

        Raises `IntegrityError` for weights that are not the record's or not finite, `UsageError` for those of another student,
        `DataError` for images without labels among this checkpoint's classes, `EvidenceError` for a student without answers.
        """
        self.checkpoint = checkpoint
        self.source = source
        self.images = source.val()
        _check_images(source, checkpoint)
        module = load_student(checkpoint, folder, student)
        self.exportable = exportable_of(checkpoint, student, module)
        self.held_against = held_against or self.exportable
        answers_NK = eager_answers(
            module,
            self.images,
            checkpoint.input,
            label="torch",
            console=console,
            workers=threads,
            taps=outputs_of(self.exportable),
        )
        self.logits_NK, *self.of_heads = heads.split(answers_NK, checkpoint)
        broken_N = ~parity.finite(answers_NK)
        if broken_N.any():
            raise EvidenceError(
                f"the student itself answers with NaN or infinity on {broken_N.sum()} of {len(self.images)} images",
                mend="train it again with a lower learning rate",
            )

    @cached_property
    def macs(self) -> int | None:
        """Return the student's multiply-accumulates for one image."""
        return macs.count(self.exportable.module, self.exportable.input.size_px)


def export(
    *,
    reference: Reference,
    backend: Backend,
    folder: Path,
    threads: int,
    from_: dict[str, str],
    made_by: MadeBy,
    console: Console,
    pictures: bool = True,
) -> Artifact:
    """Export a student to one backend, run all validation images through that runtime, and write the artifact to `folder`.

    With `pictures`, small ones of the worst images that the runtime answers differently are kept for the report.
    Where the backend cannot run here by its nature, the artifact says so and has neither parity nor accuracy. Raises
    `MachineError` if the backend's package is missing or its runtime does something else than asked, and what it raises.
    """
    not_executed = backend.cannot_run_here()
    if not not_executed:
        need_packages(backend)
    checkpoint = reference.checkpoint
    heads.check_backend(backend, checkpoint)
    name = f"{backend.ref().use} {backend.precision}"
    begin_stage(folder, RECORD)
    console.say(f"{name}: exporting {checkpoint.student_name}")
    with disk_errors(folder):
        written, quantisation = _written(reference, backend, folder, threads, console)
    _check_written(written, checkpoint, name)
    sync_files(folder)
    if not_executed:
        console.warn(f"{name}: {NOT_EXECUTED}: {not_executed}")
        ran = _Ran(not_executed=not_executed)
    else:
        with backend.open(folder, written.files, threads=threads) as session:
            answers_NK = _through(session, written, reference, label=name, console=console)
            first_NK, *of_heads = heads.split(answers_NK, checkpoint)
            ran = _Ran(session.executed_on, session.executed_precision, session.runtime, first_NK, tuple(of_heads))
    kept = _pictures_of_flips(reference, ran.logits_NK, folder) if pictures else None
    artifact = _record(backend, folder, written, reference, ran, quantisation, from_, made_by, kept)
    _tell(artifact, console)
    return artifact


def _tell(artifact: Artifact, console: Console) -> None:
    if artifact.parity is None or (decision := artifact.parity.decision) is None:
        return
    told = f"{artifact.name}: parity {decision.outcome}: {decision.because}"
    if decision.outcome != "fail":
        console.say(told)
    else:
        flips = [flip.image for flip in artifact.parity.flips]
        named = f" Flips: {', '.join(flips[:_NAMED])}{' ...' if len(flips) > _NAMED else ''}." if flips else ""
        console.warn(f"{told}{named} `edgekd export RUN --bisect` finds the first node that departs")


def _written(
    reference: Reference, backend: Backend, folder: Path, threads: int, console: Console
) -> tuple[ExportedFiles, Quantisation | None]:
    if backend.precision != "int8":
        return backend.export(reference.exportable, folder), None
    from edgekd.exporting.quantize import Search

    search = Search(
        backend=backend,
        settings=getattr(backend, "quantise", None) or Quantise(),
        exportable=reference.exportable,
        held_against=reference.held_against,
        source=reference.source,
        threads=threads,
        folder=folder,
        console=console,
    )
    return search.go()


@dataclass(frozen=True)
class _Ran:
    """What the runtime said of itself and answered; without answers, why it was not asked."""

    on: str = NOT_EXECUTED
    precision: str = NOT_EXECUTED
    runtime: str = NOT_EXECUTED
    logits_NK: "Logits | None" = None
    of_heads: "tuple[Logits, ...]" = ()
    not_executed: str = ""


def _record(
    backend: Backend,
    folder: Path,
    written: ExportedFiles,
    reference: Reference,
    ran: _Ran,
    quantisation: Quantisation | None,
    from_: dict[str, str],
    made_by: MadeBy,
    pictures: FileRef | None,
) -> Artifact:
    checkpoint = reference.checkpoint
    samples, classes = reference.images.samples, checkpoint.classes
    files = tuple(file_ref(folder / file, folder=folder) for file in written.files)
    logits_NK = ran.logits_NK
    found = None if logits_NK is None else parity.compare(reference.logits_NK, logits_NK, samples, classes)
    if found is not None:
        decision = agreement.decide(found, precision=backend.precision, executed_precision=ran.precision)
        found = found.model_copy(update={"decision": decision})
    further = heads.judged(reference, ran.of_heads, precision=backend.precision, executed_precision=ran.precision)
    artifact = Artifact(
        made_by=made_by,
        from_=from_,
        backend=backend.ref(),
        precision=backend.precision,
        executed_precision=ran.precision,
        executed_on=ran.on,
        runtime=ran.runtime,
        files=files,
        size_bytes=sum(file.size_bytes for file in files),
        inputs=written.inputs,
        outputs=heads.named(written.outputs, checkpoint),
        opset=written.opset,
        classes=classes,
        input=contract_of(written.inputs[0], checkpoint.input),
        parity=heads.worst(found, further),
        accuracy=None if logits_NK is None else write_predictions(logits_NK, samples, classes, folder),
        licences=licences_of_weights(checkpoint),
        quantisation=quantisation,
        not_executed=ran.not_executed,
        heads=further,
        flips=pictures,
        macs=reference.macs,
    )
    write_record(folder / RECORD, artifact)
    return artifact


def _pictures_of_flips(reference: Reference, logits_NK: "Logits | None", folder: Path) -> FileRef | None:
    if logits_NK is None:
        return None
    labels = [sample.label for sample in reference.images.samples]
    return write_thumbnails(reference.images, flips.worst_first(reference.logits_NK, logits_NK, labels), folder)


# ------------------------------------------------------------------------------------------------------------ the student
def load_student(checkpoint: Checkpoint, folder: Path, student: Student) -> "nn.Module":
    """Return a checkpoint's student in evaluation mode; raise `IntegrityError` for weights not its own or not finite."""
    import torch

    path = checked_file(checkpoint.weights, folder=folder)
    module = student.restore(len(checkpoint.classes), path).eval()
    state = module.state_dict()
    broken = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise IntegrityError(
            f"{path}: {len(broken)} of {len(state)} weights hold NaN or infinity ({', '.join(broken[:3])})",
            mend="train it again with a lower learning rate",
        )
    return module


def exportable_of(checkpoint: Checkpoint, student: Student, module: "nn.Module") -> Exportable:
    """Return a checkpoint's loaded student as the backends take it."""
    return Exportable(
        module=student.exportable(module),
        input=checkpoint.input,
        classes=checkpoint.classes,
        metadata=about(checkpoint),
        sample_BCHW=sample_for(checkpoint.input),
        heads=checkpoint.heads,
    )


def eager_answers(
    module: "nn.Module",
    images: ImageSet,
    contract: InputContract,
    *,
    label: str,
    console: Console,
    workers: int = 1,
    taps: tuple[str, ...] = (OUTPUT,),
) -> "Logits":
    """Return a student's own logits_NK of all images in order, `workers` batches beside one another; several taps joined."""
    # Each batch on one core: torch's own threads wait for each other and crawl on a busy machine.
    with _torch_threads(1):
        return _answers(_eager(module, taps), images, contract, batch=_BATCH, label=label, console=console, workers=workers)


def _eager(module: Any, taps: tuple[str, ...]) -> "Callable[[Logits], Logits]":
    import torch

    def answer(image_BCHW: "Logits") -> "Logits":
        with torch.inference_mode():
            answers = module.features(torch.from_numpy(image_BCHW), taps)
            found: Logits = torch.cat([answers[tap].float() for tap in taps], dim=1).numpy()
            return found

    return answer


def sample_for(contract: InputContract) -> "torch.Tensor":
    """Return two images of noise for a tracer to see."""
    import torch

    return torch.rand(2, 3, *contract.size_px, generator=torch.Generator().manual_seed(0))


def about(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what an exported file says of itself: whose weights, made from what, under which licences."""
    from edgekd import __version__

    return {
        "edgekd": __version__,
        "student": checkpoint.student_name,
        "licences": json.dumps(licences_of_weights(checkpoint), ensure_ascii=False),
        "checkpoint_sha256": checkpoint.digest(),
        "weights_sha256": checkpoint.weights.sha256,
        "data_sha256": checkpoint.data.digest,
    }


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------- the images
def _check_images(source: Source, checkpoint: Checkpoint) -> None:
    if source.classes != checkpoint.classes:
        raise DataError(
            f"the checkpoint knows {len(checkpoint.classes)} classes and the images have {len(source.classes)}, or others",
            mend="export with the images that the checkpoint was made from",
        )
    samples = source.val().samples
    if not samples:
        raise EvidenceError(
            "there are no validation images, so neither parity nor accuracy can be stated", mend="give the source some"
        )
    unlabelled = [sample.id for sample in samples if sample.label == UNKNOWN_LABEL]
    if unlabelled:
        raise DataError(f"{len(unlabelled)} validation images have no label: {', '.join(unlabelled[:3])}")


def _check_written(written: ExportedFiles, checkpoint: Checkpoint, name: str) -> None:
    takes = contract_of(written.inputs[0], checkpoint.input)
    sides = written.inputs[0].shape[1:3] if takes.resize_inside else checkpoint.input.size_px
    image = (*sides, 3) if takes.takes_bytes else (3, *sides)
    wanted = image, (len(checkpoint.classes),), *((len(classes),) for classes in checkpoint.heads.values())
    found = tuple(tuple(spec.shape[1:]) for spec in (*written.inputs, *written.outputs))
    if found != wanted:
        raise IntegrityError(
            f"{name} wrote a model of {' and '.join(shown(shape) for shape in found)} per image, "
            f"the checkpoint is one of {' and '.join(shown(shape) for shape in wanted)}"
        )


def _through(session: Session, written: ExportedFiles, reference: Reference, *, label: str, console: Console) -> "Logits":
    fixed = written.inputs[0].shape[0]
    contract = contract_of(written.inputs[0], reference.exportable.input)
    size = fixed if isinstance(fixed, int) else _BATCH
    return _answers(
        heads.together(session) if reference.checkpoint.heads else session.run,
        reference.images,
        contract,
        batch=1 if contract.resize_inside else size,
        label=label,
        console=console,
        fill=size if isinstance(fixed, int) else 1,
    )


def _answers(
    answer: "Callable[[Logits], Logits]",
    images: ImageSet,
    contract: InputContract,
    *,
    batch: int,
    label: str,
    console: Console,
    fill: int = 1,
    workers: int = 1,
) -> "Logits":
    """Return logits_NK of all images in order; batches of less than `fill` images are filled up by repeating their last one.

    The next images are prepared while `workers` threads compute; never more than a few batches are held.
    """
    import numpy as np

    pending: deque[Future[Logits]] = deque()
    chunks: list[Logits] = []
    with console.progress(label, len(images), "images") as progress, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(images), batch):
            indices = list(range(start, min(start + batch, len(images))))
            padding = [indices[-1]] * (fill - len(indices))
            filled = prepare_batch(images, [*indices, *padding], contract)
            pending.append(pool.submit(lambda given, count: answer(given)[:count], filled, len(indices)))
            while len(pending) > 2 * workers:
                chunks.append(pending.popleft().result())
                progress.update(len(chunks) * batch)
        chunks += [future.result() for future in pending]
        progress.update(len(images))
    return np.concatenate(chunks)

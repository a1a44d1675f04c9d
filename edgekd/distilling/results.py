"""What a training leaves behind: weights, predictions, what the features are worth, and the record that names them.

Axes: N, M images; D feature width; K classes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from edgekd.core.console import Console
from edgekd.core.contracts import ImageSet, Needs
from edgekd.core.plan import Cache
from edgekd.core.predictions import write_predictions
from edgekd.core.records import Checkpoint, InputContract, Representation, TeacherFacts, TrainingFacts
from edgekd.core.store import file_ref, sync_files, write_bytes, write_record
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.imagesets import Picked
from edgekd.distilling.job import Job
from edgekd.distilling.probes import PROBE_TAP, LinearProbe, knn_top1
from edgekd.distilling.representation import MOST_IMAGES, represent
from edgekd.distilling.taps import TappedModel
from edgekd.distilling.teaching import Teaching

HEAD_TAP = "pre_logits"
Features = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A student at the end of its training, and all that the record says of how it came to be."""

    job: Job
    needs: Needs
    cache: Cache
    student: TappedModel
    criterion: nn.Module
    contract: InputContract
    teachings: tuple[Teaching, ...]
    training: TrainingFacts
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def features(self, images: ImageSet) -> Features:
        """Return the student's features of whole images, on the CPU."""
        taps = tuple(dict.fromkeys((HEAD_TAP, self.needs.feature_tap, "logits")))
        device = next(self.student.parameters()).device
        return collect(lambda x_BCHW: self.student.features(x_BCHW, taps), images, self.contract, device=device)


def write_checkpoint(trained: Trained, folder: Path, console: Console) -> Checkpoint:
    """Judge the student on the validation images and write everything, the record last."""
    job, needs, student = trained.job, trained.needs, trained.student
    train, val = job.source.train(), job.source.val()
    seen, held = trained.features(train) if len(train) else None, trained.features(val)
    logits_MK = held["logits"]
    if not needs.trains_head and seen is not None and student.zero_shot is None:
        console.say(f"{job.name}: the method trains no head; it is a linear probe on {len(train)} labelled images")
        fit_head(student.head, seen[HEAD_TAP], labels_of(train))
        logits_MK = student.head.cpu()(held[HEAD_TAP]).detach()
    accuracy = write_predictions(logits_MK.numpy(), val.samples, job.source.classes, folder)
    probe_top1, knn = _worth(trained, seen, held)
    representation = _represented(trained, held)
    weights, learned = folder / "student.safetensors", folder / "criterion.safetensors"
    write_bytes(weights, _as_safetensors(student.model))
    if trained.criterion.state_dict():
        write_bytes(learned, _as_safetensors(trained.criterion, _provenance(trained)))
    sync_files(folder)
    checkpoint = Checkpoint(
        made_by=job.made_by,
        from_=job.from_,
        name=job.name,
        weights=file_ref(weights, folder=folder),
        history=file_ref(folder / "history.jsonl", folder=folder),
        criterion=file_ref(learned, folder=folder) if learned.is_file() else None,
        student=job.student.ref(),
        student_name=student.name,
        parameters=sum(parameter.numel() for parameter in student.model.parameters()),
        licence=student.licence,
        classes=job.source.classes,
        input=trained.contract,
        method=job.method.ref(),
        teachers=tuple(_with_answers(teaching, i, trained, folder) for i, teaching in enumerate(trained.teachings)),
        data=job.source.facts(),
        training=trained.training,
        accuracy=accuracy,
        head=_head(trained),
        feature_tap=needs.feature_tap,
        knn_top1=knn,
        probe_top1=probe_top1,
        seed=job.seed,
        representation=representation,
        start=job.start_facts,
        heads=trained.heads,
    )
    write_record(folder / "checkpoint.json", checkpoint)
    return checkpoint


def _with_answers(teaching: Teaching, number: int, trained: Trained, folder: Path) -> TeacherFacts:
    """Return a teacher's facts with what its linear probe answers to the validation images, kept beside the student's."""
    source, below = trained.job.source, folder / f"teacher-{number}"
    if teaching.said_MK is None:
        return teaching.facts
    below.mkdir(exist_ok=True)
    counted = write_predictions(teaching.said_MK.detach().cpu().numpy(), source.val().samples, source.classes, below)
    sync_files(below)
    kept = file_ref(below / counted.predictions.path, folder=folder)
    return teaching.facts.model_copy(update={"accuracy": counted.model_copy(update={"predictions": kept})})


def _head(trained: Trained) -> Literal["trained", "probe", "untrained", "zero_shot"]:
    if trained.needs.trains_head and trained.job.plan.freeze != "all":
        return "trained"
    if trained.student.zero_shot is not None:
        return "zero_shot"
    return "probe" if len(trained.job.source.train()) else "untrained"


def _worth(trained: Trained, seen: Features | None, held: Features) -> tuple[float | None, float | None]:
    """Return linear-probe and nearest-neighbour top-1 of the features that the method shapes; None without labels."""
    if seen is None:
        return None, None
    source, tap = trained.job.source, trained.needs.feature_tap
    train, val = labels_of(source.train()), labels_of(source.val())
    probe = LinearProbe.fit(seen[tap], train, classes=len(source.classes))
    probe_top1 = float((probe(held[tap]).argmax(dim=1) == val).double().mean())
    return probe_top1, knn_top1(seen[tap], train, held[tap], val)


def _represented(trained: Trained, held: Features) -> Representation | None:
    """Return how student and teachers see some validation images; None without a teacher."""
    val = trained.job.source.val()
    if not trained.teachings:
        return None
    # Evenly spread, as images often come class by class.
    some_N = torch.linspace(0, len(val) - 1, min(MOST_IMAGES, len(val))).round().to(torch.int64).unique()
    images = Picked(val, some_N.tolist())
    taught = tuple(_told(teaching, images) for teaching in trained.teachings)
    said = [(teaching.facts.name, tap, told) for teaching, told in zip(trained.teachings, taught, strict=True) for tap in told]
    if any(told[tap].ndim != 2 for _, tap, told in said):
        return None
    several = len(said) > len(trained.teachings)
    names = [f"{name} {tap}" if several else name for name, tap, _ in said]
    customised: tuple[Tensor, ...] = ()
    if hasattr(trained.criterion, "customised"):
        customised = cast(Any, trained.criterion).customised(taught)
    return represent(
        held[trained.needs.feature_tap][some_N],
        [(name, told[tap]) for name, (_, tap, told) in zip(names, said, strict=True)],
        list(zip(names, customised, strict=False)),
        labels_of(images),
        seed=trained.job.seed,
    )


def _told(teaching: Teaching, images: ImageSet) -> dict[str, Tensor]:
    """Return a teacher's features of whole images that the method asks for (not answers in logits); else its pooled ones."""
    asked = {name: one.tap for name, one in teaching.asked.items() if not one.probe and one.tap != "logits"}
    asked = asked or {PROBE_TAP: PROBE_TAP}
    found = teaching.whole(images, tuple(dict.fromkeys(asked.values())))
    return {name: found[tap] for name, tap in asked.items()}


def fit_head(head: nn.Linear, feature_ND: Tensor, label_N: Tensor) -> None:
    """Make a linear layer the linear probe of these features."""
    weight_KD, bias_K = LinearProbe.fit(feature_ND, label_N, classes=head.out_features).folded()
    with torch.no_grad():
        head.weight.copy_(weight_KD)
        head.bias.copy_(bias_K)


def _as_safetensors(module: nn.Module, metadata: dict[str, str] | None = None) -> bytes:
    return save({key: value.contiguous().cpu() for key, value in module.state_dict().items()}, metadata)


def _provenance(trained: Trained) -> dict[str, str]:
    """Return what a method's fitted bases and projectors belong to."""
    job = trained.job
    return {
        "method": json.dumps(job.method.ref().model_dump(mode="json"), sort_keys=True),
        "teachers": json.dumps([teaching.facts.model_dump(mode="json") for teaching in trained.teachings], sort_keys=True),
        "teacher_taps": json.dumps(trained.needs.taps_by_teacher or trained.needs.teacher_taps),
        "data": job.source.digest(),
        "seed": str(job.seed),
        "cache": trained.cache.model_dump_json(exclude={"folder"}),
    }

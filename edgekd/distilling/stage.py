"""The distil stage: recipe parts in, a checkpoint record out."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from edgekd.core.console import Console
from edgekd.core.contracts import Batch, FrozenModel, ImageSet, Method, Needs, Source, Student, Teacher
from edgekd.core.errors import DataError, UsageError
from edgekd.core.host import usable_cores
from edgekd.core.plan import Train
from edgekd.core.predictions import write_predictions
from edgekd.core.records import Checkpoint, InputContract, MadeBy, TeacherFacts, TrainingFacts
from edgekd.core.store import begin_stage, file_ref, sync_files, write_bytes, write_record
from edgekd.distilling import loop
from edgekd.distilling.allocator import keep_freed_memory
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.models import TappedModel
from edgekd.distilling.probes import PROBE_TAP, LinearProbe, ProbedTeacher, knn_top1
from edgekd.distilling.views import EpochSampler, InMemory, Views, concat

FIT_IMAGES = 4096
HELD_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that one checkpoint depends on; `images_seen` fixes the duration when it is given."""

    name: str
    source: Source
    student: Student
    teachers: tuple[Teacher, ...]
    method: Method
    plan: Train
    seed: int
    view_px: int | None
    images_seen: int | None
    from_: dict[str, str]
    made_by: MadeBy


def distill(job: Job, folder: Path, console: Console) -> Checkpoint:
    """Train a student and write `checkpoint.json`, the weights, the history and the predictions into `folder`.

    Raises `UsageError` when method, models and data have nothing in common, before anything is written.
    """
    return _Stage(job, folder, console).go()


class _Stage:
    def __init__(self, job: Job, folder: Path, console: Console) -> None:
        self.job, self.folder, self.console = job, folder, console
        self.needs: Needs = job.method.needs()
        self.classes = job.source.classes
        self.device = _device()
        torch.manual_seed(job.seed)

    def go(self) -> Checkpoint:
        job = self.job
        self._check_needs()
        student = cast(TappedModel, job.student.build(len(self.classes)))
        contract = job.student.input_contract()
        teachers, facts, fitted = self._teachers()
        criterion = job.method.build(
            student.spec(self.needs.student_taps),
            tuple(teacher.spec(self.needs.teacher_taps) for teacher in teachers),
            len(self.classes),
        )
        if fitted is not None and hasattr(criterion, "fit"):
            cast(Any, criterion).fit(fitted)
        begin_stage(self.folder, "checkpoint.json")
        view_px = job.view_px or max(student.size_px[0], *(t.size_px[0] for t in teachers), 0)
        trained, training = loop.train(self._task(student, teachers, criterion, contract, view_px), self.console)
        return self._record(cast(TappedModel, trained.eval()), contract, tuple(facts), training)

    def _check_needs(self) -> None:
        job, method = self.job, self.job.method.ref().use
        if self.needs.teachers and not job.teachers:
            raise UsageError(f"method {method} needs a teacher", mend="add `teachers:` to the recipe")
        if self.needs.labels and len(job.source.train()) == 0:
            raise DataError(f"method {method} needs labelled training images, and the source has none")

    def _teachers(self) -> tuple[list[FrozenModel], list[TeacherFacts], tuple[dict[str, Tensor], ...] | None]:
        """Load the teachers, see what their features are worth, and collect features of training images to fit on."""
        if not self.needs.teachers:
            return [], [], None
        source = self.job.source
        loaded, facts, fitted = [], [], []
        for part in self.job.teachers:
            teacher = part.load().to(self.device)
            contract = _teacher_contract(teacher)
            teacher, one = self._probed(part, teacher, contract)
            sample = source.calibration(min(FIT_IMAGES, len(source.train()) + len(source.unlabelled())))
            self.console.say(f"{teacher.name}: features of {len(sample)} training images")
            loaded.append(teacher)
            facts.append(one)
            fitted.append(self._features(teacher, sample, contract, self.needs.teacher_taps))
        return loaded, facts, tuple(fitted)

    def _probed(self, part: Teacher, teacher: FrozenModel, contract: InputContract) -> tuple[FrozenModel, TeacherFacts]:
        train, val = self.job.source.train(), self.job.source.val()
        probe_top1 = knn = None
        probed = teacher
        if len(train):
            self.console.say(f"{teacher.name}: probing its features on {len(train)} labelled images")
            seen_ND = self._features(teacher, train, contract, (PROBE_TAP,))[PROBE_TAP]
            held_MD = self._features(teacher, val, contract, (PROBE_TAP,))[PROBE_TAP]
            probe = LinearProbe.fit(seen_ND, labels_of(train), classes=len(self.classes))
            probe_top1 = float((probe(held_MD).argmax(dim=1) == labels_of(val)).double().mean())
            knn = knn_top1(seen_ND, labels_of(train), held_MD, labels_of(val))
            probed = cast(FrozenModel, ProbedTeacher(teacher, probe.to(self.device)))
        return probed, TeacherFacts(
            part=part.ref(),
            name=teacher.name,
            weights_sha256=teacher.weights_sha256,
            licence=teacher.licence,
            size_px=teacher.size_px,
            parameters=teacher.parameters,
            probe_top1=probe_top1,
            knn_top1=knn,
        )

    def _features(
        self, teacher: FrozenModel, images: ImageSet, contract: InputContract, taps: tuple[str, ...]
    ) -> dict[str, Tensor]:
        return collect(lambda x_BCHW: teacher.features(x_BCHW, taps), images, contract, device=self.device)

    def _task(
        self,
        student: TappedModel,
        teachers: list[FrozenModel],
        criterion: nn.Module,
        contract: InputContract,
        view_px: int,
    ) -> loop.Task:
        job, plan = self.job, self.job.plan
        source = job.source
        images = source.train() if self.needs.only_labelled_images else concat(source.train(), source.unlabelled())
        effective = plan.batch * plan.accumulate
        steps = plan.duration.in_steps(batch=effective, images_per_epoch=len(images))
        if job.images_seen is not None:
            steps = max(1, job.images_seen // effective)
        return loop.Task(
            label=f"distil {job.name} ({job.method.ref().use})",
            student=student,
            teachers=tuple(teachers),
            criterion=criterion,
            needs=self.needs,
            batches=self._batches(images, view_px, samples=steps * effective),
            steps=steps,
            plan=plan,
            seed=job.seed,
            evaluate=self._evaluator(contract),
            history=self.folder / "history.jsonl",
        )

    def _batches(self, images: ImageSet, view_px: int, *, samples: int) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        job, augment = self.job, self.job.plan.augment
        held = InMemory(images, limit_bytes=HELD_BYTES)
        views = Views(
            held,
            size_px=view_px,
            seed=job.seed,
            crop_area=augment.crop_area,
            flip=augment.flip,
            colour_jitter=augment.colour_jitter,
        )
        workers = job.plan.workers
        if workers is None:  # what is held in memory is cut faster than a worker's answer travels
            workers = 0 if held.complete else max(1, usable_cores() - 1)
        loader = DataLoader(
            views,
            sampler=EpochSampler(len(images), seed=job.seed, samples=samples),
            batch_size=job.plan.batch,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
        )
        for image_BCHW, label_B, index_B, view_B in loader:
            yield Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=index_B, view_B=view_B)

    def _evaluator(self, contract: InputContract) -> Callable[[nn.Module], float]:
        val = self.job.source.val()
        label_N = labels_of(val)

        def top1(model: nn.Module) -> float:
            answer = cast(TappedModel, model).features
            logits_NK = collect(lambda x: answer(x, ("logits",)), val, contract, device=self.device)["logits"]
            return float((logits_NK.argmax(dim=1) == label_N).double().mean())

        return top1

    def _record(
        self,
        student: TappedModel,
        contract: InputContract,
        teachers: tuple[TeacherFacts, ...],
        training: TrainingFacts,
    ) -> Checkpoint:
        job, source = self.job, self.job.source
        val = source.val()

        def answers(images: ImageSet) -> dict[str, Tensor]:
            taps = ("logits", PROBE_TAP)
            return collect(lambda x: student.features(x, taps), images, contract, device=self.device)

        held = answers(val)
        accuracy = write_predictions(held["logits"].numpy(), val.samples, self.classes, self.folder)
        probe_top1, knn = self._worth(answers, held[PROBE_TAP])
        weights = self.folder / "student.safetensors"
        write_bytes(weights, save({key: value.contiguous().cpu() for key, value in student.model.state_dict().items()}))
        sync_files(self.folder)
        checkpoint = Checkpoint(
            made_by=job.made_by,
            from_=job.from_,
            name=job.name,
            weights=file_ref(weights, folder=self.folder),
            history=file_ref(self.folder / "history.jsonl", folder=self.folder),
            student=job.student.ref(),
            student_name=student.name,
            parameters=sum(parameter.numel() for parameter in student.model.parameters()),
            licence=student.licence,
            classes=self.classes,
            input=contract,
            method=job.method.ref(),
            teachers=teachers,
            data=source.facts(),
            training=training,
            accuracy=accuracy,
            knn_top1=knn,
            probe_top1=probe_top1,
            seed=job.seed,
        )
        write_record(self.folder / "checkpoint.json", checkpoint)
        return checkpoint

    def _worth(self, answers: Callable[[ImageSet], dict[str, Tensor]], held_MD: Tensor) -> tuple[float | None, float | None]:
        """Return linear-probe and nearest-neighbour top-1 of the student's pooled features; None without labels."""
        train, val = self.job.source.train(), self.job.source.val()
        if not len(train):
            return None, None
        seen_ND = answers(train)[PROBE_TAP]
        probe = LinearProbe.fit(seen_ND, labels_of(train), classes=len(self.classes))
        probe_top1 = float((probe(held_MD).argmax(dim=1) == labels_of(val)).double().mean())
        return probe_top1, knn_top1(seen_ND, labels_of(train), held_MD, labels_of(val))


def _teacher_contract(teacher: FrozenModel) -> InputContract:
    """Return how whole images are shown to a teacher: the largest centre square at its size; it normalises itself."""
    size_px = teacher.size_px
    return InputContract(
        size_px=size_px,
        resize_px=size_px[0],
        interpolation="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _device() -> torch.device:
    from accelerate import PartialState

    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the host's cores, also inside a container that has fewer
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    return cast(torch.device, PartialState().device)

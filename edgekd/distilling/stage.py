"""The distil stage: recipe parts in, a checkpoint record out."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.core.console import Console
from edgekd.core.contracts import Batch, FeatureSpec, FrozenModel, Needs
from edgekd.core.errors import DataError, UsageError
from edgekd.core.host import usable_cores
from edgekd.core.records import Checkpoint, InputContract, TrainingFacts
from edgekd.core.store import append_text, begin_stage
from edgekd.distilling import cohort, loop, peers
from edgekd.distilling.allocator import keep_freed_memory
from edgekd.distilling.class_sets import check_same, check_texts
from edgekd.distilling.cohort import Cohort
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.faults import blamed, load_all
from edgekd.distilling.heads import with_fresh_head
from edgekd.distilling.imagesets import InMemory, concat
from edgekd.distilling.job import Job
from edgekd.distilling.results import HEAD_TAP, Trained, fit_head, write_checkpoint
from edgekd.distilling.sampling import EpochSampler, SharedSampler
from edgekd.distilling.subteachers import answered
from edgekd.distilling.taps import TappedModel
from edgekd.distilling.teaching import Lesson, Teaching, teach
from edgekd.distilling.views import Crops, Views, collated

HELD_BYTES = 1 << 30


def distill(job: Job, folder: Path, console: Console) -> Checkpoint:
    """Train a student and write `checkpoint.json`, the weights, the history and the predictions into `folder`.

    Peers learn with it, and theirs are written into their own folders before.

    Raises `UsageError` when method, models and data have nothing in common, before anything is written.
    """
    return _Stage(job, folder, console).go()


def fill_caches(job: Job, console: Console) -> tuple[Teaching, ...]:
    """Have the teachers answer what the method will ask, and keep it; return them."""
    return _Stage(job, Path(), console).teachings()


class _Stage:
    def __init__(self, job: Job, folder: Path, console: Console) -> None:
        self.job, self.folder, self.console = job, folder, console
        self.needs: Needs = job.method.needs()
        self.classes = job.source.classes
        self.device = compute_device()
        source, augment = job.source, job.plan.augment
        every = concat(source.train(), source.unlabelled())
        self.images = source.train() if self.needs.only_labelled_images else every
        self.effective = job.plan.batch * job.plan.accumulate
        steps = job.plan.duration.in_steps(batch=self.effective, images_per_epoch=len(self.images))
        self.steps = max(1, job.images_seen // self.effective) if job.images_seen is not None else steps
        self.cache = job.cache.settled(epochs=self.steps * self.effective / max(1, len(self.images)))
        # Answers kept for each view bind the student to those views; without a teacher, or with answers that are the same
        # for all views, it meets new crops in every epoch.
        bound = bool(self.needs.teachers) and self.cache.answers == "each"
        views = self.cache.views or None if bound else None
        self.crops = Crops(seed=self.cache.seed, views=views, crop_area=augment.crop_area, flip=augment.flip)
        torch.manual_seed(job.seed)

    def go(self) -> Checkpoint:
        job = self.job
        self._check_needs()
        teachings = self.teachings()
        torch.manual_seed(job.seed)  # what the teachers drew must not change how the student starts
        student = cast(TappedModel, job.student.build(len(self.classes), start=job.start is None))
        if job.start is not None:
            student = self._started(job.start)
        specs = tuple(teaching.spec() for teaching in teachings)
        heads = job.method.further_heads(specs)
        learner, criterion = self._learner(student, specs, start=True)
        contract = job.student.input_contract()
        if hasattr(criterion, "fit"):
            cast(Any, criterion).fit(tuple(teaching.rows(self.needs.fit_samples) for teaching in teachings))
        begin_stage(self.folder, "checkpoint.json")
        trained: nn.Module = learner
        if job.plan.freeze == "all":
            training = self._fit_only(student, contract)
        else:
            trained, training = loop.train(self._task(learner, teachings, criterion.to(self.device), contract), self.console)
        trained.eval()
        result = Trained(
            job=job,
            needs=self.needs,
            cache=self.cache,
            student=trained.first if isinstance(trained, Cohort) else cast(TappedModel, trained),
            criterion=criterion.eval(),
            contract=contract,
            teachings=teachings,
            training=training,
            heads=heads,
        )
        if isinstance(trained, Cohort):
            peers.write_checkpoints(result, trained, self.folder / "history.jsonl", self.console)
        return write_checkpoint(result, self.folder, self.console)

    def _learner(
        self, student: TappedModel, teachers: tuple[FeatureSpec, ...], *, start: bool
    ) -> tuple[TappedModel | Cohort, nn.Module]:
        """Return the student with its heads and its peers, and the criterion; `start` loads the peers' starting weights.

        Raises `UsageError` where they do not fit: also a teacher or a zero-shot head about other classes than the images.
        """
        if not self.needs.class_sets:
            check_same(teachers, self.classes)
        check_texts(getattr(student, "class_names", ()), self.classes)
        heads = self.job.method.further_heads(teachers)
        if heads or getattr(student, "further_heads", {}):  # it may have begun with those of an earlier method
            student.set_heads({name: len(classes) for name, classes in heads.items()})
        taps = (*self.job.method.needs().student_taps, *(f"logits_{name}" for name in heads))
        self.needs = replace(self.needs, student_taps=taps)
        learner = self._with_peers(student, start=start)
        spec = replace(learner.spec(taps), classes=self.classes)
        return learner, self.job.method.build(spec, teachers, len(self.classes))

    def _with_peers(self, student: TappedModel, *, start: bool) -> TappedModel | Cohort:
        """Return the student alone, or with those that learn with it: each a model of its own, or branches of one trunk."""
        job, count = self.job, len(self.classes)
        if not job.peers:
            return student
        if self.needs.branches and job.start is not None:
            copies = cohort.copies_of(student, (job.name, *(peer.name for peer in job.peers)))
            return cohort.branched(copies, alike=True)
        others = {peer.name: peers.built(peer, count, start=start) for peer in job.peers}
        together = {job.name: student, **others}
        return cohort.branched(together) if self.needs.branches else Cohort(together)

    def _started(self, weights: Path) -> TappedModel:
        job, classes = self.job, len(self.classes)
        if job.start_facts is not None and job.start_facts.head == "fresh":
            return cast(TappedModel, with_fresh_head(job.student, weights, had=job.start_facts.classes, classes=classes))
        return cast(TappedModel, job.student.restore(classes, weights))

    def _fit_only(self, student: TappedModel, contract: InputContract) -> TrainingFacts:
        """Fit the last layer as a linear probe and take no step; the loss on the labelled images is the whole history."""
        started = time.perf_counter()
        train = self.job.source.train()
        student.to(self.device).eval()
        seen_ND = collect(lambda x: student.features(x, (HEAD_TAP,)), train, contract, device=self.device)[HEAD_TAP]
        fit_head(student.head, seen_ND, labels_of(train))
        with torch.no_grad():
            logits_NK = student.head(seen_ND.to(self.device)).cpu()
        loss = float(nn.functional.cross_entropy(logits_NK, labels_of(train)))
        append_text(self.folder / "history.jsonl", json.dumps({"step": 0, "images_seen": 0, "loss": loss}) + "\n")
        return TrainingFacts(
            steps=0,
            images_seen=0,
            seconds=round(time.perf_counter() - started, 3),
            images_per_second=0.0,
            data_wait_share=0.0,
            final_loss=loss,
            device=str(self.device),
            precision="fp32",
        )

    def teachings(self) -> tuple[Teaching, ...]:
        """Return the teachers, loaded, probed, and their answers kept if they are to be."""
        if not self.needs.teachers:
            return ()
        if not self.job.teachers:
            method = self.job.method.ref().use
            raise UsageError(f"method {method} needs a teacher", mend="add `teachers:` to the recipe")
        lesson = Lesson(
            source=self.job.source,
            images=self._held,
            images_seen=self.steps * self.effective,
            crops=self.crops,
            cache=self.cache,
            device=self.device,
            console=self.console,
        )
        taps = self.needs.taps_of(len(self.job.teachers))
        frozen = load_all(self.job.teachers)
        self._check_method(frozen, taps)
        return teach(self.job.teachers, self.needs.teacher_taps, lesson, by_teacher=taps, frozen=frozen)

    def _check_method(self, frozen: tuple[FrozenModel, ...], taps: tuple[tuple[str, ...], ...]) -> None:
        """Raise `UsageError` if student, method and teachers do not fit, before any teacher has worked for it."""
        specs = []
        for number, (part, model, own) in enumerate(zip(self.job.teachers, frozen, taps, strict=True)):
            with blamed(part, number, of=len(frozen)):
                specs.append(answered(model, own, classes=len(self.classes)))
        if not self.needs.student_taps and not self.job.method.further_heads(tuple(specs)):
            return  # only a question to the teachers
        with torch.random.fork_rng(devices=[]):
            student = cast(TappedModel, self.job.student.build(len(self.classes), start=False))
            self._learner(student, tuple(specs), start=False)

    @cached_property
    def _held(self) -> InMemory:
        return InMemory(self.images, limit_bytes=HELD_BYTES)

    def _check_needs(self) -> None:
        job, method = self.job, self.job.method.ref().use
        peers.check(job, self.needs)
        if self.needs.labels and len(job.source.train()) == 0:
            raise DataError(f"method {method} needs labelled training images, and the source has none")
        if job.plan.freeze is not None and not self.needs.trains_head:
            raise UsageError(
                f"`train.freeze: {job.plan.freeze}` leaves the last layer to be learned, and method {method} trains none",
                mend="use `method: supervised`, or leave out `train.freeze`",
            )

    def _task(
        self, student: TappedModel | Cohort, teachings: tuple[Teaching, ...], criterion: nn.Module, contract: InputContract
    ) -> loop.Task:
        job = self.job

        def answers(batch: Batch, shown: tuple[Tensor, ...]) -> loop.Answers:
            crops = iter(shown)
            return tuple(
                teaching.answer(batch.index_B, batch.view_B, next(crops) if teaching.online else None) for teaching in teachings
            )

        return loop.Task(
            label=f"distil {job.name} ({job.method.ref().use})",
            student=student,
            criterion=criterion,
            needs=self.needs,
            batches=self._batches(student.size_px, tuple(t.frozen.size_px for t in teachings if t.online)),
            answers=answers,
            steps=self.steps,
            steps_per_epoch=max(1, len(self.images) // self.effective),
            begin_epoch=self._epoch_hook(student, teachings, criterion),
            plan=job.plan,
            seed=job.seed,
            evaluate=self._evaluator(contract),
            evaluate_peers=self._evaluate_peers if job.peers else None,
            history=self.folder / "history.jsonl",
        )

    def _epoch_hook(
        self, student: TappedModel | Cohort, teachings: tuple[Teaching, ...], criterion: nn.Module
    ) -> Callable[[], Mapping[str, float]] | None:
        if not hasattr(criterion, "begin_epoch"):
            return None
        train = self.job.source.train()
        label_N = labels_of(train)
        sampler = EpochSampler(max(1, len(train)), seed=self.job.seed)
        passes = itertools.count()

        def labelled() -> Iterator[tuple[loop.Answers, Tensor]]:
            epoch = next(passes)
            for index_B in torch.from_numpy(sampler.order(epoch)).split(self.job.plan.batch):
                answers = tuple(teaching.ask(index_B.tolist(), self.crops.view(epoch)) for teaching in teachings)
                yield answers, label_N[index_B].to(self.device)

        return lambda: cast(Mapping[str, float], cast(Any, criterion).begin_epoch(student, labelled))

    def _batches(
        self, size_px: tuple[int, int], teachers_px: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[Batch, tuple[Tensor, ...]]]:
        from torch.utils.data import DataLoader

        plan = self.job.plan
        views = Views(
            self._held,
            size_px=size_px,
            crops=self.crops,
            seed=self.job.seed,
            colour_jitter=plan.augment.colour_jitter,
            erasing=plan.augment.erasing,
            teachers_px=teachers_px,
        )
        # Without an accelerator a worker would take from the training the core that it computes on.
        by_default = 0 if self.device.type == "cpu" else max(1, usable_cores() - 1)
        loader = DataLoader(
            views,
            sampler=self._sampler(),
            batch_size=plan.batch,
            collate_fn=collated,
            num_workers=by_default if plan.workers is None else plan.workers,
            pin_memory=self.device.type == "cuda",
        )
        for image_BCHW, label_B, index_B, view_B, *shown in loader:
            yield Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=index_B, view_B=view_B), tuple(shown)

    def _sampler(self) -> EpochSampler | SharedSampler:
        job, samples = self.job, self.steps * self.effective
        labelled = len(job.source.train())
        others = len(self.images) - labelled
        if job.plan.labelled_share is None or not labelled or not others:
            return EpochSampler(len(self.images), seed=job.seed, samples=samples)
        return SharedSampler(
            labelled=labelled,
            others=others,
            labelled_share=job.plan.labelled_share,
            batch=job.plan.batch,
            seed=job.seed,
            samples=samples,
        )

    def _evaluator(self, contract: InputContract) -> Callable[[nn.Module], float]:
        val = self.job.source.val()
        label_N = labels_of(val)

        def top1(model: nn.Module) -> float:
            answer = (model.first if isinstance(model, Cohort) else cast(TappedModel, model)).features
            logits_NK = collect(lambda x: answer(x, ("logits",)), val, contract, device=self.device)["logits"]
            return float((logits_NK.argmax(dim=1) == label_N).double().mean())

        return top1

    def _evaluate_peers(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Cohort)
        parts = {peer.name: peer.student for peer in self.job.peers}
        return {
            peers.top1_of(name): self._evaluator(parts[name].input_contract())(student)
            for name, student in model.others.items()
        }


def compute_device() -> torch.device:
    """Return the accelerator, or the CPU with as many threads as this process may use."""
    from accelerate import PartialState

    if "OMP_NUM_THREADS" not in os.environ:  # torch counts the host's cores, also inside a container that has fewer
        torch.set_num_threads(usable_cores())
    keep_freed_memory()
    return cast(torch.device, PartialState().device)

"""The one training loop: it knows batches, optimisers and time, and nothing of any method.

Axes: B batch, C channels, H height, W width.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from edgekd.core.console import Console
from edgekd.core.contracts import Batch, Losses, Needs
from edgekd.core.errors import UsageError
from edgekd.core.plan import Train
from edgekd.core.records import TrainingFacts
from edgekd.core.store import append_text
from edgekd.distilling import fake_quantise
from edgekd.distilling.layout import put_channels_last

Answers = tuple[dict[str, Tensor], ...]
"""What each teacher answers to a batch: tap -> tensor."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run: who learns, from whom, by which criterion, over which batches, for how many steps.

    `batches` yields a batch (images uint8) and the teachers' own images of it, if they have to see any; `answers` gives what
    the teachers say to that. `begin_epoch` is called before every `steps_per_epoch` steps and returns numbers for the log, as
    `evaluate_peers` does beside every evaluation of the student.
    """

    label: str
    student: nn.Module
    criterion: nn.Module
    needs: Needs
    batches: Iterator[tuple[Batch, tuple[Tensor, ...]]]
    answers: Callable[[Batch, tuple[Tensor, ...]], Answers]
    steps: int
    steps_per_epoch: int
    begin_epoch: Callable[[], Mapping[str, float]] | None = None
    plan: Train
    seed: int
    evaluate: Callable[[nn.Module], float]
    evaluate_peers: Callable[[nn.Module], Mapping[str, float]] | None = None
    history: Path


def train(task: Task, console: Console) -> tuple[nn.Module, TrainingFacts]:
    """Train and return the student to deploy (the moving average if there is one) and what the training did.

    Raises `UsageError` when the loss stops being a number.
    """
    return _Run(task, console).go()


class _Run:
    def __init__(self, task: Task, console: Console) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from timm.utils.model_ema import ModelEmaV3

        plan = task.plan
        self.task = task
        self.console = console
        AcceleratorState._reset_state()  # else the precision of this process's first run would be everybody's
        self.accelerator = Accelerator(mixed_precision=plan.precision, gradient_accumulation_steps=plan.accumulate)
        if plan.channels_last:
            put_channels_last(task.student)
        if plan.fake_quantise:
            fake_quantise.begin(task.student)
        learner = Learner(task.student, task.criterion, task.needs.student_taps, freeze=plan.freeze)
        prepared = self.accelerator.prepare(learner, make_optimiser(learner, plan))
        self.learner, self.optimiser = cast(tuple[nn.Module, Any], prepared)
        self.average = ModelEmaV3(task.student, decay=plan.ema, use_warmup=True) if plan.ema is not None else None
        self.steps_done = 0
        self.mixer = torch.Generator().manual_seed(task.seed)
        self.waited_s = 0.0
        self.evaluated_s = 0.0
        self.loss = math.nan

    def go(self) -> tuple[nn.Module, TrainingFacts]:
        """Run all steps."""
        task, plan = self.task, self.task.plan
        effective = plan.batch * plan.accumulate
        every = max(1, round(plan.evaluate_every * task.steps))
        started = time.perf_counter()
        with self.console.progress(task.label, total=task.steps * effective, unit="images") as progress:
            for step in range(1, task.steps + 1):
                first: Mapping[str, float] = {}
                if task.begin_epoch is not None and (step - 1) % task.steps_per_epoch == 0:
                    first = task.begin_epoch()
                lr = learning_rate(1.0, step=step, steps=task.steps, warmup=plan.warmup)
                parts = self._step(lr)
                line: dict[str, Any] = {"step": step, "images_seen": step * effective, "loss": self.loss, "lr": lr * plan.lr}
                line |= {**parts, **first}
                if plan.evaluate_every > 0 and (step % every == 0 or step == task.steps):
                    line |= self._evaluate()
                if "top1" in line or first or step % max(1, task.steps // 200) == 0:
                    append_text(task.history, json.dumps(line) + "\n")
                waited = self.waited_s / (time.perf_counter() - started - self.evaluated_s)
                progress.update(step * effective, note=f"loss {self.loss:.3f}  waiting for data {waited:.0%}")
        if plan.fake_quantise:
            fake_quantise.end(task.student)
        seconds = time.perf_counter() - started
        training_s = seconds - self.evaluated_s
        seen = task.steps * effective
        return self._deployed(), TrainingFacts(
            steps=task.steps,
            images_seen=seen,
            seconds=round(seconds, 3),
            images_per_second=round(seen / training_s, 2),
            data_wait_share=round(self.waited_s / training_s, 4),
            final_loss=self.loss,
            device=str(self.accelerator.device),
            precision={"no": "fp32"}.get(plan.precision, plan.precision),
        )

    def _step(self, share: float) -> dict[str, float]:
        plan = self.task.plan
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak_lr"]
        self.learner.train()
        total, parts = 0.0, dict[str, float]()
        for micro in range(plan.accumulate):
            last = micro == plan.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.learner):
                losses = self._losses(*self._next_batch())
                self.accelerator.backward(losses.total)  # divides by the accumulation steps itself
            total += float(losses.total.detach()) / plan.accumulate
            for name, value in losses.parts.items():
                parts[name] = parts.get(name, 0.0) + float(value) / plan.accumulate
        if not math.isfinite(total):
            broken = [name for name, value in parts.items() if not math.isfinite(value)]
            first = f" (first in {', '.join(broken)})" if 0 < len(broken) < len(parts) else ""
            raise UsageError(
                f"{self.task.label}: the loss is {total} at learning rate {share * plan.lr:.2g}{first}",
                mend="lower train.lr, lengthen train.warmup, or set train.clip_norm",
            )
        if plan.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.learner.parameters(), plan.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps_done += 1
        if self.average is not None:
            self.average.update(self.task.student, step=self.steps_done)
        self.loss = total
        return parts

    def _next_batch(self) -> tuple[Batch, Answers]:
        """Return the next batch on the device, and what the teachers say to it.

        The teachers see unmixed images, and what they said is mixed as the images are, so that kept answers serve as well.
        """
        before = time.perf_counter()
        batch, shown = next(self.task.batches)
        self.waited_s += time.perf_counter() - before
        device = self.accelerator.device
        batch.label_B = batch.label_B.to(device)
        answers = self.task.answers(batch, shown)
        batch.image_BCHW = batch.image_BCHW.to(device).float().div_(255)
        batch = mixed(batch, alpha=self.task.plan.augment.mixup, generator=self.mixer)
        if self.task.plan.channels_last:
            batch.image_BCHW = batch.image_BCHW.contiguous(memory_format=torch.channels_last)
        return batch, tuple({tap: mixed_too(value, batch) for tap, value in answer.items()} for answer in answers)

    def _losses(self, batch: Batch, answers: Answers) -> Losses:
        losses: Losses = self.learner(answers, batch)
        return losses

    def _evaluate(self) -> dict[str, float]:
        before = time.perf_counter()
        deployed = self._deployed()
        was_training = deployed.training
        deployed.eval()
        found = {"top1": self.task.evaluate(deployed)}
        if self.task.evaluate_peers is not None:
            found |= self.task.evaluate_peers(deployed)
        deployed.train(was_training)
        self.evaluated_s += time.perf_counter() - before
        return found

    def _deployed(self) -> nn.Module:
        return self.average.module if self.average is not None else self.task.student


class Learner(nn.Module):
    """Student and criterion as one module, so that wrappers for precision and devices see every trained weight.

    With `freeze` only the student's last layer learns; the rest stays in evaluation mode, its statistics as they are.
    """

    def __init__(self, student: nn.Module, criterion: nn.Module, taps: tuple[str, ...], *, freeze: str | None = None) -> None:
        super().__init__()
        self.student = student
        self.criterion = criterion
        self.taps = taps
        self.frozen = freeze is not None
        if self.frozen:
            student.requires_grad_(False)
            cast(Any, student).head.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation, but leave a frozen student in evaluation."""
        super().train(mode)
        if self.frozen:
            self.student.eval()
        return self

    def forward(self, teachers: Answers, batch: Batch) -> Losses:
        """Return the losses of a batch to which the teachers answered so."""
        features = cast(Any, self.student).features(batch.image_BCHW, self.taps)
        losses: Losses = self.criterion(features, teachers, batch)
        return losses


def make_optimiser(learner: Learner, plan: Train) -> torch.optim.Optimizer:
    """Return AdamW or Nesterov SGD over all trained weights, each group with its `peak_lr`.

    Biases and norm gains are not decayed. The criterion's weights have their own rate if the plan gives one.
    """
    own = [(parameter, plan.lr) for parameter in learner.student.parameters()]
    own += [(parameter, plan.criterion_lr or plan.lr) for parameter in learner.criterion.parameters()]
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter, lr in own:
        if parameter.requires_grad:
            groups.setdefault((lr, plan.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    made = [{"params": found, "lr": lr, "weight_decay": decay, "peak_lr": lr} for (lr, decay), found in groups.items()]
    if plan.optimiser == "adamw":
        return torch.optim.AdamW(made)
    return torch.optim.SGD(made, momentum=plan.momentum, nesterov=plan.momentum > 0)


def learning_rate(peak: float, *, step: int, steps: int, warmup: float) -> float:
    """Return the rate of step 1..steps: linear over the first `warmup` share, then half a cosine towards 0."""
    warm = warmup * steps
    if step <= warm:
        return peak * step / warm
    progress = (step - warm - 1) / max(1.0, steps - warm)
    return peak * 0.5 * (1 + math.cos(math.pi * max(0.0, progress)))


def mixed(batch: Batch, *, alpha: float, generator: torch.Generator) -> Batch:
    """Blend each image with a partner of the batch (mixup, Zhang et al. 2018), share drawn from Beta(alpha, alpha)."""
    if alpha <= 0:
        return batch
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator).tolist()
    batch.mix = first / (first + second) if first + second > 0 else 1.0
    batch.partner_B = torch.randperm(len(batch.label_B), generator=generator).to(batch.label_B.device)
    batch.image_BCHW = batch.mix * batch.image_BCHW + (1 - batch.mix) * batch.image_BCHW[batch.partner_B]
    return batch


def mixed_too(value_B: Tensor, batch: Batch) -> Tensor:
    """Return what belongs to the images of a batch blended as they were."""
    if batch.partner_B is None:
        return value_B
    return batch.mix * value_B + (1 - batch.mix) * value_B[batch.partner_B]

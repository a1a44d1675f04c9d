"""The training loop: schedule, mixup, accumulation, averaging, and what it writes down."""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.core.console import silent
from edgekd.core.contracts import Batch, Losses, Needs
from edgekd.core.errors import UsageError
from edgekd.core.plan import Augment, Duration, Train
from edgekd.distilling import loop


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)

    def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {"logits": self.linear(self.norm(image_BCHW.mean((2, 3))))}


class Criterion(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, student: dict[str, torch.Tensor], teachers: tuple[Any, ...], batch: Batch) -> Losses:
        loss = self.scale * nn.functional.cross_entropy(student["logits"], batch.label_B)
        return Losses(total=loss, parts={"ce": loss.detach()})


def plan(**changes: Any) -> Train:
    defaults = {
        "batch": 4,
        "accumulate": 1,
        "optimiser": "sgd",
        "lr": 0.1,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "warmup": 0.0,
        "clip_norm": None,
        "ema": None,
        "precision": "no",
        "channels_last": False,
        "evaluate_every": 0.5,
    }
    return Train(duration=Duration(steps=1), **(defaults | changes))


Shown = tuple[Batch, tuple[torch.Tensor, ...]]


def batches(size: int, *, seed: int = 0) -> Iterator[Shown]:
    g = torch.Generator().manual_seed(seed)
    while True:
        images = torch.randint(0, 256, (size, 3, 4, 4), generator=g, dtype=torch.uint8)
        labels = (images[:, 0].float().mean((1, 2)) > 127).long()
        yield Batch(image_BCHW=images, label_B=labels, index_B=torch.arange(size), view_B=torch.zeros(size)), ()


def no_answers(_batch: Batch, _shown: tuple[torch.Tensor, ...]) -> loop.Answers:
    return ()


def trained(
    tmp_path: Path,
    *,
    steps: int = 4,
    scale: float = 1.0,
    criterion: nn.Module | None = None,
    task: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    (tmp_path / "history.jsonl").unlink(missing_ok=True)
    settings = plan(**changes)
    options = {
        "label": "test",
        "student": Student(),
        "criterion": criterion or Criterion(scale),
        "needs": Needs(student_taps=("logits",), teachers=False),
        "batches": batches(settings.batch),
        "answers": no_answers,
        "steps": steps,
        "steps_per_epoch": steps,
        "plan": settings,
        "seed": 0,
        "evaluate": lambda model: 0.25 if not model.training else math.nan,
        "history": tmp_path / "history.jsonl",
    }
    return loop.train(loop.Task(**options | (task or {})), silent())


def history(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]


def test_the_rate_warms_up_linearly_then_follows_half_a_cosine() -> None:
    """100 steps, 10 of warm-up: a tenth, all, half at the middle of the rest, nearly nothing at the end."""
    rates = [loop.learning_rate(2.0, step=s, steps=100, warmup=0.1) for s in range(1, 101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_a_run_writes_its_history_and_counts_what_it_saw(tmp_path: Path) -> None:
    """Images seen are steps times batch; evaluation happens at the declared shares, in evaluation mode."""
    _, facts = trained(tmp_path, steps=4)
    lines = history(tmp_path)
    assert (facts.steps, facts.images_seen) == (4, 16)
    assert [line["images_seen"] for line in lines] == [4, 8, 12, 16]
    assert [line.get("top1") for line in lines] == [None, 0.25, None, 0.25]
    assert facts.final_loss == lines[-1]["loss"]
    assert 0 <= facts.data_wait_share <= 1


def test_accumulating_two_half_batches_equals_one_whole(tmp_path: Path) -> None:
    """Without batch norm in the way, 2 x 4 images make the step of 8."""

    def halves() -> Iterator[Shown]:
        for whole, _ in batches(8):
            for part in (slice(0, 4), slice(4, 8)):
                half = {name: getattr(whole, name)[part] for name in ("image_BCHW", "label_B", "index_B", "view_B")}
                yield Batch(**half), ()

    class Plain(Student):
        def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
            return {"logits": self.linear(image_BCHW.mean((2, 3)))}

    results = []
    for feed, settings in ((batches(8), {"batch": 8}), (halves(), {"batch": 4, "accumulate": 2})):
        torch.manual_seed(0)
        student = Plain()
        trained(tmp_path, steps=3, task={"student": student, "batches": feed}, **settings)
        results.append(student.linear.weight.detach().clone())
    assert torch.allclose(*results, atol=1e-6)


def test_the_average_lags_behind_and_is_what_is_deployed(tmp_path: Path) -> None:
    """With a moving average the returned model is another one than the student, with averaged batch-norm statistics."""
    plain, _ = trained(tmp_path, steps=6)
    averaged, _ = trained(tmp_path, steps=6, ema=0.9)
    assert not torch.allclose(plain.linear.weight, averaged.linear.weight)
    assert not torch.allclose(plain.norm.running_mean, averaged.norm.running_mean)


def test_a_loss_that_is_no_number_stops_the_run_with_advice(tmp_path: Path) -> None:
    """Infinity is not trained on."""
    with pytest.raises(UsageError, match=r"the loss is (inf|nan)(.|\n)*lower train.lr"):
        trained(tmp_path, scale=math.inf)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """With clip norm c and plain SGD no step is longer than lr * c."""
    torch.manual_seed(0)
    before = Student().linear.weight.detach().clone()
    clipped, _ = trained(tmp_path, steps=1, scale=1e4, clip_norm=0.01)
    assert float((clipped.linear.weight.detach() - before).norm()) <= 0.1 * 0.01 + 1e-6


class Projecting(Criterion):
    """A criterion with weights of its own, one of which only `begin_epoch` would train."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(2, 2)
        self.own = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, student: dict[str, torch.Tensor], teachers: tuple[Any, ...], batch: Batch) -> Losses:
        return super().forward({"logits": self.projector(self.own(student["logits"]))}, teachers, batch)


def test_biases_and_norm_gains_are_not_decayed() -> None:
    """Two groups: matrices with the asked decay, vectors with none."""
    learner = loop.Learner(Student(), Criterion(), ("logits",))
    groups = loop.make_optimiser(learner, plan(weight_decay=0.3)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}


@pytest.mark.parametrize(("criterion_lr", "expected"), [(None, 0.1), (0.7, 0.7)])
def test_the_methods_own_weights_may_have_their_own_rate(criterion_lr: float | None, expected: float) -> None:
    """Student weights peak at `lr`, the criterion's at `criterion_lr`, by default the same; frozen ones are in no group."""
    learner = loop.Learner(Student(), Projecting(), ("logits",))
    groups = loop.make_optimiser(learner, plan(criterion_lr=criterion_lr)).param_groups
    peak = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    assert {peak[id(p)] for p in learner.student.parameters()} == {0.1}
    assert {peak[id(p)] for p in learner.criterion.projector.parameters()} == {expected}
    assert not any(id(p) in peak for p in learner.criterion.own.parameters())


def test_each_group_follows_the_schedule_at_its_own_rate(tmp_path: Path) -> None:
    """Plain SGD: with the same gradient, ten times the criterion's rate moves its projector ten times as far."""
    moved = []
    for criterion_lr in (0.01, 0.1):
        torch.manual_seed(1)
        criterion = Projecting()
        before = {name: value.clone() for name, value in criterion.state_dict().items()}
        student, _ = trained(tmp_path, steps=1, criterion=criterion, criterion_lr=criterion_lr)
        moved.append(criterion.projector.weight.detach() - before["projector.weight"])
        assert torch.equal(criterion.own.weight, before["own.weight"])
        assert isinstance(student, Student)
    assert float(moved[0].abs().max()) > 0
    torch.testing.assert_close(moved[1], 10 * moved[0])


class Telling(Criterion):
    """Remembers what the teachers were said to have answered, and to which batch."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[torch.Tensor, Batch]] = []

    def forward(self, student: dict[str, torch.Tensor], teachers: tuple[Any, ...], batch: Batch) -> Losses:
        self.heard.append((teachers[0]["pooled"], batch))
        return super().forward(student, (), batch)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_mixup_blends_the_teachers_answers_as_it_blends_the_images(tmp_path: Path, mixup: float) -> None:
    """The teacher is asked about unmixed images; image i and answer i are then both mix * own + (1 - mix) * partner."""
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def answers(batch: Batch, shown: tuple[torch.Tensor, ...]) -> loop.Answers:
        assert batch.partner_B is None
        answer_BD = shown[0].float().mean((2, 3))
        asked.append((answer_BD, batch.image_BCHW.clone()))
        return ({"pooled": answer_BD},)

    def feed() -> Iterator[Shown]:
        for batch, _ in batches(4):
            yield batch, (255 - batch.image_BCHW,)

    criterion = Telling()
    augment = Augment(mixup=mixup)
    trained(tmp_path, steps=3, criterion=criterion, task={"batches": feed(), "answers": answers}, augment=augment)
    assert len(criterion.heard) == 3
    for (answer_BD, unmixed_BCHW), (heard_BD, batch) in zip(asked, criterion.heard, strict=True):
        own_BCHW = unmixed_BCHW.float() / 255
        if not mixup:
            assert batch.partner_B is None
            assert torch.equal(heard_BD, answer_BD)
            assert torch.equal(batch.image_BCHW, own_BCHW)
            continue
        assert batch.partner_B is not None
        torch.testing.assert_close(heard_BD, batch.mix * answer_BD + (1 - batch.mix) * answer_BD[batch.partner_B])
        torch.testing.assert_close(
            batch.image_BCHW, batch.mix * own_BCHW + (1 - batch.mix) * own_BCHW[batch.partner_B], atol=1e-6, rtol=1e-5
        )


def test_every_epoch_begins_with_the_criterions_turn(tmp_path: Path) -> None:
    """Called before steps 1, 4 and 7 of 8 at three steps an epoch, and its numbers stand in those lines of the history."""
    calls: list[int] = []
    criterion = Telling()

    def begin() -> dict[str, float]:
        calls.append(len(criterion.heard))
        return {"custom": float(len(calls))}

    def answers(_batch: Batch, _shown: tuple[torch.Tensor, ...]) -> loop.Answers:
        return ({"pooled": torch.zeros(4, 1)},)

    changes = {"answers": answers, "begin_epoch": begin, "steps_per_epoch": 3}
    trained(tmp_path, steps=8, criterion=criterion, task=changes)
    assert calls == [0, 3, 6]
    assert {line["step"]: line["custom"] for line in history(tmp_path) if "custom" in line} == {1: 1.0, 4: 2.0, 7: 3.0}


def test_evaluating_never(tmp_path: Path) -> None:
    """At 0 no image is evaluated during training, and the loss is logged all the same."""

    def never(_model: nn.Module) -> float:
        raise AssertionError("evaluated")

    trained(tmp_path, steps=4, task={"evaluate": never}, evaluate_every=0.0)
    lines = history(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all("top1" not in line and math.isfinite(line["loss"]) for line in lines)


def test_mixup_blends_images_with_their_partners() -> None:
    """Every image is mix * own + (1 - mix) * partner, and the share varies from batch to batch."""
    generator = torch.Generator().manual_seed(3)
    shares = set()
    for _ in range(3):
        batch, _ = next(batches(4))
        batch.image_BCHW = batch.image_BCHW.float()
        own = batch.image_BCHW.clone()
        mixed = loop.mixed(batch, alpha=0.8, generator=generator)
        assert mixed.partner_B is not None
        assert 0 <= mixed.mix <= 1
        assert torch.allclose(mixed.image_BCHW, mixed.mix * own + (1 - mixed.mix) * own[mixed.partner_B])
        shares.add(mixed.mix)
    assert len(shares) == 3


def test_no_mixup_leaves_the_batch_alone() -> None:
    """Alpha 0 draws nothing."""
    batch, _ = next(batches(4))
    assert loop.mixed(batch, alpha=0.0, generator=torch.Generator()).partner_B is None


def test_runs_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    """A bf16 run after an fp32 run trains in bf16, and says so."""
    assert trained(tmp_path)[1].precision == "fp32"
    assert trained(tmp_path, precision="bf16")[1].precision == "bf16"

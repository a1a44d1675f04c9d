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
from edgekd.core.plan import Duration, Train
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


def batches(size: int, *, seed: int = 0) -> Iterator[Batch]:
    g = torch.Generator().manual_seed(seed)
    while True:
        images = torch.randint(0, 256, (size, 3, 4, 4), generator=g, dtype=torch.uint8)
        labels = (images[:, 0].float().mean((1, 2)) > 127).long()
        yield Batch(image_BCHW=images, label_B=labels, index_B=torch.arange(size), view_B=torch.zeros(size))


def trained(tmp_path: Path, *, steps: int = 4, scale: float = 1.0, feed: Any = None, **changes: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    (tmp_path / "history.jsonl").unlink(missing_ok=True)
    settings = plan(**changes)
    task = loop.Task(
        label="test",
        student=Student(),
        teachers=(),
        criterion=Criterion(scale),
        needs=Needs(student_taps=("logits",), teachers=False),
        batches=feed or batches(settings.batch),
        steps=steps,
        plan=settings,
        seed=0,
        evaluate=lambda model: 0.25 if not model.training else math.nan,
        history=tmp_path / "history.jsonl",
    )
    return loop.train(task, silent())


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
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (facts.steps, facts.images_seen) == (4, 16)
    assert [line["images_seen"] for line in lines] == [4, 8, 12, 16]
    assert [line.get("top1") for line in lines] == [None, 0.25, None, 0.25]
    assert facts.final_loss == lines[-1]["loss"]
    assert 0 <= facts.data_wait_share <= 1


def test_accumulating_two_half_batches_equals_one_whole(tmp_path: Path) -> None:
    """Without batch norm in the way, 2 x 4 images make the step of 8."""

    def halves() -> Iterator[Batch]:
        for whole in batches(8):
            for part in (slice(0, 4), slice(4, 8)):
                yield Batch(
                    image_BCHW=whole.image_BCHW[part],
                    label_B=whole.label_B[part],
                    index_B=whole.index_B[part],
                    view_B=whole.view_B[part],
                )

    class Plain(Student):
        def features(self, image_BCHW: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
            return {"logits": self.linear(image_BCHW.mean((2, 3)))}

    results = []
    for feed, settings in ((batches(8), {"batch": 8}), (halves(), {"batch": 4, "accumulate": 2})):
        torch.manual_seed(0)
        student = Plain()
        task = loop.Task(
            label="t",
            student=student,
            teachers=(),
            criterion=Criterion(),
            needs=Needs(student_taps=("logits",), teachers=False),
            batches=feed,
            steps=3,
            plan=plan(**settings),
            seed=0,
            evaluate=lambda _: 0.0,
            history=tmp_path / "h.jsonl",
        )
        loop.train(task, silent())
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


def test_biases_and_norm_gains_are_not_decayed() -> None:
    """Two groups: matrices with the asked decay, vectors with none."""
    groups = loop.make_optimiser(Student(), plan(weight_decay=0.3)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_mixup_blends_images_with_their_partners() -> None:
    """Every image is mix * own + (1 - mix) * partner, and the share varies from batch to batch."""
    generator = torch.Generator().manual_seed(3)
    shares = set()
    for _ in range(3):
        batch = next(batches(4))
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
    batch = next(batches(4))
    assert loop.mixed(batch, alpha=0.0, generator=torch.Generator()).partner_B is None


def test_runs_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    """A bf16 run after an fp32 run trains in bf16, and says so."""
    assert trained(tmp_path)[1].precision == "fp32"
    assert trained(tmp_path, precision="bf16")[1].precision == "bf16"

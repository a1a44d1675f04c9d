"""Which teacher to take: figures against hand-derived numbers, and the ranking of scripted teachers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.console import silent
from edgekd.core.contracts import FeatureSpec, Teacher
from edgekd.core.errors import DataError
from edgekd.core.parts import PartRef
from edgekd.core.plan import Cache, Duration, Train
from edgekd.core.records import Interval, MadeBy, TeacherFacts
from edgekd.core.side_records import RankedTeacher, TeacherRanking
from edgekd.distilling import ranking, stage
from edgekd.distilling.asking import Asking
from edgekd.distilling.job import Job
from edgekd.distilling.ranking import compactness, effective_rank, participation_ratio
from edgekd.judging.selection import teacher_lines
from edgekd.testing import TinySource, TinyStudent


# ------------------------------------------------------------------------------------------------------- pure functions
def test_compactness_of_two_classes_by_hand() -> None:
    """Pairs 90 degrees and 0 degrees apart: within (sqrt 2 + 0) / 2, between the centres (1/2, 1/2) and (-1, 0)."""
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [-5.0, 0.0]])
    expected = (math.sqrt(2) / 2) / math.hypot(1.5, 0.5)
    assert compactness(features, torch.tensor([4, 4, 7, 7])) == pytest.approx(expected, rel=1e-12)


def test_compactness_against_numpy_and_without_regard_to_scale() -> None:
    """Random classes of different sizes, one with a single image; each row's own length does not count."""
    rng = np.random.default_rng(3)
    feature_ND, label_N = rng.normal(size=(40, 5)) + 1, np.array([0] * 20 + [1] * 13 + [2] * 6 + [3])
    unit_ND = feature_ND / np.linalg.norm(feature_ND, axis=1, keepdims=True)

    def pairs(rows: Any) -> float:
        return float(np.mean([np.linalg.norm(rows[i] - rows[j]) for i in range(len(rows)) for j in range(i)]))

    within = np.mean([pairs(unit_ND[label_N == k]) for k in (0, 1, 2)])
    between = pairs(np.stack([unit_ND[label_N == k].mean(axis=0) for k in range(4)]))
    scaled_ND = torch.from_numpy(feature_ND * rng.uniform(0.1, 9, size=(40, 1)))
    assert compactness(scaled_ND, torch.from_numpy(label_N)) == pytest.approx(within / between, rel=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]], ids=["one class", "one image each"])
def test_compactness_without_pairs_is_refused(labels: list[int]) -> None:
    """One class has no distance between, single images none within."""
    with pytest.raises(DataError, match="at least two classes"):
        compactness(torch.eye(3), torch.tensor(labels))


def test_compactness_of_classes_that_coincide_is_refused() -> None:
    """Nothing lies between centres in one place."""
    with pytest.raises(DataError, match="coincide"):
        compactness(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))


def test_ratio_and_rank_of_known_variances() -> None:
    """Variances 4, 4, 1 and 0: (9)^2 / 33, and exp of the entropy of 4/9, 4/9, 1/9; shifted and turned."""
    deviations = torch.tensor([2.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    corners = torch.tensor([[a, b, c, 0.0] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    features = (corners * deviations) @ turn + 100.0
    assert participation_ratio(features) == pytest.approx(81 / 33, rel=1e-9)
    entropy = -2 * 4 / 9 * math.log(4 / 9) - 1 / 9 * math.log(1 / 9)
    assert effective_rank(features) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_ratio_and_rank_at_their_ends() -> None:
    """Equal variances give the width, one direction gives 1, constant features 0."""
    cross = torch.cat([torch.eye(5), -torch.eye(5)])
    line = torch.outer(torch.arange(6.0), torch.tensor([1.0, 2.0, 3.0]))
    for figure in (participation_ratio, effective_rank):
        assert figure(cross) == pytest.approx(5.0, rel=1e-9)
        assert figure(line) == pytest.approx(1.0, rel=1e-6)
        assert figure(torch.ones(7, 3)) == 0.0


# --------------------------------------------------------------------------------------------------------------- ranking
class Frozen:
    """A teacher of three features: the mean colours, times `signal`, plus `noise` that depends on the image."""

    licence, size_px, parameters, precision = "mit", (8, 8), 12, "fp32"

    def __init__(self, name: str, signal: float) -> None:
        self.name, self.signal = name, signal
        self.weights_sha256 = name[0] * 64
        self.images = 0

    def to(self, device: Any) -> Self:
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        return FeatureSpec(name=self.name, shapes=dict.fromkeys(taps, (3,)))

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        self.images += len(image_BCHW)
        x_BCHW = image_BCHW.float() / (255 if image_BCHW.dtype == torch.uint8 else 1)
        noise_B3 = torch.sin(1e4 * x_BCHW[:, :, 0, 0])
        return {tap: self.signal * x_BCHW.mean(dim=(2, 3)) + (1 - self.signal) * noise_B3 for tap in taps}


LOADED: list[Frozen] = []


class Scripted(Teacher):
    """A tiny teacher."""

    name: str = Field(pattern="^[a-f].*$")
    signal: float = 1.0

    def load(self) -> Frozen:
        LOADED.append(Frozen(self.name, self.signal))
        return LOADED[-1]


@pytest.fixture
def rank(tmp_path: Path) -> Callable[..., TeacherRanking]:
    """Rank scripted teachers, given as name -> signal, on a tiny source."""

    def call(source: TinySource, **signals: float) -> TeacherRanking:
        LOADED.clear()
        job = Job(
            name="student",
            source=source,
            student=TinyStudent(),
            teachers=tuple(Scripted(name=name, signal=signal) for name, signal in signals.items()),
            method=Asking(),
            plan=Train(duration=Duration(epochs=1)),
            cache=Cache(folder=tmp_path / "answers"),
            seed=0,
            start=None,
            images_seen=None,
            from_={},
            made_by=MadeBy(version="1"),
        )
        teachings = stage.fill_caches(job, silent())
        return ranking.rank(teachings, source, console=silent(), made_by=job.made_by)

    return call


def test_the_teacher_that_sees_the_classes_comes_first(rank: Callable[..., TeacherRanking]) -> None:
    """Sorted by probe accuracy, whatever the recipe's order; every figure is there, and the line says which to take."""
    source = TinySource(train_images=30, unlabelled_images=12, val_images=30)
    found = rank(source, blind=0.0, able=1.0)
    able, blind = found.teachers
    assert (able.facts.name, blind.facts.name) == ("able", "blind")
    assert able.probe_top1.value == 1.0 > blind.probe_top1.high
    assert able.compactness < 0.2 < blind.compactness
    assert able.width == 3
    assert 1 <= able.participation_ratio <= able.effective_rank <= 3
    assert able.forward_ms > 0
    assert found.advice.startswith("Take able: a linear probe on its features has 100.0% of 30 right, more than the others")
    assert "KDEP paper's claim" in found.advice
    assert TeacherRanking.from_json(found.to_json()) == found
    lines = teacher_lines(found)
    assert lines[1].startswith("able ")
    assert "42 training images, 30 labelled; 30 validation images" in "\n".join(lines)


def test_label_free_figures_count_unlabelled_images(rank: Callable[..., TeacherRanking]) -> None:
    """Participation ratio and effective rank are those of all training images' features together."""
    source = TinySource(train_images=9, unlabelled_images=60, val_images=9)
    (one,) = rank(source, able=1.0).teachers
    (labelled_only,) = rank(TinySource(train_images=9, val_images=9), able=1.0).teachers
    assert one.effective_rank != labelled_only.effective_rank
    assert one.compactness == labelled_only.compactness


def test_without_labels_the_label_free_figures_are_left(rank: Callable[..., TeacherRanking]) -> None:
    """No probe, no compactness, the recipe's order, and the advice says why."""
    found = rank(TinySource(train_images=0, unlabelled_images=20, val_images=6), c=1.0, b=0.5)
    assert [one.facts.name for one in found.teachers] == ["c", "b"]
    for one in found.teachers:
        assert one.probe_top1 is one.knn_top1 is one.compactness is None
        assert one.participation_ratio > 0
    assert "No training image has a label" in found.advice


def test_ranking_again_asks_the_teachers_only_for_the_time(rank: Callable[..., TeacherRanking]) -> None:
    """Answers to whole images are kept; what is asked again is the timing, of the same number of images each time."""
    source = TinySource(train_images=9, val_images=9)
    rank(source, able=1.0)
    first = LOADED[0].images
    rank(source, able=1.0)
    assert LOADED[0].images == first - 18 == 8 * (ranking.TIMED_BATCHES + 1)


def ranked(name: str, *, low: float, value: float, high: float, forward_ms: float) -> RankedTeacher:
    facts = TeacherFacts(
        part=PartRef(use="timm"), name=name, weights_sha256="0" * 64, licence="mit", size_px=(8, 8), parameters=1
    )
    return RankedTeacher(
        facts=facts,
        width=3,
        probe_top1=Interval(value=value, low=low, high=high),
        knn_top1=None,
        compactness=None,
        participation_ratio=1.0,
        effective_rank=1.0,
        forward_ms=forward_ms,
    )


def test_teachers_that_cannot_be_told_apart_are_named_with_the_quicker_one() -> None:
    """B overlaps the best and is four times as fast; C does not overlap."""
    best = ranked("A", low=0.7, value=0.8, high=0.9, forward_ms=8.0)
    near = ranked("B", low=0.6, value=0.7, high=0.75, forward_ms=2.0)
    far = ranked("C", low=0.1, value=0.2, high=0.3, forward_ms=1.0)
    said = ranking.advice([best, near, far], validation_images=50)
    assert "Take A" in said
    assert "not distinguishable from it: B (B is roughly 4.0 times as fast)" in said
    assert "C" not in said.partition("That students")[0].replace("Take", "")


def test_one_teacher_is_ranked_too() -> None:
    """There is nothing to compare it with, and nothing is said of others."""
    said = ranking.advice([ranked("A", low=0.7, value=0.8, high=0.9, forward_ms=8.0)], validation_images=50)
    assert said.startswith("Take A: a linear probe on its features has 80.0% of 50 right. That students")


def test_the_record_is_json(rank: Callable[..., TeacherRanking]) -> None:
    """Its kind and its numbers are readable by others."""
    data = json.loads(rank(TinySource(train_images=6, val_images=6), able=1.0).to_json())
    assert data["record"] == "teacher_ranking"
    assert data["teachers"][0]["probe_top1"].keys() == {"value", "low", "high"}

"""The search as a whole, on small residual networks and a few images."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from edgekd.core import parts, ranks
from edgekd.core.console import Console
from edgekd.core.errors import DataError, EvidenceError, UsageError
from edgekd.core.parts import PartRef
from edgekd.core.records import (
    BlockLatency,
    Candidates,
    LatencyEstimate,
    LatencyMeasured,
    LatencyTable,
    MadeBy,
    ScoredStudent,
)
from edgekd.core.search_plan import Search, SearchLatency
from edgekd.core.store import read_record
from edgekd.searching import stage
from edgekd.searching.exam import balanced
from edgekd.searching.scoring import Examiner, scorers_of
from edgekd.testing import TinySource

SPACE = {"depths": (1, 2, 3), "size": 8}


class WeightsStopwatch:
    """Takes as long as there are weights; whole networks a little less than their blocks."""

    backend = PartRef(use="onnxruntime")
    runtime, device, threads = "fake 1", "local", 1

    def __init__(self, *, slower: float = 1.0) -> None:
        self.identity = {"slower": str(slower)}
        self.slower = slower

    def ready(self, *beside: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, *pieces: tuple[Any, tuple[int, int, int]]) -> tuple[BlockLatency, ...]:
        return tuple(self._one(module) for module, _ in pieces)

    def _one(self, module: Any) -> BlockLatency:
        took = self.slower * (0.01 + sum(parameter.numel() for parameter in module.parameters()) / 1e5)
        return BlockLatency(p50_ms=took, low_ms=took, high_ms=took, iterations=1)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "DRAWS", 20)


def job(folder: Path, *, stopwatch: Any = None, **changes: Any) -> stage.Job:
    plan: dict[str, Any] = {
        "space": PartRef(use="cifar_resnet", options=SPACE),
        "evaluations": 12,
        "population": 6,
        "sample": 4,
        "top": 2,
        "images": 6,
        "probe_images": 16,
        "initialisations": 2,
        "compare": (),
        "scorers": (PartRef(use="synflow"), PartRef(use="parameters", options={"weight": 0.0})),
    }
    own = {key: changes.pop(key) for key in ("workers", "teacher", "seed", "source") if key in changes}
    space: Any = parts.load("space", "cifar_resnet")(**SPACE)
    return stage.Job(
        **{
            "name": "tiny",
            "plan": Search(**{**plan, **changes}),
            "space": space,
            "source": TinySource(),
            "teacher": None,
            "stopwatch": stopwatch,
            "folder": folder / "search",
            "kept_blocks": folder / "kept",
            "seed": 0,
            "workers": 1,
            "from_": {"data": "d"},
            "made_by": MadeBy(version="test"),
            **own,
        }
    )


def search(folder: Path, **changes: Any) -> Candidates:
    return stage.search(job(folder, **changes), Console(quiet=True))


def test_the_same_seed_finds_the_same_whoever_computes(tmp_path: Path) -> None:
    """One process or two, one student ahead or several at a time in the same order: every score bit for bit."""
    one = search(tmp_path / "one", ahead=3)
    two = search(tmp_path / "two", ahead=3, workers=2)
    assert one.candidates == two.candidates
    assert one.winner == two.winner
    assert search(tmp_path / "other", seed=1).candidates != one.candidates


def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after seven students it scores the other five only, and finds what it would have found."""
    whole = search(tmp_path / "whole")
    journal = tmp_path / "whole" / "search" / stage.JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "search").mkdir(parents=True)
    (tmp_path / "cut" / "search" / stage.JOURNAL).write_text("".join(lines[:8]) + lines[8][:20])
    seen = []
    examine = Examiner.examine

    def counted(self: Examiner, student: PartRef, latency_ms: float | None = None) -> Any:
        seen.append(student)
        return examine(self, student, latency_ms)

    monkeypatch.setattr(Examiner, "examine", counted)
    again = search(tmp_path / "cut")
    assert len(seen) == 5
    assert again.candidates == whole.candidates


def test_scores_are_standardised_by_the_first_students(tmp_path: Path) -> None:
    """The fitness of a candidate is its z-score among the first population; a term of weight 0 adds nothing."""
    found = search(tmp_path)
    synflow, parameters = found.terms
    first = [one.scores["synflow"].value for one in found.candidates[:6]]
    mean = sum(first) / 6
    deviation = (sum((value - mean) ** 2 for value in first) / 5) ** 0.5
    assert (synflow.mean, synflow.deviation) == (pytest.approx(mean), pytest.approx(deviation))
    assert parameters.weight == 0
    for one in found.candidates:
        assert one.fitness == pytest.approx((one.scores["synflow"].value - mean) / deviation)
    assert found.candidates[found.winner].fitness == max(one.fitness for one in found.candidates)
    assert [one.parent for one in found.candidates[:6]] == [None] * 6
    assert all(one.parent is not None for one in found.candidates[6:])
    assert found.lineage()[-1] == found.winner


def test_spread_is_over_the_initialisations(tmp_path: Path) -> None:
    """What depends on the weights has one; what does not has none."""
    found = search(tmp_path).candidates[0]
    assert found.scores["synflow"].spread
    assert found.scores["parameters"].spread is None
    assert found.scores["parameters"].value == found.parameters


def test_limits_are_kept_before_anything_is_scored(tmp_path: Path) -> None:
    """Parameters and multiply-accumulates; when nothing else is left the record says so."""
    free = search(tmp_path / "free", evaluations=27, strategy="random")
    limit = sorted(one.parameters for one in free.candidates)[8]
    found = search(tmp_path / "limited", evaluations=27, max_parameters=limit)
    assert 6 <= len(found.candidates) <= 9
    assert max(one.parameters for one in found.candidates) <= limit
    assert found.ended == "no other student that keeps the limits was found"
    with pytest.raises(EvidenceError, match="keep the limits"):
        search(tmp_path / "none", max_macs=1)


def test_latency_is_predicted_kept_and_measured(tmp_path: Path) -> None:
    """Every candidate has an estimate within the limit; finalists are measured; the table is a record of its own."""
    latency = SearchLatency(max_ms=1.5, networks=20, finalists=2)
    found = search(tmp_path, stopwatch=WeightsStopwatch(), latency=latency)
    assert found.front_by == "latency"
    assert all(one.estimate is not None and one.estimate.value_ms <= 1.5 for one in found.candidates)
    measured = [one for one in found.candidates if one.measured is not None]
    assert len(measured) == 2
    winner = found.candidates[found.winner]
    assert winner.measured is not None
    assert winner.measured.p50_ms <= 1.5
    assert found.latency is not None
    assert found.latency.median_error < 0.05
    table = read_record(LatencyTable, tmp_path / "search" / stage.TABLE)
    assert (len(table.blocks), len(table.networks)) == (7, 20)
    front = [found.candidates[number] for number in found.front]
    assert [stage.cost(one) for one in front] == sorted(stage.cost(one) for one in front)
    assert [one.fitness for one in front] == sorted(one.fitness for one in front)


def test_a_prediction_that_was_wrong_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where every finalist is slower than was predicted, the fastest is taken and it is said that none keeps the limit."""

    class Liar(WeightsStopwatch):
        calls = 0

        def _one(self, module: Any) -> BlockLatency:
            self.calls += 1
            self.slower = 1.0 if self.calls <= 27 else 10.0  # 7 blocks and 20 networks, then the finalists
            return super()._one(module)

    found = search(tmp_path, stopwatch=Liar(), latency=SearchLatency(max_ms=1.5, networks=20, finalists=1))
    assert "no finalist was measured within 1.5 ms" in found.why
    assert "warning" in capsys.readouterr().err
    tried = [one.measured.p50_ms for one in found.candidates if one.measured is not None]
    assert len(tried) == 3
    assert found.candidates[found.winner].measured is not None
    assert found.candidates[found.winner].measured.p50_ms == min(tried)  # type: ignore[union-attr]


def test_the_front_goes_by_what_was_measured(tmp_path: Path) -> None:
    """A student that was predicted to be slow and measured to be fast takes those off the front that it beats."""
    first, second, third = search(tmp_path).candidates[:3]

    def one(of: ScoredStudent, *, fitness: float, predicted: float, measured: float | None = None) -> ScoredStudent:
        estimate = LatencyEstimate(value_ms=predicted, low_ms=predicted, high_ms=predicted)
        found = None if measured is None else LatencyMeasured(p50_ms=measured, low_ms=measured, high_ms=measured, iterations=1)
        return of.model_copy(update={"fitness": fitness, "estimate": estimate, "measured": found})

    slower = [one(first, fitness=1, predicted=1.0), one(second, fitness=2, predicted=2.0), one(third, fitness=3, predicted=3.0)]
    assert stage.front(slower) == (0, 1, 2)
    assert stage.front([*slower[:2], one(third, fitness=3, predicted=3.0, measured=1.5)]) == (0, 2)


def test_agreement_with_size_is_told(tmp_path: Path) -> None:
    """SynFlow and parameters themselves rank by size; each pair is in the record, with an interval."""
    found = {(one.a, one.b): one for one in search(tmp_path).agreements}
    assert set(found) == {(a, b) for a in ("fitness", "synflow") for b in ("parameters", "macs")}
    assert found["fitness", "parameters"].spearman is not None
    assert found["fitness", "parameters"].spearman == found["synflow", "parameters"].spearman


def test_standard_networks_stand_beside(tmp_path: Path) -> None:
    """timm's are scored by the same exam; one that timm does not know is left out with a warning."""
    found = search(tmp_path, compare=("mobilenetv3_small_050", "no_such_net"), size=32, scorers=(PartRef(use="synflow"),))
    assert [one.genome for one in found.standards] == ["mobilenetv3_small_050 r32"]


def test_a_scorer_that_cannot_compare_names_the_student(tmp_path: Path) -> None:
    """A teacher of another width, met by the scorer that needs equal ones: the error says what to use."""
    teacher = parts.load("teacher", "timm")(model="vit_tiny_patch16_224", weights="random", size=32)
    with pytest.raises(UsageError, match=r"\d-\d-\d: semantic_similarity(.|\n)*class_similarity"):
        search(tmp_path, teacher=teacher, scorers=(PartRef(use="semantic_similarity"),))


def test_a_transformer_teaches_through_a_probe(tmp_path: Path) -> None:
    """The width-free scorers work against a vision transformer, and give every candidate another value."""
    teacher = parts.load("teacher", "timm")(model="vit_tiny_patch16_224", weights="random", size=32)
    scorers = ("relation_similarity", "class_similarity", "affinity")
    refs = (*(PartRef(use=name) for name in scorers), PartRef(use="semantic_similarity", options={"form": "grad_cam"}))
    found = search(tmp_path, teacher=teacher, scorers=refs, evaluations=6)
    for name in (*scorers, "semantic_similarity"):
        values = [one.scores[name].value for one in found.candidates]
        assert len(set(values)) == len(values)
        assert all(value < 0 for value in values)


def test_images_are_balanced_and_labelled() -> None:
    """As many of each class as can be, by the seed, never one without a label."""
    labels = [0] * 10 + [1] * 2 + [2] * 10 + [-1] * 10
    chosen = balanced(labels, 8, seed=0)
    assert sorted(labels[number] for number in chosen) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert chosen == balanced(labels, 8, seed=0) != balanced(labels, 8, seed=1)
    with pytest.raises(DataError, match="there are 2"):
        balanced([-1, 0, 1], 8, seed=0)


def test_equal_scorers_have_different_names() -> None:
    """Two forms of one scorer are told apart by their options; the same twice is refused."""
    two = (PartRef(use="zen"), PartRef(use="zen", options={"form": "batch_norm"}))
    assert list(scorers_of(two)) == ["zen", "zen (form batch_norm)"]
    with pytest.raises(UsageError, match="named twice"):
        scorers_of((PartRef(use="zen"), PartRef(use="zen", options={"weight": 2.0})))


def test_the_journal_is_lines_of_json(tmp_path: Path) -> None:
    """One line a student behind the line that says what they depend on."""
    search(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "search" / stage.JOURNAL).read_text().splitlines()]
    assert lines[0] == {"about": {"data": "d", "table": ""}}
    assert len(lines) == 13

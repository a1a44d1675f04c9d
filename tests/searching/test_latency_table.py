"""Latency from blocks: the correction, its errors, and what is timed once only."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.errors import EvidenceError
from edgekd.core.parts import PartRef
from edgekd.core.records import BlockLatency, LatencyEstimate
from edgekd.core.search_contracts import Space
from edgekd.searching.journal import Journal
from edgekd.searching.latency_table import Table, fit


class CountingStopwatch:
    """Answers that a module takes as many ms as it has thousands of weights, and counts how often it was asked."""

    backend = PartRef(use="onnxruntime")
    runtime = "fake 1"
    device = "local"
    threads = 1

    def __init__(self, device: str = "a") -> None:
        self.identity = {"device": device}
        self.shapes = list[tuple[int, int, int]]()

    def ready(self, *beside: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, *pieces: tuple[Any, tuple[int, int, int]]) -> tuple[BlockLatency, ...]:
        self.shapes += [input_CHW for _, input_CHW in pieces]
        took = [0.01 + sum(parameter.numel() for parameter in module.parameters()) / 1000 for module, _ in pieces]
        return tuple(BlockLatency(p50_ms=ms, low_ms=ms, high_ms=ms, iterations=1) for ms in took)


@pytest.fixture
def space() -> Space:
    part = parts.load("space", "cifar_resnet")(depths=(1, 2, 3), size=8)
    assert isinstance(part, Space)
    return part


def test_the_correction_finds_a_law_that_holds() -> None:
    """latency = 0.8 sum - 0.05 blocks + 0.3, without noise: the coefficients, and errors of 0."""
    random = np.random.default_rng(0)
    blocks = [random.uniform(0.5, 3, size=random.integers(5, 20)).tolist() for _ in range(24)]
    whole = [0.8 * sum(one) - 0.05 * len(one) + 0.3 for one in blocks]
    found = fit(blocks, whole)
    assert found.factor == pytest.approx(0.8, abs=1e-8)
    assert found.per_block_ms == pytest.approx(-0.05, abs=1e-8)
    assert found.intercept_ms == pytest.approx(0.3, abs=1e-7)
    assert found.p95_error < 1e-8
    assert found.predict(blocks[0]).value_ms == pytest.approx(whole[0], rel=1e-8)


def test_errors_are_those_of_networks_that_were_left_out() -> None:
    """With 5 % of noise they are about 5 %: more than the residuals of the fit, and told as an interval of every estimate."""
    random = np.random.default_rng(1)
    blocks = [random.uniform(0.5, 3, size=random.integers(5, 20)).tolist() for _ in range(40)]
    whole = [sum(one) * random.normal(1, 0.05) for one in blocks]
    found = fit(blocks, whole)
    assert 0.01 < found.median_error < 0.06
    assert found.median_error < found.p95_error < 0.2
    estimate = found.predict(blocks[0])
    assert estimate.kind == "estimate"
    assert estimate.high_ms / estimate.value_ms == pytest.approx(1 + found.p95_error)


def test_too_few_networks_are_no_fit() -> None:
    """Nineteen are refused."""
    with pytest.raises(EvidenceError, match="fitted on 19 networks"):
        fit([[1.0, 2.0]] * 19, [3.0] * 19)


def test_an_estimate_says_so_wherever_it_goes() -> None:
    """The word is part of the fact and cannot be another."""
    assert LatencyEstimate(value_ms=1, low_ms=1, high_ms=1).model_dump()["kind"] == "estimate"
    with pytest.raises(ValueError, match="estimate"):
        LatencyEstimate(kind="measured", value_ms=1, low_ms=1, high_ms=1)  # type: ignore[arg-type]


def test_every_block_is_timed_once_with_the_shape_that_it_gets(space: Space, tmp_path: Path) -> None:
    """Equal blocks are one; a second table on this device times nothing, on another device everything."""
    first = CountingStopwatch()
    table = Table(space, 10, first, tmp_path)
    blocks = table.measure_blocks(Console(quiet=True))
    assert set(blocks) == {f"stem 3>16 @{8}", "basic 16>16 @8", "basic 16>32 @8", "basic 32>32 @4", "basic 32>64 @4",
                           "basic 64>64 @2", "head 64>10 @2"}  # fmt: skip
    assert sorted(first.shapes) == sorted([(3, 8, 8), (16, 8, 8), (16, 8, 8), (32, 4, 4), (32, 4, 4), (64, 2, 2), (64, 2, 2)])
    assert table.parts_ms("1-1-2")[3:5] == [blocks["basic 32>64 @4"].p50_ms, blocks["basic 64>64 @2"].p50_ms]
    networks = table.measure_networks(5, Console(quiet=True))
    assert len(networks) == 5
    again = CountingStopwatch()
    later = Table(space, 10, again, tmp_path)
    assert later.measure_blocks(Console(quiet=True)) == blocks
    assert later.measure_networks(5, Console(quiet=True)) == networks
    assert again.shapes == []
    other = CountingStopwatch(device="b")
    Table(space, 10, other, tmp_path).measure_blocks(Console(quiet=True))
    assert len(other.shapes) == len(blocks)


def test_times_are_those_of_a_machine_of_one_pace(space: Space, tmp_path: Path) -> None:
    """A machine that is half as fast for some than for others: all times are in proportion to those of a calm one."""

    class Restless(CountingStopwatch):
        asked = 0

        def __call__(self, *pieces: tuple[Any, tuple[int, int, int]]) -> tuple[BlockLatency, ...]:
            self.asked += 1
            slow = (1.0, 2.0, 1.5)[self.asked % 3]
            return tuple(self._slowed(one.p50_ms, slow) for one in super().__call__(*pieces))

        @staticmethod
        def _slowed(ms: float, slow: float) -> BlockLatency:
            return BlockLatency(p50_ms=slow * ms, low_ms=slow * ms, high_ms=slow * ms, iterations=1, beside_ms=slow * 3.0)

    quiet, times = Console(quiet=True), list[list[float]]()
    for folder, stopwatch in (("calm", CountingStopwatch()), ("restless", Restless())):
        table = Table(space, 10, stopwatch, tmp_path / folder)
        table.measure_blocks(quiet)
        networks = table.measure_networks(24, quiet)
        found = [[*table.parts_ms(genome), table.paced_ms(whole)] for genome, whole in networks.items()]
        times.append([ms for one in found for ms in one])
    ratios = np.divide(times[1], times[0])
    assert ratios == pytest.approx(ratios[0])
    assert ratios[0] in (pytest.approx(1), pytest.approx(1.5), pytest.approx(2))


def test_a_journal_that_was_cut_short_keeps_what_was_whole(tmp_path: Path) -> None:
    """A line half written by a killed process is taken off, and the next one stands on its own."""
    path = tmp_path / "j.jsonl"
    journal = Journal(path, {"a": 1})
    journal.add("x", {"value": 1.5})
    with path.open("a") as file:
        file.write('{"name": "y", "va')
    again = Journal(path, {"a": 1})
    assert again.get("x") == {"value": 1.5}
    assert again.get("y") is None
    again.add("y", {"value": 2.5})
    assert Journal(path, {"a": 1}).get("y") == {"value": 2.5}


def test_a_journal_of_other_circumstances_begins_anew(tmp_path: Path) -> None:
    """Scores of other images, another teacher or another table are not taken over."""
    Journal(tmp_path / "j.jsonl", {"a": 1}).add("x", {"value": 1})
    assert Journal(tmp_path / "j.jsonl", {"a": 2}).get("x") is None
    assert Journal(tmp_path / "j.jsonl", {"a": 1}).get("x") is None

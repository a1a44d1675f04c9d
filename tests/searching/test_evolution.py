"""Who is scored next: the published evolution, random search, Optuna; all seeded, none proposes anything twice."""

import random
from itertools import islice, product

import pytest

from edgekd.core import parts
from edgekd.core.search_contracts import Space
from edgekd.searching.evolution import Evolution, Proposal, RandomSearch, Unseen


@pytest.fixture
def space() -> Space:
    part = parts.load("space", "cifar_resnet")()
    assert isinstance(part, Space)
    return part


def blocks(genome: str) -> float:
    return float(sum(map(int, genome.split("-"))))


def evolution(space: Space, *, population: int = 6, sample: int = 4, top: int = 2, seed: str = "a") -> Evolution:
    return Evolution(space, Unseen(lambda genome: True), population=population, sample=sample, top=top, seed=seed)


def started(space: Space, strategy: Evolution, count: int) -> list[Proposal]:
    dice = RandomSearch(space, strategy._unseen, seed="first")
    found = [dice.ask() for _ in range(count)]
    assert all(found)
    return [one for one in found if one is not None]


def test_a_child_is_one_gene_away_from_one_of_the_best_of_a_sample(space: Space) -> None:
    """With the sample as large as the population, the parent is always among its top k."""
    strategy = evolution(space, sample=6)
    for first in started(space, strategy, 6):
        strategy.tell(first, blocks(first.genome))
    best = {genome for _, genome in sorted(strategy.members, reverse=True)[:2]}
    for _ in range(5):
        child = strategy.ask()
        assert child is not None
        assert child.parent in best
        changed = [a != b for a, b in zip(child.genome.split("-"), child.parent.split("-"), strict=True)]
        assert sum(changed) == 1


def test_the_least_fit_member_leaves_even_if_it_is_the_newest(space: Space) -> None:
    """Not the oldest, as in the released code; of two equally bad the older one."""
    strategy = evolution(space, population=2, sample=2, top=1)
    for genome, fitness in (("1-1-1", 1.0), ("3-3-3", 3.0), ("5-5-5", 5.0)):
        strategy.tell(Proposal(genome=genome), fitness)
    assert [genome for _, genome in strategy.members] == ["3-3-3", "5-5-5"]
    strategy.tell(Proposal(genome="7-7-7"), 0.0)
    assert [genome for _, genome in strategy.members] == ["3-3-3", "5-5-5"]
    strategy.tell(Proposal(genome="1-3-3"), 3.0)
    assert [genome for _, genome in strategy.members] == ["5-5-5", "1-3-3"]


def test_limits_come_before_proposals(space: Space) -> None:
    """What breaks a limit is never proposed, and when nothing else is left the search ends."""
    allowed = {"1-1-1", "1-1-3", "1-3-1"}
    strategy = RandomSearch(space, Unseen(allowed.__contains__), seed="b")
    found = [strategy.ask() for _ in range(4)]
    assert {one.genome for one in found if one is not None} == allowed
    assert found[3] is None


@pytest.mark.parametrize("kind", ["evolution", "random"])
def test_the_same_seed_proposes_the_same(space: Space, kind: str) -> None:
    """And another seed something else; nothing is proposed twice."""

    def proposals(seed: str) -> list[str]:
        if kind == "random":
            strategy = RandomSearch(space, Unseen(lambda genome: True), seed=seed)
            return [one.genome for one in (strategy.ask() for _ in range(20)) if one]
        evolving = evolution(space, seed=seed)
        told = started(space, evolving, 6)
        for first in told:
            evolving.tell(first, blocks(first.genome))
        for _ in range(20):
            child = evolving.ask()
            assert child is not None
            evolving.tell(child, blocks(child.genome))
            told.append(child)
        return [one.genome for one in told]

    once, again, other = proposals("1"), proposals("1"), proposals("2")
    assert once == again != other
    assert len(set(once)) == len(once)


def test_evolution_finds_what_random_search_does_not() -> None:
    """Forty students of 15,625, the goal is a cell of convolutions: the fitness climbs beyond that of as many random ones."""
    space = parts.load("space", "nas_bench_201")()
    assert isinstance(space, Space)

    def fitness(genome: str) -> float:
        return float(genome.count("nor_conv_3x3"))

    def best(seed: int) -> tuple[float, float]:
        evolving = Evolution(space, Unseen(lambda _: True), population=10, sample=5, top=2, seed=str(seed))
        for first in started(space, evolving, 10):
            evolving.tell(first, fitness(first.genome))
        for _ in range(90):
            child = evolving.ask()
            assert child is not None
            evolving.tell(child, fitness(child.genome))
        dice = random.Random(seed)
        return max(evolving.members)[0], max(fitness(space.drawn(dice)) for _ in range(100))

    found = [best(seed) for seed in range(3)]
    assert all(evolved > drawn for evolved, drawn in found)


def test_optuna_drives_the_search(space: Space) -> None:
    """Through the same ask and tell, told of students that it did not ask for, keeping the limits, and seeded."""
    from edgekd.searching.optuna_strategy import OptunaStrategy

    def proposals() -> list[str]:
        strategy = OptunaStrategy(space, Unseen(lambda genome: not genome.startswith("7")), seed=0)
        for first in ("1-1-1", "3-3-3"):
            strategy.tell(Proposal(genome=first), blocks(first))
        found = []
        for proposal in islice(iter(strategy.ask, None), 12):
            assert proposal is not None
            strategy.tell(proposal, blocks(proposal.genome))
            found.append(proposal.genome)
        return found

    once = proposals()
    assert once == proposals()
    assert len(set(once)) == 12
    assert not any(genome.startswith("7") for genome in once)


def test_the_space_of_the_ground_truth_has_64_networks(space: Space) -> None:
    """Every combination of the depths 1, 3, 5 and 7."""
    everything = {"-".join(depths) for depths in product("1357", repeat=3)}
    assert space.networks() == 64
    assert {space.drawn(random.Random(seed)) for seed in range(600)} == everything

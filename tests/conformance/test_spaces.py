"""Every registered space keeps its contract."""

import random
from typing import Any

import pytest
import torch

from edgekd.core import parts
from edgekd.core.contracts import Student
from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Space

SPACES: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"depths": (1, 2), "size": 8},
    "mobile": {
        "sizes": (32, 48),
        "widths": (0.25, 0.5),
        "activations": ("relu", "hard_swish"),
        "kernels": (3, 5),
        "expansions": (2, 3),
        "depths": (1, 2),
    },
    "nas_bench_201": {"cells": 1, "size": 8},
}


def test_every_registered_space_has_a_case() -> None:
    """A new space must be added to the cases above."""
    assert set(parts.names("space")) == set(SPACES)


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    part = parts.load("space", request.param)(**SPACES[request.param])
    assert isinstance(part, Space)
    return part


def test_it_has_help(space: Space) -> None:
    """One line, without importing it."""
    assert 20 < len(parts.help_line("space", space.ref().use)) <= 100


def test_genomes_are_read_as_they_are_spelled(space: Space) -> None:
    """Random ones and their mutations; a mutation changes exactly one gene, to a value that the space has."""
    dice, genes = random.Random(0), space.genes()
    for _ in range(50):
        genome = space.drawn(dice)
        choice = space.read(genome)
        assert space.spelled(choice) == genome
        assert all(choice[gene] in values for gene, values in genes.items())
        other = space.read(space.mutated(genome, dice))
        assert sum(choice[gene] != other[gene] for gene in genes) == 1


def test_every_gene_can_change(space: Space) -> None:
    """Mutations reach all of them, and the same dice change the same."""
    genome = space.drawn(random.Random(1))
    before, changed = space.read(genome), set[str]()
    for seed in range(400):
        after = space.read(space.mutated(genome, random.Random(seed)))
        changed |= {gene for gene in before if before[gene] != after[gene]}
    assert changed == set(space.genes())
    assert space.mutated(genome, random.Random(3)) == space.mutated(genome, random.Random(3))


def test_a_space_of_one_student_has_no_other() -> None:
    """Mutation gives the student itself."""
    alone: Any = parts.load("space", "cifar_resnet")(depths=(3,))
    assert alone.networks() == 1
    assert alone.mutated("3-3-3", random.Random(0)) == "3-3-3"


def test_what_is_malformed_or_outside_is_refused(space: Space) -> None:
    """With the genome in the message."""
    with pytest.raises(UsageError, match="no such thing"):
        space.read("no such thing")


def test_a_network_is_its_blocks(space: Space) -> None:
    """The covering genomes hold every block of any genome; each takes the shape it says, and they hold every weight."""
    dice = random.Random(2)
    covered = {name for genome in space.covering() for name in space.blocks(genome, 4)}
    for _ in range(3):
        genome = space.drawn(dice)
        names = space.blocks(genome, 4)
        assert set(names) <= covered
        ref = space.student(genome)
        student = parts.load("student", ref.use)(**ref.options)
        assert isinstance(student, Student)
        built: Any = student.build(4, start=False).eval()
        pieces = space.pieces(genome, built)
        assert set(pieces) == set(names)
        count = {name: sum(p.numel() for p in module.parameters()) for name, (module, _) in pieces.items()}
        assert sum(count[name] for name in names) == sum(p.numel() for p in built.parameters())
        with torch.no_grad():
            for module, shape in pieces.values():
                module.eval()(torch.zeros(1, *shape))

"""Which student to score next: evolution as DisWOT searches (Dong et al. 2023), and random search, as ask and tell.

Larger fitness is better, here and everywhere.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgekd.core.search_contracts import Space

MOST_TRIES = 2000


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A student to score; `parent` is the genome that it was made from, None for a random one."""

    genome: str
    parent: str | None = None


class Strategy(Protocol):
    """Who decides what is scored: asked for a proposal, told its fitness. Nothing proposed was proposed before.

    It is told in the order in which it was asked, and may be asked several times before it is told.
    """

    def ask(self) -> Proposal | None:
        """Return the next proposal; None if none is left that keeps the limits."""
        ...

    def tell(self, proposal: Proposal, fitness: float) -> None:
        """Take note of a fitness."""
        ...


class Unseen:
    """Genomes that keep the limits and were not proposed before."""

    def __init__(self, fits: Callable[[str], bool]) -> None:
        self._fits = fits
        self._seen = set[str]()

    def first(self, draw: Callable[[], Proposal]) -> Proposal | None:
        """Return the first that will do of so many drawn; None after `MOST_TRIES` that will not."""
        for _ in range(MOST_TRIES):
            proposal = draw()
            if proposal.genome not in self._seen and self._fits(proposal.genome):
                self._seen.add(proposal.genome)
                return proposal
        return None


class RandomSearch:
    """Every student of the space equally likely."""

    def __init__(self, space: Space, unseen: Unseen, *, seed: str) -> None:
        self._space, self._unseen, self._dice = space, unseen, random.Random(seed)

    def ask(self) -> Proposal | None:
        """Return a random student."""
        return self._unseen.first(lambda: Proposal(genome=self._space.drawn(self._dice)))

    def tell(self, proposal: Proposal, fitness: float) -> None:
        """Learn nothing."""


class Evolution:
    """From a population: a sample, its top k, one parent of them, one gene changed; then the least fit member leaves.

    A child that breaks a limit or was scored before is drawn again, parent and all, before anything is scored. Of two equally
    fit the older one leaves. Until it was told the first `population` students, it must not be asked.
    """

    def __init__(self, space: Space, unseen: Unseen, *, population: int, sample: int, top: int, seed: str) -> None:
        self._space, self._unseen, self._dice = space, unseen, random.Random(seed)
        self._size, self._sample, self._top = population, sample, top
        self.members: list[tuple[float, str]] = []

    def ask(self) -> Proposal | None:
        """Return a child of the population as it stands."""
        return self._unseen.first(self._child)

    def tell(self, proposal: Proposal, fitness: float) -> None:
        """Add a member; once there are more than `population`, the least fit leaves."""
        self.members.append((fitness, proposal.genome))
        if len(self.members) > self._size:
            worst = min(range(len(self.members)), key=lambda index: self.members[index][0])
            del self.members[worst]

    def _child(self) -> Proposal:
        sample = self._dice.sample(self.members, min(self._sample, len(self.members)))
        best: Sequence[tuple[float, str]] = sorted(sample, key=lambda member: -member[0])[: self._top]
        parent = self._dice.choice(best)[1]
        return Proposal(genome=self._space.mutated(parent, self._dice), parent=parent)

"""The search itself: who is asked, what is scored, what is kept; it goes on where it was stopped."""

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from edgekd.core.console import Progress
from edgekd.core.errors import EvidenceError, MachineError, UsageError
from edgekd.core.records import LatencyEstimate, Score, ScoredStudent, Term
from edgekd.core.search_contracts import Scorer, Space
from edgekd.core.search_plan import Search
from edgekd.searching.counting import Size
from edgekd.searching.evolution import Evolution, Proposal, RandomSearch, Strategy, Unseen
from edgekd.searching.journal import Journal
from edgekd.searching.optuna_strategy import OptunaStrategy
from edgekd.searching.scoring import Examined, Submit

FEWEST_CANDIDATES = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a student must keep to be scored at all, asked for in this order."""

    max_ms: float | None
    max_parameters: int | None
    max_macs: int | None

    def keeps(self, genome: str, *, predict: Callable[[str], LatencyEstimate] | None, size: Callable[[str], Size]) -> bool:
        """Say whether a student keeps them; it is built only where its size is limited."""
        if self.max_ms is not None and predict is not None and predict(genome).value_ms > self.max_ms:
            return False
        if self.max_parameters is None and self.max_macs is None:
            return True
        found = size(genome)
        few = self.max_parameters is None or found.parameters <= self.max_parameters
        return few and (self.max_macs is None or found.macs <= self.max_macs)


@dataclass(kw_only=True)
class Hunt:
    """One search being done; `candidates` are in the order in which they were scored."""

    plan: Search
    space: Space
    scorers: Mapping[str, Scorer]
    submit: Submit
    journal: Journal
    progress: Progress
    fits: Callable[[str], bool]
    predict: Callable[[str], LatencyEstimate] | None
    seed: int
    workers: int

    def __post_init__(self) -> None:
        self._found = list[tuple[Proposal, Examined]]()
        self._number = dict[str, int]()
        self.terms = dict[str, Term]()
        self.ended = f"all {self.plan.evaluations} students were scored"

    def go(self) -> tuple[ScoredStudent, ...]:
        """Score the first students, fix what scores are standardised by, and go on by the strategy."""
        unseen = Unseen(self.fits)
        wide = 2 * self.workers if self.workers > 1 else 1
        self._drive(RandomSearch(self.space, unseen, seed=f"{self.seed} first"), self.plan.population, window=wide)
        if len(self._found) < FEWEST_CANDIDATES:
            raise EvidenceError(
                f"of {self.space.networks():,} students of the space {len(self._found)} keep the limits, as far as was drawn",
                mend="raise the limits of the `search` section, or widen its space",
            )
        self.terms = {name: self._term(name) for name in self.scorers}
        strategy = self._strategy(unseen)
        for proposal, examined in self._found:
            strategy.tell(proposal, self.fitness(examined.scores))
        left = self.plan.evaluations - len(self._found)
        self._drive(strategy, left, window=wide if self.plan.strategy == "random" else self.plan.ahead)
        return tuple(self.scored(*one) for one in self._found)

    def fitness(self, scores: Mapping[str, Score]) -> float:
        """Return the sum of the standardised scores by their weights."""
        total = 0.0
        for name, term in self.terms.items():
            if term.weight and term.deviation:
                total += term.weight * (scores[name].value - term.mean) / term.deviation
        return total

    def scored(self, proposal: Proposal, examined: Examined) -> ScoredStudent:
        """Return a candidate as it stands in the record."""
        return ScoredStudent(
            genome=proposal.genome,
            student=self.space.student(proposal.genome),
            parent=None if proposal.parent is None else self._number[proposal.parent],
            scores=examined.scores,
            fitness=self.fitness(examined.scores),
            parameters=examined.size.parameters,
            macs=examined.size.macs,
            estimate=None if self.predict is None else self.predict(proposal.genome),
        )

    def _strategy(self, unseen: Unseen) -> Strategy:
        plan, seed = self.plan, f"{self.seed} {self.plan.strategy}"
        match plan.strategy:
            case "evolution":
                return Evolution(self.space, unseen, population=plan.population, sample=plan.sample, top=plan.top, seed=seed)
            case "optuna":
                return OptunaStrategy(self.space, unseen, seed=self.seed)
            case _:
                return RandomSearch(self.space, unseen, seed=seed)

    def _drive(self, strategy: Strategy, count: int, *, window: int) -> None:
        """Ask and tell; at most `window` students are asked for before the first of them is told."""
        waiting, asked = deque[tuple[Proposal, Future[Examined]]](), 0
        while True:
            while len(waiting) < window and asked < count:
                proposal = strategy.ask()
                if proposal is None:
                    self.ended = "no other student that keeps the limits was found"
                    count = asked
                    break
                asked += 1
                waiting.append((proposal, self._future(proposal)))
            if not waiting:
                return
            proposal, future = waiting.popleft()
            examined = self._taken(proposal, future)
            self._number[proposal.genome] = len(self._found)
            self._found.append((proposal, examined))
            if self.terms:
                strategy.tell(proposal, self.fitness(examined.scores))
            self.progress.update(len(self._found), note=self._note())

    def _future(self, proposal: Proposal) -> "Future[Examined]":
        if (entry := self.journal.get(proposal.genome)) is None:
            return self.submit(self.space.student(proposal.genome), self._latency_ms(proposal.genome))
        scores = {name: Score(value=value, spread=spread) for name, (value, spread) in entry["scores"].items()}
        kept: Future[Examined] = Future()
        kept.set_result(Examined(scores=scores, size=Size(parameters=entry["parameters"], macs=entry["macs"])))
        return kept

    def _taken(self, proposal: Proposal, future: "Future[Examined]") -> Examined:
        try:
            examined = future.result()
        except BrokenProcessPool as error:
            raise MachineError(
                "a process that scores students died; the machine may be short of memory",
                mend="set `search.workers: 1`, or fewer `search.images`; the same command goes on where it stopped",
            ) from error
        except UsageError as error:
            raise UsageError(f"{proposal.genome}: {error.message}", mend=error.mend) from error
        if self.journal.get(proposal.genome) is None:
            scores = {name: (score.value, score.spread) for name, score in examined.scores.items()}
            size = examined.size
            self.journal.add(proposal.genome, {"scores": scores, "parameters": size.parameters, "macs": size.macs})
        return examined

    def _latency_ms(self, genome: str) -> float | None:
        return None if self.predict is None else self.predict(genome).value_ms

    def _term(self, name: str) -> Term:
        values = [examined.scores[name].value for _, examined in self._found]
        scorer = self.scorers[name]
        return Term(
            scorer=scorer.ref(), weight=scorer.weight, mean=statistics.fmean(values), deviation=statistics.stdev(values)
        )

    def _note(self) -> str:
        if not self.terms:
            return "first ones, at random"
        return f"best fitness {max(self.fitness(examined.scores) for _, examined in self._found):.3f}"

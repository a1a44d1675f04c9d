"""One session on a device: rounds in which every arm gets one fresh worker, until enough has been seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekd.benching.answers import samples_of
from edgekd.benching.clock import MONOTONIC, Clock
from edgekd.benching.order import rounds
from edgekd.benching.stopping import look
from edgekd.core import latency
from edgekd.core.contracts import ArmName, Pairing, Workbench
from edgekd.core.errors import MachineError
from edgekd.core.records import WorkerFacts

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, np.dtype[np.int64]]]


MOST_LOST = 2  # rounds of one session; a device that loses more is broken
UNEVEN = 1.15
"""A round is uneven if the machine itself was so many times slower at one end of one of its workers than at another.

Whoever shares the processor's cores, caches or memory slows everything down, and a guest is not told: load, steal time and
clocks look as ever. Each worker therefore times the same small piece of arithmetic before and after its queries. Ours.
"""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What one fresh process answered."""

    facts: WorkerFacts
    answer: Mapping[str, Any]
    columns: "Columns"

    @property
    def latency_ns(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Return the time of each query to the model alone, its wait included."""
        alone = self.columns["segment"] == 0
        waited_ns: np.ndarray[Any, np.dtype[np.int64]] = self.columns["queue"][alone] + self.columns["infer"][alone]
        return waited_ns

    @property
    def turns_ns(self) -> tuple[float, ...]:
        """Return the median of each of its turns; all its queries are one turn if it took none."""
        return latency.medians_of_turns(self.latency_ns, self.facts.turns or 1)


@dataclass(kw_only=True)
class Session:
    """The arms of a session with their plans, and what their workers have answered so far."""

    bench: Workbench
    plans: Mapping[ArmName, Mapping[str, Any]]
    seed: int
    timeout_s: float
    workers: dict[ArmName, list[Worker]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    stopped_because: str = ""

    def run(
        self,
        *,
        looks: Sequence[int],
        cap_s: float,
        comparisons: Sequence[Pairing],
        tell: Callable[[int, int, str], None],
        clock: Clock = MONOTONIC,
    ) -> None:
        """Run rounds until a look says stop, or, after the first look, until the time is up; rounds are always whole."""
        arms = tuple(self.plans)
        self.workers = {arm: [] for arm in arms}
        begun_ns = clock()
        for number, order in enumerate(rounds(arms, kin=[arm.artifact for arm in arms], seed=self.seed)):
            self._whole_round(number, order, tell)
            found = look(number + 1, looks, self.percentiles, self.ratios, comparisons)
            self.stopped_because = found.because or self.stopped_because
            if found.done:
                return
            if number + 1 >= looks[0] and (clock() - begun_ns) / 1e9 > cap_s:
                self.stopped_because = f"the time was up after {number + 1} rounds"
                return

    def _whole_round(self, number: int, order: Sequence[ArmName], tell: Callable[[int, int, str], None]) -> None:
        """Run a round; anew if a worker is lost on the way (connection, crash), and that is told."""
        while True:
            try:
                ran = self._in_turns(number, order)
            except MachineError as error:
                self.lost.append(f"round {number + 1}: {error.message.splitlines()[0]}")
                if number == 0 or len(self.lost) > MOST_LOST:
                    raise
                continue
            for arm, worker in ran:
                self.workers[arm].append(worker)
            tell(number, len(order) * (number + 1), f"round {number + 1}")
            return

    def percentiles(self, percent: float) -> dict[ArmName, list[float]]:
        """Return each arm's worker percentiles in ns; none for an arm whose workers have too few samples for it."""
        import numpy as np

        found: dict[ArmName, list[float]] = {}
        for arm, workers in self.workers.items():
            times = [worker.latency_ns for worker in workers]
            if times and min(map(len, times)) >= latency.floor_of(percent):
                found[arm] = [float(latency.nearest_rank(np.sort(one), percent)) for one in times]
        return found

    def ratios(self, one: Pairing) -> tuple[float, ...]:
        """Return ln(b / a) of the p50 of each pair of workers; nothing if an arm has too few samples, or was not measured."""
        found = self.percentiles(50.0)
        if one.a not in found or one.b not in found:
            return ()
        turns = ([worker.turns_ns for worker in self.workers[arm] if worker.facts.turns] for arm in (one.a, one.b))
        return latency.log_ratios(found[one.a], found[one.b], *turns)

    def _in_turns(self, number: int, order: Sequence[ArmName]) -> list[tuple[ArmName, Worker]]:
        """Have one fresh worker of each arm answer its queries, in turns with the others."""
        plans = [self.plans[arm] for arm in order]
        whole = {"whose": f"round {number + 1}", "turns": plans}
        answers = self.bench.work(whole, timeout_s=self.timeout_s * len(plans))["answers"]
        ran = []
        for position, (arm, plan, answer) in enumerate(zip(order, plans, answers, strict=True)):
            columns = samples_of(answer, whose=str(plan["whose"]))
            if int((columns["segment"] == 0).sum()) != plan["iterations"]:
                raise MachineError(f"{plan['whose']} did not answer the {plan['iterations']} samples it was asked for")
            ran.append((arm, Worker(facts=facts_of(answer, columns, number, position), answer=answer, columns=columns)))
        return ran


def unevenness(workers: Sequence[WorkerFacts]) -> float:
    """Return by what factor the machine's own pace differed over these workers; 1 where it is not known."""
    paces_ns = [pace_ns for worker in workers for pace_ns in worker.pace_ns or ()]
    return max(paces_ns) / min(paces_ns) if paces_ns else 1.0


def facts_of(answer: Mapping[str, Any], columns: "Columns", number: int, position: int) -> WorkerFacts:
    """Return what a worker did once."""
    import numpy as np

    alone = columns["segment"] == 0
    at_ns = columns["at"][alone]
    origin_ns = int(answer["origin_ns"])
    last_ns = int(at_ns[-1] + columns["queue"][alone][-1] + columns["infer"][alone][-1]) if len(at_ns) else 0
    return WorkerFacts(
        round=number,
        position=position,
        load_ns=answer["load_ns"],
        compile_ns=answer.get("compile_ns"),
        first_ns=answer["first_ns"],
        cpu_ns=answer.get("cpu_ns"),
        peak_rss_bytes=answer.get("peak_rss_bytes"),
        p50_ns=latency.nearest_rank(np.sort(columns["queue"][alone] + columns["infer"][alone]), 50.0) if len(at_ns) else None,
        exit=0,
        window_ns=(origin_ns, origin_ns + last_ns),
        pace_ns=tuple(answer["pace_ns"]) if answer.get("pace_ns") else None,
        notes=tuple(answer.get("notes", ())),
        turns=answer.get("turns"),
    )

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
clocks look as ever. Each worker therefore times the same small piece of arithmetic before and after its queries. That says
nothing of the model, so it treats every arm alike: no comparison leans to a side when uneven rounds are measured anew. Ours.
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


@dataclass(kw_only=True)
class Session:
    """The arms of a session with their plans, and what their workers have answered so far.

    `uneven` are the rounds that were measured anew because the machine was uneven: by what factor; their workers are
    `set_aside`, kept but not counted. Measuring anew takes at most `patience_s`, and never more time than what counts.
    """

    bench: Workbench
    plans: Mapping[ArmName, Mapping[str, Any]]
    seed: int
    timeout_s: float
    workers: dict[ArmName, list[Worker]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    patience_s: float = 0.0
    uneven: list[float] = field(default_factory=list)
    set_aside: dict[ArmName, list[Worker]] = field(default_factory=dict)
    stopped_because: str = ""
    _clock: Clock = field(default=MONOTONIC, init=False, repr=False)
    _counted_s: float = field(default=0.0, init=False, repr=False)
    _repeated_s: float = field(default=0.0, init=False, repr=False)

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
        self._clock = clock
        arms = tuple(self.plans)
        self.workers = {arm: [] for arm in arms}
        begun_ns = clock()
        for number, order in enumerate(rounds(len(arms), seed=self.seed)):
            self._whole_round(number, [arms[index] for index in order], tell)
            found = look(number + 1, looks, self.percentiles, comparisons)
            self.stopped_because = found.because or self.stopped_because
            if found.done:
                return
            if number + 1 >= looks[0] and (clock() - begun_ns) / 1e9 > cap_s:
                self.stopped_because = f"the time was up after {number + 1} rounds"
                return

    def _whole_round(self, number: int, order: Sequence[ArmName], tell: Callable[[int, int, str], None]) -> None:
        """Run a round; anew if a worker is lost on the way (connection, crash) or the machine was uneven, and that is told."""
        while True:
            begun_ns = self._clock()
            try:
                ran = []
                for position, arm in enumerate(order):
                    ran.append((arm, self._one(arm, number, position)))
                    tell(number, len(order) * number + position + 1, arm.artifact)
            except MachineError as error:
                self.lost.append(f"round {number + 1}: {error.message.splitlines()[0]}")
                if number == 0 or len(self.lost) > MOST_LOST:
                    raise
                continue
            took_s = (self._clock() - begun_ns) / 1e9
            by = unevenness([worker.facts for _, worker in ran])
            if by > UNEVEN and self._repeated_s + took_s <= min(self.patience_s, self._counted_s + took_s):
                self.uneven.append(by)
                self._repeated_s += took_s
                _add(self.set_aside, ran)
                continue
            self._counted_s += took_s
            _add(self.workers, ran)
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

    def _one(self, arm: ArmName, number: int, position: int) -> Worker:
        plan = self.plans[arm]
        answer = self.bench.work(plan, timeout_s=self.timeout_s)
        columns = samples_of(answer, whose=str(plan["whose"]))
        alone = columns["segment"] == 0
        if int(alone.sum()) != plan["iterations"]:
            raise MachineError(f"{plan['whose']} did not answer the {plan['iterations']} samples it was asked for")
        return Worker(facts=facts_of(answer, columns, number, position), answer=answer, columns=columns)


def _add(workers: dict[ArmName, list[Worker]], ran: Sequence[tuple[ArmName, Worker]]) -> None:
    for arm, worker in ran:
        workers.setdefault(arm, []).append(worker)


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
    )

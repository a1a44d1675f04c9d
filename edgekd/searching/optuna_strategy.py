"""Optuna as the one who decides what is scored next."""

from typing import Any

from edgekd.core.search_contracts import Space
from edgekd.searching.evolution import Proposal, Unseen


class OptunaStrategy:
    """Optuna's tree-structured Parzen estimator over the genes as categories, told of every fitness.

    What breaks a limit or was scored before is told as pruned and drawn again.
    """

    def __init__(self, space: Space, unseen: Unseen, *, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._space, self._unseen = space, unseen
        self._distributions = {
            gene: optuna.distributions.CategoricalDistribution(values) for gene, values in space.genes().items()
        }
        self._study: Any = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self._asked = dict[str, Any]()

    def ask(self) -> Proposal | None:
        """Return what Optuna would try next."""
        last: Any = None

        def draw() -> Proposal:
            nonlocal last
            if last is not None:
                self._study.tell(last, state=self._optuna.trial.TrialState.PRUNED)
            last = self._study.ask(fixed_distributions=self._distributions)
            return Proposal(genome=self._space.spelled(last.params))

        found = self._unseen.first(draw)
        if found is not None:
            self._asked[found.genome] = last
        return found

    def tell(self, proposal: Proposal, fitness: float) -> None:
        """Tell Optuna; a student that it did not ask for itself is added as a finished trial."""
        if proposal.genome in self._asked:
            self._study.tell(self._asked.pop(proposal.genome), fitness)
            return
        create = self._optuna.trial.create_trial
        values = self._space.read(proposal.genome)
        self._study.add_trial(create(params=values, distributions=self._distributions, value=fitness))

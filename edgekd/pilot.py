"""Which method? Several learn on small equal budgets, the worse ones drop out, and the rest learn anew on larger ones.

Successive halving (Jamieson & Talwalkar 2016), with the student that has no teacher always among the arms. Every arm is a
distil run of its own below `arms/`, so that a pilot that was stopped goes on where it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekd.core import contracts
from edgekd.core.console import Progress
from edgekd.core.errors import DataError, UsageError
from edgekd.core.parts import PartRef
from edgekd.core.plan import Duration, Train
from edgekd.core.records import Checkpoint
from edgekd.core.sections import Baseline, Pilot, Recipe, Start
from edgekd.core.side_records import ArmScore, PilotArm, PilotResult
from edgekd.core.store import find_done, write_record, write_text
from edgekd.judging import halving, selection, wording
from edgekd.judging.halving import Outcome
from edgekd.recipe import Loaded, digest_of_section
from edgekd.work import Work

if TYPE_CHECKING:
    from edgekd.distilling.teaching import Teaching

FIRST_RUNG_EPOCHS = 4
WITH_LABELS = (
    PartRef(use="kd"),
    PartRef(use="dkd"),
    PartRef(use="dist"),
    PartRef(use="feature"),
    PartRef(use="customkd", options={"logits": "kl"}),
    PartRef(use="specmatch"),
)
WITHOUT_LABELS = (
    PartRef(use="kdep", options={"target": "learned"}),
    PartRef(use="kdep", options={"target": "svd", "on_wider_student": "first_channels"}),
    # Not all directions: behind a LayerNorm some do not vary, and the root would make them as loud as the rest.
    PartRef(use="kdep", options={"target": "svd_pts", "on_wider_student": "first_channels", "dim": 256}),
    PartRef(use="specmatch"),
    PartRef(use="queue_similarity"),
)
_KINDS = {"target", "logits"}  # options that make a method another one; the recipe's own stands for its kind


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method at one learning rate; `ref` is the method as the recipe writes it."""

    name: str
    method: contracts.Method
    ref: PartRef
    lr: float
    weight_decay: float | None = None

    @property
    def baseline(self) -> bool:
        """Say whether this is the student without a teacher."""
        return not self.method.needs().teachers

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe that does the same with this method at this rate."""
        changes = {"lr": self.lr, "weight_decay": self.weight_decay}
        train = recipe.train.model_copy(update={key: value for key, value in changes.items() if value is not None})
        return recipe.model_copy(update={"method": self.ref, "train": train})


# ----------------------------------------------------------------------------------------------------------------- plan
def arms_of(loaded: Loaded) -> tuple[Arm, ...]:
    """Return the arms of a pilot: every method, and the baseline, at every learning rate."""
    recipe = loaded.recipe
    baseline = recipe.baseline or Baseline()
    changes = baseline.changes()
    chosen = [(method, ref, recipe.train.lr, None) for method, ref in _methods(loaded)]
    without = (loaded.baseline_method, baseline.method, changes.get("lr", recipe.train.lr), changes.get("weight_decay"))
    known = [method.identity() for method, *_ in chosen]
    if loaded.baseline_method.identity() not in known:
        chosen.append(without)
    names = _names([ref.use for _, ref, _, _ in chosen])
    several = len(recipe.pilot.lrs) > 1
    return tuple(
        Arm(
            name=f"{name}-lr{lr * factor:g}" if several else name,
            method=method,
            ref=ref,
            lr=lr * factor,
            weight_decay=weight_decay,
        )
        for name, (method, ref, lr, weight_decay) in zip(names, chosen, strict=True)
        for factor in recipe.pilot.lrs
    )


def budgets_of(pilot: Pilot, train: Train, *, images_per_epoch: int) -> tuple[int, ...]:
    """Return how many images an arm sees on each rung, at least a batch; each rung 1 / `keep` times the one before."""
    batch = train.batch * train.accumulate
    whole = batch * train.duration.in_steps(batch=batch, images_per_epoch=images_per_epoch)
    first = pilot.images or min(whole * pilot.keep ** (pilot.rungs - 1), FIRST_RUNG_EPOCHS * images_per_epoch)
    return tuple(max(batch, round(first / pilot.keep**rung)) for rung in range(pilot.rungs))


def _methods(loaded: Loaded) -> list[tuple[contracts.Method, PartRef]]:
    """Return the methods asked for, or the recipe's own and the others that learn from the same."""
    recipe = loaded.recipe
    if recipe.pilot.methods is not None:
        return list(zip(loaded.pilot_methods, recipe.pilot.methods, strict=True))
    own = loaded.method
    found = [(own, recipe.method)] if own.needs().teachers else []
    for ref in WITH_LABELS if own.needs().trains_head else WITHOUT_LABELS:
        method = loaded.part("method", ref, ("pilot",))
        assert isinstance(method, contracts.Method)
        kind = set(ref.options) & _KINDS
        if ref.use != recipe.method.use or own.model_dump(include=kind) != method.model_dump(include=kind):
            found.append((method, ref))
    return found


def _names(uses: Sequence[str]) -> list[str]:
    """Return the names with a number after those that came before."""
    names = list[str]()
    for use in uses:
        before = sum(name == use or name.startswith(f"{use}-") for name in names)
        names.append(f"{use}-{before + 1}" if before else use)
    return names


# ------------------------------------------------------------------------------------------------------------------ work
class PilotWork:
    """A pilot being worked on in a run folder."""

    def __init__(self, work: Work) -> None:
        recipe = work.loaded.recipe
        self.console = work.console
        self.settings = recipe.pilot
        self.seeds = tuple(recipe.seed + index for index in range(self.settings.seeds))
        self.arms = arms_of(work.loaded)
        self.cannot_run: dict[str, str] = {}
        source = work.source
        if not len(source.train()):
            raise DataError("a pilot ranks methods by labels, and no training image has one", mend="label a few images")
        if recipe.peers:
            raise UsageError("a pilot compares methods for one student, and the recipe has `peers:`", mend="leave `peers` out")
        if not work.loaded.teachers:
            raise UsageError("a pilot compares ways to learn from a teacher", mend="add `teachers:` to the recipe")
        images = len(source.train()) + len(source.unlabelled())
        self.budgets = budgets_of(self.settings, recipe.train, images_per_epoch=images)
        cache = recipe.cache.settled(epochs=self.budgets[-1] / images)  # every rung meets the views of the last one
        longest = recipe.train.model_copy(update={"duration": Duration(images=self.budgets[-1])})
        pinned = recipe.model_copy(update={"cache": cache, "train": longest, "baseline": None})
        self.asked = work
        self.work = work.beside(replace(work.loaded, recipe=pinned), work.folder)

    def go(self) -> PilotResult:
        """Run every rung, and write `pilot.json`, `pilot.md` and `winner.yaml`."""
        self._check()
        self._fill_caches()
        starts = {seed: self._start(seed) for seed in self.seeds}
        scores: dict[str, list[ArmScore]] = {arm.name: [] for arm in self.arms}
        alive = self._able(self.arms)
        last: list[Outcome] = []
        with self.console.progress("pilot", self._runs(alive), "runs") as progress:
            for rung in range(len(self.budgets)):
                last = self._rung(rung, alive, starts, progress)
                self._need_a_method(self._arms(last))
                for outcome in last:
                    scores[outcome.arm].append(outcome.score)
                alive = self._arms(halving.survivors(last, keep=self.settings.keep))
        return self._written(scores, last)

    # --------------------------------------------------------------------------------------------------------- beforehand
    def _check(self) -> None:
        """Find out, before anything is computed, which arms cannot run, and why."""
        teachings = self.work.ask(())
        for arm in self.arms:
            try:
                self._check_arm(arm, teachings)
            except UsageError as error:
                self._give_up(arm, error)
        self._need_a_method(self._able(self.arms))

    def _check_arm(self, arm: Arm, teachings: "Sequence[Teaching]") -> None:
        recipe, student, needs = self.work.loaded.recipe, self.work.loaded.student, arm.method.needs()
        untrained = recipe.start is None and getattr(student, "weights", None) == "random"
        if recipe.pilot.methods is None and arm.ref.use == "customkd" and untrained:
            raise UsageError(
                "goes through the student's own head, and this student starts from random weights",
                mend="train the student on the task first (`start:`), or name the method in `pilot.methods` all the same",
            )
        classes = len(self.work.source.classes)
        model = cast(Any, student.build(classes, start=False))
        specs: tuple[contracts.FeatureSpec, ...] = ()
        if needs.teachers:
            each = zip(teachings, needs.taps_of(len(teachings)), strict=True)
            specs = tuple(teaching.spec_of(taps) for teaching, taps in each)
        arm.method.build(model.spec(needs.student_taps), specs, classes)

    def _fill_caches(self) -> None:
        """Have the teachers answer once what all arms together will ask."""
        if self.work.recipe.cache.views == 0:
            return
        able = [arm for arm in self._able(self.arms) if not arm.baseline]
        try:
            self._ask(able)
        except UsageError:  # of which arm? Each asks for itself, and those that may not are left out
            for arm in able:
                try:
                    self._ask([arm])
                except UsageError as error:
                    self._give_up(arm, error)
            self._need_a_method(self._able(self.arms))

    def _ask(self, arms: Sequence[Arm]) -> None:
        """Have each teacher's answers to all that these arms ask of it kept."""
        count = len(self.work.loaded.teachers)
        wanted = [arm.method.needs().taps_of(count) for arm in arms]
        each = tuple(tuple(sorted({tap for taps in wanted for tap in taps[number]})) for number in range(count))
        alike = len(set(each)) == 1
        self.work.ask(each[0] if alike else (), by_teacher=() if alike else each)

    def _start(self, seed: int) -> Start | None:
        """Return where all arms of a seed begin: trained once, if the recipe says how."""
        recipe = self.work.loaded.recipe
        start = recipe.start
        if start is None or start.checkpoint is not None:
            return start
        train = self.asked.loaded.recipe.train.model_copy(update=start.changes())
        method = self.work.loaded.start_method
        teachers = recipe.teachers if method is not None and method.needs().teachers else ()
        changes = {"method": start.method, "train": train, "seed": seed, "start": None, "teachers": teachers}
        self.console.say(f"start of seed {seed}")
        folder = self.work.folder.arm(f"start-seed{seed}")
        self.work.beside(replace(self.work.loaded, recipe=recipe.model_copy(update=changes)), folder).distill_all()
        return Start(checkpoint=folder.checkpoint())

    # -------------------------------------------------------------------------------------------------------------- rungs
    def _rung(self, rung: int, arms: Sequence[Arm], starts: Mapping[int, Start | None], progress: Progress) -> list[Outcome]:
        outcomes = []
        for number, arm in enumerate(arms, start=1):
            where = f"rung {rung + 1} of {len(self.budgets)}, arm {number} of {len(arms)}: {arm.name}"
            self.console.say(f"{where}, {self.budgets[rung]} images")
            students = []
            try:
                for seed in self.seeds:
                    students.append(self._student(arm, rung, seed, starts[seed]))
                    progress.update(progress.done + 1, note=where)
            except UsageError as error:
                self._give_up(arm, error)
                continue
            score = halving.score_of(rung, [student for student, _ in students])
            outcomes.append(Outcome(arm=arm.name, baseline=arm.baseline, students=tuple(students), score=score))
        return outcomes

    def _student(self, arm: Arm, rung: int, seed: int, start: Start | None) -> tuple[Checkpoint, Path]:
        recipe = arm.recipe(self.work.loaded.recipe)
        train = recipe.train.model_copy(update={"duration": Duration(images=self.budgets[rung])})
        teachers = () if arm.baseline else recipe.teachers
        changed = recipe.model_copy(update={"train": train, "seed": seed, "start": start, "teachers": teachers})
        folder = self.work.folder.arm(self._run_name(arm.name, rung, seed))
        student = self.work.beside(replace(self.work.loaded, recipe=changed), folder).distill_all()
        return student, folder.checkpoint().parent

    def _runs(self, arms: Sequence[Arm]) -> int:
        """Return how many students will be trained if every arm can run."""
        total, counts = 0, [sum(arm.baseline == baseline for arm in arms) for baseline in (False, True)]
        for _ in self.budgets:
            total += sum(counts)
            counts = [halving.kept_of(count, self.settings.keep) for count in counts]
        return total * len(self.seeds)

    def _run_name(self, arm: str, rung: int, seed: int) -> str:
        return f"{arm}-seed{seed}-{rung + 1}" if len(self.seeds) > 1 else f"{arm}-{rung + 1}"

    def _arms(self, outcomes: Iterable[Outcome]) -> list[Arm]:
        by_name = {arm.name: arm for arm in self.arms}
        return [by_name[outcome.arm] for outcome in outcomes]

    def _able(self, arms: Iterable[Arm]) -> list[Arm]:
        return [arm for arm in arms if arm.name not in self.cannot_run]

    def _give_up(self, arm: Arm, error: UsageError) -> None:
        reason = f"{error.message} (to mend: {error.mend})" if error.mend else error.message
        self.cannot_run[arm.name] = reason
        self.console.warn(f"{arm.name} cannot run: {reason}")

    def _need_a_method(self, arms: Iterable[Arm]) -> None:
        if all(arm.baseline for arm in arms):
            reasons = "\n".join(f"{name}: {reason}" for name, reason in self.cannot_run.items())
            raise UsageError(f"no method of the pilot can run\n{reasons}")

    # ------------------------------------------------------------------------------------------------------------ decision
    def _written(self, scores: Mapping[str, Sequence[ArmScore]], last: Sequence[Outcome]) -> PilotResult:
        """Decide, write everything, the record last, and return it."""
        result = self._result(scores, last)
        arms = {arm.name: arm for arm in self.arms}
        baseline = next((arms[outcome.arm] for outcome in halving.ranked(last) if outcome.baseline), None)
        root = self.asked.folder.root
        write_text(root / "pilot.md", selection.pilot_page(result))
        write_text(root / "winner.yaml", winner_yaml(self.asked.loaded, result, arms[result.winner], baseline))
        kept = find_done(PilotResult, self.asked.folder.pilot, result.from_)
        if kept is not None and kept.digest() == result.digest():
            return kept
        write_record(self.asked.folder.pilot, result)
        return result

    def _result(self, scores: Mapping[str, Sequence[ArmScore]], last: Sequence[Outcome]) -> PilotResult:
        work, recipe, decision = self.asked, self.asked.loaded.recipe, halving.decide(last)
        settings = (
            self.settings.model_copy(update={"methods": None}),
            recipe.train,
            [arm.method.identity() for arm in self.arms],
        )
        students = {
            self._run_name(name, score.rung, seed): digest
            for name, found in scores.items()
            for score in found
            for seed, digest in zip(self.seeds, score.checkpoints, strict=True)
        }
        return PilotResult(
            made_by=work.made_by,
            from_={"data": work.source.digest(), "settings": digest_of_section(*settings), **students},
            recipe=recipe.name,
            data=work.source.facts(),
            budgets=self.budgets,
            keep=self.settings.keep,
            seeds=self.seeds,
            arms=tuple(self._fact(arm, scores[arm.name]) for arm in self.arms),
            winner=decision.winner,
            helps=decision.helps,
            difference=decision.difference,
            decision=decision.words,
        )

    def _fact(self, arm: Arm, scores: Sequence[ArmScore]) -> PilotArm:
        return PilotArm(
            name=arm.name,
            method=arm.ref,
            lr=arm.lr,
            baseline=arm.baseline,
            scores=tuple(scores),
            cannot_run=self.cannot_run.get(arm.name, ""),
        )


def winner_yaml(loaded: Loaded, result: PilotResult, winner: Arm, baseline: Arm | None) -> str:
    """Return the recipe with the winner's method and learning rate, resolved; its header says where they come from."""
    recipe = winner.recipe(loaded.recipe)
    if recipe.baseline is not None and baseline is not None:
        recipe = recipe.model_copy(update={"baseline": recipe.baseline.model_copy(update={"lr": baseline.lr})})
    row = next(row for row in selection.arm_rows(result) if row[0] == winner.name)
    header = [
        "Written by edgekd pilot: the recipe with the method and the learning rate of the arm",
        f"  {' | '.join(row)}",
        result.decision,
        selection.OPTIMISTIC,
    ]
    return "".join(f"# {wording.plain(line)}\n" for line in header) + replace(loaded, recipe=recipe).resolved()

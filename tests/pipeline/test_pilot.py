"""`edgekd pilot`: who drops out, who wins, what is kept, and what is said when nothing helps; mostly with scripted students."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd import pilot as piloting
from edgekd.choosing import pilot
from edgekd.core.console import silent
from edgekd.core.contracts import FeatureSpec, Sample
from edgekd.core.errors import UsageError
from edgekd.core.plan import Duration, Train
from edgekd.core.predictions import write_predictions
from edgekd.core.records import Checkpoint, TrainingFacts
from edgekd.core.sections import Pilot
from edgekd.core.side_records import PilotResult
from edgekd.core.store import RunFolder, begin_stage, file_ref, read_record, write_record
from edgekd.distilling import stage
from edgekd.distilling.job import Job
from edgekd.distilling.methods.kd import Kd
from edgekd.distilling.methods.unic import Unic
from edgekd.judging import halving
from edgekd.judging.selection import pilot_lines
from edgekd.recipe import load_recipe

Call = Callable[..., tuple[int, str, str]]
IMAGES = 200
WIDTHS = {"pooled": 6, "cls": 6, "cls+patch_mean": 6, "probe_logits": 3, "logits": 3}


@dataclass
class Script:
    """Students that are as good as the script says: `shares[method]`, or `shares[method, images]`, of 200 images right."""

    shares: dict[Any, Any] = field(default_factory=dict)
    trained: list[tuple[str, int]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    stop_after: int | None = None
    refused: set[str] = field(default_factory=set)

    def fill_caches(self, job: Job, console: Any) -> tuple[Any, ...]:
        taps = job.method.needs().teacher_taps
        self.asked.append(taps)
        if self.refused & set(taps):
            raise UsageError(f"{sorted(self.refused)[0]} cannot be kept")
        spec = lambda taps: FeatureSpec(name="scripted", shapes={tap: (WIDTHS[tap],) for tap in taps})  # noqa: E731
        return tuple(SimpleNamespace(spec_of=spec) for _ in job.teachers)

    def distill(self, job: Job, folder: Path, console: Any) -> Checkpoint:
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        use, images = job.method.ref().use, job.plan.duration.images or 0
        share = self.shares.get((use, images), self.shares.get(use, 0.5))
        share = share(job) if callable(share) else share
        if isinstance(share, str):
            raise UsageError(share)
        self.trained.append((use, images))
        self.jobs.append(job)
        begin_stage(folder, "checkpoint.json")
        right = round(share * IMAGES)
        logits_NK = np.eye(3)[[0] * right + [1] * (IMAGES - right)]
        samples = [Sample(id=f"{n:03}", label=0, locator=None) for n in range(IMAGES)]
        heads = job.method.needs().trains_head
        (folder / "student.safetensors").write_bytes(f"{job.method.ref().use} {images}".encode())
        file = file_ref(folder / "student.safetensors", folder=folder)
        made = Checkpoint(
            made_by=job.made_by,
            from_=job.from_,
            name=job.name,
            weights=file,
            history=file,
            student=job.student.ref(),
            student_name="tiny",
            parameters=1,
            licence="mit",
            classes=job.source.classes,
            input=job.student.input_contract(),
            method=job.method.ref(),
            teachers=(),
            data=job.source.facts(),
            training=TrainingFacts(
                steps=1,
                images_seen=images,
                seconds=1.0,
                images_per_second=1.0,
                data_wait_share=0.0,
                final_loss=1.0,
                device="cpu",
                precision="fp32",
            ),
            accuracy=write_predictions(logits_NK, samples, job.source.classes, folder),
            head="trained" if heads else "probe",
            feature_tap=job.method.needs().feature_tap,
            knn_top1=share - 0.1,
            probe_top1=share,
            seed=job.seed,
        )
        write_record(folder / "checkpoint.json", made)
        return made


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Replace training and the teachers by a script."""
    made = Script()
    monkeypatch.setattr(stage, "distill", made.distill)
    monkeypatch.setattr(stage, "fill_caches", made.fill_caches)
    return made


@pytest.fixture
def go(experiment: Path) -> Callable[..., PilotResult]:
    """Run a pilot of the small experiment with changes to its recipe."""

    def call(*changes: str, methods: str = "[kd, dkd, dist, feature]", images: int = 8) -> PilotResult:
        settings = (f"pilot.methods={methods}", f"pilot.images={images}", *changes)
        return pilot(experiment, out=experiment.parent / "run", assignments=settings, console=silent())

    return call


def arm(result: PilotResult, name: str) -> Any:
    return next(arm for arm in result.arms if arm.name == name)


# ------------------------------------------------------------------------------------------------------------ elimination
def test_the_worse_half_drops_out_and_the_rest_see_twice_as_much(script: Script, go: Callable[..., PilotResult]) -> None:
    """Four methods, two, one; the baseline stays although it is the worst of all; orders may turn from rung to rung."""
    first = {"kd": 0.5, "dkd": 0.6, "dist": 0.4, "feature": 0.7}
    script.shares = first | {("dkd", 16): 0.85, ("feature", 16): 0.8, ("dkd", 32): 0.9, "supervised": 0.3}
    found = go()
    assert found.budgets == (8, 16, 32)
    assert [run for run in script.trained if run[1] == 8] == [(use, 8) for use in (*first, "supervised")]
    assert script.trained[5:] == [("dkd", 16), ("feature", 16), ("supervised", 16), ("dkd", 32), ("supervised", 32)]
    assert {arm.name: len(arm.scores) for arm in found.arms} == {"kd": 1, "dkd": 3, "dist": 1, "feature": 2, "supervised": 3}
    assert (found.winner, found.helps) == ("dkd", True)
    assert found.difference.value == pytest.approx(0.6)
    assert found.decision.startswith("dkd wins (dkd 90.0 %")
    score = arm(found, "dkd").scores[-1]
    assert (score.figure, score.images_seen, score.spread) == ("top1", 32, None)
    assert score.share.value == 0.9
    assert score.knn_top1.value == pytest.approx(0.8)
    assert score.share.low < 0.9 < score.share.high


def test_every_arm_meets_the_same_views_seed_and_schedule(script: Script, go: Callable[..., PilotResult]) -> None:
    """The teachers are first asked for nothing, then once for all arms together; views are those of the last rung."""
    go("pilot.rungs=2", methods="[kd, feature]", images=24)
    assert script.asked == [(), ("pooled", "probe_logits")]
    assert {job.cache.views for job in script.jobs} == {2}  # 48 images seen of 24
    assert {job.seed for job in script.jobs} == {3}
    assert {job.plan.duration.images for job in script.jobs} == {24, 48}
    assert all((len(job.teachers) == 0) == (job.method.ref().use == "supervised") for job in script.jobs)


def test_learning_rates_are_arms_of_their_own(script: Script, go: Callable[..., PilotResult]) -> None:
    """The baseline is tuned as its rivals are, and halved among its own rates."""
    script.shares = {
        "kd": lambda job: 0.8 if job.plan.lr > 2e-3 else 0.6,
        "supervised": lambda job: 0.5 if job.plan.lr > 2e-3 else 0.55,
    }
    found = go("pilot.lrs=[1.0, 3.0]", "pilot.rungs=2", "baseline.lr=1e-3", methods="[kd]")
    assert {arm.name: len(arm.scores) for arm in found.arms} == {
        "kd-lr0.001": 1,
        "kd-lr0.003": 2,
        "supervised-lr0.001": 2,
        "supervised-lr0.003": 1,
    }
    assert found.winner == "kd-lr0.003"


def test_seeds_are_averaged_and_their_spread_is_told(script: Script, go: Callable[..., PilotResult]) -> None:
    """The interval stays that of the images: asking them twice does not make them more."""
    script.shares = {"kd": lambda job: 0.7 if job.seed == 3 else 0.8, "supervised": 0.5}
    found = go("pilot.seeds=2", "pilot.rungs=1", methods="[kd]")
    score = arm(found, "kd").scores[0]
    assert found.seeds == (3, 4)
    assert score.share.value == 0.75
    assert score.spread == pytest.approx(0.05 * 2**0.5)
    assert score.share.high - score.share.low > 0.11  # 200 images, not 400
    assert found.difference.value == pytest.approx(0.25)
    assert len(score.checkpoints) == 2


# --------------------------------------------------------------------------------------------------------------- decision
@pytest.mark.parametrize("baseline", [0.8, 0.78], ids=["better", "hardly worse"])
def test_it_says_when_distillation_does_not_help(
    script: Script, go: Callable[..., PilotResult], experiment: Path, baseline: float
) -> None:
    """Equal or within the interval: the sentence, the baseline as the winner, and its recipe."""
    script.shares = {"kd": 0.79 if baseline == 0.78 else 0.7, "supervised": baseline}
    found = go("pilot.rungs=1", methods="[kd]")
    assert (found.winner, found.helps) == ("supervised", False)
    assert found.decision.startswith("distillation does not help here: no method beats supervised beyond its interval (kd ")
    assert load_recipe(experiment.parent / "run/winner.yaml").method.ref().use == "supervised"
    assert found.decision in "\n".join(pilot_lines(found))


def test_the_same_images_tell_more_than_two_intervals(script: Script, go: Callable[..., PilotResult]) -> None:
    """60 against 52 % overlap; right on 16 images more and on none less is beyond chance. A probe has no such list."""
    script.shares = {"kd": 0.60, "specmatch": 0.60, "supervised": 0.52}
    assert go("pilot.rungs=1", methods="[kd]").helps is True
    probed = go("pilot.rungs=1", methods="[specmatch]")
    assert arm(probed, "specmatch").scores[0].figure == "probe"
    assert (probed.helps, probed.difference) == (False, None)


def test_without_a_baseline_it_does_not_say_whether_distillation_helps(script: Script, go: Callable[..., PilotResult]) -> None:
    """The best method is named all the same."""
    script.shares = {"kd": 0.7, "supervised": "the loss is nan"}
    found = go("pilot.rungs=2", methods="[kd]")
    assert (found.winner, found.helps) == ("kd", None)
    assert "whether distillation helps is not known" in found.decision


# ------------------------------------------------------------------------------------------------------- arms that cannot
def test_an_arm_that_cannot_run_is_listed_and_the_others_go_on(
    script: Script, go: Callable[..., PilotResult], experiment: Path
) -> None:
    """A student wider than the teacher is found before anything is trained; a loss that is no number, when it is."""
    script.shares = {"kd": 0.8, ("dkd", 9): "the loss is nan", "supervised": 0.5}
    found = go("pilot.rungs=2", "pilot.keep=0.9", methods="[{use: kdep, target: svd}, kd, dkd]")
    kdep = arm(found, "kdep")
    assert kdep.scores == ()
    assert "method kdep: the student's pre_act has d_s = " in kdep.cannot_run
    assert "to mend: widen the teacher's vector" in kdep.cannot_run
    assert "kdep" not in {use for use, _ in script.trained}
    assert (len(arm(found, "dkd").scores), arm(found, "dkd").cannot_run) == (1, "the loss is nan")
    assert found.winner == "kd"
    page = (experiment.parent / "run/pilot.md").read_text()
    assert "cannot run: method kdep" in page
    assert "cannot run further: the loss is nan" in page


def test_answers_that_cannot_be_kept_stop_only_the_arm_that_asks(script: Script, go: Callable[..., PilotResult]) -> None:
    """All taps at once are refused, so each arm asks for its own, and one of them is told."""
    script.refused = {"cls"}
    found = go("pilot.rungs=1", methods="[kd, {use: feature, teacher_tap: cls}]")
    assert script.asked == [(), ("cls", "probe_logits"), ("probe_logits",), ("cls",)]
    assert arm(found, "feature").cannot_run == "cls cannot be kept"
    assert script.trained == [("kd", 8), ("supervised", 8)]


def test_a_pilot_in_which_no_method_can_run_is_refused(script: Script, go: Callable[..., PilotResult]) -> None:
    """With the reason of each."""
    with pytest.raises(UsageError, match=r"no method of the pilot can run\nkdep: method kdep: the student's pre_act"):
        go(methods="[kdep]")
    assert script.trained == []


def test_a_pilot_needs_labels_and_a_teacher(script: Script, go: Callable[..., PilotResult]) -> None:
    """Without a teacher there is nothing to choose."""
    with pytest.raises(UsageError, match="ways to learn from a teacher"):
        go("teachers=[]", "method=supervised", "baseline=null")


# ---------------------------------------------------------------------------------------------------- what it leaves behind
def test_the_winners_recipe_loads_and_is_the_arm(script: Script, go: Callable[..., PilotResult], experiment: Path) -> None:
    """Method, rate, and all else as it was; the header has the arm's line and says how far to trust it."""
    script.shares = {"kd": 0.5, "dkd": 0.9, "supervised": 0.3}
    found = go("pilot.rungs=1", "pilot.lrs=[0.5]", methods="[kd, {use: dkd, temperature: 2.0}]")
    path = experiment.parent / "run/winner.yaml"
    loaded, before = load_recipe(path), load_recipe(experiment)
    loaded.check()
    (job,) = (job for job in script.jobs if job.method.ref().use == "dkd")
    assert loaded.method == job.method
    assert loaded.method.temperature == 2.0
    assert loaded.recipe.train == before.recipe.train.model_copy(update={"lr": 5e-4})
    assert loaded.recipe.baseline.lr == 5e-4
    assert loaded.source == before.source
    assert (loaded.teachers, loaded.student, loaded.recipe.seed) == (before.teachers, before.student, before.recipe.seed)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("dkd | dkd (temperature: 2.0) | 0.0005" in line for line in header)
    assert any(found.decision in line for line in header)
    assert "optimistic" in header[-1]


def test_what_is_done_is_kept(script: Script, go: Callable[..., PilotResult], experiment: Path) -> None:
    """Stopped in the middle, the next one goes on; a third has nothing to do and leaves the same bytes."""
    script.shares = {"kd": 0.5, "dkd": 0.9, "supervised": 0.3}
    script.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        go(methods="[kd, dkd]")
    run = experiment.parent / "run"
    assert not (run / "pilot.json").exists()
    script.stop_after = None
    found = go(methods="[kd, dkd]")
    assert len(script.trained) == 7  # three, then dkd and the baseline twice; none again
    left = {name: (run / name).read_bytes() for name in ("pilot.json", "pilot.md", "winner.yaml")}
    assert go(methods="[kd, dkd]") == found
    assert len(script.trained) == 7
    assert {name: (run / name).read_bytes() for name in left} == left
    assert read_record(PilotResult, RunFolder(run).pilot) == found
    go("method.temperature=9.0", methods="[{use: kd, temperature: 9.0}, dkd]")
    assert script.trained[7:] == [("kd", 8)]


def test_all_arms_begin_at_a_start_that_is_trained_once(
    script: Script, go: Callable[..., PilotResult], experiment: Path
) -> None:
    """One supervised start, for rivals and baseline, on every rung; the winner's recipe trains its own."""
    script.shares = {"kd": 0.9, "supervised": 0.3}
    go("start.duration.images=24", "pilot.rungs=2", methods="[kd]")
    assert script.trained == [("supervised", 24), ("kd", 8), ("supervised", 8), ("kd", 16), ("supervised", 16)]
    start, *others = script.jobs
    assert (start.start, len(start.teachers)) == (None, 0)
    assert {job.start for job in others} == {experiment.parent / "run/arms/start-seed3/checkpoint/student.safetensors"}
    loaded = load_recipe(experiment.parent / "run/winner.yaml")
    assert (loaded.recipe.start.checkpoint, loaded.recipe.start.duration.images) == (None, 24)


# ------------------------------------------------------------------------------------------------------------------- plan
@pytest.mark.parametrize(
    ("settings", "train", "expected"),
    [
        ({}, {"images": 64_000}, (16_000, 32_000, 64_000)),
        ({}, {"images": 6_400_000}, (40_000, 80_000, 160_000)),
        ({"rungs": 1}, {"images": 6_400}, (6_400,)),
        ({"images": 100, "keep": 0.25}, {"images": 64}, (100, 400, 1600)),
        ({"rungs": 4}, {"steps": 2}, (64, 64, 64, 128)),
    ],
    ids=["up to the recipe's", "four epochs at most", "one rung", "asked for", "at least a batch"],
)
def test_budgets(settings: dict[str, Any], train: dict[str, int], expected: tuple[int, ...]) -> None:
    """The first is settled by the last, by 10,000 images an epoch, or by the recipe."""
    found = piloting.budgets_of(Pilot(**settings), Train(duration=Duration(**train), batch=64), images_per_epoch=10_000)
    assert found == expected


@pytest.mark.parametrize(("count", "keep", "kept"), [(5, 0.5, 3), (1, 0.1, 1), (10, 0.7, 7), (100, 0.07, 7), (0, 0.5, 0)])
def test_how_many_are_kept(count: int, keep: float, kept: int) -> None:
    """Rounded up, but not for a rounding error: 100 x 0.07 is 7.000000000000001."""
    assert halving.kept_of(count, keep) == kept


def test_methods_are_chosen_by_what_the_recipes_own_learns_from(experiment: Path) -> None:
    """A method with a head has rivals with one, KDEP rivals without labels; the recipe's own stands for its kind."""
    with_labels = piloting.arms_of(load_recipe(experiment))
    assert [arm.name for arm in with_labels] == ["kd", "dkd", "dist", "feature", "customkd", "specmatch", "supervised"]
    assert with_labels[0].method.temperature == 2.0
    assert [arm.baseline for arm in with_labels] == [False] * 6 + [True]
    own = load_recipe(experiment, assignments=["method={use: kdep, target: svd_pts, exponent: 5.0}"])
    without = piloting.arms_of(own)
    assert [arm.name for arm in without] == ["kdep", "kdep-2", "kdep-3", "specmatch", "queue_similarity", "supervised"]
    assert [arm.method.target for arm in without[:3]] == ["svd_pts", "learned", "svd"]
    assert without[0].method.exponent == 5.0


def test_customkd_by_default_needs_a_student_that_knows_something(script: Script, go: Callable[..., PilotResult]) -> None:
    """From random weights it is left out with the reason; named in the recipe, it runs all the same."""
    script.shares = {"supervised": 0.1}
    found = go("pilot.methods=null", "pilot.rungs=1")
    assert "goes through the student's own head" in arm(found, "customkd").cannot_run
    assert "start:" in arm(found, "customkd").cannot_run
    assert "customkd" not in {use for use, _ in script.trained}


# -------------------------------------------------------------------------------------------------------------- for real
def test_a_small_pilot_from_the_command_line(experiment: Path, edgekd: Call) -> None:
    """Real training from the command to the table, the page, the record and a recipe that runs."""
    run = experiment.parent / "run"
    settings = ["--set", "pilot.methods=[kd]", "--set", "pilot.images=8", "--set", "pilot.rungs=2"]
    code, out, err = edgekd("pilot", experiment, "--out", run, *settings)
    assert code == 0, err
    assert "rung 2 of 2, arm 1 of 2: kd, 16 images" in err
    assert "learning rate" in out
    assert "optimistic" in out
    found = read_record(PilotResult, run / "pilot.json")
    last = read_record(Checkpoint, run / "arms/kd-2/checkpoint/checkpoint.json")
    assert found.from_["kd-2"] == last.digest()
    assert last.training.images_seen == 16
    assert edgekd("show", run / "pilot.json")[1] == out
    code, out, err = edgekd("pilot", experiment, "--out", run, *settings, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["digest"] == found.digest()
    assert edgekd("teachers", "rank", experiment)[1].count("test_vit") == 2
    assert edgekd("teachers", "rank", experiment, "--set", "teachers=[]", "--set", "method=supervised")[0] == 2


def test_each_teacher_is_asked_for_what_any_arm_wants_of_it() -> None:
    """Taps of one teacher are not asked of another, which may not have them; where all are alike they are named once."""
    asked: list[tuple[Any, Any]] = []

    def ask(taps: Any = (), *, by_teacher: Any = ()) -> None:
        asked.append((taps, by_teacher))

    work = SimpleNamespace(loaded=SimpleNamespace(teachers=("vit", "mobilenet")), ask=ask)
    arms = [SimpleNamespace(method=method) for method in (Unic(teacher_tap=("cls", "pooled")), Kd())]
    for chosen in (arms, arms[1:]):
        piloting.PilotWork._ask(SimpleNamespace(work=work), chosen)  # type: ignore[arg-type]
    assert asked == [
        ((), (("cls", "probe_logits"), ("pooled", "probe_logits"))),
        (("probe_logits",), ()),
    ]

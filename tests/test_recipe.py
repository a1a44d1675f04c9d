"""Recipes: the shipped ones load, and a mistake in one's own is answered with file, line, key and the nearest word."""

from importlib import resources
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekd.core.errors import MachineError, UsageError
from edgekd.core.parts import PartRef
from edgekd.core.plan import Augment, Cache, Duration
from edgekd.recipe import Loaded, digest_of_section, load_recipe

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
STARTER = Path(str(resources.files("edgekd") / "starter.yaml"))

SMALL = """\
name: small
data: {use: folder, train: images, val: more}
student: {use: timm, model: mobilenetv3_small_100}
method: supervised
train:
  duration: {epochs: 1}
"""


def loaded(folder: Path, text: str = SMALL, *assignments: str, quick: bool = False) -> Loaded:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, quick=quick, assignments=assignments)


def refusal(folder: Path, text: str = SMALL, *assignments: str, quick: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        loaded(folder, text, *assignments, quick=quick).check()
    return str(caught.value).replace(str(folder / "recipe.yaml"), "FILE")


# --------------------------------------------------------------------------------------------------------- what is shipped
def test_there_are_shipped_recipes() -> None:
    """The tests below run over whatever is there, so something must be."""
    assert len(SHIPPED) >= 3


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("path", [*SHIPPED, STARTER], ids=lambda path: path.name)
def test_every_shipped_recipe_loads_with_every_part(path: Path, quick: bool) -> None:
    """As it stands and as its laptop version; unknown parts, options and keys would be refused."""
    recipe = load_recipe(path, quick=quick)
    recipe.check()
    assert recipe.recipe.name.endswith("-quick") == quick
    assert recipe.budgets.checks, "a recipe without budgets can never pass"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_tells_how_to_run_it_and_what_to_expect(path: Path) -> None:
    """The header gives the command, the cost, the expected figures and the papers, and the name is the file's."""
    header = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert f"edgekd run recipes/{path.name}" in header
    assert all(word in header for word in ("Cost:", "Expected", "Paper"))
    assert load_recipe(path).recipe.name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_written_out_in_full_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    """Every default and path is spelled out, and reading it again, from anywhere, gives the same parts."""
    first = load_recipe(path)
    again = loaded(tmp_path, first.resolved())
    assert again.resolved() == first.resolved()
    for name in ("source", "student", "method", "baseline_method", "teachers", "backends", "devices", "formats"):
        assert getattr(again, name) == getattr(first, name)
    assert again.budgets.digest() == first.budgets.digest()
    assert again.recipe.train == first.recipe.train


def test_a_recipe_named_from_the_current_folder_is_the_same_in_its_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edgekd run recipes/one.yaml` and later `edgekd bench runs/one` look at the same images, from whatever folder."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    first = loaded(Path("recipes"))
    source, text = first.source, first.resolved()
    assert str(tmp_path / "recipes" / "images") in text
    assert loaded(Path("runs"), text).source == source
    monkeypatch.chdir(tmp_path / "runs")
    assert load_recipe(Path("recipe.yaml")).source == source


def test_what_is_switched_off_stays_off_when_written_out(tmp_path: Path) -> None:
    """No baseline and no timing are answers, not gaps to be filled with defaults."""
    text = loaded(tmp_path, SMALL, "baseline=null", "bench=null").resolved()
    again = loaded(tmp_path, text).recipe
    assert (again.baseline, again.bench) == (None, None)
    assert loaded(tmp_path, text).devices == ()


# ------------------------------------------------------------------------------------------------------------ one's own
def test_a_small_recipe_gets_the_defaults_of_the_house(tmp_path: Path) -> None:
    """A baseline, local timing, all formats; a part may be given by its name alone."""
    recipe = loaded(tmp_path).recipe
    assert recipe.method == PartRef(use="supervised")
    assert recipe.baseline is not None
    assert recipe.baseline.method == PartRef(use="supervised")
    assert recipe.bench is not None
    assert [ref.use for ref in recipe.bench.devices] == ["local"]
    assert {ref.use for ref in recipe.formats} == {"json", "markdown", "html", "junit"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: my run", "FILE:1:1: `name`: should match pattern"),
        ("name: small", "name: ../up", "FILE:1:1: `name`: should match pattern"),
        ("name: small", "nmae: small", "FILE: `name` is missing.\nFILE:1:1: unknown key `nmae`. Did you mean name?"),
        ("use: folder", "use: foldr", "FILE:2:1: no source is called 'foldr'. Did you mean folder? Known: "),
        ("use: folder, ", "", "FILE:2:1: `data`: say which part with `use: NAME`; found only train, val."),
        ("train: images", "train: images, trian: x", "FILE:2:36: unknown key `data.trian`. Did you mean train?"),
        ("method: supervised", "method: supervise", "FILE:4:1: no method is called 'supervise'. Did you mean supervised?"),
        ("method: supervised", "method: {use: kd, temperature: hot}", "FILE:4:19: `method.temperature`: should be a number"),
        ("epochs: 1", "epoch: 1", "FILE:6:14: unknown key `train.duration.epoch`. Did you mean epochs?"),
        ("epochs: 1", "epochs: 1, steps: 2", "FILE:6:3: `train.duration`: give exactly one of epochs, steps, images (found"),
        ("{epochs: 1}", "{}", "FILE:6:3: `train.duration`: give exactly one of epochs, steps, images (found none)."),
        ("{epochs: 1}", "{epochs: .inf}", "FILE:6:14: `train.duration.epochs`: should be a finite number (found inf)."),
        ("{epochs: 1}", "{steps: 1.5}", "FILE:6:14: `train.duration.steps`: should be a whole number (found 1.5)."),
        ("{epochs: 1}", "{epochs: 1}\n  lr: 0", "FILE:7:3: `train.lr`: should be greater than 0 (found 0)."),
        ("{epochs: 1}", "{epochs: 1}\n  batch: 1\n  labelled_share: 0.5", "FILE:5:1: `train`: `labelled_share` needs a"),
        ("{epochs: 1}", "{epochs: 1}\n  optimiser: adam", "FILE:7:3: `train.optimiser`: should be 'adamw' or 'sgd'"),
        ("{epochs: 1}", "{epochs: 1}\n  augment: {crop_area: [1, 0.1]}", "FILE:7:13: `train.augment.crop_area`: "),
        (
            "{epochs: 1}",
            "{epochs: 1}\nbudgets:\n  - {metric: size.bytes, max: 3MB, a: 1}",
            "FILE:8:36: unknown key `budgets.0.a`.",
        ),
        ("{epochs: 1}", "{epochs: 1}\nexport: [onnx]", "FILE:7:10: no backend is called 'onnx'. Did you mean onnxruntime?"),
        (
            "{epochs: 1}",
            "{epochs: 1}\nbench: {devices: [lokal]}",
            "FILE:7:19: no device is called 'lokal'. Did you mean local?",
        ),
        ("{epochs: 1}", "{epochs: 1}\nteachers: timm", "FILE:7:1: `teachers`: should be a list, as in [a, b] (found 'timm')."),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_nearest_word(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Before anything starts, for the recipe's own keys and for every part's options."""
    assert old in SMALL
    assert refusal(tmp_path, SMALL.replace(old, new)).startswith(message)


def test_a_baseline_may_train_differently_and_says_how(tmp_path: Path) -> None:
    """Only what is given is changed."""
    given = {"{}": {}, "{lr: 2e-3}": {"lr": 0.002}, "{weight_decay: 0, lr: 1}": {"lr": 1.0, "weight_decay": 0.0}}
    for text, changes in given.items():
        baseline = loaded(tmp_path, SMALL, f"baseline={text}").recipe.baseline
        assert baseline is not None
        assert baseline.changes() == changes


def test_the_same_artifact_twice_is_refused(tmp_path: Path) -> None:
    """Two of one backend and precision would write into one folder."""
    text = SMALL + "export: [onnxruntime, {use: onnxruntime, precision: fp16}, {use: onnxruntime, precision: fp32}]\n"
    assert refusal(tmp_path, text).startswith("FILE:7:60: onnxruntime-fp32 is exported twice (also as export.0)")


def test_a_name_tells_two_artifacts_of_a_kind_apart(tmp_path: Path) -> None:
    """One for floats and one for bytes, in one run; names that are no folder's, and the same name twice, are refused."""
    text = SMALL + "export: [onnxruntime, {use: onnxruntime, inputs: uint8, name: bytes-1.0}]\n"
    assert [backend.artifact_name for backend in loaded(tmp_path, text).backends] == ["onnxruntime-fp32", "bytes-1.0"]
    assert "bytes-1.0 is exported twice" in refusal(tmp_path, text.replace("[onnxruntime", "[{use: openvino, name: bytes-1.0}"))
    for name in ("..", "a/b", "''", "-x", f"{'x' * 65}"):
        assert refusal(tmp_path, text.replace("bytes-1.0", name)).startswith("FILE:7:")


def test_a_broken_third_party_part_is_not_the_askers_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is the machine's, 4."""
    from edgekd.core import parts

    def broken(kind: str, name: str) -> None:
        raise MachineError("broken")

    monkeypatch.setattr(parts, "load", broken)
    with pytest.raises(MachineError):
        loaded(tmp_path).check()


# ----------------------------------------------------------------------------------------------------------- --set, --quick
def test_set_reaches_every_section_and_part(tmp_path: Path) -> None:
    """Numbers as YAML 1.2 reads them, options of a part given by name, and another duration in place of the old one."""
    given = ("train.lr=1e-3", "seed=7", "method=kd", "method.temperature=3", "train.duration.steps=9", "baseline=null")
    recipe = loaded(tmp_path, SMALL, *given).recipe
    assert (recipe.train.lr, recipe.seed, recipe.baseline) == (0.001, 7, None)
    assert recipe.method == PartRef(use="kd", options={"temperature": 3})
    assert recipe.train.duration == Duration(steps=9)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lerning_rate=1", "--set train.lerning_rate: unknown key `train.lerning_rate`. Known here: duration, batch,"),
        ("trian.lr=1", "--set trian.lr: unknown key `trian`. Did you mean train?"),
        ("train.batch=big", "--set train.batch: `train.batch`: should be a whole number (found 'big')."),
        ("data.use=foldr", "--set data.use: no source is called 'foldr'. Did you mean folder?"),
        ("student.modle=x", "--set student.modle: unknown key `student.modle`. Did you mean model?"),
        ("seed", "--set 'seed': expected KEY=VALUE"),
    ],
)
def test_a_wrong_set_names_the_option(tmp_path: Path, assignment: str, message: str) -> None:
    """Not a line of the file that has nothing to do with it."""
    assert refusal(tmp_path, SMALL, assignment).startswith(message)


def test_quick_lays_its_section_over_the_rest_and_set_over_both(tmp_path: Path) -> None:
    """Without --quick the section is ignored."""
    text = SMALL + "seed: 3\nquick: {name: small-quick, train: {duration: {steps: 2}, batch: 4}}\n"
    full, quick = loaded(tmp_path, text).recipe, loaded(tmp_path, text, "train.batch=8", quick=True).recipe
    assert (full.name, full.train.duration.epochs, full.train.batch) == ("small", 1.0, 64)
    assert (quick.name, quick.train.duration, quick.train.batch, quick.seed) == ("small-quick", Duration(steps=2), 8, 3)


def test_quick_without_such_a_section_is_refused(tmp_path: Path) -> None:
    """It would otherwise run for hours while the user expects minutes."""
    assert refusal(tmp_path, quick=True).startswith("FILE: has no `quick:` section")


def test_a_mistake_in_the_quick_section_has_its_own_line(tmp_path: Path) -> None:
    """The line below `quick:`, not the one that it stands for."""
    text = SMALL + "quick:\n  train:\n    batch: 0\n"
    assert refusal(tmp_path, text, quick=True).startswith("FILE:9:5: `train.batch`: should be greater than or equal to 1")


# ------------------------------------------------------------------------------------------------------------- durations
@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (Duration(steps=7), 7),
        (Duration(images=640), 10),
        (Duration(epochs=2), 31),
        (Duration(epochs=0.5), 8),
        (Duration(images=1), 1),
        (Duration(epochs=1e-6), 1),
    ],
)
def test_a_duration_in_any_unit_is_a_number_of_steps(duration: Duration, steps: int) -> None:
    """By hand: 64 images a step, 1000 an epoch; 2000/64 = 31.25, 500/64 = 7.8, and never less than one."""
    assert duration.in_steps(batch=64, images_per_epoch=1000) == steps


@pytest.mark.parametrize("given", [{}, {"epochs": 1, "steps": 1}, {"steps": 1, "images": 1}, {"epochs": 0}, {"images": -1}])
def test_a_duration_has_exactly_one_positive_unit(given: dict[str, float]) -> None:
    """None, two, zero and less are refused."""
    with pytest.raises(ValidationError):
        Duration(**given)


# ------------------------------------------------------------------------------------------------------ starts and caches
@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{}", "FILE:7:1: `start`: give exactly one of `checkpoint` (a checkpoint.json) and `duration`"),
        ("{checkpoint: c.json, duration: {steps: 1}}", "FILE:7:1: `start`: give exactly one of `checkpoint`"),
        ("{duration: {steps: 1}, head: fresh}", "FILE:7:1: `start`: `head: fresh` needs `checkpoint`"),
        ("{duration: {steps: 1}, method: kdd}", "FILE:7:31: no method is called 'kdd'. Did you mean kd"),
        ("{duration: {steps: 1}, labelled_share: 1}", "FILE:7:31: `start.labelled_share`: should be less than 1"),
    ],
)
def test_a_start_goes_one_way(tmp_path: Path, start: str, message: str) -> None:
    """Trained first, or taken over; both, neither and an unknown method are told with their line."""
    assert refusal(tmp_path, SMALL + f"start: {start}\n").startswith(message)


def test_a_start_trains_like_the_student_but_for_what_it_says(tmp_path: Path) -> None:
    """What is given replaces `train`'s; the rest, and a method by default, are the recipe's and the house's."""
    recipe = loaded(tmp_path, SMALL + "start: {duration: {steps: 5}, lr: 3e-3}\n").recipe
    assert recipe.start is not None
    assert recipe.start.method == PartRef(use="supervised")
    changed = recipe.train.model_copy(update=recipe.start.changes())
    assert changed == recipe.train.model_copy(update={"duration": Duration(steps=5), "lr": 3e-3})


def test_a_recipe_with_a_start_written_out_in_full_is_the_same(tmp_path: Path) -> None:
    """The method with its options, the checkpoint by a path that holds from anywhere, the cache with its folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for start in ("{duration: {epochs: 2}, method: {use: kd, temperature: 3}}", "{checkpoint: old/checkpoint.json}"):
        first = loaded(tmp_path, SMALL + f"start: {start}\ncache: {{views: 3, folder: kept}}\n")
        again = loaded(elsewhere, first.resolved())
        assert again.resolved() == first.resolved()
        assert again.start_method == first.start_method
        assert again.recipe.start is not None
        if again.recipe.start.checkpoint is not None:
            assert again.recipe.start.checkpoint == tmp_path / "old/checkpoint.json"
        assert again.recipe.cache.folder == tmp_path / "kept"


@pytest.mark.parametrize(
    ("views", "epochs", "settled"), [(None, 0.3, 1), (None, 3.0, 3), (None, 3.1, 4), (None, 80, 8), (0, 80, 0), (20, 2, 20)]
)
def test_as_many_views_as_epochs_but_at_most_eight(views: int | None, epochs: float, settled: int) -> None:
    """A number that is given stays, also 0; nothing else changes."""
    cache = Cache(views=views, seed=4, dtype="bf16")
    assert cache.settled(epochs=epochs) == Cache(views=settled, seed=4, dtype="bf16")


def test_a_small_recipe_keeps_answers(tmp_path: Path) -> None:
    """Without a word the teachers' answers are kept, in fp16, in edgekd's own folder."""
    assert loaded(tmp_path).recipe.cache == Cache(views=None, seed=0, dtype="fp16", folder=None)
    assert refusal(tmp_path, SMALL + "cache: {views: -1}\n").startswith("FILE:7:9: `cache.views`: should be greater than or")
    assert refusal(tmp_path, SMALL + "cache: {dtype: fp8}\n").startswith("FILE:7:9: `cache.dtype`: should be 'fp16' or 'bf16'")


@hypothesis.given(st.tuples(st.floats(), st.floats()))
def test_the_area_of_a_crop_is_a_range_of_shares(area: tuple[float, float]) -> None:
    """Both above 0 and at most 1, the smaller first; anything else is refused."""
    if 0 < area[0] <= area[1] <= 1:
        assert Augment(crop_area=area).crop_area == area
    else:
        with pytest.raises(ValidationError):
            Augment(crop_area=area)


# ----------------------------------------------------------------------------------------------------- budgets and digests
def test_the_digest_of_a_section_changes_with_any_of_its_values(tmp_path: Path) -> None:
    """And only with them: the same section read from elsewhere has the same digest."""
    train = loaded(tmp_path).recipe.train
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert digest_of_section(train, 1) == digest_of_section(loaded(elsewhere).recipe.train, 1)
    changes = ("train.lr=2e-3", "train.augment.flip=0", "train.duration.steps=1", "train.ema=0.5")
    digests = {digest_of_section(loaded(tmp_path, SMALL, change).recipe.train, 1) for change in changes}
    assert len(digests | {digest_of_section(train, 1), digest_of_section(train, 2)}) == len(changes) + 2

"""`edgekd search`: from a recipe to a recipe, through the real runtime, on drawn pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core import ranks
from edgekd.core.records import Candidates
from edgekd.core.store import read_record
from edgekd.recipe import load_recipe

Call = Callable[..., tuple[int, str, str]]

SEARCH = """\
search:
  space: {use: mobile, sizes: [32], widths: [0.25], activations: [relu], kernels: [3], expansions: [1, 2, 3], depths: [1, 2],
    squeezed: [false]}
  evaluations: 6
  population: 4
  sample: 2
  top: 1
  scorers: [relation_similarity, {use: affinity, grid: 2, weight: 0}]
  images: 6
  probe_images: 16
  initialisations: 1
  latency: {device: null, networks: 20, iterations: 5, finalists: 1, max_ms: 1000.0}
  compare: []
  workers: 1
"""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "DRAWS", 10)


def test_a_search_leaves_a_recipe_that_trains_what_it_found(experiment: Path, edgekd: Call, tmp_path: Path) -> None:
    """search.json, its page and winner.yaml; a second search does nothing; show and verify know the folder."""
    experiment.write_text(experiment.read_text() + SEARCH)
    out = tmp_path / "out"
    code, said, told = edgekd("search", str(experiment), "--out", str(out))
    assert code == 0, told
    found = read_record(Candidates, out / "search.json")
    winner = found.candidates[found.winner]
    assert winner.genome in said
    assert winner.measured is not None
    assert winner.estimate is not None
    page = (out / "search.html").read_text()
    assert winner.genome in page
    assert "an estimate" in page or "measured" in page
    recipe = load_recipe(out / "winner.yaml")
    recipe.check()
    assert recipe.recipe.search is None
    assert recipe.recipe.student.use == "mobile"
    assert recipe.recipe.student.options["genome"] == winner.genome
    code, _, told = edgekd("search", str(experiment), "--out", str(out))
    assert (code, "search: kept" in told) == (0, True)
    assert "ok  search.json" in edgekd("verify", str(out))[1]
    (out / "search" / "latency_table.json").write_text((out / "search" / "latency_table.json").read_text() + " ")
    assert edgekd("verify", str(out))[0] == 5
    assert winner.genome in edgekd("show", str(out / "search.json"))[1]
    assert "20 whole networks" in edgekd("show", str(out / "search" / "latency_table.json"))[1]


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ("search:\n", "serach:\n", 2, "Did you mean search?"),
        ("use: mobile", "use: mobil", 2, "Did you mean mobile?"),
        ("sizes: [32]", "sizes: [33]", 2, "search.space"),
        ("sizes: [32]", "sizes: [32, 32]", 2, "each value once"),
        ("relation_similarity,", "relation,", 2, "Did you mean relation_similarity"),
        ("relation_similarity,", "{use: relation_similarity, weight: 0},", 2, "every scorer has weight 0"),
        ("networks: 20", "networks: 19", 2, "greater than or equal to 20"),
        ("sample: 2", "sample: 5", 2, "`sample` (5) is drawn from the `population` (4)"),
        ("latency: {", "latency: {backend: {use: onnxruntime, precision: int8}, ", 2, "untrained students have no int8 form"),
        (
            "teachers:\n  - {use: timm, model: test_vit, weights: random, size: 32}\n",
            "",
            2,
            "compares with a teacher",
        ),
        ("method: {use: kd, temperature: 2.0}", "method: supervised", 0, ""),
    ],
)
def test_a_mistake_is_told_before_anything_is_timed(
    experiment: Path, edgekd: Call, monkeypatch: pytest.MonkeyPatch, old: str, new: str, code: int, message: str
) -> None:
    """With its line where it has one; a recipe without mistakes reaches the stage."""
    from edgekd.searching import stage

    class Reached(BaseException):
        pass

    def search(job: object, console: object) -> None:
        raise Reached

    monkeypatch.setattr(stage, "search", search)
    text = experiment.read_text() + SEARCH
    assert old in text
    experiment.write_text(text.replace(old, new))
    arguments = ["search", str(experiment), "--out", str(experiment.parent / "out")]
    if "teachers" in old:
        arguments += ["--set", "method=supervised"]
    if code == 0:
        with pytest.raises(Reached):
            edgekd(*arguments)
        return
    found, _, told = edgekd(*arguments)
    assert found == code
    assert message in told


def test_a_recipe_without_a_search_says_what_to_add(experiment: Path, edgekd: Call) -> None:
    """And touches nothing."""
    code, _, told = edgekd("search", str(experiment))
    assert code == 2
    assert "has no `search` section" in told
    assert not (experiment.parent / "runs").exists()

"""Students that learn together: each has its own run folder below the run, is exported, measured and judged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.errors import UsageError
from edgekd.core.records import Artifact, Checkpoint, Report, Verdict
from edgekd.core.store import RunFolder, read_record
from edgekd.recipe import load_recipe

Call = Callable[..., tuple[int, str, str]]
PEERS = "peers:\n  wide: {use: timm, model: test_resnet, weights: random, size: 32}\n"
MUTUAL = ("method: {use: kd, temperature: 2.0}", "method: {use: mutual, teacher_weight: 0.5}\n" + PEERS.rstrip())
ONE = ("method: {use: kd, temperature: 2.0}", "method: {use: one, branches: 2, teacher_weight: 1.0}")


def recipe_of(text: str, change: tuple[str, str]) -> str:
    for old, new in (
        ("duration: {images: 32}", "duration: {images: 16}"),
        ("onnxruntime, precision: fp32", "onnxruntime, precision: fp32, opset: 17"),  # traced in half the time
        ("bench: {profile: quick, rounds: 1, warmup: 2, iterations: 12, images: 4}", "bench: null"),
        change,
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def together(experiment: Path, finished_by: Callable[[str], Path]) -> Path:
    """Return a folder with the recipe and the finished run of two students, to be spoiled at will."""
    return finished_by(recipe_of(experiment.read_text(), MUTUAL))


def test_every_peer_is_a_run_that_was_exported_and_judged(together: Path) -> None:
    """Its folder holds what any run holds, about its own student, and the verdict of the run counts it."""
    run = RunFolder(together / "run")
    peer = run.peer("wide")
    first, other = (read_record(Checkpoint, folder.checkpoint()) for folder in (run, peer))
    assert (first.student_name, other.student_name) == ("test_efficientnet", "test_resnet")
    assert first.method == other.method
    assert first.method.use == "mutual"
    assert first.training.images_seen == other.training.images_seen == 16
    assert [teacher.name for teacher in other.teachers] == ["test_vit"]
    assert read_record(Checkpoint, peer.checkpoint("baseline")).student_name == "test_resnet"
    artifact = read_record(Artifact, peer.artifact("onnxruntime-fp32"))
    assert artifact.from_["checkpoint"] == other.digest()
    assert artifact.parity is not None
    assert artifact.parity.top1_agreements == artifact.parity.images
    assert read_record(Report, peer.report).student == other
    own, of_peer = read_record(Verdict, run.verdict), read_record(Verdict, peer.verdict)
    assert own.from_["peers/wide"] == of_peer.digest()
    assert [(f.subject, f.outcome) for f in own.findings if f.budget == "peer"] == [("peer wide", of_peer.outcome)]


def test_each_history_shows_its_own_students_accuracy(together: Path) -> None:
    """The last point of a curve is what the checkpoint says of the same student, and parts of the loss have names."""
    run = RunFolder(together / "run")
    lines = {}
    for folder in (run, run.peer("wide")):
        last = json.loads((folder.checkpoint().parent / "history.jsonl").read_text().splitlines()[-1])
        assert last["top1"] == pytest.approx(read_record(Checkpoint, folder.checkpoint()).accuracy.top1)
        lines[folder.root.name] = last
    assert {"ce", "ce wide", "mutual", "mutual wide", "kd", "top1 wide"} <= set(lines["run"])
    assert "top1 wide" not in lines["wide"]


def test_a_second_run_does_nothing_and_a_lost_peer_is_made_again(together: Path, edgekd: Call) -> None:
    """What is done is kept; without one of the checkpoints the students learn together again, and end alike."""
    run = RunFolder(together / "run")
    code, _, err = edgekd("run", together / "recipe.yaml", "--out", run.root)
    assert code == 0
    assert "nothing to do" in err
    before = read_record(Checkpoint, run.peer("wide").checkpoint())
    shutil.rmtree(run.peer("wide").checkpoint().parent)
    code, _, err = edgekd("distill", together / "recipe.yaml", "--out", run.root)
    assert code == 0
    assert read_record(Checkpoint, run.peer("wide").checkpoint()).weights == before.weights


def test_a_peers_folder_takes_every_command_of_a_run(together: Path, edgekd: Call) -> None:
    """`report` and `gate` work on it; training it alone is refused with the reason."""
    peer = together / "run" / "peers" / "wide"
    assert edgekd("report", peer)[0] == 0
    assert edgekd("gate", peer)[0] == 0
    code, out, _ = edgekd("verify", together / "run")
    assert code == 0
    assert "ok  peers/wide/checkpoint/checkpoint.json" in out
    code, _, err = edgekd("distill", peer / "recipe.yaml", "--out", together / "alone")
    assert code == 2
    assert "method mutual needs at least 1 peer" in err


def test_a_failing_peer_fails_the_run(together: Path, edgekd: Call) -> None:
    """The budgets hold for every student: where only the peer is too large, the verdict is not a pass."""
    run = RunFolder(together / "run")
    sizes = [read_record(Artifact, f.artifact("onnxruntime-fp32")).size_bytes for f in (run, run.peer("wide"))]
    budgets = together / "budgets.yaml"
    budgets.write_text(f"version: 1\nbudgets: [{{metric: size.bytes, max: {(sizes[0] + sizes[1]) // 2000}kB}}]\n")
    code, _, _ = edgekd("gate", run.root, "--budgets", budgets)
    verdicts = [read_record(Verdict, folder.verdict) for folder in (run, run.peer("wide"))]
    assert code == 1
    assert sizes[0] < sizes[1]
    assert [verdict.outcome for verdict in verdicts] == ["fail", "fail"]
    assert [(f.budget, f.outcome) for f in verdicts[0].findings] == [("size", "pass"), ("peer", "fail")]


def test_a_peer_that_the_recipe_dropped_is_removed(together: Path, edgekd: Call) -> None:
    """A report never mixes two recipes: with another name for the peer the old folder goes."""
    text = (together / "recipe.yaml").read_text()
    (together / "recipe.yaml").write_text(text.replace("  wide:", "  other:"))
    assert edgekd("distill", together / "recipe.yaml", "--out", together / "run", "--set", "baseline=null")[0] == 0
    assert [path.name for path in (together / "run" / "peers").iterdir()] == ["other"]


def test_every_branch_of_one_is_a_student(finished: Path, tmp_path: Path, edgekd: Call) -> None:
    """Two branches give two exportable students that share their stem and differ in their heads."""
    from safetensors.numpy import load_file

    (finished / "recipe.yaml").write_text(recipe_of((finished / "recipe.yaml").read_text(), ONE))
    code, _, err = edgekd("run", finished / "recipe.yaml", "--out", tmp_path / "one", "--set", "baseline=null")
    assert code == 0, err
    run = RunFolder(tmp_path / "one")
    one, two = (load_file(f.checkpoint().with_name("student.safetensors")) for f in (run, run.peer("branch_2")))
    assert (one["conv_stem.weight"] == two["conv_stem.weight"]).all()
    assert (one["classifier.weight"] != two["classifier.weight"]).any()
    assert read_record(Artifact, run.peer("branch_2").artifact("onnxruntime-fp32")).parity is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("{use: mutual, teacher_weight: 0.5}", "supervised"), r"recipe.yaml:\d+:\d+: method supervised has one student"),
        ((", teacher_weight: 0.5", ""), r"recipe.yaml:\d+:\d+: method mutual with `teacher_weight: 0` listens to no teacher"),
        (("method:", "finetune: int8\nmethod:"), r"recipe.yaml:\d+:\d+: students that learnt together"),
    ],
)
def test_recipes_that_do_not_fit_are_refused_with_their_line(experiment: Path, change: tuple[str, str], says: str) -> None:
    """Peers without a method for them, teachers that nobody would hear, or something that peers cannot have."""
    experiment.write_text(recipe_of(experiment.read_text(), MUTUAL).replace(*change, 1))
    with pytest.raises(UsageError, match=says):
        load_recipe(experiment).check()

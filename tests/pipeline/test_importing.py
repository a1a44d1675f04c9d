"""A classifier from elsewhere, from its file to a verdict."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.records import Artifact, Checkpoint
from edgekd.core.store import read_record

Call = Callable[..., tuple[int, str, str]]
CONTRACT = "resize: 18\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a classifier of four classes over 16 x 16 images, its weights in a file beside it."""
    random = np.random.default_rng(0)
    kernel = numpy_helper.from_array(random.normal(size=(6, 3, 3, 3)).astype(np.float32), "kernel")
    head = numpy_helper.from_array(random.normal(size=(6, 4)).astype(np.float32), "head")
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["map"]),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    fed = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 16, 16])
    answer = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [fed], [answer], [kernel, head])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, tmp_path / "foreign.onnx", save_as_external_data=True, location="foreign.data", size_threshold=0)
    (tmp_path / "classes.tsv").write_text("a\tdisc\nb\tnothing\nc\tbars\nd\tplain\n")
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    return tmp_path / "foreign.onnx"


def options(folder: Path) -> list[object]:
    return ["--data", folder / "images", "--classes", folder / "classes.tsv", "--contract", folder / "contract.yaml"]


FAST = ("bench.profile=quick", "bench.rounds=2", "bench.warmup=2", "bench.iterations=40", "bench.images=4", "bench.threads=1")


@pytest.fixture
def images(experiment: Path) -> Path:
    return experiment.parent / "images"


@pytest.mark.usefixtures("images")
def test_a_foreign_model_goes_the_whole_way(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """Imported, exported to two runtimes, measured, reported and judged; every digest holds."""
    run = tmp_path / "run"
    sets = [word for value in (*FAST, "export=[onnxruntime, openvino]") for word in ("--set", value)]
    code, out, err = edgekd("import-onnx", model, *options(tmp_path), "--out", run, "--licence", "MIT", *sets)
    assert (code, err.count("assumed")) == (0, 0)
    assert "method imported" in out
    assert "not trained here" in out
    came = read_record(Checkpoint, run / "checkpoint" / "checkpoint.json")
    assert (came.parameters, came.licence, came.classes) == (6 * 27 + 24, "MIT", ("disc", "nothing", "bars", "plain"))
    assert (came.training.steps, came.teachers, came.accuracy.images) == (0, (), 12)
    assert came.student.options["input"] == "pixels"

    assert edgekd("export", run)[0] == 0
    for name in ("onnxruntime-fp32", "openvino-fp32"):
        artifact = read_record(Artifact, run / "artifacts" / name / "artifact.json")
        assert artifact.parity.top1_agreements == 12
        assert artifact.parity.max_abs < 1e-3
        assert artifact.accuracy.top1_correct == came.accuracy.top1_correct
        assert artifact.licences == {"student foreign": "MIT"}
    assert edgekd("bench", run)[0] == 0
    assert edgekd("report", run)[0] == 0
    assert "foreign" in (run / "report.html").read_text()
    (tmp_path / "budgets.yaml").write_text(
        "version: 1\nbudgets: [{metric: size.bytes, max: 1MB}, {metric: parity.top1_agreement, min_counted: 70%}]\n"
    )
    assert edgekd("gate", run, "--budgets", tmp_path / "budgets.yaml")[0] == 0
    assert edgekd("verify", run)[0] == 0


@pytest.mark.usefixtures("images")
def test_an_imported_model_is_measured_in_turns_with_an_earlier_one(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """Its bench section can be changed like any run's, and `--against` adds the other run's artifacts as arms."""
    sets = [word for value in (*FAST, "export=[onnxruntime]") for word in ("--set", value)]
    for name in ("earlier", "run"):
        code, _, err = edgekd("import-onnx", model, *options(tmp_path), "--out", tmp_path / name, *sets)
        assert code == 0, err
        code, _, err = edgekd("export", tmp_path / name)
        assert code == 0, err
    code, _, err = edgekd("bench", tmp_path / "run", "--against", tmp_path / "earlier", "--set", "bench.rounds=1")
    assert code == 0, err
    found = {path.name for path in (tmp_path / "run/measurements").glob("*.json")}
    assert found == {"onnxruntime-fp32@local.json", "onnxruntime-fp32@local.baseline.json"}


@pytest.mark.usefixtures("images")
def test_a_second_import_does_nothing_and_another_contract_does(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """As with every stage."""
    run = tmp_path / "run"
    assert edgekd("import-onnx", model, *options(tmp_path), "--out", run)[0] == 0
    before = (run / "checkpoint" / "checkpoint.json").read_bytes()
    assert "kept" in edgekd("import-onnx", model, *options(tmp_path), "--out", run)[2]
    assert (run / "checkpoint" / "checkpoint.json").read_bytes() == before
    (tmp_path / "contract.yaml").write_text(CONTRACT.replace("18", "20"))
    assert edgekd("import-onnx", model, *options(tmp_path), "--out", run)[0] == 0
    assert (run / "checkpoint" / "checkpoint.json").read_bytes() != before


@pytest.mark.usefixtures("images")
def test_a_model_can_be_measured_in_one_command(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """`edgekd bench MODEL.onnx` imports and exports it first; what it had to assume it says."""
    sets = [word for value in FAST for word in ("--set", value)]
    arguments = ["--data", tmp_path / "images", "--classes", tmp_path / "classes.tsv", "--out", tmp_path / "run"]
    code, out, err = edgekd("bench", model, *arguments, *sets)
    assert code == 0
    assert "p50 of each process" in out
    assert "assumed: RGB in [0, 1] less the mean" in err
    assert "assumed: resize 18 px on the short side" in err
    assert edgekd("export", model, *arguments, *sets)[0] == 0


def broken(change: str, model: Path) -> list[object]:
    folder = model.parent
    if change == "few classes":
        (folder / "classes.tsv").write_text("disc\nbars\nplain\n")
    if change == "no such class":
        (folder / "classes.tsv").write_text("disk\nbars\nplain\nx\n")
    if change == "unknown key":
        (folder / "contract.yaml").write_text("resise: 18\n")
    if change == "no images":
        return ["--classes", folder / "classes.tsv"]
    if change == "folders are not the outputs":
        return ["--data", folder / "images"]
    return options(folder)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("few classes", "answers with 4 classes, and the images have 3"),
        ("no such class", "none of its lines is called"),
        ("unknown key", "unknown key `resise`. Did you mean resize"),
        ("no images", "give the images by --data DIR or by --recipe FILE"),
        ("folders are not the outputs", "--classes FILE"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change: str, said: str, model: Path, edgekd: Call, tmp_path: Path) -> None:
    """With the way to mend it, before anything is measured."""
    code, _, err = edgekd("import-onnx", model, *broken(change, model), "--out", tmp_path / "run")
    assert code == 2
    assert said in err
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.usefixtures("images")
def test_an_imported_model_is_never_trained(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """Nor run without being imported; the messages lead on."""
    assert edgekd("import-onnx", model, *options(tmp_path), "--out", tmp_path / "run")[0] == 0
    for command in (["run", tmp_path / "run" / "recipe.yaml"], ["finetune", tmp_path / "run"], ["backbone", tmp_path / "run"]):
        code, _, err = edgekd(*command, "--out", tmp_path / "other")
        assert (code, "imported ONNX model" in err) == (2, True)
    code, _, err = edgekd("report", model)
    assert (code, "edgekd import-onnx" in err) == (2, True)
    assert edgekd("bench", tmp_path / "run", "--data", tmp_path)[0] == 2


@pytest.mark.usefixtures("images")
def test_a_file_that_was_changed_after_the_import_is_refused(model: Path, edgekd: Call, tmp_path: Path) -> None:
    """By its digest; and where the record was changed with it, by reading it again."""
    run = tmp_path / "run"
    assert edgekd("import-onnx", model, *options(tmp_path), "--out", run)[0] == 0
    kept = run / "checkpoint" / "model.onnx"
    hostile: Any = onnx.load(kept)
    hostile.graph.node[1].domain = "evil"
    kept.write_bytes(hostile.SerializeToString())
    assert edgekd("export", run)[0] == 5
    path = run / "checkpoint" / "checkpoint.json"
    record = Checkpoint.from_json(path.read_bytes())
    from edgekd.core.store import file_ref

    forged = record.model_copy(update={"weights": file_ref(kept, folder=kept.parent)})
    path.write_text(forged.to_json())
    code, _, err = edgekd("export", run)
    assert (code, "domain 'evil'" in err) == (5, True)
    assert json.loads(path.read_text())["weights"]["sha256"] == forged.weights.sha256

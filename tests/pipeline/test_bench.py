"""`edgekd bench` of a finished run: in turns with another run, from a model file alone, and every figure computed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.benching.reference import FILE, reference_model
from edgekd.core.records import Measurement, Report
from edgekd.core.store import read_record

Call = Callable[..., tuple[int, str, str]]
MEASURED = "onnxruntime-fp32@local"


def test_every_figure_of_a_report_is_computed_again(finished: Path, edgekd: Call) -> None:
    """`report --recompute` writes nothing and says how many measurements it checked; a changed sample is told."""
    run = finished / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    code, _, err = edgekd("report", run, "--recompute")
    assert (code, "every figure of 1 measurements is the same to the last bit" in err) == (0, True), err
    assert {path: path.read_bytes() for path in before} == before
    samples = run / "measurements" / f"{MEASURED}.npz"
    samples.write_bytes(samples.read_bytes()[:-1] + b"x")
    code, _, err = edgekd("report", run, "--recompute")
    assert (code, "its bytes are not those" in err) == (5, True)


def test_a_run_is_measured_in_turns_with_another(finished: Path, edgekd: Call) -> None:
    """`bench --against` leaves both arms of one session, the report holds both, and `compare` pairs them round by round."""
    run, earlier = finished / "run", finished / "earlier"
    shutil.copytree(run, earlier)
    sets = ["--set", "bench.rounds=3", "--set", "bench.iterations=40"]
    code, _, err = edgekd("bench", run, "--against", earlier, *sets)
    assert code == 0, err
    folder = run / "measurements"
    own, beside = (read_record(Measurement, folder / f"{MEASURED}{arm}.json") for arm in ("", ".baseline"))
    assert own.session == beside.session
    assert (own.arm, beside.arm, own.counts) == ("candidate", "baseline", beside.counts)
    places = [[(worker.round, worker.position) for worker in one.workers] for one in (own, beside)]
    assert [one + other for (_, one), (_, other) in zip(*places, strict=True)] == [1, 1, 1]
    assert edgekd("report", run, "--quiet")[0] == 0
    assert [summary.arm for summary in read_record(Report, run / "report.json").latencies] == ["candidate", "baseline"]
    code, out, _ = edgekd("compare", earlier, run)
    row = next(line for line in out.splitlines() if line.startswith("onnxruntime-fp32 p50"))
    assert code == 0
    assert "3 pairs" in row or "is not trusted" in row, "a busy machine may make the measurement unsteady"
    code, _, err = edgekd("bench", run)
    assert (code, f"{MEASURED}: kept" in err) == (0, True)
    assert edgekd("verify", run)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "elsewhere"], "has none of the artifacts onnxruntime-fp32"),
        (["--set", "train.lr=1"], "only keys of `bench` can be changed here"),
        (["--set", "bench.profile=slow"], "bench.profile"),
    ],
)
def test_what_cannot_be_measured_is_said(finished: Path, edgekd: Call, arguments: list[str], said: str) -> None:
    """Another run without artifacts, another section than bench, a profile that is none; nothing is lost."""
    (finished / "elsewhere").mkdir()
    asked = [str(finished / one) if one == "elsewhere" else one for one in arguments]
    before = (finished / "run/measurements" / f"{MEASURED}.json").read_bytes()
    code, _, err = edgekd("bench", finished / "run", *asked)
    assert (code, said in err) == (2, True), err
    assert (finished / "run/measurements" / f"{MEASURED}.json").read_bytes() == before


def test_a_model_file_alone_is_measured(tmp_path: Path, edgekd: Call) -> None:
    """`edgekd bench MODEL.onnx` without images uses made-up ones, and says so; no budget believes them."""
    model = tmp_path / FILE
    model.write_bytes(reference_model())
    sets = ["profile=quick", "rounds=2", "warmup=2", "iterations=40", "threads=1"]
    words = [word for value in sets for word in ("--set", value)]
    code, out, err = edgekd("bench", model, "--out", tmp_path / "out", "--json", *words)
    assert code == 0, err
    told = json.loads(out)
    assert (told["synthetic_input"], told["trusted"], told["runtime"].split()[0]) == (True, False, "onnxruntime")
    assert (tmp_path / "out/reference@local.json").is_file()
    assert (tmp_path / "out/reference@local.npz").is_file()


@pytest.mark.parametrize("name", ["model.xml", "model.onnx"])
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, edgekd: Call, name: str) -> None:
    """The asker's mistake, and no folder is made."""
    code, _, err = edgekd("bench", tmp_path / name, "--out", tmp_path / "out")
    assert (code, err.count("error:")) == (2, 1)
    assert not (tmp_path / "out").exists()

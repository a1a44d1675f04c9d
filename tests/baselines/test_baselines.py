"""Runs kept as baselines: in a folder, by file:// and in fsspec's memory; nothing but what was kept ever comes out again."""

import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd import baselines
from edgekd.baselines import keeping
from edgekd.baselines.places import place_of
from edgekd.baselines.records import KeptRun
from edgekd.core.console import silent
from edgekd.core.errors import EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.records import FileRef, MadeBy, Report
from edgekd.core.store import RunFolder, read_record

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def run(finished_run: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a judged run; tests leave it as it is."""
    return finished_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["folder", "file://", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an empty store of each kind."""
    if request.param == "memory://":
        return f"memory://{uuid.uuid4().hex}/store"
    return f"{'file://' if request.param == 'file://' else ''}{tmp_path / 'a store'}"


def keep(run: Path, store: str, *, name: str = "main", models: bool = False, at: str = "") -> baselines.Entry:
    return baselines.keep(run, store, name=name, models=models, made_by=MadeBy(version="1", at=at), console=silent())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_kept_comes_back_byte_by_byte(run: Path, store: str) -> None:
    """Records, predictions, report, verdict and recipe; weights, history and models are left out."""
    entry = keep(run, store)
    folder = baselines.resolve("main", store)
    back, there = files(folder), files(run)
    assert back == {name: there[name] for name in back}
    assert set(there) - set(back) == {
        *(f"{name}/{file}" for name in ("checkpoint", "baseline") for file in ("student.safetensors", "history.jsonl")),
        "artifacts/onnxruntime-fp32/model.onnx",
    }
    assert "measurements/onnxruntime-fp32@local.json" in back
    assert "artifacts/onnxruntime-fp32/predictions.csv" in back
    assert read_record(Report, RunFolder(folder).report).digest() == entry.run.report


def test_with_models_the_models_come_along(run: Path, store: str) -> None:
    """So that a bench can time the baseline beside the candidate."""
    keep(run, store, models=True)
    model = "artifacts/onnxruntime-fp32/model.onnx"
    assert (baselines.resolve("main", store) / model).read_bytes() == (run / model).read_bytes()


def test_the_students_that_learnt_together_come_along(finished_run: Make, tmp_path: Path, store: str) -> None:
    """A gate judges each against its own baseline."""
    run = finished_run(tmp_path / "run")
    peer = finished_run(run / "peers" / "second", correct=20)
    keep(run, store)
    back, there = files(baselines.resolve("main", store) / "peers" / "second"), files(peer)
    assert {"report.json", "checkpoint/predictions.csv", "edgekd.json"} <= set(back)
    assert back == {name: there[name] for name in back}


def test_evidence_that_was_changed_is_not_kept(finished_run: Make, tmp_path: Path) -> None:
    """Also of files that no other check reads."""
    run = finished_run(tmp_path / "run")
    (run / "artifacts" / "onnxruntime-fp32" / "predictions.csv").write_text("image\n")
    with pytest.raises(IntegrityError, match=r"predictions\.csv"):
        keep(run, str(tmp_path / "store"))


def test_keeping_the_same_run_again_changes_nothing(run: Path, tmp_path: Path) -> None:
    """Content decides, not the time."""
    store = str(tmp_path / "store")
    keep(run, store, at="2026-01-01")
    before = files(Path(store))
    keep(run, store, at="2026-01-02")
    assert files(Path(store)) == before


def test_a_name_goes_on_to_another_run_and_knows_the_one_before(
    run: Path, store: str, finished_run: Make, tmp_path: Path
) -> None:
    """What the name stood for before is still found by its sha256."""
    first = keep(run, store)
    other = finished_run(tmp_path / "other", correct=20)
    second = keep(other, store)
    assert (second.before, first.before) == (first.sha256, "")
    now, earlier = baselines.resolve("main", store), baselines.resolve(first.sha256, store)
    assert [read_record(Report, RunFolder(one).report).student.accuracy.top1_correct for one in (now, earlier)] == [20, 30]


def test_names_are_listed(run: Path, store: str) -> None:
    """Sorted; an empty store lists none."""
    assert baselines.entries(store) == []
    for name in ("release-1", "main"):
        keep(run, store, name=name)
    assert [entry.name for entry in baselines.entries(store)] == ["main", "release-1"]
    assert baselines.shown("release-1", store).run.recipe == "quickstart"


def test_a_run_folder_is_its_own_baseline(run: Path) -> None:
    """Without any store."""
    assert baselines.resolve(str(run)) == run


def test_what_is_in_the_cache_is_not_fetched_again_and_what_was_changed_there_is(run: Path, tmp_path: Path) -> None:
    """The store may forget the files; a changed copy is never used."""
    store = tmp_path / "store"
    entry = keep(run, str(store))
    folder = baselines.resolve("main", str(store))
    report = store / keeping._object(next(ref.sha256 for ref in entry.run.files if ref.path == "report.json"))
    kept = report.read_bytes()
    report.unlink()
    assert baselines.resolve("main", str(store)) == folder
    (folder / "report.json").write_text("{}")
    with pytest.raises(IntegrityError, match="is missing from the store"):
        baselines.resolve("main", str(store))
    report.write_bytes(kept)
    assert (baselines.resolve("main", str(store)) / "report.json").read_bytes() == kept


# -------------------------------------------------------------------------------------------------------------- tampering
def test_no_changed_object_ever_comes_out(run: Path, tmp_path: Path) -> None:
    """A flipped byte, a cut, a longer file: each object in turn is refused with exit code 5."""
    store = tmp_path / "store"
    entry = keep(run, str(store))
    objects = [path for path in (store / "objects").rglob("*") if path.is_file()]
    assert len(objects) == len({ref.sha256 for ref in entry.run.files}) + 1
    for path in objects:
        sound = path.read_bytes()
        for changed in (bytes([sound[0] ^ 1]) + sound[1:], sound[:-1], sound + b" "):
            path.write_bytes(changed)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            with pytest.raises(IntegrityError):
                baselines.resolve("main", str(store))
        path.write_bytes(sound)
    baselines.resolve("main", str(store))


def test_a_changed_name_is_refused(run: Path, tmp_path: Path) -> None:
    """Another run, another name, another form."""
    store = tmp_path / "store"
    keep(run, str(store))
    path = store / "names" / "main.json"
    sound = path.read_text()
    kept = json.loads(sound)["kept"]
    for changed in (sound.replace(kept, "0" * 64), sound.replace('"main"', '"other"'), "{}", "", "[" * 100_000):
        path.write_text(changed)
        with pytest.raises(IntegrityError):
            baselines.resolve("main", str(store))
    (store / "names" / "other.json").write_text(sound)
    with pytest.raises(IntegrityError, match="another name"):
        baselines.resolve("other", str(store))


@pytest.mark.parametrize(
    "paths",
    [
        ["../evil"],
        ["/etc/evil"],
        ["a/../../evil"],
        ["a//b"],
        ["./a"],
        [""],
        ["a\\b"],
        ["a\0b"],
        ["a", "A"],
        ["a", "a"],
        [str(i) for i in range(10_001)],
    ],
    ids=["above", "absolute", "inside-above", "empty-part", "dot", "empty", "backslash", "nul", "case", "twice", "many"],
)
def test_a_store_cannot_write_outside_of_the_runs_folder(paths: list[str]) -> None:
    """Whatever paths a planted record names, sound digests or not."""
    kept = KeptRun(
        made_by=MadeBy(version="1"),
        recipe="r",
        outcome="pass",
        report="0" * 64,
        verdict="0" * 64,
        models=False,
        files=tuple(FileRef(path=path, size_bytes=1, sha256="0" * 64) for path in paths),
    )
    with pytest.raises(IntegrityError):
        keeping._check_paths(kept, where="store")


def test_a_cut_off_upload_is_written_again(run: Path, store: str) -> None:
    """An object of another length is what a killed writer left on a server without renames."""
    place = place_of(store)
    entry = keep(run, store)
    ref = max(entry.run.files, key=lambda one: one.size_bytes)
    short = run.parent / "short"
    short.write_bytes((run / ref.path).read_bytes()[:-1])
    place.write(keeping._object(ref.sha256), short)
    keep(run, store, name="again")
    baselines.resolve("again", store)


def test_a_killed_keep_leaves_the_name_as_it_was(
    run: Path, finished_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is written last, whole or not at all."""
    store = str(tmp_path / "store")
    first = keep(run, store)
    other = finished_run(tmp_path / "other", correct=20)
    written: list[str] = []
    put = keeping._put

    def dies(place: object, name: str, source: Path) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(name)
        put(place, name, source)

    monkeypatch.setattr(keeping, "_put", dies)
    with pytest.raises(KeyboardInterrupt):
        keep(other, store)
    assert baselines.shown("main", store).sha256 == first.sha256


# ------------------------------------------------------------------------------------------------------------- what is refused
def test_a_missing_baseline_is_missing_evidence(run: Path, store: str) -> None:
    """Exit code 3, never a pass; the message says which there are."""
    keep(run, store, name="release")
    with pytest.raises(EvidenceError, match="keeps no baseline 'main'; it keeps release"):
        baselines.resolve("main", store)
    with pytest.raises(EvidenceError, match="keeps no baseline"):
        baselines.shown("main", store)


def test_a_run_whose_files_were_changed_is_not_kept(finished_run: Make, tmp_path: Path) -> None:
    """Every digest is checked first, and nothing is written."""
    run = finished_run(tmp_path / "run")
    (run / "checkpoint" / "predictions.csv").write_text("image\n")
    with pytest.raises(IntegrityError):
        keep(run, str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_run_that_did_not_pass_is_kept_with_a_warning(
    finished_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for it gets it, and is told."""
    from edgekd.core.console import Console

    run = finished_run(tmp_path / "run", max_size="1kB")
    by = MadeBy(version="1")
    entry = baselines.keep(run, str(tmp_path / "store"), name="main", models=False, made_by=by, console=Console(quiet=True))
    assert entry.run.outcome == "fail"
    assert "its verdict is fail; it is kept all the same" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../x", "a b", "x" * 65, "0" * 64, "-x"])
def test_only_plain_names_are_taken(run: Path, tmp_path: Path, name: str) -> None:
    """A name is a file's name in the store."""
    with pytest.raises(UsageError):
        keep(run, str(tmp_path / "store"), name=name)


def test_neither_run_nor_store_is_the_askers_mistake(tmp_path: Path) -> None:
    """No store named, no run folder, a file in the store's place."""
    with pytest.raises(UsageError, match="no store was named"):
        baselines.resolve("main")
    with pytest.raises(UsageError, match="neither a run folder"):
        baselines.resolve("no/such/run", "store")
    with pytest.raises(UsageError, match="not a run folder"):
        keep(tmp_path, str(tmp_path / "store"))


def test_a_file_in_the_stores_place_is_refused(run: Path, tmp_path: Path) -> None:
    """And left as it is."""
    (tmp_path / "store").write_text("mine")
    with pytest.raises((UsageError, MachineError)):
        keep(run, str(tmp_path / "store"))
    assert (tmp_path / "store").read_text() == "mine"


def test_an_unknown_protocol_is_the_askers_mistake_and_tells_no_secret(tmp_path: Path) -> None:
    """Nor is the query of a signed URL shown."""
    with pytest.raises(UsageError) as refused:
        baselines.entries("nonsense://user:hunter2@host/store?sig=hunter3")
    assert "nonsense://host/store" in str(refused.value)
    assert "hunter" not in str(refused.value)


def test_a_store_by_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder needs no package."""
    monkeypatch.setattr("edgekd.baselines.places.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=re.escape("edgekd[store]")):
        baselines.entries("memory://x")

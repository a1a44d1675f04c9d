"""The run folder: files that are whole or not there, records that come last, and folders that are not ours."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from edgekd.core import store
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.core.records import FileRef, MadeBy, Verdict

RECORD = Verdict(made_by=MadeBy(version="1"), from_={"report": "abc"}, outcome="pass", exit_code=0, findings=())
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# ------------------------------------------------------------------------------------------------------------ whole files
@hypothesis.settings(max_examples=20, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.binary(max_size=64))
def test_what_is_written_is_what_is_read(tmp_path: Path, content: bytes) -> None:
    """Any bytes, over whatever stood there, and nothing else is left in the folder."""
    store.write_bytes(tmp_path / "file", content)
    assert snapshot(tmp_path) == {"file": content}


@pytest.mark.parametrize("number", DISK_FULL + NOT_WRITABLE)
@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "tempfile.mkstemp", "os.fdopen"])
def test_a_disk_that_fails_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """At whatever step the disk gives up, the old bytes stay and the user is told with exit code 4."""
    path = tmp_path / "file"
    store.write_bytes(path, b"old")
    monkeypatch.setattr(call, failing(number))
    with pytest.raises(MachineError) as caught:
        store.write_bytes(path, b"new")
    assert snapshot(tmp_path) == {"file": b"old"}
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 4


def test_a_full_disk_says_how_much_is_needed_and_that_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that was to be written, what is free, and that the same command goes on."""
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(MachineError, match=r"the disk is full \(5 bytes are needed, \d+ free\)") as caught:
        store.write_bytes(tmp_path / "file", b"12345")
    assert "finished stages are kept" in caught.value.mend
    with pytest.raises(MachineError, match=r"the disk is full \(\d+ free\)"), store.disk_errors(tmp_path / "a" / "b"):
        raise OSError(errno.ENOSPC, "full")


def test_an_error_that_is_not_the_disks_is_not_explained_away(tmp_path: Path) -> None:
    """A programmer's mistake stays visible."""
    with pytest.raises(FileNotFoundError):
        store.write_bytes(tmp_path / "no such folder" / "file", b"")


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no `Exception`; the temporary file goes all the same."""
    store.write_bytes(tmp_path / "file", b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write_bytes(tmp_path / "file", b"new")
    assert snapshot(tmp_path) == {"file": b"old"}


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, rename, fsync of the folder: any other order can lose the file when the power goes."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watch_replace(source: Any, target: Any) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    store.write_bytes(tmp_path / "file", b"x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_users_umask_decides_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    """A temporary file is private by default; the finished one must not be."""
    before = os.umask(umask)
    try:
        store.write_text(tmp_path / "file", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from edgekd.core import store
from edgekd.core.records import MadeBy, Verdict

folder = Path(sys.argv[1]); random.seed(7); seen = {"readable": 0, "missing": 0, "unsound": []}
stage, free = folder / "stage", folder / "free.json"

def record(content):
    return Verdict(made_by=MadeBy(version="1"), from_={"sha256": content}, outcome="pass", exit_code=0, findings=())

def work():
    turn = 0
    while True:
        turn += 1
        store.write_record(free, record("free" * 5000 + str(turn)))
        store.begin_stage(stage, "record.json")
        (stage / "weights").write_bytes(str(turn).encode() * 10000)
        store.sync_files(stage)
        store.write_record(stage / "record.json", record(store.sha256_of(stage / "weights")))

for trial in range(60):
    child = os.fork()
    if child == 0:
        work()
    while not free.exists():
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        store.read_record(Verdict, free)
        if (stage / "record.json").exists():
            done = store.read_record(Verdict, stage / "record.json")
            assert done.from_["sha256"] == store.sha256_of(stage / "weights")
            seen["readable"] += 1
        else:
            seen["missing"] += 1
    except Exception as error:
        seen["unsound"].append(repr(error))
print(json.dumps(seen))
"""


def test_kill_9_at_any_moment_leaves_a_sound_record_or_none(tmp_path: Path) -> None:
    """A real process is killed 60 times while it writes: what is there is whole, and a stage's record fits its files."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["unsound"] == []
    assert seen["readable"] + seen["missing"] == 60
    assert seen["missing"] > 0, "no kill ever hit a stage at work, so nothing was tested"


# --------------------------------------------------------------------------------------------------------- files of records
def test_a_referenced_file_is_found_and_checked(tmp_path: Path) -> None:
    """Path, size and sha256 of a file below the folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model").write_bytes(b"abc")
    ref = store.file_ref(tmp_path / "sub" / "model", folder=tmp_path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert ref == FileRef(path="sub/model", size_bytes=3, sha256=abc)
    assert store.checked_file(ref, folder=tmp_path) == tmp_path / "sub" / "model"


@pytest.mark.parametrize(
    ("content", "message"), [(b"abd", "its bytes are not those"), (b"abcd", "its bytes are not those"), (None, "missing")]
)
def test_a_file_that_was_changed_or_removed_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Same size or not; exit code 5 and a way out."""
    path = tmp_path / "model"
    path.write_bytes(b"abc")
    ref = store.file_ref(path, folder=tmp_path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match=message) as caught:
        store.checked_file(ref, folder=tmp_path)
    assert caught.value.mend


@pytest.mark.parametrize("name", ["../secret", "{outside}", "link", "a/../../secret"])
def test_a_record_cannot_name_a_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    """Neither by dots, nor absolutely, nor through a link: the bytes are right, and it is refused all the same."""
    folder, secret = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(b"abc")
    (folder / "link").symlink_to(secret)
    ref = store.file_ref(secret, folder=tmp_path).model_copy(update={"path": name.format(outside=secret)})
    with pytest.raises(IntegrityError, match="names a file outside its folder"):
        store.checked_file(ref, folder=folder)


def test_a_record_that_is_not_there_is_the_askers_mistake(tmp_path: Path) -> None:
    """The kind and the path are named."""
    with pytest.raises(UsageError, match=r"nothing\.json: there is no verdict record here"):
        store.read_record(Verdict, tmp_path / "nothing.json")


def test_a_record_that_cannot_be_read_is_the_machines_fault(tmp_path: Path) -> None:
    """A folder in its place stands for every other complaint of the system."""
    with pytest.raises(MachineError, match="cannot be read: Is a directory"):
        store.read_record(Verdict, tmp_path)


def test_an_unsound_record_is_named_by_its_path(tmp_path: Path) -> None:
    """The user sees which file to look at."""
    (tmp_path / "verdict.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"verdict\.json: not a verdict record"):
        store.read_record(Verdict, tmp_path / "verdict.json")


def test_a_stage_is_done_when_its_record_has_the_right_inputs(tmp_path: Path) -> None:
    """Another digest, another name or no record at all mean that it is done again."""
    path = tmp_path / "verdict.json"
    assert store.find_done(Verdict, path, {"report": "abc"}) is None
    store.write_record(path, RECORD)
    assert store.find_done(Verdict, path, {"report": "abc"}) == RECORD
    assert store.find_done(Verdict, path, {"report": "abd"}) is None
    assert store.find_done(Verdict, path, {"report": "abc", "more": "x"}) is None


# ------------------------------------------------------------------------------------------------------------------ stages
def test_a_stage_begins_by_forgetting_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is durably gone while the old files still stand; the other order could leave a record of nothing."""
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "record.json").touch()
    (stage / "weights").touch()
    seen = []
    sync = store.sync_folder

    def watch(folder: Path) -> None:
        sync(folder)
        seen.append(sorted(path.name for path in folder.iterdir()))

    monkeypatch.setattr(store, "sync_folder", watch)
    store.begin_stage(stage, "record.json")
    assert seen[0] == ["weights"]
    assert list(stage.iterdir()) == []


def test_a_stage_begins_with_an_empty_folder(tmp_path: Path) -> None:
    """Whatever an earlier attempt left goes, links included; what the links point at stays."""
    stage, kept = tmp_path / "a" / "stage", tmp_path / "kept"
    store.begin_stage(stage, "record.json")
    kept.mkdir()
    (kept / "photo").touch()
    (stage / "sub").mkdir()
    (stage / "sub" / "file").touch()
    (stage / "folder link").symlink_to(kept)
    (stage / "file link").symlink_to(kept / "photo")
    store.begin_stage(stage, "record.json")
    assert list(stage.iterdir()) == []
    assert (kept / "photo").is_file()


def test_a_stage_that_cannot_begin_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only disk is no traceback."""
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(MachineError, match="cannot be written: Read-only file system"):
        store.begin_stage(tmp_path / "stage", "record.json")


def test_files_that_a_library_wrote_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and then the folder itself; sub-folders are not files."""
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    (tmp_path / "sub").mkdir()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    store.sync_files(tmp_path)
    assert set(synced[:2]) == {(tmp_path / name).stat().st_ino for name in ("one", "two")}
    assert synced[2:] == [tmp_path.stat().st_ino]


# ------------------------------------------------------------------------------------------------------------- run folders
def test_a_run_folder_is_made_and_taken_up_again(tmp_path: Path) -> None:
    """With its parents, marked as ours, and untouched the second time."""
    folder = tmp_path / "a" / "run"
    assert store.open_run_folder(folder) == folder
    before = snapshot(folder)
    assert list(before) == [store.MARKER]
    (folder / "report.json").write_text("x")
    store.open_run_folder(folder)
    assert snapshot(folder) == {**before, "report.json": b"x"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    """Nothing can be lost in it."""
    store.open_run_folder(tmp_path)
    assert list(snapshot(tmp_path)) == [store.MARKER]


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "edgekd.json.bak"])
def test_a_folder_that_is_not_ours_is_refused_and_not_touched(tmp_path: Path, name: str) -> None:
    """Even a hidden file makes it somebody's; `overwrite` is the way to insist, and keeps what is there."""
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and was not made by edgekd; nothing was touched") as caught:
        store.open_run_folder(tmp_path)
    assert "--overwrite" in caught.value.mend
    assert snapshot(tmp_path) == {name: b"years of work"}
    store.open_run_folder(tmp_path, overwrite=True)
    assert snapshot(tmp_path)[name] == b"years of work"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    """It is not removed to make room, not even with overwrite."""
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        store.open_run_folder(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run").read_text() == "x"


def test_a_run_killed_while_it_marked_its_folder_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that such a run leaves is the marker under its temporary name, which is nobody else's file."""
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(MachineError):
        store.open_run_folder(tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    store.open_run_folder(tmp_path)
    assert (tmp_path / store.MARKER).is_file()


def test_a_run_folder_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission denied is an exit code 4, not a traceback."""
    monkeypatch.setattr(Path, "mkdir", failing(errno.EACCES))
    with pytest.raises(MachineError, match="cannot be written: Permission denied"):
        store.open_run_folder(tmp_path / "run")


def test_the_run_folder_knows_where_everything_stands(tmp_path: Path) -> None:
    """The names of the house, and lists in a fixed order."""
    run = store.RunFolder(tmp_path)
    assert run.recipe == tmp_path / "recipe.yaml"
    assert run.report == tmp_path / "report.json"
    assert run.verdict == tmp_path / "verdict.json"
    assert run.checkpoint() == tmp_path / "checkpoint" / "checkpoint.json"
    assert run.checkpoint(store.BASELINE) == tmp_path / "baseline" / "checkpoint.json"
    assert run.artifacts() == run.measurements() == []
    made = [run.artifact(name) for name in ("torch-fp32", "onnxruntime-fp16")]
    made += [run.measurement(name, "local") for name in ("torch-fp32", "onnxruntime-fp16")]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "artifacts" / "half").mkdir()
    (tmp_path / "measurements" / "notes.json").touch()
    assert run.artifacts() == [made[1], made[0]]
    assert run.measurements() == [made[3], made[2]]
    assert made[0] == tmp_path / "artifacts" / "torch-fp32" / "artifact.json"
    assert made[3] == tmp_path / "measurements" / "onnxruntime-fp16@local.json"


# -------------------------------------------------------------------------------------------------------------- the lock
def test_a_second_writer_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """The process number, and what to do; afterwards the folder is free again."""
    refused = pytest.raises(UsageError, match=rf"another edgekd \(process {os.getpid()}\) is writing here")
    with store.locked(tmp_path), refused, store.locked(tmp_path):
        pytest.fail("two writers at once")
    with store.locked(tmp_path), (tmp_path / ".lock").open() as lock:
        assert lock.read() == str(os.getpid())


def test_a_lock_whose_holder_has_not_signed_yet_is_still_a_lock(tmp_path: Path) -> None:
    """Between taking the lock and writing the number, the holder is unknown."""
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"process unknown"), store.locked(tmp_path):
            pytest.fail("two writers at once")


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """After kill -9 nobody has to remove a file by hand."""
    hold = f"""
import os, signal
from pathlib import Path
from edgekd.core.store import locked
with locked(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", hold], check=False).returncode == -9
    assert (tmp_path / ".lock").read_text() != ""
    with store.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_folder_that_cannot_be_locked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no locks, and a read-only folder has no lock file."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(errno.ENOLCK))
        with pytest.raises(MachineError, match="cannot be locked: No locks available"), store.locked(tmp_path):
            pytest.fail("not locked")
    monkeypatch.setattr(Path, "open", failing(errno.EROFS))
    with pytest.raises(MachineError, match="cannot be written: Read-only file system"), store.locked(tmp_path):
        pytest.fail("not locked")


def test_what_fails_inside_the_lock_is_not_taken_for_the_locks_fault(tmp_path: Path) -> None:
    """An error of the work itself passes through as it is."""
    with pytest.raises(PermissionError), store.locked(tmp_path):
        raise PermissionError(errno.EACCES, "somewhere else")


def test_overwrite_never_empties_a_folder_that_edgekd_did_not_make(tmp_path: Path) -> None:
    """A stranger's `checkpoint/` in a foreign folder is refused even with --overwrite, and kept."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "theirs.pt").write_text("weeks of training")
    with pytest.raises(UsageError, match="holds checkpoint, which edgekd would empty"):
        store.open_run_folder(tmp_path, overwrite=True)
    assert (tmp_path / "checkpoint" / "theirs.pt").read_text() == "weeks of training"


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    """Temporary files of a killed run go when the next one holds the lock; other files stay."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".w.json.abc.tmp").write_text("half")
    (tmp_path / "notes.tmp").write_text("mine")
    with store.locked(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*.tmp")) == ["notes.tmp"]


def test_a_log_grows_and_a_full_disk_is_told(tmp_path: Path) -> None:
    """Lines are added after what was there; /dev/full answers with the error that says how to mend it."""
    store.append_text(tmp_path / "log", "one\n")
    store.append_text(tmp_path / "log", "two\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    if Path("/dev/full").exists():
        with pytest.raises(MachineError, match="the disk is full"):
            store.append_text(Path("/dev/full"), "three\n")

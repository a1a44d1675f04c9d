"""The agent's own modules, in this process: files by their sha256, names, the lease, and Python 3.9."""

import ast
import hashlib
import os
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

import edgekd
from edgekd.benching.remote import program
from edgekd.benching.remote.agent import files
from edgekd.benching.remote.agent.files import Store
from edgekd.benching.remote.agent.lease import Lease
from edgekd.benching.remote.agent.refusals import Refusal

PACKAGE = Path(edgekd.__file__).parent
CONTENT = b"a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# What is brought to devices: it runs where edgekd is not, by whatever Python is there.
BROUGHT = (
    *sorted((PACKAGE / "benching" / "remote" / "agent").glob("*.py")),
    PACKAGE / "benching" / "remote" / "provision.py",
    PACKAGE / "benching" / "turns.py",
    PACKAGE / "benching" / "worker.py",
    PACKAGE / "benching" / "preparing.py",
    *sorted((PACKAGE / "core" / "machine").glob("*.py")),
    *sorted((PACKAGE / "exporting" / "backends").glob("_*_runner.py")),
)
STANDARD = sys.stdlib_module_names | {"numpy", "onnxruntime", "openvino", "tensorrt", "PIL", "cuda"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"), "lease")


def put(store: Store, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    assert store.begin(digest, len(content)) == 0
    store.add(digest, 0, content, len(content))
    return digest


# ------------------------------------------------------------------------------------------------------------------ files
def test_a_file_arrives_in_pieces_and_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    """Another connection, hence another store, is told how much is there."""
    assert store.begin(DIGEST, len(CONTENT)) == 0
    assert store.add(DIGEST, 0, CONTENT[:3000], len(CONTENT)) == 3000
    later = Store(str(tmp_path / "root"), "lease")
    assert later.begin(DIGEST, len(CONTENT)) == 3000
    assert later.add(DIGEST, 3000, CONTENT[3000:], len(CONTENT)) == len(CONTENT)
    assert later.begin(DIGEST, len(CONTENT)) is None
    assert Path(later.checked(DIGEST)).read_bytes() == CONTENT


def test_a_file_that_was_whole_but_never_checked_is_sent_anew(store: Store) -> None:
    """The agent ended between its last piece and its sha256."""
    Path(store.root, "partial", DIGEST).write_bytes(CONTENT)
    assert store.begin(DIGEST, len(CONTENT)) == 0
    assert store.add(DIGEST, 0, CONTENT, len(CONTENT)) == len(CONTENT)
    assert store.holds(DIGEST)


def test_what_arrives_must_be_what_was_sent(store: Store) -> None:
    """A file with other bytes is forgotten, so that the next try begins anew; a piece from elsewhere is not taken."""
    store.begin(DIGEST, len(CONTENT))
    with pytest.raises(Refusal, match="not what was sent"):
        store.add(DIGEST, 0, CONTENT[:-1] + b"x", len(CONTENT))
    assert store.begin(DIGEST, len(CONTENT)) == 0
    with pytest.raises(Refusal, match="a piece for byte 5"):
        store.add(DIGEST, 5, b"x", len(CONTENT))


def test_a_kept_file_that_was_changed_is_forgotten(store: Store) -> None:
    """It is asked for again instead of being used."""
    digest = put(store, CONTENT)
    Path(store.file(digest)).write_bytes(b"other")
    assert not store.holds(digest)
    assert store.begin(digest, len(CONTENT)) == 0
    with pytest.raises(Refusal, match="changed on the device") as refused:
        store.checked(digest)
    assert refused.value.kind == "integrity"


def test_a_folder_gives_kept_files_their_names_and_notices_changes(store: Store) -> None:
    """A file written into afterwards is found, before and after each worker; one only touched is not complained of."""
    first, second = put(store, CONTENT), put(store, b"another")
    folder = store.folder({"model.bin": first, "below/runner.py": second})
    assert Path(folder, "model.bin").read_bytes() == CONTENT
    assert Path(folder, "below", "runner.py").read_bytes() == b"another"
    os.utime(Path(folder, "model.bin"), (1, 1))
    store.same_as_brought(folder)
    Path(folder, "model.bin").unlink()
    Path(folder, "model.bin").write_bytes(b"b model" * 1000)
    with pytest.raises(Refusal, match="changed on the device"):
        store.same_as_brought(folder)
    with pytest.raises(Refusal, match="was not brought"):
        store.same_as_brought("/etc")


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\0b"])
def test_a_name_that_leads_out_of_its_folder_is_refused(store: Store, name: str) -> None:
    """By the agent itself, whoever asks."""
    digest = put(store, CONTENT)
    with pytest.raises(Refusal, match="not a name"):
        store.folder({name: digest})


@pytest.mark.parametrize("digest", ["", "x", "../" * 21 + "a", DIGEST.upper(), DIGEST + "0", None, 5])
def test_what_is_no_sha256_names_no_file(store: Store, digest: object) -> None:
    """A digest becomes a file name, so it is 64 hexadecimal digits or nothing."""
    with pytest.raises(Refusal, match="not a sha256"):
        store.holds(digest)


def test_a_full_disk_is_said_before_and_while_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is needed and what is free, and how to mend it."""
    Path(store.root, "partial", DIGEST).symlink_to("/dev/full")
    with pytest.raises(Refusal, match="disk is full") as refused:
        store.add(DIGEST, 0, CONTENT, len(CONTENT))
    assert refused.value.kind == "disk"
    assert "free some space" in refused.value.mend
    monkeypatch.setattr(files, "free_bytes", lambda _: files.SPARE_BYTES)
    with pytest.raises(Refusal, match=rf"{len(CONTENT)} bytes are needed, {files.SPARE_BYTES} free"):
        store.begin(DIGEST, len(CONTENT))


def test_a_root_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """What workers run would not be ours."""
    tmp_path.chmod(0o777)
    with pytest.raises(Refusal, match="others can write there") as refused:
        Store(str(tmp_path), "lease")
    assert refused.value.kind == "integrity"


def test_what_was_used_longest_ago_is_forgotten_first(store: Store) -> None:
    """Folders go at the end, kept files only when they are too many."""
    old, new = put(store, b"o" * 1000), put(store, b"n" * 1000)
    os.utime(store.file(old), (1, 1))
    folder = store.folder({"n": new})
    store.tidy(10_000)
    assert not Path(folder).exists()
    assert store.holds(old)
    os.utime(store.file(old), (1, 1))
    store.tidy(1500)
    assert not store.holds(old)
    assert store.holds(new)


# ------------------------------------------------------------------------------------------------------------------ lease
def test_a_lease_is_refused_to_others_and_they_are_told_who_has_it() -> None:
    """Owner, purpose, for how long and for how much longer; a process that ends frees it, its owner may take it over."""
    name = f"test-{secrets.token_hex(8)}"
    code = (
        "import sys\n"
        "from edgekd.benching.remote.agent.lease import Lease\n"
        "lease = Lease(sys.argv[1], 'the token', {'owner': 'alice@laptop', 'purpose': 'bench'}, lease_s=90)\n"
        "lease.listener.setblocking(True)\n"
        "print('held', flush=True)\n"
        "while not lease.visited(): pass\n"
    )
    command = [sys.executable, "-c", code, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refusal, match="in use") as refused:
            Lease(name, "another token", {"owner": "bob", "purpose": "check"}, lease_s=60)
        told = refused.value.told
        assert (refused.value.kind, told["owner"], told["purpose"], told["process"]) == (
            "busy",
            "alice@laptop",
            "bench",
            holder.pid,
        )
        assert 0 <= told["held_s"] <= 90 - told["expires_s"]
        mine = Lease(name, "the token", {}, lease_s=60)
        assert mine.took_over
        assert holder.wait(10) == 0
    mine.listener.close()
    again = Lease(name, "another token", {}, lease_s=60)
    assert not again.took_over
    again.listener.close()


# -------------------------------------------------------------------------------------------------------------- the program
def test_the_agent_is_one_file_with_the_same_bytes_every_time() -> None:
    """Its digest is the same on every machine, and it holds its modules alone."""
    assert program.agent() == program.agent.__wrapped__()
    with zipfile.ZipFile(BytesIO(program.agent())) as file:
        assert {"__main__.py", "agent/serving.py", "agent/__main__.py"} <= set(file.namelist())
        assert all(name.startswith("agent/") or name == "__main__.py" for name in file.namelist())


def test_other_bytes_than_those_of_the_digest_do_not_run() -> None:
    """A changed byte, or an end too early."""
    for sent in (program.greeting()[:-1] + b"x", program.greeting()[:-1]):
        told = subprocess.run(["sh", "-c", program.line(sys.executable)], input=sent, capture_output=True, check=False)
        assert (told.returncode, told.stdout) == (program.OTHER_BYTES, b"")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", BROUGHT, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_is_brought_to_devices_is_python_3_9_and_stands_alone(path: Path) -> None:
    """Its grammar is 3.9's, annotations are not evaluated, and it imports nothing but the standard library and its runtime."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)):
        futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        assert [alias.name for node in futures for alias in node.names] == ["annotations"]
    assert set(imports(path)) - {"edgekd"} <= STANDARD

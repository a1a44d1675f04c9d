"""Engines of this install on this machine are read, and nothing else is."""

import random
from pathlib import Path

import pytest

from edgekd.core.errors import IntegrityError, MachineError
from edgekd.exporting.engine_store import EngineStore, default_folder

OF = {"onnx_sha256": "a" * 64, "tensorrt": "11.4.0.106", "gpu": {"name": "Fake GPU"}}


def test_what_was_kept_is_found_by_all_that_it_depends_on(tmp_path: Path) -> None:
    """The same facts give the same bytes; another fact or kind gives nothing."""
    store = EngineStore(tmp_path / "engines")
    assert store.read("engine", OF) is None
    store.write("engine", OF, b"native code")
    assert EngineStore(tmp_path / "engines").read("engine", OF) == b"native code"
    assert store.read("engine", {**OF, "tensorrt": "10.16.1.11"}) is None
    assert store.read("timing", OF) is None


def test_a_byte_changed_at_any_of_a_thousand_places_is_refused(tmp_path: Path) -> None:
    """Magic, code, header and content: 1,000 changes, 1,000 refusals; each cut of the file as well."""
    store = EngineStore(tmp_path / "engines")
    path = store.write("engine", OF, bytes(range(256)) * 12)
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(1000):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match="was not built by this install"):
            store.read("engine", OF)
    for length in (0, 10, 40, 56, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            store.read("engine", OF)
    path.write_bytes(whole)
    assert store.read("engine", OF) == bytes(range(256)) * 12


def test_an_engine_from_another_install_is_refused(tmp_path: Path) -> None:
    """A file that another folder's key signed, put in under the right name."""
    own, foreign = EngineStore(tmp_path / "own"), EngineStore(tmp_path / "foreign")
    own.write("engine", OF, b"mine")
    own.path("engine", OF).write_bytes(foreign.write("engine", OF, b"theirs").read_bytes())
    with pytest.raises(IntegrityError, match="was not built by this install"):
        own.read("engine", OF)


def test_an_engine_under_another_name_is_refused(tmp_path: Path) -> None:
    """Own and whole, but built from something else: swapping two files changes what runs."""
    store = EngineStore(tmp_path / "engines")
    other = store.write("engine", {**OF, "onnx_sha256": "b" * 64}, b"other")
    store.write("engine", OF, b"this").write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match="built from something else than its name says"):
        store.read("engine", OF)


def test_what_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    """A folder, a file or a key with group or world write; a link in the place of a file."""
    store = EngineStore(tmp_path / "engines")
    path = store.write("engine", OF, b"native code")
    for target in (store.folder, path, store.folder / "key"):
        before = target.stat().st_mode
        target.chmod(before | 0o020)
        with pytest.raises(IntegrityError, match="others can write to it"):
            store.read("engine", OF)
        target.chmod(before)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="plain file"):
        store.read("engine", OF)


def test_key_and_files_are_the_users_alone(tmp_path: Path) -> None:
    """Nobody else reads the key, with which an engine could be forged."""
    store = EngineStore(tmp_path / "engines")
    path = store.write("engine", OF, b"native code")
    assert (store.folder / "key").stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    (store.folder / "key").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="is not a key of edgekd"):
        store.read("engine", OF)


def test_without_a_cache_folder_nothing_can_be_kept(tmp_path: Path) -> None:
    """A user without a home is told what to set."""
    assert default_folder(tmp_path) == tmp_path / "tensorrt"
    with pytest.raises(MachineError, match=r"no folder is known to keep engines in(.|\n)*EDGEKD_CACHE"):
        default_folder(None)

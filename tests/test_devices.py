"""`edgekd device`: whom to trust, what a device has, what it lacks, and giving it that."""

import json
import platform
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekd.benching.remote import provision, provisioning, trust
from edgekd.cli import main
from edgekd.core.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of somebody who has trusted nobody yet."""
    folder = tmp_path / "config"
    monkeypatch.setenv("EDGEKD_CONFIG", str(folder))
    return folder


@pytest.fixture
def target(trusted: Any, ssh_world: ModuleType, tmp_path: Path) -> tuple[object, ...]:
    """Return the arguments that name the loopback device, with a root of its own."""
    return (ssh_world.HOST, "--config", trusted.ssh_config, "--python", sys.executable, "--root", tmp_path / "root")


# ------------------------------------------------------------------------------------------------------------------ trust
def test_a_key_is_shown_and_pinned_once_a_person_has_compared_it(loopback: Any, call: Call, nobody: Path) -> None:
    """The fingerprint is ssh-keygen's; nothing is pinned without a person or the fingerprint; a second time changes nothing."""
    told = subprocess.run(["ssh-keygen", "-lf", loopback.folder / "host_key.pub"], capture_output=True, text=True, check=True)
    fingerprint = told.stdout.split()[1]
    arguments = ("device", "trust", "target", "--config", loopback.ssh_config)
    code, _, err = call(*arguments)
    assert (code, (nobody / "known_hosts").exists()) == (2, False)
    assert f"shows {fingerprint}" in err
    code, _, err = call(*arguments, "--fingerprint", "SHA256:" + "A" * 43)
    assert (code, (nobody / "known_hosts").exists()) == (5, False)
    assert call(*arguments, "--fingerprint", "MD5:aa")[0] == 2
    assert call(*arguments, "--fingerprint", fingerprint)[:2] == (0, f"target  ssh-ed25519  {fingerprint}  pinned\n")
    assert (nobody / "known_hosts").stat().st_mode & 0o777 == 0o600
    assert call(*arguments)[1].endswith("was pinned already\n")
    assert f"ssh    target  ssh-ed25519 {fingerprint}" in call("device", "list")[1]


def test_another_key_is_pinned_only_in_place_of_the_old_one(nobody: Path) -> None:
    """A changed key may be another machine: exit code 5 unless a person says otherwise."""
    old, new = trust.HostKey("pi5", "ssh-ed25519", "QUJD"), trust.HostKey("pi5", "ssh-ed25519", "REVG")
    other = trust.HostKey("pi4", "ssh-ed25519", "QUJD")
    assert trust.pin(old)
    assert trust.pin(other)
    assert not trust.pin(old)
    with pytest.raises(Exception, match="another machine answers") as error:
        trust.pin(new)
    assert getattr(error.value, "exit_code", None) == 5
    assert trust.pin(new, replace=True)
    assert trust.pinned() == (other, new)


def test_lines_that_are_no_keys_are_left_out(nobody: Path) -> None:
    """Comments, markers, short lines, keys that are no base64."""
    nobody.mkdir()
    (nobody / "known_hosts").write_text("# c\n@revoked x ssh-rsa QUJD\nshort line\nh ssh-rsa !!!\npi5 ssh-rsa QUJD\n\n")
    assert trust.pinned() == (trust.HostKey("pi5", "ssh-rsa", "QUJD"),)


def test_a_device_that_does_not_answer_has_no_key(call: Call, nobody: Path, ssh_world: ModuleType) -> None:
    """Exit code 4, in ssh's words."""
    code, _, err = call("device", "trust", f"127.0.0.1:{ssh_world.free_port()}")
    assert code == 4
    assert "Connection refused" in err


@pytest.mark.parametrize("command", ["trust", "check", "setup"])
def test_an_address_that_is_none_is_the_askers_mistake(command: str, call: Call, nobody: Path) -> None:
    """Exit code 2, and how an address is written."""
    code, _, err = call("device", command, "--", "-oProxyCommand=touch x")
    assert code == 2
    assert "write [USER@]HOST[:PORT]" in err


# --------------------------------------------------------------------------------------------------------- check and setup
def test_check_says_what_a_device_has_and_whether_it_can_measure(
    call: Call, target: tuple[object, ...], ssh_world: ModuleType, tmp_path: Path
) -> None:
    """With numpy and a runtime it is ready (0), without it is not (4); what was seen is listed."""
    (tmp_path / "root").mkdir()
    ssh_world.target_environment(tmp_path / "root", ("numpy",))
    code, out, _ = call("device", "check", *target)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 4
    assert lines["onnxruntime"] == "not installed"
    assert lines["numpy"] == metadata.version("numpy")
    assert lines["python"].endswith(f"({tmp_path / 'root' / 'venv' / 'bin' / 'python'})")
    assert lines["time"] == "right"
    assert lines["ready"].startswith("no: edgekd device setup target")
    assert {"device", "cores", "memory", "space", "clock"} <= set(lines)
    assert f"numpy {metadata.version('numpy')}" in call("device", "list")[1]


def test_offline_says_exactly_what_is_missing_and_how_to_bring_it(
    call: Call, target: tuple[object, ...], ssh_world: ModuleType, tmp_path: Path
) -> None:
    """The versions that are used here, for the device's Python and processor; nothing is installed."""
    (tmp_path / "root").mkdir()
    ssh_world.target_environment(tmp_path / "root", ("numpy",))
    code, _, err = call("device", "setup", *target, "--runtime", "openvino", "--offline")
    assert code == 4
    assert f"target lacks openvino=={metadata.version('openvino')}\n" in err
    assert f"--python-version {sys.version_info[0]}.{sys.version_info[1]} --platform manylinux_2_28_{platform.machine()}" in err
    assert "edgekd device setup target --wheels wheels" in err


def wheel(folder: Path, name: str, version: str) -> None:
    """Write the smallest wheel that installs a package with a version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            file.writestr(path, text)


def test_setup_installs_from_wheels_alone(
    call: Call, target: tuple[object, ...], ssh_world: ModuleType, tmp_path: Path
) -> None:
    """Brought from here, without an index; a package that is not among them is said, and nothing is called ready."""
    (tmp_path / "root").mkdir()
    ssh_world.target_environment(tmp_path / "root", ("pip",))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "numpy", metadata.version("numpy"))
    setup = ("device", "setup", *target, "--runtime", "onnxruntime", "--wheels", wheels)
    code, _, err = call(*setup)
    assert code == 4
    assert "pip cannot install numpy==" in err
    assert "No matching distribution" in err
    version = metadata.version("onnxruntime")
    wheel(wheels, "onnxruntime", version)
    code, out, err = call(*setup)
    assert code == 0, err
    assert dict(line.split() for line in out.splitlines()) == {"numpy": metadata.version("numpy"), "onnxruntime": version}
    marker = json.loads((tmp_path / "root" / "venv" / "edgekd.json").read_text())
    assert f"onnxruntime=={version}" in marker["requirements"]
    assert call("device", "setup", *target, "--runtime", "onnxruntime", "--offline")[1] == "target: nothing is missing\n"


def test_an_environment_is_made_once_and_marked_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be made leaves nothing behind; one that was not finished is made anew; pip's words are told."""
    said: list[list[str]] = []
    fails = ["venv"]

    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        said.append(list(command))
        place = Path(command[-1])
        place.mkdir()
        return subprocess.CompletedProcess(command, int("venv" in fails), "", "ensurepip is not available")

    monkeypatch.setattr(provision, "run", run)
    monkeypatch.setattr(provision, "shown", lambda command: ["no network"] if "pip" in fails else said.append(command))
    asked = {"root": str(tmp_path), "requirements": ["numpy==2"], "system_site_packages": True}
    assert provision.setup(asked) == {"failed": "venv", "said": ["ensurepip is not available"]}
    assert not (tmp_path / "venv").exists()
    fails[:] = ["pip"]
    assert provision.setup(asked) == {"failed": "pip", "said": ["no network"]}
    assert not (tmp_path / "venv" / "edgekd.json").exists()
    fails[:] = []
    assert provision.setup(asked) == {"failed": None, "said": []}
    assert json.loads((tmp_path / "venv" / "edgekd.json").read_text())["requirements"] == ["numpy==2"]
    made = [sys.executable, "-I", "-m", "venv", "--system-site-packages", str(tmp_path / "venv")]
    assert said[:3] == [made] * 3
    assert said[3][-3:] == [":all:", "--", "numpy==2"]


def test_what_is_asked_of_pip_is_what_is_used_here() -> None:
    """numpy may be another for another Python, a runtime only if that is asked for."""
    exact = f"onnxruntime=={metadata.version('onnxruntime')}"
    assert provisioning.requirements(["onnxruntime"], same_python=True, loose=False) == (
        f"numpy=={metadata.version('numpy')}",
        exact,
    )
    assert provisioning.requirements(["onnxruntime"], same_python=False, loose=False) == ("numpy>=1.21,<3", exact)
    loose = provisioning.requirements(["onnxruntime"], same_python=True, loose=True)
    assert loose[0] == "numpy>=1.21,<3"
    assert loose[1].startswith("onnxruntime")
    assert "==" not in loose[1]


def test_only_runtimes_that_pip_has_are_installed() -> None:
    """A wrong name lists the right ones; without a name those that are here."""
    with pytest.raises(UsageError, match="Did you mean onnxruntime"):
        provisioning.runtimes_of(["onnxruntim"])
    assert provisioning.runtimes_of([]) == ("onnxruntime", "openvino")


def test_a_folder_without_wheels_is_the_askers_mistake(call: Call, target: tuple[object, ...], tmp_path: Path) -> None:
    """Exit code 2."""
    code, _, err = call("device", "setup", *target, "--wheels", tmp_path / "nothing")
    assert code == 2
    assert "holds no wheels" in err

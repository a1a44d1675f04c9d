"""The gates to copy into a CI: the shell one is run, killed and lied to; the workflows keep the rules that make them safe."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
CI = ROOT / "deploy" / "ci"
GATE = CI / "gate.sh"
WORKFLOWS = sorted(CI.glob("github-*.yml"))
Make = Callable[..., Path]


def program(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _signals_arrive() -> Iterator[None]:
    """Undo what `nohup` does, for the programs that are started here: a shell cannot trap what it was told to ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def edgekd(tmp_path: Path) -> Path:
    """Return the real edgekd as a program."""
    return program(tmp_path / "edgekd", f"#!/bin/sh\nexec {sys.executable} -c 'from edgekd.cli import main; main()' \"$@\"\n")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Return the file in which the notified program notes what it was told."""
    program(tmp_path / "notify", f'#!/bin/sh\necho "$1" >>{tmp_path}/told\n')
    return tmp_path / "told"


def environment(tmp_path: Path, edgekd: Path, **more: str) -> dict[str, str]:
    own = {"EDGEKD": str(edgekd), "EDGEKD_CHECK": str(tmp_path / "check"), "EDGEKD_NOTIFY": str(tmp_path / "notify")}
    return {**os.environ, "PYTHONPATH": str(ROOT), **own, **more}


def gate(run: Path, tmp_path: Path, edgekd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the shell gate."""
    command = ["sh", str(GATE), str(run)]
    return subprocess.run(
        command,
        env=environment(tmp_path, edgekd, **more),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def fake_run(tmp_path: Path) -> Path:
    """Return a folder with the old success of an earlier gate."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("report.json", "verdict.json"):
        (run / name).write_text("{}")
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "state").write_text("success\n")
    return run


# ------------------------------------------------------------------------------------------------------------ the shell gate
def test_the_real_gate_passes_a_good_run_and_leaves_every_document(
    finished_run: Make, tmp_path: Path, edgekd: Path, told: Path
) -> None:
    """The check is opened, closed with success, and everything that a CI shows is there."""
    run = finished_run(tmp_path / "run")
    shutil.copy(ROOT / "tests" / "golden" / "gate_recipe.yaml", run / "recipe.yaml")
    done = gate(run, tmp_path, edgekd, GITHUB_ACTIONS="true")
    assert (done.returncode, told.read_text().split()) == (0, ["in_progress", "success"]), done.stderr
    left = {path.name for path in (tmp_path / "check").iterdir()}
    documents = {"verdict.txt", "junit.xml", "verdict.sarif", "comment.md", "annotations.txt", "badge.json", "metrics.txt"}
    assert left == {"state", "exit_code", "report.json", "verdict.json", *documents}
    assert (tmp_path / "check" / "state").read_text() == "success\n"


def test_a_budget_that_failed_is_a_failure_with_its_exit_code_and_annotations(
    finished_run: Make, tmp_path: Path, edgekd: Path, told: Path
) -> None:
    """The exit code of edgekd is that of the script."""
    run = finished_run(tmp_path / "run")
    recipe = (ROOT / "tests" / "golden" / "gate_recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("10MB", "1kB"))
    done = gate(run, tmp_path, edgekd, GITHUB_ACTIONS="true")
    assert (done.returncode, told.read_text().split()) == (1, ["in_progress", "failure"]), done.stderr
    assert (tmp_path / "check" / "exit_code").read_text() == "1\n"
    assert "\n::error file=" in f"\n{done.stdout}"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("exit 4", 4),
        ("exit 3", 3),
        ("exit 0", 4),
    ],
    ids=["killed", "crashed", "machine", "inconclusive", "silent"],
)
def test_an_edgekd_that_dies_is_a_failure_never_the_old_success(tmp_path: Path, told: Path, script: str, code: int) -> None:
    """Whatever stood in the folders before, and also if it ends well without a verdict."""
    run = fake_run(tmp_path)
    done = gate(run, tmp_path, program(tmp_path / "dies", f"#!/bin/sh\n{script}\n"))
    assert done.returncode == code
    assert (tmp_path / "check" / "state").read_text() == "failure\n"
    assert told.read_text().split() == ["in_progress", "failure"]
    assert not (run / "verdict.json").exists()


def started(run: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start the gate with an edgekd that never ends, and wait until that one runs."""
    waits = program(
        tmp_path / "waits", f"#!/bin/sh\necho $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 60\n"
    )
    child = subprocess.Popen(["sh", str(GATE), str(run)], env=environment(tmp_path, waits), cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "check" / "state").read_text() == "in_progress\n"
    return child


def is_gone(pid: int) -> bool:
    """Return whether a process ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_gate_that_is_stopped_closes_the_check_as_failed_and_stops_edgekd(tmp_path: Path, told: Path, number: int) -> None:
    """A cancelled job leaves no process behind."""
    child = started(fake_run(tmp_path), tmp_path)
    child.send_signal(number)
    assert child.wait(60) == 128 + number
    assert (tmp_path / "check" / "state").read_text() == "failure\n"
    assert told.read_text().split() == ["in_progress", "failure"]
    deadline = time.monotonic() + 30
    pid = int((tmp_path / "pid").read_text())
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_gone(pid)


def test_a_gate_that_is_killed_leaves_the_check_open(tmp_path: Path, told: Path) -> None:
    """Nothing can run after kill -9; in progress is no success."""
    child = started(fake_run(tmp_path), tmp_path)
    child.kill()
    child.wait(60)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (tmp_path / "check" / "state").read_text() == "in_progress\n"


def test_names_are_arguments_never_commands(tmp_path: Path, told: Path) -> None:
    """A run folder may be called anything."""
    run = tmp_path / "a b; touch evil $(touch evil) `touch evil`"
    run.mkdir()
    said = program(tmp_path / "says", f'#!/bin/sh\nprintf "%s\\n" "$2" >{tmp_path}/said\nexit 3\n')
    assert gate(run, tmp_path, said).returncode == 3
    assert (tmp_path / "said").read_text() == f"{run}\n"
    assert not (tmp_path / "evil").exists()


# --------------------------------------------------------------------------------------------------------------- the workflows
def loaded(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in loaded(path)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_expression_stands_in_a_script_and_every_action_is_pinned(path: Path) -> None:
    """What a pull request chooses reaches a shell as a variable; a tag can be moved, a commit cannot."""
    assert "pull_request_target" not in loaded(path)["on"]
    for step in steps(path):
        assert "${{" not in step.get("run", "")
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])


def test_the_gate_may_only_read_and_the_comment_runs_nothing_of_the_pull_request() -> None:
    """The privileged workflow checks nothing out, reads two files as data, and renders the comment itself."""
    assert loaded(CI / "github-gate.yml")["permissions"] == {"contents": "read"}
    comment = CI / "github-comment.yml"
    assert loaded(comment)["permissions"] == {}
    assert not [step for step in steps(comment) if "checkout" in step.get("uses", "")]
    scripts = "\n".join(step.get("run", "") for step in steps(comment))
    assert set(re.findall(r"untrusted/(\S+)", scripts.replace('$name"', "NAME"))) == {"NAME"}
    assert "for name in report.json verdict.json; do" in scripts
    assert "edgekd render data comment" in scripts


def test_the_scripts_in_workflows_are_sound_shell() -> None:
    """shellcheck has nothing to say, as `make lint` asks it about gate.sh."""
    lines = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    lines += ["\n".join(job["script"]) for job in loaded(CI / "gitlab-ci.yml").values()]
    for text in lines:
        checked = subprocess.run(
            [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash", "-"], input=text, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout

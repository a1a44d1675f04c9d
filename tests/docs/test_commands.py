"""What the documents tell people to type exists: make targets, commands, options, extras; and nothing is left untold."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from edgekd.cli import app
from edgekd.core import errors, parts
from edgekd.core.evidence import Evidence
from edgekd.core.records import Checkpoint, Report

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def typed(page: str, program: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of a program in a page's shell blocks."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == program:
                yield words[1:]


def unknown_words(arguments: list[str]) -> list[str]:
    """Return what `edgekd ARGUMENTS` would not understand: the command or an option of it."""
    if arguments[0] not in COMMANDS:
        return arguments[:1]
    command = COMMANDS[arguments[0]]
    if hasattr(command, "commands"):
        if len(arguments) < 2 or arguments[1] not in command.commands:
            return arguments[:2]
        command = command.commands[arguments[1]]
    known = {option for param in command.params for option in (*param.opts, "--help")}
    return [word for word in arguments[1:] if word.startswith("-") and word.partition("=")[0] not in known]


def test_the_readme_shows_every_command_and_only_those() -> None:
    """A new command is not forgotten, and a removed one does not linger."""
    groups = {name: set(command.commands) for name, command in COMMANDS.items() if hasattr(command, "commands")}
    shown = list(typed("README.md", "edgekd"))
    assert {arguments[0] for arguments in shown} == set(COMMANDS)
    for name, commands in groups.items():
        assert {arguments[1] for arguments in shown if arguments[0] == name} == commands


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_in_a_page_exists(page: str) -> None:
    """Including the options that follow it."""
    assert [words for arguments in typed(page, "edgekd") for words in unknown_words(arguments)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_and_variable_in_a_page_exists(page: str) -> None:
    """`make quickstart TORCH_INDEX=...` needs the target and the variable."""
    calls = list(typed(page, "make"))
    assert calls
    for arguments in calls:
        variables = {word.partition("=")[0] for word in arguments if "=" in word}
        assert {word for word in arguments if "=" not in word} <= TARGETS
        assert all(re.search(rf"^{name} \?=", MAKEFILE, re.MULTILINE) for name in variables)


def test_every_recipe_that_a_page_or_a_recipe_runs_is_there() -> None:
    """`edgekd run recipes/x.yaml` names a file of the repository."""
    pages = [ROOT / page for page in PAGES] + sorted((ROOT / "recipes").glob("*.yaml"))
    named = {name for page in pages for name in re.findall(r"\brecipes/[\w.-]+\.yaml", page.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_extra_that_a_page_installs_exists(page: str) -> None:
    """`pip install 'edgekd[openvino,report]'`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {extra for found in re.findall(r"edgekd\[([\w,]+)\]", text) for extra in found.split(",")}
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_readmes_exit_codes_are_those_of_the_house() -> None:
    """Each code that can come out has its line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| exit code |")[2].partition("\n\n")[0]
    told = {int(code) for row in table.splitlines()[2:] for code in row.split("|")[1].split(",")}
    codes = {getattr(errors, name) for name in ("PASSED", "BUDGET_FAILED", "USAGE", "INCONCLUSIVE", "MACHINE", "INTEGRITY")}
    assert told == codes | {130, 143}


def test_make_help_lists_every_target() -> None:
    """Every target that is not a file says what it does."""
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    told = set(re.findall(r"^([a-z]+):.*  ## \w", MAKEFILE, re.MULTILINE))
    assert phony == told == TARGETS


def test_ci_runs_the_same_targets_as_a_user() -> None:
    """One script, runnable by hand, that calls what the README shows."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = set(re.findall(r"^make (.*)$", script.read_text(encoding="utf-8"), re.MULTILINE)[0].split())
    assert {"quickstart", "test", "check"} <= called <= TARGETS
    assert re.search(r"^check: .*\btest\b", MAKEFILE, re.MULTILINE)


def test_workflows_pin_every_action_to_a_commit_and_may_only_read() -> None:
    """A tag can be moved; a commit cannot."""
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for workflow in workflows:
        text = workflow.read_text(encoding="utf-8")
        used = re.findall(r"uses: (\S+)", text)
        assert used
        assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
        assert re.search(r"^permissions:\n  contents: read\n\n", text, re.MULTILINE)


def test_the_part_that_contributing_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_register: None) -> None:
    """Its one file is saved as somebody's own package, made known as the page says, and judged with."""
    (source,) = blocks("CONTRIBUTING.md", "python")
    (registration,) = blocks("CONTRIBUTING.md", "toml")
    (group, entries) = next(iter(tomllib.loads(registration)["project"]["entry-points"].items()))
    ((name, value),) = entries.items()
    package, _, module = value.partition(":")[0].partition(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(source)
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert parts.help_line("budget", name) == "The student knows at most `max` classes."
    budget = parts.load("budget", name)(max=10)
    for count, outcome in [(10, "pass"), (11, "fail")]:
        report = Report.model_construct(student=Checkpoint.model_construct(classes=("a",) * count))
        (finding,) = budget.check(Evidence(report=report))  # type: ignore[attr-defined]
        assert (finding.budget, finding.outcome) == (name, outcome)


def test_the_part_that_contributing_shows_is_in_our_style(tmp_path: Path) -> None:
    """ruff, as CI runs it, has nothing to say about it."""
    file = tmp_path / "classes.py"
    file.write_text(blocks("CONTRIBUTING.md", "python")[0])
    for action in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *action, "--config", str(ROOT / "pyproject.toml"), "--no-cache", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

"""The commands that look at things, and what the command line does with mistakes."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import edgekd
from edgekd.cli import main
from edgekd.core import parts
from edgekd.recipe import load_recipe

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


def test_version(call: Call) -> None:
    """--version prints the package's version alone."""
    assert call("--version") == (0, f"{edgekd.__version__}\n", "")


def test_list_names_every_part_with_its_help(call: Call) -> None:
    """Every kind and every registered name appear, each part with its first docstring line."""
    code, out, _ = call("list")
    assert code == 0
    for kind in parts.FOLDERS:
        assert f"\n{kind}\n" in f"\n{out}"
        for name in parts.names(kind):
            assert f"  {name}" in out
            assert parts.help_line(kind, name) in out


def test_list_of_one_kind_and_of_no_kind(call: Call) -> None:
    """A kind narrows the list; an unknown kind lists the kinds."""
    assert call("list", "budget")[1].startswith("budget\n")
    code, _, err = call("list", "budgets")
    assert code == 2
    assert "method, teacher" in err


def test_doctor_reports_the_machine_and_its_runtimes(call: Call) -> None:
    """Cores, memory and each runtime with its version, or how to install it."""
    code, out, _ = call("doctor")
    assert code == 0
    assert "usable of" in out
    assert "ok       onnxruntime " in out
    assert "tensorrt" in out
    assert re.search(r"^device   class [0-9a-f]{12}, state [0-9a-f]{12}: \d+ fields, \d+ unknown$", out, re.MULTILINE)


def test_doctor_shows_the_fingerprint_and_holds_the_machine_against_a_profile(call: Call, tmp_path: Path) -> None:
    """Every known field, the unknown ones by name; a profile says whether this is such a device, and how to pin its clocks."""
    profile = tmp_path / "device.yaml"
    common = "title: Lab\nfacts: {cpu: any, cores: 1}\nexpect: [nothing]\nsources: [here]\n"
    profile.write_text(common + 'matches: {system: Linux}\npin: {commands: [turn the knob], then: {python: "^never$"}}\n')
    code, out, _ = call("doctor", "--fingerprint", "--profile", profile)
    assert code == 0
    assert re.search(r"^  usable_cores +\d+$", out, re.MULTILINE)
    assert re.search(r"^unknown  ", out, re.MULTILINE)
    assert "profile  Lab: no\n         clocks not pinned: python is " in out
    assert out.endswith("pin by   turn the knob\n")


def test_init_writes_a_recipe_that_loads(call: Call, tmp_path: Path) -> None:
    """With train/ and val/ inside both are named; without them a fifth is held out; nothing is overwritten."""
    for split in ("train", "val"):
        (tmp_path / "split" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "split" / split / "cat" / "1.png")
    out = tmp_path / "recipe.yaml"
    assert call("init", tmp_path / "split", "--out", out)[0] == 0
    loaded = load_recipe(out)
    loaded.check()
    assert loaded.recipe.data.options["val"] == str(tmp_path / "split" / "val")
    load_recipe(out, quick=True).check()
    code, _, err = call("init", tmp_path / "split", "--out", out)
    assert code == 2
    assert "already there" in err
    flat = tmp_path / "flat.yaml"
    assert call("init", tmp_path / "split" / "train", "--out", flat)[0] == 0
    assert load_recipe(flat).recipe.data.options["val_fraction"] == 0.2
    assert call("init", tmp_path / "nowhere", "--out", tmp_path / "x.yaml")[0] == 2


def test_show_refuses_what_is_no_record(call: Call, tmp_path: Path) -> None:
    """A JSON file of another kind, and a file that is no JSON, are refused with the kinds there are."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"a": 1}))
    code, _, err = call("show", other)
    assert code == 2
    assert "checkpoint, artifact" in err
    other.write_text("no json")
    assert call("show", other)[0] == 2


def test_verify_of_an_empty_folder(call: Call, tmp_path: Path) -> None:
    """Nothing to verify is not verified."""
    assert call("verify", tmp_path)[0] == 2


def test_unknown_commands_and_options_are_usage_errors(call: Call) -> None:
    """Both exit with 2 and say what is wrong."""
    assert call("frobnicate")[0] == 2
    assert call("run", "x.yaml", "--frobnicate")[0] == 2
    code, _, err = call("run", "no-such-recipe.yaml")
    assert code == 2
    assert "no-such-recipe.yaml" in err
    assert "Traceback" not in err


def test_what_dies_in_native_code_says_who_called_it() -> None:
    """The process ends by the signal, and the last lines name the Python functions that were on the way."""
    program = (
        "import ctypes, edgekd.cli as cli\ndef crash(): ctypes.string_at(0)\ncli.app.command('die')(crash)\ncli.main(['die'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error" in done.stderr
    assert "in crash" in done.stderr

"""`trtexec`, TensorRT's own program, for devices that have TensorRT without its Python bindings.

Commands are lists of arguments and never pass through a shell. Flags are those of both majors (samples/common/sampleOptions.cpp
of NVIDIA/TensorRT, releases 10.3 to 11.1). trtexec's own timings are no measurement of edgekd: since 11.0 it leaves the copies
out, spins and uses CUDA graphs by default, which 10 does not; `time_command` says so explicitly, so that both mean the same.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.core.errors import MachineError
from edgekd.exporting.tensorrt_build import BuildSettings

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

BUILD_TIMEOUT_S, RUN_TIMEOUT_S = 3600.0, 300.0
_PLACES = ("/usr/src/tensorrt/bin/trtexec",)  # where NVIDIA's Debian packages and JetPack put it, outside of PATH
_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_FIRST_VERSION = 100_000
_NOT_JSON = {r"-?\bnan\b": "NaN", r"\binf\b": "Infinity"}  # as C++ writes them
_TAIL_LINES = 5


def find() -> str:
    """Return the path of trtexec; raise `MachineError` if it is not here."""
    found = shutil.which("trtexec") or next((place for place in _PLACES if Path(place).is_file()), None)
    if found is None:
        raise MachineError(
            f"trtexec is not here (neither on PATH nor at {_PLACES[0]})",
            mend="install NVIDIA's TensorRT packages, or use `runner: python` with pip install 'edgekd[tensorrt]'",
        )
    return found


def build_command(program: str, *, onnx: Path, engine: Path, settings: BuildSettings, timing_cache: Path) -> list[str]:
    """Return the command that builds an engine and does not run it: strongly typed, without TF32."""
    command = [program, f"--onnx={onnx}", f"--saveEngine={engine}", f"--timingCacheFile={timing_cache}"]
    command += ["--stronglyTyped", "--noTF32", "--skipInference", "--profilingVerbosity=detailed"]
    command.append(f"--builderOptimizationLevel={settings.optimisation_level}")
    if settings.workspace_mib is not None:
        command.append(f"--memPoolSize=workspace:{settings.workspace_mib}")
    if settings.smallest != settings.largest:
        shapes = {"min": settings.smallest, "opt": settings.best, "max": settings.largest}
        command += [f"--{which}Shapes={_shape(settings.input, shape)}" for which, shape in shapes.items()]
    return command


def run_command(program: str, *, engine: Path, input: str, shape: Sequence[int], images: Path, answers: Path) -> list[str]:  # noqa: A002
    """Return the command that runs an engine once on a file of raw float32 images and writes its outputs as JSON."""
    command = [program, f"--loadEngine={engine}", f"--shapes={_shape(input, shape)}", f"--loadInputs={input}:{images}"]
    return [*command, f"--exportOutput={answers}", "--iterations=1", "--duration=0", "--warmUp=0", "--avgRuns=1"]


def time_command(program: str, *, engine: Path, input: str, shape: Sequence[int], times: Path) -> list[str]:  # noqa: A002
    """Return the command that times an engine on the device alone, the same way under TensorRT 10 and 11."""
    command = [program, f"--loadEngine={engine}", f"--shapes={_shape(input, shape)}", f"--exportTimes={times}"]
    return [*command, "--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--warmUp=2000", "--duration=20"]


def call(command: Sequence[str], *, timeout_s: float) -> str:
    """Run a command to its end and return what it said; raise `MachineError` with its last lines if it failed."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"{command[0]} did not end within {timeout_s:g} s", mend="try a lower `optimisation_level`"
        ) from error
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        lines = "\n".join(f"    {line}" for line in done.stdout.strip().splitlines()[-_TAIL_LINES:])
        raise MachineError(f"{command[0]} failed with exit code {done.returncode}; it said last:\n{lines}")
    return done.stdout


def version(said: str) -> str:
    """Return TensorRT's version from what trtexec said: `[TensorRT v101601]` is 10.16.1; '' if it says none from 10 on."""
    found = _VERSION.search(said)
    number = int(found[1]) if found else 0
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}" if number >= _FIRST_VERSION else ""


def ask(program: str, *, engine: Path, input: str, image_BCHW: "Array") -> "Array":  # noqa: A002
    """Return an engine's float32 answers to a batch, by one run of trtexec."""
    with tempfile.TemporaryDirectory(prefix="edgekd-trtexec-") as temporary:
        images, answers = Path(temporary) / "images.bin", Path(temporary) / "answers.json"
        np.ascontiguousarray(image_BCHW).tofile(images)
        command = run_command(program, engine=engine, input=input, shape=image_BCHW.shape, images=images, answers=answers)
        call(command, timeout_s=RUN_TIMEOUT_S)
        return read_answers(answers, len(image_BCHW))


def read_answers(path: Path, batch: int) -> "Array":
    """Return the only output of `--exportOutput` as float32 rows, one an image, to the six digits that trtexec writes.

    Raises `MachineError` if it is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        for spelling, number in _NOT_JSON.items():
            text = re.sub(spelling, number, text)
        (output,) = json.loads(text)
        shape = tuple(int(side) for side in output["dimensions"].split("x"))
        found: Array = np.asarray(output["values"], dtype=np.float32).reshape(shape)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MachineError(f"{path.name}: trtexec wrote no single output that can be read: {error}") from error
    if found.ndim != 2 or len(found) != batch:
        raise MachineError(f"trtexec answered {' x '.join(map(str, found.shape))} to a batch of {batch}")
    return found


def _shape(name: str, shape: Sequence[int]) -> str:
    return f"{name}:{'x'.join(map(str, shape))}"

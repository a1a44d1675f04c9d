"""The run folder that a command works in: a new one or one that is there, checked and locked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.errors import UsageError
from edgekd.core.store import MARKER, RunFolder, locked, open_run_folder
from edgekd.recipe import Loaded, load_recipe
from edgekd.work import Work


@contextmanager
def begin(
    loaded: Loaded, out: Path | None, *, overwrite: bool, command: Sequence[str] | None, console: Console | None
) -> Iterator[Work]:
    """Yield work on a recipe in its folder, made if it is not there, once everything that it names can be loaded."""
    loaded.check()
    runnable = [backend for backend in loaded.backends if not backend.cannot_run_here()]
    for part in (*runnable, *loaded.devices, *loaded.formats, loaded.source):
        parts.need_packages(part)
    root = open_run_folder(out or Path("runs") / loaded.recipe.name, overwrite=overwrite)
    with locked(root):
        work = Work(loaded, RunFolder(root), command, console or Console())
        work.write_recipe()
        work.begin_peers()
        with work.holding_peers():
            yield work


@contextmanager
def resume(run: Path, *, command: Sequence[str] | None, console: Console | None) -> Iterator[Work]:
    """Yield work on a run folder that is there; raises `UsageError` for anything else."""
    if run.suffix == ".onnx":
        raise UsageError(
            f"{run}: is a model, not a run folder", mend="make one of it: edgekd import-onnx MODEL.onnx --data DIR"
        )
    if not (run / MARKER).is_file():
        raise UsageError(f"{run}: is not a run folder of edgekd", mend="make one with `edgekd run RECIPE --out DIR`")
    with locked(run):
        folder = RunFolder(run)
        work = Work(load_recipe(folder.recipe), folder, command, console or Console())
        with work.holding_peers():
            yield work

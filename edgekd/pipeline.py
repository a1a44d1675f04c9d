"""From a recipe to a verdict: the stages in order, skipping what is already done.

Every function takes a recipe or a run folder and works on files; each is one command of the command line.
"""

from collections.abc import Sequence
from pathlib import Path

from edgekd import measuring
from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.errors import UsageError
from edgekd.core.records import Artifact, Checkpoint, Measurement, Verdict
from edgekd.core.side_records import Bisection, Bundle
from edgekd.core.store import RunFolder, write_text
from edgekd.recipe import load_recipe
from edgekd.runs import begin, resume
from edgekd.verdicts import publish
from edgekd.work import Work


def run(
    recipe: Path,
    *,
    out: Path | None = None,
    quick: bool = False,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    history: str | None = None,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Verdict:
    """Distil, export, measure, report and judge; stages that are done from the same inputs are kept.

    The verdict is added to `history`, or to that of the recipe, if there is one.
    """
    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    with begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        work.distill_all()
        for one in work.everyone:
            one.export_all()
        for one in work.everyone:
            measuring.bench_all(one)
        verdict = work.judge()
        publish(work, verdict, history)
        if not any(one.done_anew for one in work.everyone):
            work.console.say("nothing to do: every stage was already done from these inputs")
        return verdict


def distill(
    recipe: Path,
    *,
    out: Path | None = None,
    quick: bool = False,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Checkpoint:
    """Train the student (and the baseline) of a recipe."""
    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    with begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        return work.distill_all()


def cache(
    recipe: Path,
    *,
    quick: bool = False,
    assignments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> None:
    """Have the teachers of a recipe answer what its methods will ask, and keep the answers; train nothing.

    Raises `UsageError` if the recipe keeps no answers (`cache.views: 0`).
    """
    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    loaded.check()
    if loaded.recipe.cache.views == 0:
        raise UsageError(f"{recipe}: `cache.views: 0` keeps no answers; the teachers run in every step", mend="set cache.views")
    parts.need_packages(loaded.source)
    Work(loaded, RunFolder(Path()), command, console or Console()).fill_caches()


def export(run: Path, *, command: Sequence[str] | None = None, console: Console | None = None) -> tuple[Artifact, ...]:
    """Export the student of a run to every backend of its recipe, and its peers; return the student's."""
    with resume(run, command=command, console=console) as work:
        own, *_peers = [one.export_all() for one in work.everyone]
        return own


def bisect(
    run: Path,
    *,
    artifacts: Sequence[str] = (),
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> tuple[Bisection, ...]:
    """Export what is not exported, and find the first node that departs in each of these artifacts.

    Without names: in those whose parity is not a pass.
    """
    with resume(run, command=command, console=console) as work:
        work.export_all()
        return work.bisect(artifacts)


def bundle(
    run: Path, *, out: Path | None = None, command: Sequence[str] | None = None, console: Console | None = None
) -> tuple[Bundle, ...]:
    """Write a folder and a .tar.gz for a device: of each artifact of a run, exported first, or of one artifact's folder.

    They stand in `out` (by default the run's `bundles/`), named as the artifact. Raises `UsageError` if none of the artifacts
    has a runtime that bundles have programs for.
    """
    from edgekd.exporting import bundle as exporting

    if not exporting.is_artifact(run):
        export(run, command=command, console=console)
    return exporting.write_all(run, out=out, console=console or Console())


def bench(
    run: Path,
    *,
    against: Path | None = None,
    assignments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> tuple[Measurement, ...]:
    """Measure the exported artifacts of a run on every device of its recipe, and its peers'; return the student's.

    With `against` in turns with another run's artifacts of the same names. `assignments` change the recipe's `bench` section,
    for this run folder from now on.
    """
    with resume(run, command=command, console=console) as work:
        changes = [*assignments, *([f"bench.against={against}"] if against is not None else [])]
        if changes:
            work = _with_bench(work, changes)
        own, *_peers = [measuring.bench_all(one) for one in work.everyone]
        return own


def bench_file(
    model: Path,
    *,
    out: Path | None = None,
    assignments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> tuple[Measurement, ...]:
    """Measure an ONNX or OpenVINO file that belongs to no run, on inputs that are made up; records go to `out`.

    `assignments` change the defaults of a recipe's `bench` section (`profile=quick`). By default `out` is runs/<model's name>.
    """
    made = measuring.bench_foreign(
        model,
        assignments=assignments,
        out=out or Path("runs") / model.stem,
        console=console or Console(),
        command=command,
    )
    return tuple(made.values())


def _with_bench(work: Work, assignments: Sequence[str]) -> Work:
    """Return work on the same folder after its recipe's `bench` section was changed."""
    wrong = [one for one in assignments if not one.startswith("bench.")]
    if wrong:
        raise UsageError(f"--set {wrong[0]}: only keys of `bench` can be changed here", mend="for example bench.profile=quick")
    loaded = load_recipe(work.folder.recipe, assignments=assignments)
    _ = loaded.devices  # all that a bench section names; the rest stands, and of an imported model could not be resolved
    write_text(work.folder.recipe, loaded.resolved())
    return Work(load_recipe(work.folder.recipe), work.folder, work.command, work.console)

"""Before training: which teacher, which method, which student."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.errors import UsageError
from edgekd.core.records import Candidates
from edgekd.core.side_records import PilotResult, TeacherRanking
from edgekd.core.store import RunFolder
from edgekd.recipe import load_recipe
from edgekd.runs import begin
from edgekd.work import Work


def rank_teachers(
    recipe: Path,
    *,
    quick: bool = False,
    assignments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> TeacherRanking:
    """Say what the features of a recipe's teachers are worth on its images, before anything is trained."""
    from edgekd.distilling import ranking

    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    loaded.check()
    if not loaded.teachers:
        raise UsageError(f"{recipe}: names no teachers to rank", mend="add `teachers:` to the recipe")
    parts.need_packages(loaded.source)
    work = Work(loaded, RunFolder(Path()), command, console or Console())
    return ranking.rank(work.ask(()), work.source, console=work.console, made_by=work.made_by)


def pilot(
    recipe: Path,
    *,
    out: Path | None = None,
    quick: bool = False,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> PilotResult:
    """Try several methods on small equal budgets, and write the recipe of the winner."""
    from edgekd.pilot import PilotWork

    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    with begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        result = PilotWork(work).go()
        work.console.say(f"wrote {work.folder.root / 'pilot.md'} and {work.folder.root / 'winner.yaml'}")
        return result


def search(
    recipe: Path,
    *,
    out: Path | None = None,
    quick: bool = False,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Candidates:
    """Find a student before any is trained, and write the recipe that trains it."""
    from edgekd import student_search

    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    _ = loaded.space
    with begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        found = student_search.search(work)
        work.console.say(f"wrote {work.folder.search} and {work.folder.root / student_search.WINNER}")
        return found

"""Search for a student: what the rooms need of one another for it, brought together."""

from dataclasses import replace
from importlib.util import find_spec

from edgekd.block_timing import Stopwatch
from edgekd.core import parts
from edgekd.core.errors import MachineError, UsageError
from edgekd.core.host import cache_folder, usable_cores
from edgekd.core.records import Candidates
from edgekd.core.store import find_done, write_record, write_text
from edgekd.judging import search_page
from edgekd.recipe import Loaded, digest_of_section
from edgekd.work import Work

FOLDER, PAGE, WINNER = "search", "search.html", "winner.yaml"


def search(work: Work) -> Candidates:
    """Search as the recipe says; write `search.json`, its page, and `winner.yaml`, the recipe with the student it found."""
    from edgekd.searching import stage

    loaded, plan = work.loaded, work.recipe.search
    space, scorers = loaded.space, loaded.scorers
    assert plan is not None
    _check(loaded)
    teacher = loaded.teachers[0] if loaded.teachers else None
    from_ = {
        "data": work.source.digest(),
        "settings": digest_of_section(
            plan.model_copy(update={"workers": None}),
            loaded.search_device.identity() if loaded.search_device is not None else None,
            space.identity(),
            [scorer.identity() for scorer in scorers],
            teacher.identity() if teacher else None,
            work.recipe.seed,
        ),
    }
    found = find_done(Candidates, work.folder.search, from_)
    if found is None:
        backend, root = loaded.search_backend, work.folder.root
        stopwatch = None
        if backend is not None and plan.latency is not None:
            device = loaded.search_device
            stopwatch = Stopwatch(backend, device, threads=plan.latency.threads, iterations=plan.latency.iterations)
        job = stage.Job(
            name=work.recipe.name,
            plan=plan.model_copy(update={"scorers": tuple(scorer.ref() for scorer in scorers)}),
            space=space,
            source=work.source,
            teacher=teacher,
            stopwatch=stopwatch,
            folder=root / FOLDER,
            kept_blocks=(cache_folder() or root / FOLDER) / "latency",
            seed=work.recipe.seed,
            workers=plan.workers or usable_cores(),
            from_=from_,
            made_by=work.made_by,
        )
        found = stage.search(job, work.console)
        work.done_anew = True
        write_record(work.folder.search, found)
    else:
        work.console.say("search: kept")
    write_text(work.folder.root / WINNER, winner_yaml(loaded, found))
    write_text(work.folder.root / PAGE, search_page.render(found))
    return found


def winner_yaml(loaded: Loaded, found: Candidates) -> str:
    """Return the recipe with the student that was found and without the search, resolved."""
    winner = found.candidates[found.winner]
    recipe = loaded.recipe.model_copy(update={"student": winner.student, "search": None})
    header = [
        f"Written by edgekd search: the recipe {loaded.recipe.name} with the student {winner.genome}",
        f"picked of {len(found.candidates)} untrained ones, because {found.why}.",
        "Nothing was trained: whether it learns better than others of its size is yet to be seen.",
    ]
    return "".join(f"# {line}\n" for line in header) + replace(loaded, recipe=recipe).resolved()


def _check(loaded: Loaded) -> None:
    """Find out before anything is computed what cannot be."""
    plan, backend = loaded.recipe.search, loaded.search_backend
    assert plan is not None
    wanting = [scorer.ref().use for scorer in loaded.scorers if scorer.needs_teacher]
    if wanting and not loaded.teachers:
        raise UsageError(
            f"{loaded.document.path}: the scorer {wanting[0]} compares with a teacher, and the recipe names none",
            mend="add `teachers:`, or use scorers that need none: synflow, zen, parameters, macs",
        )
    if not any(scorer.weight for scorer in loaded.scorers):
        raise UsageError(
            f"{loaded.document.where(('search', 'scorers'))}: every scorer has weight 0, so nothing is searched by",
            mend="leave `weight` out of one of them",
        )
    if plan.strategy == "optuna" and find_spec("optuna") is None:
        raise MachineError(
            "optuna is not installed, and `search.strategy: optuna` asks for it", mend="pip install 'edgekd[search]'"
        )
    if backend is not None:
        parts.need_packages(backend)
        here = loaded.search_device is None or loaded.search_device.ref().use == "local"
        if here and (reason := backend.cannot_run_here()):
            raise MachineError(f"latencies cannot be measured here: {reason}", mend="name another `search.latency.backend`")
        if backend.precision == "int8":
            raise UsageError(
                f"{loaded.document.where(('search', 'latency', 'backend'))}: untrained students have no int8 form",
                mend="search by fp32 latency; int8 is found after training",
            )

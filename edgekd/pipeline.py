"""From a recipe to a verdict: the stages in order, skipping what is already done.

Every function takes a recipe or a run folder and works on files; each is one command of the command line.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgekd.core import contracts, parts
from edgekd.core.console import Console, Progress
from edgekd.core.errors import EvidenceError, UsageError
from edgekd.core.host import made_by, usable_cores
from edgekd.core.records import Artifact, Checkpoint, Measurement, Report, Verdict
from edgekd.core.store import (
    BASELINE,
    CHECKPOINT,
    MARKER,
    RunFolder,
    append_text,
    disk_errors,
    find_done,
    locked,
    open_run_folder,
    read_record,
    write_text,
)
from edgekd.recipe import Loaded, digest_of_section, load_budgets, load_recipe


def run(
    recipe: Path,
    *,
    out: Path | None = None,
    quick: bool = False,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Verdict:
    """Distil, export, measure, report and judge; stages that are done from the same inputs are kept."""
    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        work.distill_all()
        work.export_all()
        work.bench_all()
        verdict = work.judge()
        _tell_github(work, verdict)
        if not work.done_anew:
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
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        return work.distill_all()


def export(run: Path, *, command: Sequence[str] | None = None, console: Console | None = None) -> tuple[Artifact, ...]:
    """Export the student of a run to every backend of its recipe."""
    with _resume(run, command=command, console=console) as work:
        return work.export_all()


def bench(run: Path, *, command: Sequence[str] | None = None, console: Console | None = None) -> tuple[Measurement, ...]:
    """Measure the exported artifacts of a run on every device of its recipe."""
    with _resume(run, command=command, console=console) as work:
        return work.bench_all()


def report(run: Path, *, command: Sequence[str] | None = None, console: Console | None = None) -> Report:
    """Put the records of a run side by side, judge them, and write every format; imports no torch."""
    with _resume(run, command=command, console=console) as work:
        work.judge(anew=True)
        return read_record(Report, work.folder.report)


def gate(
    run: Path, *, budgets: Path | None = None, command: Sequence[str] | None = None, console: Console | None = None
) -> Verdict:
    """Judge the report of a run by its recipe's budgets, or by those of another file; imports no torch.

    Raises `EvidenceError` if the records have changed since the report was made. A report without them is judged as it is.
    """
    from edgekd.judging import stage

    with _resume(run, command=command, console=console) as work:
        judged_by = work.loaded.budgets if budgets is None else load_budgets(budgets)
        facts = read_record(Report, work.folder.report)
        if work.folder.checkpoint().is_file() and work.facts().digest() != facts.digest():
            raise EvidenceError(
                f"{work.folder.report}: is not about the records that are here now",
                mend="make it anew with `edgekd report`",
            )
        verdict = stage.judge(facts, judged_by, work.made_by)
        stage.write(work.folder, facts, verdict, work.loaded.formats)
        _tell_github(work, verdict)
        return verdict


def _tell_github(work: "_Work", verdict: Verdict) -> None:
    """Append the Markdown report to the job's summary where a GitHub runner asks for one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    page = parts.load("format", "markdown")()
    assert isinstance(page, contracts.Format)
    text = page.render(read_record(Report, work.folder.report), verdict)
    append_text(Path(summary), text)


@contextmanager
def _begin(
    loaded: Loaded, out: Path | None, *, overwrite: bool, command: Sequence[str] | None, console: Console | None
) -> Iterator["_Work"]:
    loaded.check()
    for part in (*loaded.backends, *loaded.devices, *loaded.formats, loaded.source):
        parts.need_packages(part)
    root = open_run_folder(out or Path("runs") / loaded.recipe.name, overwrite=overwrite)
    with locked(root):
        work = _Work(loaded, RunFolder(root), command, console or Console())
        text = loaded.resolved()
        if not work.folder.recipe.is_file() or work.folder.recipe.read_text(encoding="utf-8") != text:
            write_text(work.folder.recipe, text)
        yield work


@contextmanager
def _resume(run: Path, *, command: Sequence[str] | None, console: Console | None) -> Iterator["_Work"]:
    if not (run / MARKER).is_file():
        raise UsageError(f"{run}: is not a run folder of edgekd", mend="make one with `edgekd run RECIPE --out DIR`")
    with locked(run):
        folder = RunFolder(run)
        yield _Work(load_recipe(folder.recipe), folder, command, console or Console())


def _added_up(progress: Progress) -> Callable[[int, int], None]:
    """Return a callback that adds up counts which begin anew with every folder."""
    before = last = 0

    def count(done: int, _total: int) -> None:
        nonlocal before, last
        before += last if done < last else 0
        last = done
        progress.update(before + done)

    return count


@dataclass
class _Work:
    """One run folder being worked on."""

    loaded: Loaded
    folder: RunFolder
    command: Sequence[str] | None
    console: Console
    done_anew: bool = False

    def __post_init__(self) -> None:
        self.made_by = made_by(self.command)
        self.recipe = self.loaded.recipe

    @cached_property
    def source(self) -> contracts.Source:
        """Return the recipe's source, its images listed and checked."""
        source = self.loaded.source
        with self.console.progress("images", None, "new images checked") as progress:
            source.on_progress(_added_up(progress))
            source.digest()
        facts = source.facts()
        self.console.say(
            f"images: {facts.labelled_images} labelled and {facts.train_images - facts.labelled_images} unlabelled to train"
            f" on, {facts.validation_images} to validate on, {len(facts.classes)} classes"
        )
        if facts.quarantined:
            self.console.warn(f"{len(facts.quarantined)} images were left out; the report lists them")
        return source

    # ------------------------------------------------------------------------------------------------------------ distil
    def distill_all(self) -> Checkpoint:
        """Train what is not trained yet; return the student's checkpoint."""
        student = self._distill(CHECKPOINT, self.loaded.method, self.loaded.teachers)
        baseline, method = self.recipe.baseline, self.loaded.baseline_method
        if baseline is None or method.identity() == self.loaded.method.identity():
            with disk_errors(self.folder.root):
                shutil.rmtree(self.folder.checkpoint(BASELINE).parent, ignore_errors=True)
            return student
        view_px = max(student.input.size_px[0], *(teacher.size_px[0] for teacher in student.teachers), 0)
        self._distill(BASELINE, method, (), images_seen=student.training.images_seen, view_px=view_px)
        return student

    def _distill(
        self,
        name: str,
        method: contracts.Method,
        teachers: tuple[contracts.Teacher, ...],
        images_seen: int | None = None,
        view_px: int | None = None,
    ) -> Checkpoint:
        source, student = self.source, self.loaded.student
        title = "student" if name == CHECKPOINT else name
        plan = self.recipe.train
        if name == BASELINE and self.recipe.baseline is not None:
            plan = plan.model_copy(update=self.recipe.baseline.changes())
        learned_from = (student.identity(), method.identity(), [teacher.identity() for teacher in teachers])
        settings = plan.model_copy(update={"workers": None})
        from_ = {
            "data": source.digest(),
            "settings": digest_of_section(*learned_from, settings, self.recipe.seed, images_seen, view_px),
        }
        path = self.folder.checkpoint(name)
        if (done := find_done(Checkpoint, path, from_)) is not None:
            self.console.say(f"{title}: kept, top-1 {done.accuracy.top1:.1%}")
            return done
        from edgekd.distilling import stage

        job = stage.Job(
            name=title,
            source=source,
            student=student,
            teachers=teachers,
            method=method,
            plan=plan,
            seed=self.recipe.seed,
            view_px=view_px,
            images_seen=images_seen,
            from_=from_,
            made_by=self.made_by,
        )
        self.done_anew = True
        made = stage.distill(job, path.parent, self.console)
        self.console.say(f"{title}: top-1 {made.accuracy.top1:.1%} on {made.accuracy.images} validation images")
        return made

    # ------------------------------------------------------------------------------------------------------------ export
    def export_all(self) -> tuple[Artifact, ...]:
        """Export what is not exported yet; remove artifacts that the recipe does not name any more."""
        from edgekd.exporting import stage

        checkpoint = read_record(Checkpoint, self.folder.checkpoint())
        source, student = self.source, self.loaded.student
        threads = (self.recipe.bench.threads if self.recipe.bench else None) or usable_cores()
        reference = None
        made = []
        for backend in self.loaded.backends:
            from_ = {
                "checkpoint": checkpoint.digest(),
                "data": source.digest(),
                "settings": digest_of_section(backend.identity()),
            }
            path = self.folder.artifact(backend.artifact_name)
            artifact = find_done(Artifact, path, from_)
            if artifact is None:
                self.done_anew = True
                reference = reference or stage.Reference(
                    checkpoint=checkpoint,
                    folder=self.folder.checkpoint().parent,
                    student=student,
                    source=source,
                    threads=threads,
                    console=self.console,
                )
                artifact = stage.export(
                    reference=reference,
                    backend=backend,
                    folder=path.parent,
                    threads=threads,
                    from_=from_,
                    made_by=self.made_by,
                    console=self.console,
                )
            else:
                self.console.say(f"{artifact.name}: kept")
            made.append(artifact)
        self._forget("artifacts", {artifact.name for artifact in made})
        return tuple(made)

    # ------------------------------------------------------------------------------------------------------------- bench
    def bench_all(self) -> tuple[Measurement, ...]:
        """Measure what is not measured yet."""
        from edgekd.benching import stage

        settings = self.recipe.bench
        made = []
        for backend in self.loaded.backends if settings is not None else ():
            path = self.folder.artifact(backend.artifact_name)
            artifact = read_record(Artifact, path)
            for device in self.loaded.devices:
                assert settings is not None
                record = self.folder.measurement(artifact.name, device.facts().name)
                from_ = {
                    "artifact": artifact.digest(),
                    "settings": digest_of_section(device.identity(), settings.model_copy(update={"devices": ()})),
                }
                measured = find_done(Measurement, record, from_)
                if measured is None:
                    self.done_anew = True
                    measured = stage.bench(
                        artifact=artifact,
                        folder=path.parent,
                        device=device,
                        source=self.source,
                        batch=settings.batch,
                        threads=settings.threads,
                        workers=settings.workers,
                        warmup=settings.warmup,
                        iterations=settings.iterations,
                        images=settings.images,
                        out=record,
                        from_=from_,
                        made_by=self.made_by,
                        console=self.console,
                    )
                else:
                    self.console.say(f"{record.stem}: kept")
                made.append((record.name, measured))
        self._forget("measurements", {name for name, _ in made})
        return tuple(measured for _, measured in made)

    # ------------------------------------------------------------------------------------------------------------- judge
    def judge(self, *, anew: bool = False) -> Verdict:
        """Report and judge; keep what is there if it is about the same facts and budgets."""
        from edgekd.judging import stage

        facts = self.facts()
        verdict = stage.judge(facts, self.loaded.budgets, self.made_by)
        kept = find_done(Verdict, self.folder.verdict, verdict.from_)
        pages = [self.folder.root / part.file_name for part in self.loaded.formats]
        if kept is None or anew or not all(page.is_file() for page in pages):
            self.done_anew = True
            for page in stage.write(self.folder, facts, verdict, self.loaded.formats):
                self.console.say(f"wrote {page}")
        return verdict

    def facts(self) -> Report:
        """Return the records that the recipe asks for, side by side."""
        from edgekd.judging import stage

        names = [backend.artifact_name for backend in self.loaded.backends]
        return stage.make_report(recipe_name=self.recipe.name, run=self.folder, artifacts=names, made_by=self.made_by)

    def _forget(self, folder: str, wanted: set[str]) -> None:
        """Remove what an earlier version of the recipe left, so that a report never mixes two recipes."""
        with disk_errors(self.folder.root):
            for path in (self.folder.root / folder).glob("*"):
                if path.name not in wanted:
                    self.console.say(f"{folder}/{path.name}: removed, the recipe does not ask for it any more")
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

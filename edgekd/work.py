"""One run folder being worked on: each stage done once from what stands before it, or kept."""

import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import contracts
from edgekd.core.console import Console, Progress
from edgekd.core.errors import UsageError
from edgekd.core.host import made_by, usable_cores
from edgekd.core.plan import Train
from edgekd.core.records import IMPORTED, Artifact, Checkpoint, MadeBy, Report, StartFacts, Verdict, licences_of_weights
from edgekd.core.sections import Finetune
from edgekd.core.store import (
    BASELINE,
    CHECKPOINT,
    INT8,
    MARKER,
    PEERS,
    START,
    RunFolder,
    checked_file,
    disk_errors,
    find_done,
    locked,
    open_run_folder,
    read_record,
    write_text,
)
from edgekd.distilling.job import Job, Peer
from edgekd.recipe import Loaded, digest_of_section

if TYPE_CHECKING:
    from edgekd.core.side_records import Bisection
    from edgekd.distilling.teaching import Teaching
    from edgekd.exporting import stage


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
class Work:
    """One run folder being worked on."""

    loaded: Loaded
    folder: RunFolder
    command: Sequence[str] | None
    console: Console
    done_anew: bool = False
    images_of: "Work | None" = None
    peer: str = ""

    def __post_init__(self) -> None:
        self.recipe = self.loaded.recipe

    @cached_property
    def made_by(self) -> MadeBy:
        """Return who makes the records of this work; asks git, which a gate on finished records does without."""
        return made_by(self.command)

    @cached_property
    def source(self) -> contracts.Source:
        """Return the recipe's source, its images listed and checked; those of another work are listed by that."""
        if self.images_of is not None:
            return self.images_of.source
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

    def beside(self, loaded: Loaded, folder: RunFolder) -> "Work":
        """Return work on another recipe over the same images, in another folder."""
        return Work(loaded, folder, self.command, self.console, images_of=self)

    @cached_property
    def peers(self) -> "dict[str, Work]":
        """Return work on the students that learn with this one, each in a run folder of its own below this one."""
        names = [path.parent.name for path in sorted((self.folder.root / PEERS).glob(f"*/{MARKER}"))]
        return {name: replace(self.beside(self.loaded.of_peer(name), self.folder.peer(name)), peer=name) for name in names}

    @property
    def everyone(self) -> "tuple[Work, ...]":
        """Return this work and that on every peer."""
        return (self, *self.peers.values())

    def begin_peers(self) -> None:
        """Make the run folders of the recipe's peers; remove those of former ones."""
        wanted = self.loaded.peers
        for name in wanted:
            self.beside(self.loaded.of_peer(name), RunFolder(open_run_folder(self.folder.peer(name).root))).write_recipe()
        self.forget(PEERS, set(wanted))

    @contextmanager
    def holding_peers(self) -> Iterator[None]:
        """Hold the peers' folders for this process."""
        with ExitStack() as held:
            for peer in self.peers.values():
                held.enter_context(locked(peer.folder.root))
            yield

    def write_recipe(self) -> None:
        """Write the recipe into the run folder as it came to be, unless it is there."""
        text = self.loaded.resolved()
        if not self.folder.recipe.is_file() or self.folder.recipe.read_text(encoding="utf-8") != text:
            write_text(self.folder.recipe, text)

    # ------------------------------------------------------------------------------------------------------------ distil
    def distill_all(self) -> Checkpoint:
        """Train what is not trained yet, peers too; return the student's checkpoint."""
        start = self._start()
        student = self._distill(CHECKPOINT, self.loaded.method, self.loaded.teachers, start=start)
        self._finetune(student)
        self._compare(student, start)
        for peer in self.peers.values():
            peer._compare(read_record(Checkpoint, peer.folder.checkpoint()), None)
        return student

    def _compare(self, student: Checkpoint, start: Checkpoint | None) -> None:
        """Train the baseline of this student, if the recipe asks for one."""
        baseline, method = self.recipe.baseline, self.loaded.baseline_method
        if baseline is None or method.identity() == self.loaded.method.identity():
            self._drop(BASELINE)
            return
        plan = self.recipe.train.model_copy(update=baseline.changes())
        seen = student.training.images_seen
        self._distill(BASELINE, method, (), plan=plan, start=start, images_seen=seen)

    def _finetune(self, student: Checkpoint) -> None:
        """Train the student on with int8 in view, if the recipe asks for it."""
        asked = Finetune() if self.recipe.finetune == "int8" else self.recipe.finetune
        if asked is None:
            self._drop(INT8)
            return
        plan = self.recipe.train.model_copy(update=asked.changes(self.recipe.train))
        folder = self.folder.checkpoint().parent
        self._distill(INT8, self.loaded.method, self.loaded.teachers, plan=plan, start=student, start_folder=folder)

    def fill_caches(self) -> None:
        """Have the teachers answer what start and student will ask, without training."""
        from edgekd.distilling import stage

        start, plan = self.recipe.start, self.recipe.train
        if start is not None and start.checkpoint is None and self.loaded.start_method is not None:
            job = self._job(START, self.loaded.start_method, self.loaded.teachers, plan=plan.model_copy(update=start.changes()))
            stage.fill_caches(job, self.console)
        stage.fill_caches(self._job(CHECKPOINT, self.loaded.method, self.loaded.teachers), self.console)

    def ask(self, taps: tuple[str, ...] = (), *, by_teacher: tuple[tuple[str, ...], ...] = ()) -> "tuple[Teaching, ...]":
        """Return the teachers with their answers to these taps kept; with none they are only loaded and probed.

        `by_teacher` are the taps of each teacher where they differ.
        """
        from edgekd.distilling import stage
        from edgekd.distilling.asking import Asking

        question = Asking(taps=taps, by_teacher=by_teacher)
        return stage.fill_caches(self._job(CHECKPOINT, question, self.loaded.teachers), self.console)

    def _start(self) -> Checkpoint | None:
        start, method = self.recipe.start, self.loaded.start_method
        if start is None or method is None or start.checkpoint is not None:
            self._drop(START)
            return None if start is None or start.checkpoint is None else self._earlier(start.checkpoint)
        teachers = self.loaded.teachers if method.needs().teachers else ()
        return self._distill(START, method, teachers, plan=self.recipe.train.model_copy(update=start.changes()))

    def _earlier(self, path: Path) -> Checkpoint:
        """Return the earlier checkpoint to begin with; a head can be kept only for the same classes."""
        found = read_record(Checkpoint, path)
        if self.recipe.start is not None and self.recipe.start.head == "kept" and found.classes != self.source.classes:
            raise UsageError(
                f"{path}: its student knows {len(found.classes)} classes, the images have {len(self.source.classes)} or others",
                mend="set `start.head: fresh` to begin with the rest of its weights",
            )
        return found

    def _start_facts(self, start: Checkpoint | None) -> StartFacts | None:
        given = self.recipe.start
        if start is None or given is None or given.checkpoint is None:
            return None
        return StartFacts(
            checkpoint=start.digest(),
            method=start.method,
            classes=len(start.classes),
            head=given.head,
            licences=licences_of_weights(start),
        )

    def _start_folder(self) -> Path:
        given = self.recipe.start.checkpoint if self.recipe.start else None
        return given.parent if given else self.folder.checkpoint(START).parent

    def _drop(self, name: str) -> None:
        with disk_errors(self.folder.root):
            shutil.rmtree(self.folder.checkpoint(name).parent, ignore_errors=True)

    def _job(
        self,
        name: str,
        method: contracts.Method,
        teachers: tuple[contracts.Teacher, ...],
        *,
        plan: Train | None = None,
        start: Checkpoint | None = None,
        start_folder: Path | None = None,
        images_seen: int | None = None,
    ) -> Job:
        source, student, plan = self.source, self.loaded.student, plan or self.recipe.train
        cache = self.recipe.cache
        learned_from: tuple[Any, ...] = (student.identity(), method.identity(), [teacher.identity() for teacher in teachers])
        together = self.loaded.peers if name == CHECKPOINT and (method.needs().peers or method.needs().branches) else {}
        if together:
            learned_from += ({peer: part.identity() for peer, part in together.items()},)
        settings = plan.model_copy(update={"workers": None})
        kept = cache.model_copy(update={"folder": None}) if method.needs().teachers else cache.seed
        from_ = {
            "data": source.digest(),
            "settings": digest_of_section(*learned_from, settings, kept, self.recipe.seed, images_seen),
        }
        if start is not None:
            from_["start"] = start.digest()
            if start_folder is None and self.recipe.start is not None and self.recipe.start.head == "fresh":
                from_["head"] = digest_of_section("fresh")
        return Job(
            name="student" if name == CHECKPOINT else f"{self.peer} {name}".strip(),
            source=source,
            student=student,
            teachers=teachers,
            method=method,
            plan=plan,
            cache=cache,
            seed=self.recipe.seed,
            start=checked_file(start.weights, folder=start_folder or self._start_folder()) if start else None,
            images_seen=images_seen,
            from_=from_,
            made_by=self.made_by,
            start_facts=self._start_facts(start) if start_folder is None else None,
            peers=tuple(
                Peer(
                    name=peer,
                    student=part,
                    folder=self.folder.peer(peer).checkpoint().parent,
                    from_={**from_, "peer": digest_of_section(peer)},
                )
                for peer, part in together.items()
            ),
        )

    def _distill(
        self,
        name: str,
        method: contracts.Method,
        teachers: tuple[contracts.Teacher, ...],
        *,
        plan: Train | None = None,
        start: Checkpoint | None = None,
        start_folder: Path | None = None,
        images_seen: int | None = None,
    ) -> Checkpoint:
        job = self._job(name, method, teachers, plan=plan, start=start, start_folder=start_folder, images_seen=images_seen)
        path = self.folder.checkpoint(name)
        done = find_done(Checkpoint, path, job.from_)
        if done is not None and all(find_done(Checkpoint, peer.folder / path.name, peer.from_) for peer in job.peers):
            self.console.say(f"{job.name}: kept, top-1 {done.accuracy.top1:.1%}")
            return done
        from edgekd.distilling import stage

        self.done_anew = True
        made = stage.distill(job, path.parent, self.console)
        self.console.say(f"{job.name}: top-1 {made.accuracy.top1:.1%} on {made.accuracy.images} validation images")
        return made

    # ------------------------------------------------------------------------------------------------------------ export
    def export_all(self) -> tuple[Artifact, ...]:
        """Export what is not exported yet; remove artifacts that the recipe does not name any more."""
        from edgekd.exporting import stage

        if self.peer:
            self.console.say(f"peer {self.peer}:")
        source, references = self.source, dict[str, "stage.Reference"]()
        threads = (self.recipe.bench.threads if self.recipe.bench else None) or usable_cores()
        made = []
        for backend in self.loaded.backends:
            name = INT8 if backend.precision == "int8" and self.recipe.finetune is not None else CHECKPOINT
            from_ = {
                "checkpoint": read_record(Checkpoint, self.folder.checkpoint(name)).digest(),
                "data": source.digest(),
                "settings": digest_of_section(backend.identity()),
            }
            path = self.folder.artifact(backend.artifact_name)
            artifact = find_done(Artifact, path, from_)
            if artifact is None or (artifact.not_executed and not backend.cannot_run_here()):
                self.done_anew = True
                artifact = stage.export(
                    reference=self._reference(name, references, threads),
                    backend=backend,
                    folder=path.parent,
                    threads=threads,
                    from_=from_,
                    made_by=self.made_by,
                    console=self.console,
                    pictures=self.recipe.pictures,
                )
            else:
                self.console.say(f"{artifact.name}: kept")
            made.append(artifact)
        self.forget("artifacts", {artifact.name for artifact in made})
        return tuple(made)

    def _reference(self, name: str, known: "dict[str, stage.Reference]", threads: int) -> "stage.Reference":
        """Return a checkpoint's student ready for export; one trained on for int8 is held against the one it came from."""
        from edgekd.exporting import stage

        if name not in known:
            path = self.folder.checkpoint(name)
            checkpoint = read_record(Checkpoint, path)
            known[name] = stage.Reference(
                checkpoint=checkpoint,
                folder=path.parent,
                student=self._student_of(checkpoint),
                source=self.source,
                threads=threads,
                console=self.console,
                held_against=self._reference(CHECKPOINT, known, threads).exportable if name != CHECKPOINT else None,
            )
        return known[name]

    def _student_of(self, checkpoint: Checkpoint) -> contracts.Student:
        if checkpoint.student.use != IMPORTED:
            return self.loaded.student
        from edgekd.exporting import adapting

        return adapting.student_of(checkpoint)

    def bisect(self, names: Sequence[str]) -> "tuple[Bisection, ...]":
        """Find where these artifacts depart from the float32 graph; without names, those whose parity is not a pass."""
        from edgekd.exporting import bisect, stage

        known = {backend.artifact_name: backend for backend in self.loaded.backends}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(f"the recipe exports no artifact {unknown[0]!r}; it exports {', '.join(known) or 'none'}")
        records = {name: read_record(Artifact, self.folder.artifact(name)) for name in names or known}
        chosen = [name for name, record in records.items() if names or bisect.is_due(record)]
        if not chosen:
            self.console.say("every artifact passed its parity; name one with --artifact to look all the same")
            return ()
        checkpoint = read_record(Checkpoint, self.folder.checkpoint())
        student = self.loaded.student
        module = stage.load_student(checkpoint, self.folder.checkpoint().parent, student)
        exportable, images = stage.exportable_of(checkpoint, student, module), self.source.val()
        return tuple(
            bisect.examine(
                artifact=records[name],
                folder=self.folder.artifact(name).parent,
                backend=known[name],
                exportable=exportable,
                images=images,
                made_by=self.made_by,
                console=self.console,
            )
            for name in chosen
        )

    # ------------------------------------------------------------------------------------------------------------- judge
    def judge(self, *, anew: bool = False) -> Verdict:
        """Report and judge; keep what is there if it is about the same facts and budgets."""
        from edgekd.judging import stage
        from edgekd.judging.peers import with_peers

        facts = self.facts()
        today = datetime.datetime.now(tz=datetime.UTC).date()
        verdict = stage.judge(facts, self.loaded.budgets, self.made_by, today=today)
        verdict = with_peers(verdict, {name: peer.judge(anew=anew) for name, peer in self.peers.items()})
        kept = None if anew else find_done(Verdict, self.folder.verdict, verdict.from_)
        pages = [self.folder.root / part.file_name for part in self.loaded.formats]
        if kept is None or not all(page.is_file() for page in pages):
            self.done_anew = True
            for page in stage.write(self.folder, facts, verdict, self.loaded.formats):
                self.console.say(f"wrote {page}")
        return verdict

    def facts(self, *, kept: Report | None = None) -> Report:
        """Return the records that the recipe asks for, side by side; figures of measurements are those of a kept report."""
        from edgekd.judging import stage

        names = [backend.artifact_name for backend in self.loaded.backends]
        by = self.made_by if kept is None else kept.made_by
        return stage.make_report(recipe_name=self.recipe.name, run=self.folder, artifacts=names, made_by=by, kept=kept)

    def forget(self, folder: str, wanted: set[str]) -> None:
        """Remove what an earlier version of the recipe left, so that a report never mixes two recipes."""
        with disk_errors(self.folder.root):
            for path in (self.folder.root / folder).glob("*"):
                if path.name not in wanted:
                    self.console.say(f"{folder}/{path.name}: removed, the recipe does not ask for it any more")
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

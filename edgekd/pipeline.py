"""From a recipe to a verdict: the stages in order, skipping what is already done.

Every function takes a recipe or a run folder and works on files; each is one command of the command line.
"""

import datetime
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekd import finetuning, importing, student_search
from edgekd.core import contracts, parts
from edgekd.core.budgets import Budgets, read_budgets
from edgekd.core.console import Console
from edgekd.core.errors import DataError, EdgekdError, EvidenceError, UsageError
from edgekd.core.host import usable_cores
from edgekd.core.records import Artifact, Candidates, Checkpoint, MadeBy, Measurement, Report, Verdict
from edgekd.core.side_records import BackboneFiles, Bisection, Bundle, PilotResult, Probes, TeacherRanking
from edgekd.core.store import (
    MARKER,
    PEERS,
    RunFolder,
    append_text,
    locked,
    open_run_folder,
    read_record,
    write_text,
)
from edgekd.finetuning import Labelled, Tuning
from edgekd.importing import UNKNOWN, Images
from edgekd.recipe import Loaded, load_recipe
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
    from edgekd import measuring  # brings numpy, which a gate does without

    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        work.distill_all()
        for one in work.everyone:
            one.export_all()
        for one in work.everyone:
            measuring.bench_all(one)
        verdict = work.judge()
        _tell_github(work, verdict)
        _remember(work, verdict, history)
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
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
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


def finetune(
    checkpoint: Path,
    labelled: Labelled,
    *,
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    out: Path | None = None,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Checkpoint:
    """Train a checkpoint's student further on labelled images, as a run of its own that can be exported and measured.

    `checkpoint` is a run folder or a checkpoint.json. Raises `UsageError` for options that exclude one another.
    """
    console = console or Console()
    earlier = finetuning.find_checkpoint(checkpoint)
    draft = finetuning.compose(earlier, labelled, tuning, assignments=assignments)
    draft.check()
    source = Work(draft, RunFolder(Path()), command, console).source
    loaded = finetuning.settled(draft, earlier, source, tuning, assignments=assignments)
    console.say(finetuning.schedule(loaded))
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        work.source = source
        return work.distill_all()


def probe(
    checkpoint: Path,
    labelled: Labelled,
    *,
    fractions: Sequence[float],
    draws: Sequence[int] = (0, 1, 2),
    tap: str | None = None,
    out: Path | None = None,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Probes:
    """Judge a checkpoint's frozen features by linear probe and nearest neighbours at several shares of the labels.

    Writes `probes.json` into `out` (by default runs/<student>-probes). Raises `UsageError` for a fraction that is no share.
    """
    console = console or Console()
    earlier = finetuning.find_checkpoint(checkpoint)
    loaded = finetuning.compose(earlier, labelled, Tuning(mode="probe"), assignments=assignments)
    question = finetuning.Question(fractions=tuple(fractions), draws=tuple(draws), tap=tap or earlier.record.feature_tap)
    root = open_run_folder(out or Path("runs") / f"{loaded.recipe.name}s", overwrite=overwrite)
    with locked(root):
        return finetuning.probe(Work(loaded, RunFolder(root), command, console), earlier, question)


def backbone(
    run: Path,
    out: Path,
    *,
    formats: Sequence[str] | None = None,
    tap: str | None = None,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> BackboneFiles:
    """Write a run's student without its head as plain timm and torch weights and as an embedding ONNX.

    The embedding is held against torch on the run's validation images, or on noise where they cannot be read.
    """
    from edgekd.exporting import backbone as exporting

    wanted = exporting.Wanted(formats=tuple(formats or exporting.FORMATS), tap=tap, threads=usable_cores())
    with _resume(run, command=command, console=console) as work:
        images = None
        try:
            images = work.source.val() if "onnx" in wanted.formats else None
        except DataError as error:
            work.console.warn(f"the run's images cannot be read, the embedding is checked on noise: {error.message}")
        path = work.folder.checkpoint()
        return exporting.write(
            checkpoint=read_record(Checkpoint, path),
            folder=path.parent,
            student=work.loaded.student,
            images=images,
            out=out,
            wanted=wanted,
            made_by=work.made_by,
            console=work.console,
        )


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
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
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
    loaded = load_recipe(recipe, quick=quick, assignments=assignments)
    _ = loaded.space
    with _begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        found = student_search.search(work)
        work.console.say(f"wrote {work.folder.search} and {work.folder.root / student_search.WINNER}")
        return found


def import_onnx(
    model: Path,
    images: Images,
    *,
    contract: Path | None = None,
    out: Path | None = None,
    licence: str = UNKNOWN,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> tuple[Path, Checkpoint]:
    """Take up an ONNX classifier that edgekd did not train; return the run folder, which is one like any other."""
    return importing.take_up(
        model,
        images,
        contract=contract,
        out=out,
        licence=licence,
        assignments=assignments,
        overwrite=overwrite,
        command=command,
        console=console,
    )


def import_weights(
    source: Path, target: Path, *, key: str | None = None, strip: str = "", overwrite: bool = False
) -> list[str]:
    """Read the weights of a foreign torch checkpoint, and nothing else of it, and write them as safetensors."""
    from edgekd.distilling import foreign_weights

    return foreign_weights.convert(source, target, key=key, strip=strip, overwrite=overwrite)


def embed_classes(
    classes: Path,
    target: Path,
    *,
    model: str,
    pretrained: str,
    templates: Sequence[str] = (),
    sha256: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the text embeddings of the classes of a file by an open_clip model; return what to tell of them.

    Raises `UsageError` if there is a file already, and what `edgekd.distilling.zero_shot.embed_classes` raises.
    """
    from edgekd.distilling import zero_shot

    if target.exists() and not overwrite:
        raise UsageError(f"{target}: is there already", mend="choose another name, or add --overwrite")
    prompts = tuple(templates) or zero_shot.TEMPLATES
    texts = zero_shot.embed_classes(classes, model=model, pretrained=pretrained, templates=prompts, sha256=sha256)
    about = {"text_model": model, "pretrained": pretrained, "templates": json.dumps(prompts, ensure_ascii=False)}
    zero_shot.write_texts(target, texts, about=about)
    count, width = texts.text_KD.shape
    return [f"wrote {target}: {count} classes, {width} wide, logit scale {texts.logit_scale:.4g}"]


def export(run: Path, *, command: Sequence[str] | None = None, console: Console | None = None) -> tuple[Artifact, ...]:
    """Export the student of a run to every backend of its recipe, and its peers; return the student's."""
    with _resume(run, command=command, console=console) as work:
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
    with _resume(run, command=command, console=console) as work:
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
    from edgekd import measuring  # brings numpy, which a gate does without

    with _resume(run, command=command, console=console) as work:
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
    from edgekd import measuring  # brings numpy, which a gate does without

    made = measuring.bench_foreign(
        model,
        assignments=assignments,
        out=out or Path("runs") / model.stem,
        console=console or Console(),
        command=command,
    )
    return tuple(made.values())


def report(
    run: Path, *, recompute: bool = False, command: Sequence[str] | None = None, console: Console | None = None
) -> Report:
    """Put the records of a run side by side, judge them, and write every format; imports no torch.

    With `recompute` nothing is written: every figure of the report's latencies is computed from the samples once more, and
    `EvidenceError` names the first that is not the same to the last bit.
    """
    with _resume(run, command=command, console=console) as work:
        if recompute:
            return _recomputed(work)
        work.judge(anew=True)
        return read_record(Report, work.folder.report)


def gate(
    run: Path,
    *,
    budgets: Path | None = None,
    baseline: str | None = None,
    today: datetime.date | None = None,
    store: str = "",
    history: str | None = None,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Verdict:
    """Judge the report of a run by its recipe's budgets, or by those of another file; imports no torch.

    `baseline` is the run (its folder, or what `store` keeps under a name) that limits `to: baseline` are held against; `today`
    (by default this day, UTC) is the day that waivers must reach. Raises `EvidenceError` if the records have changed since the
    report was made. A report without them is judged as it is.
    """
    with _resume(run, command=command, console=console) as work:
        judged_by = work.loaded.budgets if budgets is None else read_budgets(budgets)
        earlier = None if baseline is None else _baseline(baseline, store)
        verdict = _gated(work, judged_by, earlier, today or datetime.datetime.now(tz=datetime.UTC).date())
        _tell_github(work, verdict)
        _remember(work, verdict, history)
        return verdict


def _baseline(name_or_run: str, store: str) -> RunFolder:
    from edgekd import baselines

    return RunFolder(baselines.resolve(name_or_run, store))


def _with_bench(work: Work, assignments: Sequence[str]) -> Work:
    """Return work on the same folder after its recipe's `bench` section was changed."""
    wrong = [one for one in assignments if not one.startswith("bench.")]
    if wrong:
        raise UsageError(f"--set {wrong[0]}: only keys of `bench` can be changed here", mend="for example bench.profile=quick")
    loaded = load_recipe(work.folder.recipe, assignments=assignments)
    _ = loaded.devices  # all that a bench section names; the rest stands, and of an imported model could not be resolved
    write_text(work.folder.recipe, loaded.resolved())
    return Work(load_recipe(work.folder.recipe), work.folder, work.command, work.console)


def _recomputed(work: Work) -> Report:
    from edgekd.judging import evidence

    kept = read_record(Report, work.folder.report)
    count = evidence.check_recomputed(kept, work.facts())
    work.console.say(f"recomputed: every figure of {count} measurements is the same to the last bit")
    return kept


def _gated(work: Work, judged_by: Budgets, baseline: RunFolder | None, today: datetime.date) -> Verdict:
    """Judge the report that stands in a run folder, and those of the students that learnt with its own."""
    from edgekd.judging import stage
    from edgekd.judging.peers import with_peers

    facts = read_record(Report, work.folder.report)
    if work.folder.checkpoint().is_file() and work.facts(kept=facts).digest() != facts.digest():
        raise EvidenceError(
            f"{work.folder.report}: is not about the records that are here now",
            mend="make it anew with `edgekd report`",
        )
    earlier = None if baseline is None else _report_of(baseline)
    verdict = stage.judge(facts, judged_by, work.made_by, baseline=earlier, today=today)
    peers = {
        name: _gated(peer, judged_by, None if baseline is None else RunFolder(baseline.root / PEERS / name), today)
        for name, peer in work.peers.items()
    }
    verdict = with_peers(verdict, peers)
    pages = [work.folder.root / part.file_name for part in work.loaded.formats]
    if not (_holds(work.folder.verdict, verdict.to_json()) and all(page.is_file() for page in pages)):
        stage.write(work.folder, facts, verdict, work.loaded.formats)
    return verdict


def _holds(path: Path, text: str) -> bool:
    """Return whether a file is there and holds this text; drawing the same pages again would take longer than judging."""
    return path.is_file() and path.read_bytes() == text.encode()


def _report_of(run: RunFolder) -> Report | None:
    """Return the report of a baseline: as it stands there, or made of its records; None without any."""
    from edgekd.judging import stage

    if run.report.is_file():
        return read_record(Report, run.report)
    if not run.checkpoint().is_file():
        return None
    return stage.make_report(recipe_name=run.root.name, run=run, artifacts=None, made_by=MadeBy(version=""))


def _tell_github(work: Work, verdict: Verdict) -> None:
    """Append the Markdown report to the job's summary where a GitHub runner asks for one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    page = parts.load("format", "markdown")()
    assert isinstance(page, contracts.Format)
    text = page.render(read_record(Report, work.folder.report), verdict)
    append_text(Path(summary), text)


def _remember(work: Work, verdict: Verdict, history: str | None) -> None:
    """Add the verdict to the history that the command or the recipe names; what was judged stands whatever becomes of that."""
    target = history or work.recipe.history
    if target is None:
        return
    from edgekd import history as keeping

    try:
        keeping.add(target, work.folder.root)
    except EdgekdError:
        work.console.warn(
            f"the verdict is {verdict.outcome} and stands in {work.folder.verdict}; it was not added to the history"
        )
        raise


@contextmanager
def _begin(
    loaded: Loaded, out: Path | None, *, overwrite: bool, command: Sequence[str] | None, console: Console | None
) -> Iterator[Work]:
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
def _resume(run: Path, *, command: Sequence[str] | None, console: Console | None) -> Iterator[Work]:
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

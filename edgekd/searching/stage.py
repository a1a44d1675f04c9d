"""Find a student before training it: the stage that leaves a `Candidates` record."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from edgekd.core import parts, ranks
from edgekd.core.console import Console
from edgekd.core.contracts import Source, Student, Teacher
from edgekd.core.errors import UsageError
from edgekd.core.parts import PartRef
from edgekd.core.records import (
    Candidates,
    LatencyEstimate,
    LatencyMeasured,
    LatencyModel,
    LatencyTable,
    MadeBy,
    RankAgreement,
    ScoredStudent,
)
from edgekd.core.search_contracts import Space
from edgekd.core.search_plan import Search, SearchLatency
from edgekd.core.store import file_ref, write_record
from edgekd.searching.counting import Size, size_of
from edgekd.searching.exam import make_exam
from edgekd.searching.hunt import Hunt, Limits
from edgekd.searching.journal import Journal
from edgekd.searching.latency_table import Correction, Stopwatch, Table
from edgekd.searching.scoring import Exam, Submit, scorers_of, scoring

JOURNAL, TABLE = "journal.jsonl", "latency_table.json"
_MORE_FINALISTS = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to search: the plan and its parts, where to work (`folder`), where blocks are kept for later searches."""

    name: str
    plan: Search
    space: Space
    source: Source
    teacher: Teacher | None
    stopwatch: Stopwatch | None
    folder: Path
    kept_blocks: Path
    seed: int
    workers: int
    from_: dict[str, str]
    made_by: MadeBy


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """What a search knows of latency: an estimate of every student, a measurement of those that it is asked for."""

    plan: SearchLatency
    table: Table
    stopwatch: Stopwatch
    correction: Correction
    model: LatencyModel
    table_digest: str

    def predict(self, genome: str) -> LatencyEstimate:
        """Return the estimate."""
        return self.correction.predict(self.table.parts_ms(genome))

    def measure(self, *students: Student, classes: int) -> tuple[LatencyMeasured, ...]:
        """Return the measured latency of whole students, which take turns."""
        modules = (student.exportable(student.build(classes, start=False)) for student in students)
        pieces = [(module, (3, *one.input_contract().size_px)) for module, one in zip(modules, students, strict=True)]
        return tuple(LatencyMeasured(**found.model_dump(exclude={"beside_ms"})) for found in self.stopwatch(*pieces))


def search(job: Job, console: Console) -> Candidates:
    """Search, measure the finalists, and return the record; raises what parts raise, and `EvidenceError` for empty spaces."""
    started_s = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    latencies = _latencies(job, console)
    console.say("the batch of images, and the teacher's answers to it")
    exam = make_exam(job.plan, job.source, job.teacher, size_px=_size_px(job), seed=job.seed)
    scorers = scorers_of(job.plan.scorers)
    about = {**job.from_, "table": latencies.table_digest if latencies else ""}
    with scoring(exam, workers=job.workers) as submit, console.progress("search", job.plan.evaluations, "students") as progress:
        hunt = Hunt(
            plan=job.plan,
            space=job.space,
            scorers=scorers,
            submit=submit,
            journal=Journal(job.folder / JOURNAL, about),
            progress=progress,
            fits=_limits(job, exam, latencies),
            predict=latencies.predict if latencies else None,
            seed=job.seed,
            workers=job.workers,
        )
        candidates = hunt.go()
        standards = _standards(job, exam, hunt, submit, latencies, console)
    winner, candidates, why = _pick(candidates, latencies, exam.classes, console)
    return Candidates(
        made_by=job.made_by,
        from_=job.from_,
        name=job.name,
        space=job.space.ref(),
        networks_in_space=job.space.networks(),
        strategy=job.plan.strategy,
        settings=job.plan.model_dump(mode="json", exclude={"workers"}),
        seed=job.seed,
        teacher=job.teacher.ref() if job.teacher else None,
        images=len(exam.label_B),
        terms=tuple(hunt.terms.values()),
        candidates=candidates,
        standards=standards,
        front_by="latency" if latencies else "macs",
        front=front(candidates),
        winner=winner,
        why=why,
        agreements=agreements(candidates, tuple(scorers)),
        latency=latencies.model if latencies else None,
        seconds=time.monotonic() - started_s,
        ended=hunt.ended,
    )


def cost(candidate: ScoredStudent) -> float:
    """Return what a candidate costs: its latency as it was measured, else as estimated; else its multiply-accumulates."""
    if candidate.measured is not None:
        return candidate.measured.p50_ms
    return candidate.estimate.value_ms if candidate.estimate is not None else float(candidate.macs)


def front(candidates: Sequence[ScoredStudent]) -> tuple[int, ...]:
    """Return the numbers of those that no other beats in both fitness and cost, the cheapest first."""
    order = sorted(range(len(candidates)), key=lambda i: (cost(candidates[i]), -candidates[i].fitness))
    found, best = list[int](), float("-inf")
    for number in order:
        if candidates[number].fitness > best:
            found.append(number)
            best = candidates[number].fitness
    return tuple(found)


def agreements(candidates: Sequence[ScoredStudent], scorers: Sequence[str]) -> tuple[RankAgreement, ...]:
    """Return how far fitness and each score rank as plain size and latency do, with bootstrap intervals."""
    columns = {"fitness": [candidate.fitness for candidate in candidates]}
    columns |= {name: [candidate.scores[name].value for candidate in candidates] for name in scorers}
    plain = {
        "parameters": [float(candidate.parameters) for candidate in candidates],
        "macs": [float(candidate.macs) for candidate in candidates],
    }
    if all(candidate.estimate is not None for candidate in candidates):
        plain["latency estimate"] = [one.estimate.value_ms for one in candidates if one.estimate is not None]
    return tuple(
        RankAgreement(
            a=a,
            b=b,
            candidates=len(candidates),
            spearman=ranks.with_interval(ranks.spearman, x, y),
            kendall=ranks.with_interval(ranks.kendall, x, y),
        )
        for a, x in columns.items()
        for b, y in plain.items()
        if a not in plain and a != "latency"
    )


def _latencies(job: Job, console: Console) -> Latencies | None:
    plan, stopwatch = job.plan.latency, job.stopwatch
    if plan is None or stopwatch is None:
        return None
    table = Table(job.space, len(job.source.classes), stopwatch, job.kept_blocks)
    with table.ready():
        blocks = table.measure_blocks(console)
        networks = table.measure_networks(plan.networks, console)
    correction = table.correction(networks)
    console.say(
        f"latency: {len(blocks)} blocks and {len(networks)} networks through {stopwatch.runtime} on {stopwatch.device};"
        f" a network left out is predicted within {correction.median_error:.1%} (median), {correction.p95_error:.1%} (95 %)"
    )
    record = LatencyTable(
        made_by=job.made_by,
        backend=stopwatch.backend,
        runtime=stopwatch.runtime,
        device=stopwatch.device,
        threads=stopwatch.threads,
        blocks=blocks,
        networks=networks,
    )
    write_record(job.folder / TABLE, record)
    model = LatencyModel(
        backend=stopwatch.backend,
        runtime=stopwatch.runtime,
        device=stopwatch.device,
        threads=stopwatch.threads,
        table=file_ref(job.folder / TABLE, folder=job.folder.parent),
        blocks=len(blocks),
        networks=len(networks),
        factor=correction.factor,
        per_block_ms=correction.per_block_ms,
        intercept_ms=correction.intercept_ms,
        median_error=correction.median_error,
        p95_error=correction.p95_error,
    )
    return Latencies(
        plan=plan, table=table, stopwatch=stopwatch, correction=correction, model=model, table_digest=record.digest()
    )


def _size_px(job: Job) -> int:
    """Return the side at which the batch is kept: asked for, or that of the largest student, from which others are resized."""
    if job.plan.size is not None:
        return job.plan.size
    return max(_student(job.space.student(genome)).input_contract().size_px[0] for genome in job.space.covering())


def _limits(job: Job, exam: Exam, latencies: Latencies | None) -> Callable[[str], bool]:
    plan = job.plan
    limits = Limits(
        max_ms=plan.latency.max_ms if plan.latency else None,
        max_parameters=plan.max_parameters,
        max_macs=plan.max_macs,
    )

    @cache
    def size(genome: str) -> Size:
        return size_of(_student(job.space.student(genome)), exam.classes)

    return lambda genome: limits.keeps(genome, predict=latencies.predict if latencies else None, size=size)


def _standards(
    job: Job, exam: Exam, hunt: Hunt, submit: Submit, latencies: Latencies | None, console: Console
) -> tuple[ScoredStudent, ...]:
    """Return timm's standard networks, scored and measured as the candidates are; one that cannot be is left out and told."""
    found = []
    for model in job.plan.compare:
        ref = PartRef(use="timm", options={"model": model, "weights": "random", "size": exam.image_BCHW.shape[-1]})
        try:
            student = _student(ref)
            measured = latencies.measure(student, classes=exam.classes)[0] if latencies else None
            examined = submit(ref, measured.p50_ms if measured else None).result()
        except UsageError as error:
            console.warn(f"{model} is not compared with: {error.message}")
            continue
        found.append(
            ScoredStudent(
                genome=f"{model} r{exam.image_BCHW.shape[-1]}",
                student=ref,
                parent=None,
                scores=examined.scores,
                fitness=hunt.fitness(examined.scores),
                parameters=examined.size.parameters,
                macs=examined.size.macs,
                measured=measured,
            )
        )
    return tuple(found)


def _pick(
    candidates: Sequence[ScoredStudent], latencies: Latencies | None, classes: int, console: Console
) -> tuple[int, tuple[ScoredStudent, ...], str]:
    """Return the winner, the candidates with the finalists' measurements, and why it won.

    The best are measured in turns; as many more if none of them keeps the limit.
    """
    known, ranked = list(candidates), sorted(range(len(candidates)), key=lambda i: -candidates[i].fitness)
    if latencies is None:
        return ranked[0], tuple(known), "it has the highest fitness"
    limit, keeping = latencies.plan.max_ms, list[int]()
    together = latencies.plan.finalists
    with latencies.stopwatch.ready(), console.progress("finalists", together, "measured") as progress:
        for start in range(0, _MORE_FINALISTS * together, together):
            numbers = ranked[start : start + together]
            if keeping or not numbers:
                break
            students = (_student(known[number].student) for number in numbers)
            for number, measured in zip(numbers, latencies.measure(*students, classes=classes), strict=True):
                known[number] = known[number].model_copy(update={"measured": measured})
                keeping += [number] if limit is None or measured.p50_ms <= limit else []
            progress.update(start + len(numbers))
    if keeping:
        why = "it has the highest fitness" + (f" of those measured within {limit:g} ms" if limit is not None else "")
        return keeping[0], tuple(known), why
    quickest = min((i for i in ranked if known[i].measured is not None), key=lambda i: _measured_ms(known[i]))
    why = f"no finalist was measured within {limit:g} ms, though all were predicted to be; it is the fastest of them"
    console.warn(why)
    return quickest, tuple(known), why


def _measured_ms(candidate: ScoredStudent) -> float:
    return candidate.measured.p50_ms if candidate.measured is not None else float("inf")


def _student(ref: PartRef) -> Student:
    return cast(Student, parts.load("student", ref.use)(**ref.options))

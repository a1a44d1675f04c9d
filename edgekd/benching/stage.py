"""`bench`: one session on one device: every artifact in turns, over real images, and a record of each that says what to think.

Arms are the artifacts of a run (`candidate`), those of the same names of another run (`baseline`), and the pinned reference
model, once for each runtime that takes it.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.benching import conditions, reference, worker
from edgekd.benching.answers import samples_of
from edgekd.benching.calibration import calibrate
from edgekd.benching.inputs import Fed, Photographs
from edgekd.benching.profiles import Profile
from edgekd.benching.protocol import Evidence, judge
from edgekd.benching.sessions import UNEVEN, Session, unevenness
from edgekd.benching.subjects import Load, Subject, plan_of, with_whole_way
from edgekd.benching.writing import table_of, write_samples, write_telemetry
from edgekd.core.console import Console
from edgekd.core.contracts import ArmName, Device, Pairing, Source, Workbench
from edgekd.core.errors import UsageError
from edgekd.core.records import (
    BASELINE_ARM,
    CANDIDATE,
    REFERENCE,
    Condition,
    Counts,
    DeviceFacts,
    Fingerprint,
    MadeBy,
    Measurement,
    TelemetryLog,
    digest_of,
)
from edgekd.core.store import disk_errors, write_bytes, write_record

if TYPE_CHECKING:
    from edgekd.benching.sessions import Columns


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a session is run. What is None is left to the device (threads) or to the profile and a calibration (the others)."""

    profile: Profile
    load: Load
    images: int = 32
    seed: int = 0
    rounds: int | None = None
    warmup: int | None = None
    iterations: int | None = None
    reference: bool | None = None
    timeout_s: float = 900.0


@dataclass(kw_only=True)
class _Done:
    """A session that has ended, before it is judged."""

    session: Session
    fed: Mapping[ArmName, Fed]
    counts: Mapping[ArmName, Counts]
    sustained: "Mapping[ArmName, Columns]"
    log: TelemetryLog
    before: Fingerprint
    after: Fingerprint


def bench(
    *,
    subjects: Sequence[Subject],
    device: Device,
    source: Source | None,
    settings: Settings,
    out: Path,
    from_: Mapping[ArmName, dict[str, str]],
    made_by: MadeBy,
    console: Console,
    comparisons: Sequence[Pairing] = (),
) -> dict[str, Measurement]:
    """Measure the subjects on a device in one session, and write a record of each arm to the folder `out`, by file name.

    `from_` is what each record is said to be made from. Without a source the inputs are made up, and the records say so.
    Raises `UsageError` for a plan that a subject cannot follow, `MachineError` if the device fails, and what a worker complains
    of. An arm that needs no comparison stops when its interval is narrow; `comparisons` are decided first where there are any.
    """
    check(settings)
    facts = device.facts()
    with tempfile.TemporaryDirectory(prefix="edgekd-inputs-") as temporary, device.ready() as workbench:
        photographs = Photographs(source, Path(temporary), count=settings.images, seed=settings.seed)
        everyone = (*subjects, *_references(subjects, settings, Path(temporary)))
        done = _run(everyone, workbench, photographs, settings, comparisons, console)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return _write(everyone, done, settings, out, facts, from_=from_, made_by=made_by)


def stem(arm: ArmName, device: str) -> str:
    """Return the name of an arm's files without endings: `<artifact>@<device>`, and `.<arm>` for all but the candidate."""
    return f"{arm.artifact}@{device}" + ("" if arm.arm == CANDIDATE else f".{arm.arm}")


def check(settings: Settings) -> None:
    """Raise `UsageError` for settings that no session can follow."""
    asked = {"batch": settings.load.batch, "threads": settings.load.threads, "images": settings.images}
    asked |= {name: value for name in ("rounds", "iterations") if (value := getattr(settings, name)) is not None}
    for name, value in asked.items():
        if value < 1:
            raise UsageError(f"bench.{name} is {value}; at least 1 is needed")
    if (settings.load.mode == "paced") != (settings.load.rate_hz is not None):
        raise UsageError(
            "bench.rate_hz says how many queries a second a paced session asks, and belongs to no other",
            mend="set `mode: paced` and `rate_hz: 30`, or neither",
        )
    if (settings.warmup is None) != (settings.iterations is None):
        raise UsageError("bench.warmup and bench.iterations replace the calibration together", mend="give both, or neither")


# --------------------------------------------------------------------------------------------------------------- running
def _run(
    subjects: Sequence[Subject],
    workbench: Workbench,
    photographs: Photographs,
    settings: Settings,
    comparisons: Sequence[Pairing],
    console: Console,
) -> _Done:
    before = workbench.fingerprint()
    fed, plans = {}, {}
    for one in subjects:
        fed[one.arm] = _fed(one, photographs, settings, workbench)
        plans[one.arm] = plan_of(one, fed[one.arm], settings.load, workbench)
    counts = _counts(subjects, plans, workbench, settings, console)
    full = {
        one.arm: with_whole_way(
            plans[one.arm] | {"warmup": counts[one.arm].warmup, "iterations": counts[one.arm].iterations},
            one,
            fed[one.arm],
            counts[one.arm].whole_iterations,
        )
        for one in subjects
    }
    session = Session(bench=workbench, plans=full, seed=settings.seed, timeout_s=settings.timeout_s)
    looks = settings.profile.looks if settings.rounds is None else (settings.rounds,)
    with ExitStack() as stack:
        log = stack.enter_context(workbench.telemetry())
        progress = stack.enter_context(console.progress("bench", looks[0] * len(full), "processes"))
        session.run(
            looks=looks,
            cap_s=settings.profile.cap_s,
            comparisons=comparisons,
            tell=lambda _round, done, what: progress.update(done, what),
        )
        sustained = _sustained(subjects, plans, workbench, settings, console)
    after = workbench.fingerprint()
    return _Done(session=session, fed=fed, counts=counts, sustained=sustained, log=log, before=before, after=after)


def _references(subjects: Sequence[Subject], settings: Settings, folder: Path) -> tuple[Subject, ...]:
    """Return the pinned reference model as an arm of each runtime among the subjects that takes it."""
    wanted = settings.profile.reference if settings.reference is None else settings.reference
    backends = {one.backend.ref().use: one.backend for one in subjects if one.backend.ref().use in reference.BACKENDS}
    if not wanted or not backends:
        return ()
    write_bytes(folder / reference.FILE, reference.reference_model())
    return tuple(
        Subject(
            arm=ArmName(artifact=f"{name}-reference", arm=REFERENCE),
            backend=type(backend)(),
            folder=folder,
            files=(reference.FILE,),
            digest=reference.SHA256,
            contract=reference.CONTRACT,
        )
        for name, backend in backends.items()
    )


def _fed(one: Subject, photographs: Photographs, settings: Settings, workbench: Workbench) -> Fed:
    if one.contract is not None:
        return photographs.for_contract(one.contract)
    shape, dtype = described(one, settings, workbench)
    return photographs.made_up(shape, dtype)


def described(one: Subject, settings: Settings, workbench: Workbench) -> tuple[tuple[int, ...], str]:
    """Return the shape of one image and the type that a model takes, as its runtime says in a process of its own."""
    empty = Fed(inputs_npy=one.folder / one.files[0], photographs_npz=None, images=0, sha256="", constant=False, synthetic=True)
    plan = plan_of(one, empty, settings.load, workbench) | {"describe": True}
    answer = workbench.work(plan, timeout_s=settings.timeout_s)
    batch, *sides = answer["shape"]
    if len(sides) != 3 or not all(isinstance(side, int) for side in sides):
        shown = " x ".join(str(side) for side in answer["shape"])
        raise UsageError(f"{one.arm.artifact}: takes inputs of shape {shown}; only a fixed size of images can be made up")
    if isinstance(batch, int) and batch != settings.load.batch:
        raise UsageError(f"{one.arm.artifact}: takes batches of exactly {batch}, {settings.load.batch} were asked for")
    return tuple(sides), str(answer["dtype"])


def _counts(
    subjects: Sequence[Subject],
    plans: Mapping[ArmName, dict[str, Any]],
    workbench: Workbench,
    settings: Settings,
    console: Console,
) -> dict[ArmName, Counts]:
    """Return each arm's counts; candidate and baseline of one artifact share those found on the baseline."""
    found: dict[str, Counts] = {}
    for one in sorted(subjects, key=lambda one: one.arm.arm != BASELINE_ARM):
        if one.group in found:
            continue
        if settings.warmup is not None and settings.iterations is not None:
            found[one.group] = Counts(
                warmup=settings.warmup,
                iterations=settings.iterations,
                whole_iterations=min(settings.profile.whole, settings.iterations),
                calibrated=False,
            )
            continue
        console.say(f"bench: {one.arm.artifact}: calibrating ({settings.profile.calibrate_s:g} s or longer)")
        found[one.group] = calibrate(workbench, plans[one.arm], settings.profile, timeout_s=settings.timeout_s)
    return {one.arm: found[one.group] for one in subjects}


def _sustained(
    subjects: Sequence[Subject],
    plans: Mapping[ArmName, dict[str, Any]],
    workbench: Workbench,
    settings: Settings,
    console: Console,
) -> "dict[ArmName, Columns]":
    """Run each candidate without a pause, after a rest; nothing where the profile does not ask for it."""
    seconds = settings.profile.sustained_s
    found = {}
    for one in subjects if seconds else ():
        if one.arm.arm != CANDIDATE:
            continue
        console.say(f"bench: {one.arm.artifact}: {settings.profile.cool_s:g} s of rest, then {seconds:g} s without a pause")
        time.sleep(settings.profile.cool_s)
        record = {"seconds": seconds, "cap_seconds": seconds, "tolerance": 1.0}
        plan = plans[one.arm] | {"record": record, "mode": "single"}
        answer = workbench.work(plan, timeout_s=settings.timeout_s + 2 * seconds)
        found[one.arm] = samples_of(answer, whose=str(plan["whose"]))
    return found


# --------------------------------------------------------------------------------------------------------------- writing
def _write(
    subjects: Sequence[Subject],
    done: _Done,
    settings: Settings,
    out: Path,
    facts: DeviceFacts,
    *,
    from_: Mapping[ArmName, dict[str, str]],
    made_by: MadeBy,
) -> dict[str, Measurement]:
    """Write the samples of every arm, then the telemetry, then the records; a session without its records never was."""
    names = {one.arm: stem(one.arm, facts.name) for one in subjects}
    for name in names.values():
        (out / f"{name}.json").unlink(missing_ok=True)
    files = {
        arm: write_samples(out / f"{name}.npz", table_of(done.session.workers[arm], done.sustained.get(arm)))
        for arm, name in names.items()
    }
    telemetry = write_telemetry(out / f"session@{facts.name}.telemetry.jsonl", done.log)
    plans = {f"{arm.artifact} {arm.arm}": _told(plan) for arm, plan in done.session.plans.items()}
    session = digest_of({"plans": plans, "seed": settings.seed, "samples": [ref.sha256 for ref in files.values()]})
    circumstances, energy = _circumstances(done, settings.load.threads), _energy(done)
    made = {}
    for one in subjects:
        common = {"session": session, "device": facts, "telemetry": telemetry, "energy": energy, "made_by": made_by}
        own = {"from_": from_.get(one.arm, {"artifact": one.digest}), "samples": files[one.arm]}
        facts_of_arm = _facts(one, done, settings, facts, circumstances)
        measurement = Measurement.model_validate(common | own | facts_of_arm)
        write_record(out / f"{names[one.arm]}.json", measurement)
        made[f"{names[one.arm]}.json"] = measurement
    return made


def _facts(
    one: Subject, done: _Done, settings: Settings, facts: DeviceFacts, circumstances: Sequence[Condition]
) -> dict[str, Any]:
    """Return what a record says of one arm: how it was fed and run, what its workers did, and what to think of it."""
    ran, fed, counts, load = done.session.workers[one.arm], done.fed[one.arm], done.counts[one.arm], settings.load
    judgement = judge(
        Evidence(
            workers=ran,
            counts=counts,
            expected=one.expected,
            fed=fed,
            load=load,
            facts=facts,
            profile=settings.profile.name,
            circumstances=circumstances,
        )
    )
    because = done.session.stopped_because
    told = [*([f"stopped: {because}"] if because else []), *(f"lost-round: {lost}" for lost in done.session.lost)]
    told += _neighbours(done.session)
    said = {key: ran[0].answer.get(key) for key in ("runtime", "executed_on", "executed_precision", "spin", "cores")}
    return said | {
        "artifact": one.digest,
        "arm": one.arm.arm,
        "fingerprint": done.before,
        "protocol": worker.PROTOCOL,
        "profile": settings.profile.name,
        "mode": load.mode,
        "rate_hz": load.rate_hz,
        "session_options": ran[0].answer.get("session_options", {}),
        "batch": load.batch,
        "threads": load.threads,
        "seed": settings.seed,
        "input_images": fed.images,
        "inputs_sha256": fed.sha256,
        "synthetic_input": fed.synthetic or fed.constant,
        "counts": counts,
        "workers": tuple(each.facts for each in ran),
        "flags": (*judgement.flags, *told),
        "trusted": judgement.trusted,
        "untrusted_because": judgement.untrusted_because,
        "blur": judgement.blur,
    }


def _circumstances(done: _Done, threads: int) -> tuple[Condition, ...]:
    workers = [one for ran in done.session.workers.values() for one in ran]
    own_cpu_s = sum(int(one.answer.get("process_cpu_ns", 0)) for one in workers) / 1e9
    windows = [one.facts.window_ns for one in workers]
    return (
        *conditions.preflight(done.before),
        *conditions.changed(done.before, done.after),
        *conditions.conditions(done.log, windows=windows, own_cpu_s=own_cpu_s or None, threads=threads),
    )


def _neighbours(session: Session) -> Iterator[str]:
    """Tell of rounds in which the machine itself was slower at one time than at another, though nothing else showed it."""
    uneven = [unevenness([worker.facts for worker in ran]) > UNEVEN for ran in zip(*session.workers.values(), strict=True)]
    if any(uneven):
        yield f"neighbours: in {sum(uneven)} of {len(uneven)} rounds the machine itself was not of one speed"


def _energy(done: _Done) -> tuple[Any, ...]:
    if len(done.log.rows) < 2:
        return ()
    found = conditions.energy(done.log, start_ns=done.log.rows[0].at_ns, end_ns=done.log.rows[-1].at_ns)
    return () if found is None else (found,)


def _told(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan without where things lie, which is another place each time."""
    return {key: value for key, value in plan.items() if key not in ("folder", "environment")}


def with_threads(settings: Settings, device: Device, threads: int | None) -> Settings:
    """Return the settings with as many threads as asked, or as the device has cores to use."""
    found = device.default_threads() if threads is None else threads
    return replace(settings, load=replace(settings.load, threads=found))

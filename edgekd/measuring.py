"""A run's artifacts on the devices of its recipe: which arms there are, what is done already, and what is measured anew."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from edgekd.benching import stage
from edgekd.benching.profiles import PROFILES
from edgekd.benching.stage import Settings
from edgekd.benching.subjects import Load, Subject, subject_of
from edgekd.core import contracts, parts
from edgekd.core.config import Document, validate
from edgekd.core.console import Console
from edgekd.core.contracts import ArmName, Pairing
from edgekd.core.errors import UsageError
from edgekd.core.host import made_by
from edgekd.core.records import (
    BASELINE_ARM,
    CANDIDATE,
    REFERENCE,
    Artifact,
    Measurement,
    digest_of,
)
from edgekd.core.sections import Bench
from edgekd.core.store import RunFolder, checked_file, find_done, read_record, sha256_of
from edgekd.recipe import digest_of_section, part_at
from edgekd.work import Work

FOREIGN = {".onnx": "onnxruntime", ".xml": "openvino"}


def bench_all(work: Work, *, comparisons: Sequence[Pairing] = ()) -> tuple[Measurement, ...]:
    """Measure on each device of the recipe what is not measured yet; a session is kept or done anew as a whole."""
    settings = work.recipe.bench
    kept, found = set[str](), list[Measurement]()
    for device in work.loaded.devices if settings is not None else ():
        assert settings is not None
        subjects = [*_candidates(work, settings.batch), *_baselines(work, settings.against, settings.batch)]
        if not any(one.arm.arm == CANDIDATE for one in subjects):
            continue
        made = _session(work, device, subjects, settings, comparisons)
        kept |= set(made)
        found += made.values()
    files = {ref.path for one in found for ref in (one.samples, one.telemetry) if ref is not None}
    work.forget("measurements", kept | files)
    return tuple(found)


def _session(
    work: Work, device: contracts.Device, subjects: Sequence[Subject], bench: Bench, comparisons: Sequence[Pairing]
) -> dict[str, Measurement]:
    out, name = work.folder.root / "measurements", device.known_as()
    arms = {f"{one.arm.artifact} {one.arm.arm}": one.digest for one in subjects}
    asked = bench.model_copy(update={"devices": (), "against": None})
    comparisons = comparisons or _asked_by_budgets(work, subjects) or _as_slow_as_before(subjects)
    questions = [[str(one.a), str(one.b), one.max_ratio, one.min_effect] for one in comparisons]
    common = {"settings": digest_of_section(device.identity(), asked, questions), "arms": digest_of(arms)}
    from_ = {one.arm: common | {"artifact": one.digest} for one in subjects}
    done = {
        path.name: record
        for one in subjects
        if (record := find_done(Measurement, path := out / f"{stage.stem(one.arm, name)}.json", from_[one.arm])) is not None
    }
    sessions = {record.session for record in done.values()}
    if len(done) == len(subjects) and len(sessions) == 1:
        for file, record in done.items():
            checked_file(record.samples, folder=out)
            work.console.say(f"{file.removesuffix('.json')}: kept")
        return done | _references_of(out, next(iter(sessions)), name)
    work.done_anew = True
    return stage.bench(
        subjects=subjects,
        device=device,
        source=work.source,
        settings=stage.with_threads(settings_of(bench), device, bench.threads),
        out=out,
        from_=from_,
        made_by=work.made_by,
        console=work.console,
        comparisons=comparisons,
    )


def _asked_by_budgets(work: Work, subjects: Sequence[Subject]) -> tuple[Pairing, ...]:
    """Return what the recipe's budgets compare, of what is measured here."""
    arms = {one.arm for one in subjects}
    names = dict.fromkeys(arm.artifact for arm in sorted(arms, key=str) if arm.arm == CANDIDATE)
    artifacts = [read_record(Artifact, work.folder.artifact(name)) for name in names]
    asked = (pair for check in work.loaded.budgets.checks for pair in check.budget.pairings(artifacts))
    return tuple(dict.fromkeys(pair for pair in asked if {pair.a, pair.b} <= arms))


def _as_slow_as_before(subjects: Sequence[Subject]) -> tuple[Pairing, ...]:
    """Return what a session with a baseline must decide unless others are asked for: whether the candidate is slower."""
    arms = {one.arm for one in subjects}
    pairs = ((ArmName(artifact=arm.artifact, arm=BASELINE_ARM), arm) for arm in arms if arm.arm == CANDIDATE)
    return tuple(Pairing(a=a, b=b) for a, b in sorted(pairs, key=lambda pair: pair[1].artifact) if a in arms)


def _references_of(out: Path, session: str, device: str) -> dict[str, Measurement]:
    found = {path.name: read_record(Measurement, path) for path in sorted(out.glob(f"*-reference@{device}.{REFERENCE}.json"))}
    return {name: record for name, record in found.items() if record.session == session}


def settings_of(bench: Bench) -> Settings:
    """Return a recipe's bench section as the settings of a session."""
    return Settings(
        profile=PROFILES[bench.profile],
        load=Load(batch=bench.batch, threads=bench.threads or 1, spin=bench.spin, mode=bench.mode, rate_hz=bench.rate_hz),
        images=bench.images,
        rounds=bench.rounds,
        warmup=bench.warmup,
        iterations=bench.iterations,
        reference=bench.reference,
        timeout_s=bench.timeout_s,
    )


# ------------------------------------------------------------------------------------------------------------------ arms
def _candidates(work: Work, batch: int) -> list[Subject]:
    found = []
    for backend in work.loaded.backends:
        path = work.folder.artifact(backend.artifact_name)
        artifact = read_record(Artifact, path)
        if artifact.not_executed:
            work.console.say(f"{artifact.name}: not measured, because it was not executed")
            continue
        found.append(subject_of(artifact, path.parent, arm=CANDIDATE, batch=batch))
    return found


def _baselines(work: Work, against: Path | None, batch: int) -> list[Subject]:
    """Return the artifacts of another run that have the names of this run's; at least one must."""
    if against is None:
        return []
    run = RunFolder(against)
    names = [backend.artifact_name for backend in work.loaded.backends]
    there = [name for name in names if run.artifact(name).is_file()]
    if not there:
        raise UsageError(
            f"{against}: has none of the artifacts {', '.join(names)}, so there is nothing to measure against",
            mend="name a run folder with exported artifacts of the same backends and precisions",
        )
    records = [(read_record(Artifact, run.artifact(name)), run.artifact(name).parent) for name in there]
    return [subject_of(one, folder, arm=BASELINE_ARM, batch=batch) for one, folder in records if not one.not_executed]


# --------------------------------------------------------------------------------------------------------------- foreign
def bench_foreign(
    model: Path, *, assignments: Sequence[str], out: Path, console: Console, command: Sequence[str] | None
) -> dict[str, Measurement]:
    """Measure an ONNX or OpenVINO file that is no run's artifact, on inputs that are made up, and write its records to `out`.

    Such a measurement is never trusted by a budget: hardware may be faster on noise than on photographs, and what the model
    answers is not known. Raises `UsageError` for a file of another kind.
    """
    subject = foreign(model)
    document = Document(path=Path("bench"), data={"bench": {}})
    for assignment in assignments:
        document.set(assignment if assignment.startswith("bench.") else f"bench.{assignment}")
    bench = validate(Bench, document.data["bench"], document, at=("bench",))
    found = dict[str, Measurement]()
    for ref in bench.devices:
        device = cast("contracts.Device", part_at(document, "device", ref, ("bench", "devices")))
        found |= stage.bench(
            subjects=[subject],
            device=device,
            source=None,
            settings=stage.with_threads(settings_of(bench), device, bench.threads),
            out=out,
            from_={subject.arm: {"artifact": subject.digest}},
            made_by=made_by(command),
            console=console,
        )
    return found


def foreign(model: Path) -> Subject:
    """Return a model file as the only arm of a session; an .xml takes its .bin along."""
    use = FOREIGN.get(model.suffix)
    if use is None or not model.is_file():
        raise UsageError(f"{model}: is no .onnx or .xml file", mend="name a model, or a run folder")
    files = [model.name] + ([f"{model.stem}.bin"] if use == "openvino" else [])
    missing = [name for name in files if not (model.parent / name).is_file()]
    if missing:
        raise UsageError(f"{model.parent / missing[0]}: is missing, and {model.name} needs it")
    backend = cast("contracts.Backend", parts.load("backend", use)())
    parts.need_packages(backend)
    backend.inspect(model.parent, files)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model.stem)  # becomes part of a file name
    return Subject(
        arm=ArmName(artifact=name, arm=CANDIDATE),
        backend=backend,
        folder=model.parent,
        files=tuple(files),
        digest=digest_of({name: sha256_of(model.parent / name) for name in files}),
        contract=None,
    )

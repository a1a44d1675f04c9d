"""The stages of a run, and what is made of several."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.confining import confine_foreign
from edgekd.cli.options import (
    Classes,
    ContractFile,
    History,
    Json,
    Judged,
    Out,
    Overwrite,
    Quick,
    Quiet,
    RecipeFile,
    RunDir,
    RunOrModel,
    Set,
)
from edgekd.cli.saying import command_line, console_of, end_with, print_lines, print_records
from edgekd.cli.students import run_of
from edgekd.core.errors import BUDGET_FAILED, UsageError

app = typer.Typer(add_completion=False)


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    quick: Quick = False,
    set_: Set = None,
    overwrite: Overwrite = False,
    history: History = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil, export, measure, report and judge.

    A second run does only what changed; an interrupted one goes on from its last finished stage.
    """
    from edgekd import pipeline

    verdict = pipeline.run(
        recipe,
        out=out,
        quick=quick,
        assignments=set_ or (),
        overwrite=overwrite,
        history=history,
        command=command_line(),
        console=console_of(quiet),
    )
    end_with(verdict, json)


@app.command()
def distill(
    recipe: RecipeFile,
    out: Out = None,
    quick: Quick = False,
    set_: Set = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the student, and the baseline beside it."""
    from edgekd import pipeline

    checkpoint = pipeline.distill(
        recipe,
        out=out,
        quick=quick,
        assignments=set_ or (),
        overwrite=overwrite,
        command=command_line(),
        console=console_of(quiet),
    )
    print_records([checkpoint], json)


@app.command()
def cache(recipe: RecipeFile, quick: Quick = False, set_: Set = None, quiet: Quiet = False) -> None:
    """Keep the teachers' answers to a recipe's images.

    `distill` does it by itself; this does it beforehand, and goes on where it was stopped.
    """
    from edgekd import pipeline

    pipeline.cache(recipe, quick=quick, assignments=set_ or (), command=command_line(), console=console_of(quiet))


@app.command()
def export(
    run: RunOrModel,
    data: Judged = None,
    classes: Classes = None,
    contract: ContractFile = None,
    out: Out = None,
    set_: Set = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Also write what a device needs, as a folder and a .tar.gz.")
    ] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first node that departs where parity is not a pass.")
    ] = False,
    artifact: Annotated[
        list[str] | None, typer.Option("--artifact", metavar="NAME", help="With --bisect: look at this one; repeatable.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a run's student, and check each artifact.

    Parity and accuracy are found on the validation images, through each runtime. Exits with 1 if an int8 artifact drops too
    much or is not faster than float. With --bisect the tensors of an artifact are compared with those of the float32 graph,
    one by one (bisect.json). A bundle holds the model, its input contract, a model card, and programs in Python and C++ that
    need neither edgekd nor torch; then RUN may also be one of a run's artifacts/ folders.
    """
    from edgekd import pipeline

    if artifact and not bisect:
        raise UsageError("--artifact belongs to --bisect")
    confine_foreign(run)
    if bundle:
        print_records(pipeline.bundle(run, out=out, command=command_line(), console=console_of(quiet)), json)
        return
    run = run_of(run, data=data, classes=classes, contract=contract, out=out, set_=set_, quiet=quiet)
    if bisect:
        found = pipeline.bisect(run, artifacts=artifact or (), command=command_line(), console=console_of(quiet))
        print_records(found, json)
        return
    artifacts = pipeline.export(run, command=command_line(), console=console_of(quiet))
    print_records(artifacts, json)
    refused = [(one.name, one.quantisation.refused) for one in artifacts if one.quantisation and one.quantisation.refused]
    for name, reason in refused:
        typer.echo(f"{name}: refused: {reason}", err=True)
    if refused:
        raise typer.Exit(BUDGET_FAILED)


@app.command()
def bench(
    run: RunOrModel,
    data: Judged = None,
    classes: Classes = None,
    contract: ContractFile = None,
    out: Out = None,
    set_: Set = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="RUN", help="Measure in turns with another run's artifacts.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the latency of a run's artifacts.

    In fresh processes, one after the other, in balanced random order. With --set bench.profile=quick for a look, gate (the
    default) for a decision, publish for a figure that others rely on. RUN may be MODEL.onnx or MODEL.xml without --data: then
    its speed is measured on made-up inputs, for --set profile=quick and the like.
    """
    from edgekd import pipeline

    if run.suffix == ".xml" or (run.suffix == ".onnx" and data is None and not run.is_dir()):
        if against is not None:
            raise UsageError("--against belongs to a run folder", mend="compare two models by importing each with --data")
        measured = pipeline.bench_file(run, out=out, assignments=set_ or (), command=command_line(), console=console_of(quiet))
        print_records(measured, json)
        return
    changes = set_ or []
    if run.suffix == ".onnx":
        confine_foreign(run)
        run = run_of(run, data=data, classes=classes, contract=contract, out=out, set_=set_, quiet=quiet)
        exported = pipeline.export(run, command=command_line(), console=console_of(quiet))
        print_records(() if json else exported, as_json=False)
        changes = []
    elif any(option is not None for option in (data, classes, contract, out)):
        raise UsageError("--data, --classes, --contract and --out belong to a MODEL.onnx")
    measured = pipeline.bench(run, against=against, assignments=changes, command=command_line(), console=console_of(quiet))
    print_records(measured, json)


@app.command()
def report(
    run: RunDir,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Write nothing; check every latency against the samples, to the last bit.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's report anew, in every format."""
    from edgekd import verdicts

    found = verdicts.report(run, recompute=recompute, command=command_line(), console=console_of(quiet))
    print_records([found], json)


@app.command()
def gate(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run folder, made by `edgekd run`.")] = None,
    budgets: Annotated[Path | None, typer.Option("--budgets", metavar="FILE", help="Judge by this file's budgets.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="RUN_OR_NAME", help="The run that limits `to: baseline` are held against."),
    ] = None,
    store: Annotated[
        str, typer.Option("--store", metavar="DIR_OR_URL", envvar="EDGEKD_STORE", help="Where --baseline's NAME is kept.")
    ] = "",
    today: Annotated[
        str | None, typer.Option("--today", metavar="DATE", help="The day that waivers must reach (this day, UTC).")
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="ID", help="Show how this budget was decided, and what would change it.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of budgets files.")] = False,
    history: History = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge a run; the exit code is the verdict.

    Only finished records are read. Budgets are the recipe's, or those of --budgets; both have the same form.
    """
    if schema:
        from edgekd.core import budget_schema

        typer.echo(budget_schema.text(), nl=False)
        return
    if run is None:
        raise UsageError("which run? Give its folder", mend="edgekd gate RUN")
    from edgekd import verdicts

    verdict = verdicts.gate(
        run,
        budgets=budgets,
        baseline=baseline,
        store=store,
        history=history,
        today=None if today is None else _date(today),
        command=command_line(),
        console=console_of(quiet),
    )
    if explain is None:
        end_with(verdict, json)
    from edgekd import inspection

    print_lines(inspection.explain(verdict, explain))
    raise typer.Exit(verdict.exit_code)


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--today {text}: expected a date, such as 2026-12-01") from error


@app.command()
def compare(run_a: RunDir, run_b: RunDir) -> None:
    """Put two runs side by side."""
    from edgekd import inspection

    print_lines(inspection.compare(run_a, run_b))

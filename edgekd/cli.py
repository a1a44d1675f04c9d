"""The command line: parse, call one public function, print, exit. Results go to stdout, progress to stderr."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from edgekd.core.errors import BUDGET_FAILED, EdgekdError, Interrupted, UsageError

if TYPE_CHECKING:
    from edgekd.core.console import Console
    from edgekd.core.records import Record, Verdict

app = typer.Typer(
    name="edgekd",
    help="Distil a large vision transformer into a small student, export it, measure it, and judge it by budgets.\n\n"
    "Exit codes: 0 all passed; 1 a budget failed; 2 a mistake in what was asked; 3 inconclusive; 4 device, package or disk"
    " trouble; 5 integrity; 130/143 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

teachers = typer.Typer(help="Look at teachers before training.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(teachers, name="teachers")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, a YAML file.")]
CheckpointFile = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder, or its checkpoint.json.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="A folder of classes, or of train/ and val/.")]
Val = Annotated[Path | None, typer.Option("--val", metavar="DIR", help="The validation images of --data.")]
ValFraction = Annotated[float | None, typer.Option("--val-fraction", help="Share of --data to validate on (0.2).")]
DataRecipe = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Use the images of this recipe.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, made by `edgekd run`.")]
RunOrModel = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder; or MODEL.onnx, with --data: it is imported into one first.")
]
Judged = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="With MODEL.onnx: a folder of classes to judge it on.")
]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="Its outputs' names, one a line (default: the folders').")
]
ContractFile = Annotated[
    Path | None, typer.Option("--contract", metavar="FILE", help="What it is fed, YAML: size, resize, crop, mean, std, ...")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder (default: runs/<recipe's name>).")]
Quick = Annotated[bool, typer.Option("--quick", help="Use the recipe's small laptop version.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set train.duration.epochs=3; repeatable."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a non-empty folder that edgekd did not make.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record itself as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and errors only.")]


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    quick: Quick = False,
    set_: Set = None,
    overwrite: Overwrite = False,
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
        command=_command(),
        console=_console(quiet),
    )
    _end_with(verdict, json)


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
        command=_command(),
        console=_console(quiet),
    )
    _print_records([checkpoint], json)


@app.command()
def cache(recipe: RecipeFile, quick: Quick = False, set_: Set = None, quiet: Quiet = False) -> None:
    """Keep the teachers' answers to a recipe's images.

    `distill` does it by itself; this does it beforehand, and goes on where it was stopped.
    """
    from edgekd import pipeline

    pipeline.cache(recipe, quick=quick, assignments=set_ or (), command=_command(), console=_console(quiet))


@app.command()
def finetune(
    checkpoint: CheckpointFile,
    data: Data = None,
    val: Val = None,
    val_fraction: ValFraction = None,
    recipe: DataRecipe = None,
    mode: Annotated[
        str, typer.Option("--mode", help="full: all weights; head: the last layer; probe: a linear probe.")
    ] = "full",
    labels_per_class: Annotated[int | None, typer.Option("--labels-per-class", help="Use so many labels a class.")] = None,
    fraction: Annotated[float | None, typer.Option("--fraction", help="Use this share of the labels.")] = None,
    fractions: Annotated[
        str | None, typer.Option("--fractions", help="With --mode probe: a table for these shares, e.g. 0.01,0.1,1.")
    ] = None,
    tap: Annotated[str | None, typer.Option("--tap", help="With --fractions: the tap to judge.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate (full 0.001, head 0.005).")] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="Passes over the labelled images (30, at least 200 steps).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images in a step.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the training, and of which labels are used.")] = 0,
    out: Out = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a checkpoint on labelled images, or probe it.

    The images are --data, a recipe's, or the checkpoint's own. For other classes the last layer starts afresh.
    """
    from edgekd import finetuning, inspection, pipeline

    labelled = finetuning.Labelled(
        data=data, val=val, val_fraction=val_fraction, recipe=recipe, labels_per_class=labels_per_class, fraction=fraction
    )
    tuning = finetuning.Tuning(mode=finetuning.mode_of(mode), lr=lr, epochs=epochs, batch=batch, seed=seed)
    if fractions is not None:
        shares = finetuning.fractions_of(fractions, mode=tuning.mode)
        probes = pipeline.probe(
            checkpoint,
            labelled,
            fractions=shares,
            tap=tap,
            out=out,
            assignments=set_ or (),
            overwrite=overwrite,
            command=_command(),
            console=_console(quiet),
        )
        _print_records([probes], json)
        return
    if tap is not None:
        raise UsageError("--tap belongs to --fractions")
    trained = pipeline.finetune(
        checkpoint,
        labelled,
        tuning=tuning,
        out=out,
        assignments=set_ or (),
        overwrite=overwrite,
        command=_command(),
        console=_console(quiet),
    )
    _print_records([trained], json)
    _print_lines(() if json else inspection.worth(trained))


@app.command()
def backbone(
    run: RunDir,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; an empty folder, or an earlier backbone.")],
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="timm, torch or onnx; repeatable (default: all).")
    ] = None,
    tap: Annotated[
        str | None, typer.Option("--tap", help="What the embedding answers (default: what training shaped).")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's student without its head.

    As weights that timm and torch load without edgekd, and as an embedding in ONNX.
    """
    from edgekd import pipeline

    _print_records([pipeline.backbone(run, out, formats=format_, tap=tap, command=_command(), console=_console(quiet))], json)


@app.command("import-onnx")
def import_onnx(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A classifier that edgekd did not train.")],
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="A folder of classes to judge it on.")] = None,
    val: Val = None,
    recipe: DataRecipe = None,
    classes: Classes = None,
    contract: ContractFile = None,
    licence: Annotated[str, typer.Option("--licence", help="Of its weights.")] = "unknown",
    out: Out = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take up an ONNX classifier as a run.

    The file is inspected before any runtime opens it, and judged as it came. Then export, bench, report and gate take the run
    folder as they take any other.
    """
    from edgekd import importing, pipeline

    images = importing.Images(data=data, val=val, recipe=recipe, classes=classes)
    run, record = pipeline.import_onnx(
        model,
        images,
        contract=contract,
        out=out,
        licence=licence,
        assignments=set_ or (),
        overwrite=overwrite,
        command=_command(),
        console=_console(quiet),
    )
    _print_records([record], json)
    _print_lines(() if json else [f"next: edgekd export {run}"])


@app.command("import-weights")
def import_weights(
    source: Annotated[Path, typer.Argument(metavar="FILE.pt", help="A torch checkpoint (.pt, .pth), a pickle.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where to write the weights.")],
    key: Annotated[str | None, typer.Option("--key", help="Where in the file they are, e.g. state_dict.")] = None,
    strip: Annotated[str, typer.Option("--strip", metavar="PREFIX", help="Take this off the names, e.g. module.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Make safetensors of a torch checkpoint.

    Only weights are read; a file that holds more is refused, because reading it could run code.
    """
    from edgekd import pipeline

    _print_lines(pipeline.import_weights(source, target, key=key, strip=strip, overwrite=overwrite))


@teachers.command()
def rank(recipe: RecipeFile, quick: Quick = False, set_: Set = None, json: Json = False, quiet: Quiet = False) -> None:
    """Rank a recipe's teachers on your images.

    What each one's features are worth there, before anything is trained.
    """
    from edgekd import pipeline

    ranking = pipeline.rank_teachers(recipe, quick=quick, assignments=set_ or (), command=_command(), console=_console(quiet))
    _print_records([ranking], json)


@app.command()
def pilot(
    recipe: RecipeFile,
    out: Out = None,
    quick: Quick = False,
    set_: Set = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a method on small budgets.

    Several methods and the student without a teacher; the worse half drops out, the rest get twice as much. Leaves pilot.md
    and winner.yaml, the recipe to run.
    """
    from edgekd import pipeline

    result = pipeline.pilot(
        recipe,
        out=out,
        quick=quick,
        assignments=set_ or (),
        overwrite=overwrite,
        command=_command(),
        console=_console(quiet),
    )
    _print_records([result], json)


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
    if bundle:
        _print_records(pipeline.bundle(run, out=out, command=_command(), console=_console(quiet)), json)
        return
    run = _imported(run, data=data, classes=classes, contract=contract, out=out, set_=set_, quiet=quiet)
    if bisect:
        found = pipeline.bisect(run, artifacts=artifact or (), command=_command(), console=_console(quiet))
        _print_records(found, json)
        return
    artifacts = pipeline.export(run, command=_command(), console=_console(quiet))
    _print_records(artifacts, json)
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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the latency of a run's artifacts."""
    from edgekd import pipeline

    if run.suffix == ".onnx":
        run = _imported(run, data=data, classes=classes, contract=contract, out=out, set_=set_, quiet=quiet)
        exported = pipeline.export(run, command=_command(), console=_console(quiet))
        _print_records(() if json else exported, as_json=False)
    _print_records(pipeline.bench(run, command=_command(), console=_console(quiet)), json)


@app.command()
def report(run: RunDir, json: Json = False, quiet: Quiet = False) -> None:
    """Write a run's report anew, in every format."""
    from edgekd import pipeline

    _print_records([pipeline.report(run, command=_command(), console=_console(quiet))], json)


@app.command()
def gate(
    run: RunDir,
    budgets: Annotated[Path | None, typer.Option("--budgets", metavar="FILE", help="Judge by this file's budgets.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge a run; the exit code is the verdict."""
    from edgekd import pipeline

    _end_with(pipeline.gate(run, budgets=budgets, command=_command(), console=_console(quiet)), json)


@app.command()
def compare(run_a: RunDir, run_b: RunDir) -> None:
    """Put two runs side by side."""
    from edgekd import inspection

    _print_lines(inspection.compare(run_a, run_b))


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(metavar="KIND", help="method, teacher, backend, ...")] = None) -> None:
    """List the parts that a recipe can name."""
    from edgekd import inspection

    _print_lines(inspection.list_parts(kind))


@app.command()
def show(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record (.json), or a run folder.")], json: Json = False
) -> None:
    """Show what a record says."""
    from edgekd import inspection

    _print_lines(inspection.show(record, as_json=json))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle: its folder or its .tar.gz.")],
) -> None:
    """Check every digest of a run, or of a bundle.

    A run is checked back to the weights; in a bundle, any changed byte is found.
    """
    from edgekd import inspection

    _print_lines(inspection.verify(run))


@app.command()
def doctor() -> None:
    """Say what this machine has, and what is missing."""
    from edgekd import inspection

    _print_lines(inspection.doctor())


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images, one sub-folder for each class.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the recipe.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for your images."""
    from edgekd import inspection

    _print_lines(inspection.init(data, out))


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from edgekd import __version__

        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of `edgekd.core.errors`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(args=arguments)
    except (EdgekdError, Interrupted) as error:
        _complain(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _complain(error: EdgekdError | Interrupted) -> None:
    from edgekd.core.console import printable

    print(printable(f"error: {error}"), file=sys.stderr)


def _console(quiet: bool) -> "Console":
    from edgekd.core.console import Console

    return Console(quiet=quiet)


def _imported(
    run: Path,
    *,
    data: Path | None,
    classes: Path | None,
    contract: Path | None,
    out: Path | None,
    set_: list[str] | None,
    quiet: bool,
) -> Path:
    """Return the run folder of a model that was given in a run's place, importing it first; a run folder as it is."""
    if run.suffix != ".onnx":
        if any(option is not None for option in (data, classes, contract, out, set_)):
            raise UsageError("--data, --classes, --contract, --out and --set belong to a MODEL.onnx")
        return run
    from edgekd import importing, pipeline

    images = importing.Images(data=data, classes=classes)
    return pipeline.import_onnx(
        run, images, contract=contract, out=out, assignments=set_ or (), command=_command(), console=_console(quiet)
    )[0]


def _command() -> list[str]:
    return ["edgekd", *sys.argv[1:]]


def _print_lines(lines: Sequence[str]) -> None:
    from edgekd.core.console import printable

    for line in lines:
        print(printable(line))


def _print_records(records: "Sequence[Record]", as_json: bool) -> None:
    from edgekd import inspection

    if as_json:
        print(records[0].to_json() if len(records) == 1 else "[" + ",\n".join(r.to_json() for r in records) + "]")
        return
    for record in records:
        _print_lines(inspection.summary(record))


def _end_with(verdict: "Verdict", as_json: bool) -> NoReturn:
    _print_records([verdict], as_json)
    raise typer.Exit(verdict.exit_code)

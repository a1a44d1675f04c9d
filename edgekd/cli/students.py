"""Students beyond their run: trained on, stripped of their head, or made elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.confining import confine
from edgekd.cli.options import (
    CheckpointFile,
    Classes,
    ContractFile,
    Data,
    DataRecipe,
    Json,
    Out,
    Overwrite,
    Quiet,
    RunDir,
    Set,
    Val,
    ValFraction,
)
from edgekd.cli.saying import command_line, console_of, print_lines, print_records
from edgekd.core.errors import UsageError

app = typer.Typer(add_completion=False)


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
    from edgekd import finetuning, students, summaries

    labelled = finetuning.Labelled(
        data=data, val=val, val_fraction=val_fraction, recipe=recipe, labels_per_class=labels_per_class, fraction=fraction
    )
    tuning = finetuning.Tuning(mode=finetuning.mode_of(mode), lr=lr, epochs=epochs, batch=batch, seed=seed)
    if fractions is not None:
        shares = finetuning.fractions_of(fractions, mode=tuning.mode)
        probes = students.probe(
            checkpoint,
            labelled,
            fractions=shares,
            tap=tap,
            out=out,
            assignments=set_ or (),
            overwrite=overwrite,
            command=command_line(),
            console=console_of(quiet),
        )
        print_records([probes], json)
        return
    if tap is not None:
        raise UsageError("--tap belongs to --fractions")
    trained = students.finetune(
        checkpoint,
        labelled,
        tuning=tuning,
        out=out,
        assignments=set_ or (),
        overwrite=overwrite,
        command=command_line(),
        console=console_of(quiet),
    )
    print_records([trained], json)
    print_lines(() if json else summaries.worth(trained))


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
    from edgekd import students

    print_records(
        [students.backbone(run, out, formats=format_, tap=tap, command=command_line(), console=console_of(quiet))], json
    )


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
    from edgekd import importing

    confine(model)
    images = importing.Images(data=data, val=val, recipe=recipe, classes=classes)
    run, record = importing.import_onnx(
        model,
        images,
        contract=contract,
        out=out,
        licence=licence,
        assignments=set_ or (),
        overwrite=overwrite,
        command=command_line(),
        console=console_of(quiet),
    )
    print_records([record], json)
    print_lines(() if json else [f"next: edgekd export {run}"])


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
    from edgekd import students

    confine(source)
    print_lines(students.import_weights(source, target, key=key, strip=strip, overwrite=overwrite))


def run_of(
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
    from edgekd import importing

    images = importing.Images(data=data, classes=classes)
    return importing.import_onnx(
        run, images, contract=contract, out=out, assignments=set_ or (), command=command_line(), console=console_of(quiet)
    )[0]

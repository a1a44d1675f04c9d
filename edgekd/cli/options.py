"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
Store = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR_OR_URL",
        envvar="EDGEKD_STORE",
        help="Where baselines are kept: a folder, or s3://..., gs://..., ...",
    ),
]
History = Annotated[
    str | None,
    typer.Option(
        "--history",
        metavar="FILE_OR_URL",
        envvar="EDGEKD_HISTORY",
        help="Add the verdict to this history: a SQLite file, or postgresql://USER@HOST/NAME.",
    ),
]

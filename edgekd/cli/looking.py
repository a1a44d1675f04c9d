"""Looking around: parts, records, digests, the machine, a first recipe."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import Json
from edgekd.cli.saying import print_lines

app = typer.Typer(add_completion=False)


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(metavar="KIND", help="method, teacher, backend, ...")] = None) -> None:
    """List the parts that a recipe can name."""
    from edgekd import inspection

    print_lines(inspection.list_parts(kind))


@app.command()
def show(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record (.json), or a run folder.")], json: Json = False
) -> None:
    """Show what a record says."""
    from edgekd import inspection

    print_lines(inspection.show(record, as_json=json))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle: its folder or its .tar.gz.")],
) -> None:
    """Check every digest of a run, or of a bundle.

    A run is checked back to the weights; in a bundle, any changed byte is found.
    """
    from edgekd import inspection

    print_lines(inspection.verify(run))


@app.command()
def doctor(
    fingerprint: Annotated[bool, typer.Option("--fingerprint", help="Every field of the machine's fingerprint.")] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Say whether it is such a device, clocks pinned.")
    ] = None,
) -> None:
    """Say what this machine has, and what is missing."""
    from edgekd import doctor as asking

    print_lines(asking.doctor(fingerprint=fingerprint, profile=profile))


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images, one sub-folder for each class.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the recipe.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for your images."""
    from edgekd import inspection

    print_lines(inspection.init(data, out))

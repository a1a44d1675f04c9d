"""Which student: before training."""

import typer

from edgekd.cli.options import Json, Out, Overwrite, Quick, Quiet, RecipeFile, Set
from edgekd.cli.saying import command_line, console_of, print_records

app = typer.Typer(add_completion=False)


@app.command()
def search(
    recipe: RecipeFile,
    out: Out = None,
    quick: Quick = False,
    set_: Set = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a student before training it.

    Untrained students are scored against the teacher, under a latency that was measured. Leaves search.json, search.html and
    winner.yaml, the recipe that trains the found one. Stopped, the same command goes on.
    """
    from edgekd import choosing

    found = choosing.search(
        recipe,
        out=out,
        quick=quick,
        assignments=set_ or (),
        overwrite=overwrite,
        command=command_line(),
        console=console_of(quiet),
    )
    print_records([found], json)

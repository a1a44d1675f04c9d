"""Which teacher, which method: before training."""

import typer

from edgekd.cli.options import Json, Out, Overwrite, Quick, Quiet, RecipeFile, Set
from edgekd.cli.saying import command_line, console_of, print_records

app = typer.Typer(add_completion=False)
teachers = typer.Typer(help="Look at teachers before training.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(teachers, name="teachers")


@teachers.command()
def rank(recipe: RecipeFile, quick: Quick = False, set_: Set = None, json: Json = False, quiet: Quiet = False) -> None:
    """Rank a recipe's teachers on your images.

    What each one's features are worth there, before anything is trained.
    """
    from edgekd import choosing

    ranking = choosing.rank_teachers(
        recipe, quick=quick, assignments=set_ or (), command=command_line(), console=console_of(quiet)
    )
    print_records([ranking], json)


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
    from edgekd import choosing

    result = choosing.pilot(
        recipe,
        out=out,
        quick=quick,
        assignments=set_ or (),
        overwrite=overwrite,
        command=command_line(),
        console=console_of(quiet),
    )
    print_records([result], json)

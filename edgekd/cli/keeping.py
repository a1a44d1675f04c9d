"""What is kept and shown of finished runs: baselines, the history, documents in any format."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import Json, Quiet, RunDir, Store
from edgekd.cli.saying import command_line, console_of, print_lines

app = typer.Typer(add_completion=False)
baseline = typer.Typer(
    help="Keep runs that later ones are judged against, in a folder or any place that fsspec reaches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
history = typer.Typer(
    help="Every verdict and measurement in one database, and how its figures moved.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(baseline, name="baseline")
app.add_typer(history, name="history")

Target = Annotated[
    str,
    typer.Option(
        "--history", metavar="FILE_OR_URL", envvar="EDGEKD_HISTORY", help="A SQLite file, or postgresql://USER@HOST/NAME."
    ),
]
OfRecipe = Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="Only the runs of this recipe.")]


@baseline.command("set")
def set_(
    run: RunDir,
    store: Store,
    name: Annotated[str, typer.Option("--name", help="What the run is called from now on.")] = "main",
    with_models: Annotated[
        bool, typer.Option("--with-models", help="Keep the exported models too, so that a bench can time them again.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Keep a run as a baseline.

    Its records, predictions and samples, checked against their digests. Nothing else writes into a store.
    """
    from edgekd import baselines
    from edgekd.core.host import made_by

    by = made_by(command_line())
    entry = baselines.keep(run, store, name=name, models=with_models, made_by=by, console=console_of(quiet))
    print_lines([baselines.line(entry)])


@baseline.command("show")
def show_baseline(
    store: Store, name: Annotated[str, typer.Argument(metavar="NAME", help="The baseline.")] = "main", json: Json = False
) -> None:
    """Show what a baseline stands for."""
    from edgekd import baselines

    entry = baselines.shown(name, store)
    print_lines(entry.run.to_json().splitlines() if json else baselines.lines(entry))


@baseline.command("list")
def list_baselines(store: Store) -> None:
    """List the baselines of a store."""
    from edgekd import baselines

    print_lines([baselines.line(entry) for entry in baselines.entries(store)] or ["the store keeps no baseline"])


@history.command()
def add(run: RunDir, history: Target) -> None:
    """Add a run's verdict and measurements.

    What the history knows already is not added again.
    """
    from edgekd import history as keeping

    added = keeping.add(history, run)
    print_lines([f"verdict {'added' if added.verdict else 'already there'}, {added.measurements} new measurements"])


@history.command("show")
def show_history(
    history: Target,
    recipe: OfRecipe = None,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="So many of the latest runs.")] = 20,
) -> None:
    """Show the latest runs and the trend of every figure."""
    from edgekd import history as keeping

    print_lines(keeping.show(history, recipe=recipe, last=last))


@history.command()
def page(
    history: Target,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the page.")],
    recipe: OfRecipe = None,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="So many of the latest runs.")] = 100,
) -> None:
    """Write the history as a web page with plots."""
    from edgekd import history as keeping
    from edgekd.core.store import write_text

    write_text(out, keeping.page(history, recipe=recipe, last=last))
    print_lines([f"wrote {out}"])


@app.command()
def render(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or any folder with its report.json and verdict.json.")
    ],
    formats: Annotated[list[str], typer.Argument(metavar="FORMAT...", help="sarif, junit, comment, ...: edgekd list format.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write files there (default: print, one format).")
    ] = None,
    budgets: Annotated[
        str, typer.Option("--budgets", metavar="PATH", help="The budgets file in its repository, for sarif and annotations.")
    ] = "",
) -> None:
    """Write a judged run in other formats.

    From its report and verdict alone, which are read as data: nothing is measured or judged again.
    """
    from edgekd import rendering
    from edgekd.core.errors import UsageError

    if out is None and len(formats) > 1:
        raise UsageError("several formats need a folder to stand in", mend="add --out DIR")
    if out is not None:
        print_lines([f"wrote {path}" for path in rendering.write(run, formats, out, budgets=budgets)])
        return
    documents = rendering.render(run, formats, budgets=budgets)
    typer.echo("".join(documents.values()).encode("utf-8", "backslashreplace"), nl=False)

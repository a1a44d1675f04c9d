"""The command line: parse, call one public function, print, exit. One module a topic; each adds its commands to `app`."""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from edgekd.cli import choosing, confining, devices, keeping, looking, searching, stages, students, texts
from edgekd.core.errors import EdgekdError, Interrupted

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

for topic in (stages, choosing, searching, students, texts, devices, looking, keeping):
    app.add_typer(topic.app)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from edgekd import __version__

        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of `edgekd.core.errors`."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # torch and the runtimes are native code: where one dies, say who called it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    confining.arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments)
    except (EdgekdError, Interrupted) as error:
        complain(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def complain(error: EdgekdError | Interrupted) -> None:
    """Print an error as a person reads it, with nothing in it that a terminal would act on."""
    from edgekd.core.console import printable

    print(printable(f"error: {error}"), file=sys.stderr)

"""What commands say, and how they end: results on stdout, progress on stderr."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import typer

from edgekd.core.urls import without_secrets

if TYPE_CHECKING:
    from edgekd.core.console import Console
    from edgekd.core.records import Record, Verdict


def console_of(quiet: bool) -> "Console":
    """Return where a command tells its progress."""
    from edgekd.core.console import Console

    return Console(quiet=quiet)


def command_line() -> list[str]:
    """Return the command as it was given, for the records that it makes; the URLs in it without keys and passwords."""
    return ["edgekd", *map(without_secrets, sys.argv[1:])]


def print_lines(lines: Sequence[str]) -> None:
    """Print results, one a line, with nothing in them that a terminal would act on."""
    from edgekd.core.console import printable

    for line in lines:
        print(printable(line))


def print_records(records: "Sequence[Record]", as_json: bool) -> None:
    """Print what records say in a few lines each, or the records themselves (several as a JSON array)."""
    from edgekd import summaries

    if as_json:
        print(records[0].to_json() if len(records) == 1 else "[" + ",\n".join(r.to_json() for r in records) + "]")
        return
    for record in records:
        print_lines(summaries.summary(record))


def end_with(verdict: "Verdict", as_json: bool) -> NoReturn:
    """Print a verdict and exit with its code."""
    print_records([verdict], as_json)
    raise typer.Exit(verdict.exit_code)

"""Messages and progress for a person, on stderr; nothing else in the package prints.

On a terminal progress is a live bar; elsewhere (a CI log, a file) it is a plain line at most every few seconds and one at the
end. Texts may come from file names, so control characters are shown, not obeyed. Work never fails because nobody reads.
"""

import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.progress import Progress as LiveBars

PLAIN_EVERY_S = 5.0
_LABEL_WIDTH = 8
# C0 and C1 controls but tab and newline, direction overrides (a file name could rewrite its line), lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What a build server's runner would take for a command: `::` at the start of a line, `##[` anywhere in one.
_COMMAND = re.compile(r"^[ \t]*:(?=:)|##(?=\[)", re.MULTILINE)


def printable(text: str) -> str:
    """Return the text with every character that could steer a terminal, or the runner that reads its log, as an escape.

    Tab and newline stay.
    """
    shown = _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return _COMMAND.sub(lambda found: f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}", shown)


class Progress:
    """How far a piece of work is."""

    def __init__(
        self,
        *,
        label: str,
        total: int | None,
        unit: str,
        clock: Callable[[], float],
        show: "Callable[[Progress], None]",
    ) -> None:
        self.label = _one_line(label)
        self.total = total
        self.done = 0
        self._unit = _one_line(unit)
        self._note = ""
        self._clock = clock
        self._show = show
        self._started_s = clock()

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are done by now (not: since the last call); `note` goes to the end of the line."""
        self.done = done
        self._note = _one_line(note)
        self._show(self)

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._started_s

    @property
    def detail(self) -> str:
        """Return `[ 1234/27000 images]  312/s  note`."""
        count = f"{self.done}" if self.total is None else f"{self.done:>{len(str(self.total))}}/{self.total}"
        inside = f"[{count} {self._unit}]" if self._unit else f"[{count}]"
        rate = f"{_three_digits(self.done / self.elapsed_s)}/s" if self.elapsed_s > 0 else ""
        return "  ".join(text for text in (inside, rate, self._note) if text)


class Console:
    """Where messages and progress go; `quiet` leaves warnings only."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quiet = quiet
        self._stream = _Patient(sys.stderr if stream is None else stream)
        self._clock = clock
        self._bars: LiveBars | None = None

    def say(self, text: str) -> None:
        """Write a message, unless quiet."""
        if not self.quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Write a warning, quiet or not."""
        self._write(f"warning: {text}")

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "") -> Iterator[Progress]:
        """Show how far a piece of work is until the block is left; `total` is None where it is not known."""
        if self.quiet:
            yield Progress(label=label, total=total, unit=unit, clock=self._clock, show=lambda _: None)
        elif self._is_terminal():
            with self._bar(label, total, unit) as progress:
                yield progress
        else:
            with self._lines(label, total, unit) as progress:
                yield progress

    @contextmanager
    def _lines(self, label: str, total: int | None, unit: str) -> Iterator[Progress]:
        next_s = self._clock() + PLAIN_EVERY_S

        def show(progress: Progress) -> None:
            nonlocal next_s
            if self._clock() >= next_s:
                next_s = self._clock() + PLAIN_EVERY_S
                self._write(f"{progress.label:<{_LABEL_WIDTH}} {progress.detail}")

        progress = Progress(label=label, total=total, unit=unit, clock=self._clock, show=show)
        try:
            yield progress
        finally:
            took = f"in {_three_digits(progress.elapsed_s)} s"
            self._write(f"{progress.label:<{_LABEL_WIDTH}} {progress.detail}  {took}")

    @contextmanager
    def _bar(self, label: str, total: int | None, unit: str) -> Iterator[Progress]:
        outer, bars = self._bars, self._bars or self._new_bars()
        progress = Progress(label=label, total=total, unit=unit, clock=self._clock, show=lambda p: show(p))
        task = bars.add_task(f"{progress.label:<{_LABEL_WIDTH}}", total=total, detail=progress.detail)

        def show(progress: Progress) -> None:
            bars.update(task, completed=progress.done, detail=progress.detail)

        if outer is None:
            self._bars = bars
            bars.start()
        try:
            yield progress
        finally:
            show(progress)
            if outer is None:
                bars.stop()
                self._bars = None

    def _new_bars(self) -> "LiveBars":
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as LiveBars

        return LiveBars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=RichConsole(file=cast("TextIO", self._stream), force_terminal=True, highlight=False),
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _is_terminal(self) -> bool:
        return self._stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding
        line = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        if self._bars is not None:
            self._bars.console.print(line, markup=False, soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()


class _Patient:
    """A stream that forgets what it is told once its terminal or pipe is gone: a day of training must not die with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = io.StringIO() if stream.closed else stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._stream = io.StringIO()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = io.StringIO()


def silent() -> Console:
    """Return a console that nobody hears."""
    return Console(quiet=True, stream=io.StringIO())


def _one_line(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"

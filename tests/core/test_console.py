"""What a person sees: plain lines in a log, a live bar on a terminal, nothing when quiet, and no control characters."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.console import Console, printable, silent


class Seconds:
    """A clock in seconds that moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


# ------------------------------------------------------------------------------------------------------------- messages
def test_messages_go_to_the_stream(log: io.StringIO) -> None:
    """A message is one line; a warning says that it is one."""
    console = Console(stream=log)
    console.say("exporting")
    console.warn("2 images left out")
    assert log.getvalue() == "exporting\nwarning: 2 images left out\n"


def test_stderr_is_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream messages go to stderr and stdout stays empty."""
    Console().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_quiet_leaves_warnings_only(log: io.StringIO, clock: Seconds) -> None:
    """Quiet drops messages and progress, not warnings."""
    console = Console(quiet=True, stream=log, clock=clock)
    console.say("exporting")
    with console.progress("distil", 3, "images") as progress:
        clock.now_s += 60
        progress.update(3)
    console.warn("careful")
    assert log.getvalue() == "warning: careful\n"


def test_silent_console_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The null console is heard nowhere, warnings included."""
    console = silent()
    console.say("a")
    console.warn("b")
    with console.progress("c", 1) as progress:
        progress.update(1)
    assert capsys.readouterr() == ("", "")
    assert progress.done == 1


# ------------------------------------------------------------------------------------------------------------ plain lines
def test_plain_progress_is_a_line_every_five_seconds_and_one_at_the_end(log: io.StringIO, clock: Seconds) -> None:
    """In a log progress is written at most every 5 s, with count, rate and note, and once more at the end."""
    with Console(stream=log, clock=clock).progress("distil", 27000, "images") as progress:
        for done in (312, 624, 936, 1248, 1560, 1872):
            clock.now_s += 1
            progress.update(done, "data wait 4 %  loss 0.71")
        clock.now_s += 94
        progress.update(27000, "loss 0.52")
    assert log.getvalue().splitlines() == [
        "distil   [ 1560/27000 images]  312/s  data wait 4 %  loss 0.71",
        "distil   [27000/27000 images]  270/s  loss 0.52",
        "distil   [27000/27000 images]  270/s  loss 0.52  in 100 s",
    ]


def test_progress_of_unknown_length_without_unit(log: io.StringIO, clock: Seconds) -> None:
    """Where the total is not known only the count is shown."""
    with Console(stream=log, clock=clock).progress("verify", None) as progress:
        clock.now_s += 8
        progress.update(2)
    assert log.getvalue() == "verify   [2]  0.25/s\nverify   [2]  0.25/s  in 8.00 s\n"


def test_progress_that_took_no_time_has_no_rate(log: io.StringIO, clock: Seconds) -> None:
    """No time, no rate; nothing is divided by zero."""
    with Console(stream=log, clock=clock).progress("export", 1, "files"):
        pass
    assert log.getvalue() == "export   [0/1 files]  in 0.00 s\n"


def test_last_line_is_written_when_the_work_fails(log: io.StringIO, clock: Seconds) -> None:
    """An error inside passes through, and the log still says how far the work was."""

    def work() -> None:
        with Console(stream=log, clock=clock).progress("bench", 3) as progress:
            clock.now_s += 20
            progress.update(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert log.getvalue().splitlines()[-1] == "bench    [2/3]  0.10/s  in 20.0 s"


# --------------------------------------------------------------------------------------------------------------- terminal
def test_terminal_shows_a_bar(terminal: Terminal) -> None:
    """On a terminal there is a bar with label, count and note, in colour; messages go above it."""
    console = Console(stream=terminal)
    with console.progress("distil", 10, "images") as progress:
        progress.update(7, "loss 0.71")
        console.say("a message that is " + "long " * 40)
    console.say("after")
    shown = terminal.getvalue()
    assert "distil" in shown
    assert "[ 7/10 images]" in shown
    assert "loss 0.71" in shown
    assert "a message that is " + "long " * 40 in shown
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m|\x1b\[9[0-9]m|\x1b\[38;5", shown)
    assert shown.endswith("after\n")


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR the bar has no colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    with Console(stream=terminal).progress("distil", 10, "images") as progress:
        progress.update(7)
    assert "[ 7/10 images]" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*[349][0-9;]*m", terminal.getvalue())


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A terminal that cannot move its cursor gets plain lines."""
    monkeypatch.setenv("TERM", kind)
    with Console(stream=terminal).progress("distil", 10, "images") as progress:
        progress.update(10)
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("distil   [10/10 images]")


def test_bars_inside_one_another(terminal: Terminal) -> None:
    """A second piece of work inside the first gets its own bar, and the cursor comes back at the end of the first."""
    console = Console(stream=terminal)
    with console.progress("outer", 2) as outer, console.progress("inner", 4) as inner:
        inner.update(3)
        outer.update(1)
    shown = terminal.getvalue()
    assert "[3/4]" in shown
    assert "[1/2]" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


def test_texts_are_not_markup(terminal: Terminal) -> None:
    """Square brackets in names are shown as they are."""
    console = Console(stream=terminal)
    with console.progress("x[red]", 1) as progress:
        progress.update(1, "[bold]note[/bold]")
        console.say("[link=file:///x]y[/link]")
    assert "x[red]" in terminal.getvalue()
    assert "[bold]note[/bold]" in terminal.getvalue()
    assert "[link=file:///x]y[/link]" in terminal.getvalue()


# ------------------------------------------------------------------------------------------------------- strange texts
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat\x1b[2J.jpg", r"cat\x1b[2J.jpg"),
        ("a\rb\x07\x9b1m", r"a\rb\x07\x9b1m"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("bad\udcff.png", r"bad\udcff.png"),
        ("line\n\ttab, Übung, 画像", "line\n\ttab, Übung, 画像"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    """What could steer a terminal is written as an escape; ordinary text in any script stays."""
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_nothing_steers_the_terminal(text: str) -> None:
    """Whatever a file is called, the text that is shown has no control characters and can be encoded."""
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    shown.encode("utf-8")


def test_progress_stays_on_one_line(log: io.StringIO, clock: Seconds) -> None:
    """Line breaks and escapes in labels, units and notes do not break the line."""
    with Console(stream=log, clock=clock).progress("a\nb", 1, "c\x1bd") as progress:
        progress.update(1, "e\nf")
    assert log.getvalue() == "a b      [1/1 c\\x1bd]  e f  in 0.00 s\n"


def test_stream_that_cannot_hold_the_text() -> None:
    """A stream in ASCII gets escapes instead of an error."""
    held = io.BytesIO()
    stream = io.TextIOWrapper(held, encoding="ascii")
    Console(stream=stream).say("Übung 画")
    assert held.getvalue() == rb"\xdcbung \u753b" + b"\n"


class Gone(io.StringIO):
    """A pipe whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class GoneTerminal(Gone):
    def isatty(self) -> bool:
        return True


class Hung(io.StringIO):
    """A terminal that was hung up."""

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("kind", [Gone, GoneTerminal, Hung])
def test_work_goes_on_when_nobody_reads(kind: type[io.StringIO], terminal: Terminal) -> None:
    """A broken pipe or a lost terminal costs the messages, never the work."""
    console = Console(stream=kind())
    with console.progress("distil", 1) as progress:
        console.say("a")
        progress.update(1)
    console.warn("b")
    assert progress.done == 1


def test_closed_stream_is_no_error() -> None:
    """A stream closed before the console was made, or after, is heard no more and harms nobody."""
    closed = io.StringIO()
    later = Console(stream=closed)
    closed.close()
    later.say("a")
    with Console(stream=closed).progress("distil", 1) as progress:
        progress.update(1)
    assert progress.done == 1

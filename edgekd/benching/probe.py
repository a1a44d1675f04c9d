"""The probe as devices get it: one runnable file, and what it answers.

`edgekd.core.machine` reads the machine; here it is packed into a zip application that needs nothing but Python 3.9, so that
the same bytes run here and on a device, checked by their sha256.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import edgekd.core.machine
from edgekd.core.errors import MachineError
from edgekd.core.machine import fingerprint as reading
from edgekd.core.records import Fingerprint, TelemetryLog
from edgekd.core.records.circumstances import FieldValue, row_from

FILE_NAME = "probe.pyz"
DEFAULT_HZ = 2.0
END_TIMEOUT_S = 10.0
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip knows: the same bytes on every day
_START = "import sys\n\nfrom machine.__main__ import main\n\nsys.exit(main())\n"


@cache
def program() -> bytes:
    """Return the probe as one runnable file: `python3 probe.pyz fingerprint`, `python3 probe.pyz telemetry --hz 2`."""
    folder = Path(edgekd.core.machine.__file__).parent
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        sources = {f"machine/{path.name}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
        for name, source in {"__main__.py": _START, **sources}.items():
            file.writestr(zipfile.ZipInfo(name, _FIRST_DAY), source)
    return held.getvalue()


def fingerprint(told: str | bytes) -> Fingerprint:
    """Return what `probe.pyz fingerprint` answered; raise `MachineError` if that is no fingerprint."""
    try:
        fields: Mapping[str, FieldValue] = json.loads(told)["fields"]
        return Fingerprint.of(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MachineError(f"the probe answered what is not a fingerprint: {_shown(told)}") from error


def fingerprint_here(root: Path = Path("/")) -> Fingerprint:
    """Return the fingerprint of this machine; `root` stands for `/`."""
    return Fingerprint.of(reading.fields(root))


@contextmanager
def watch(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[TelemetryLog]:
    """Run a probe that goes on telling until its standard input ends, and collect its samples in the log.

    A probe that cannot be started or dies gives fewer samples and `ended_early`, never an error: a measurement that was not
    watched is told to be so.
    """
    log = TelemetryLog()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
    except OSError:
        log.ended_early = True
        yield log
        return
    reader = threading.Thread(target=_collect, args=(process, log), daemon=True)
    reader.start()
    try:
        yield log
    finally:
        log.ended_early = process.poll() is not None
        _end(process)
        reader.join(END_TIMEOUT_S)
        if process.stdout is not None and not reader.is_alive():
            process.stdout.close()


@contextmanager
def watch_here(*, hz: float = DEFAULT_HZ, root: Path = Path("/")) -> Iterator[TelemetryLog]:
    """Watch this machine, by the same program that devices get."""
    with tempfile.TemporaryDirectory(prefix="edgekd-probe-") as folder:
        file = Path(folder) / FILE_NAME
        file.write_bytes(program())
        arguments = ["telemetry", "--hz", f"{hz:g}", "--root", str(root)]
        with watch([sys.executable, "-I", str(file), *arguments], env=dict(os.environ)) as log:
            yield log


def _collect(process: "subprocess.Popen[bytes]", log: TelemetryLog) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        row = row_from(line)
        if row is not None and (not log.rows or row.at_ns > log.rows[-1].at_ns):
            log.rows.append(row)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the probe the gentle way, by the end of its standard input, and the other way if it does not."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _shown(told: str | bytes) -> str:
    text = told if isinstance(told, str) else told.decode("utf-8", "replace")
    return repr(text[:200])

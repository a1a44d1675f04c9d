"""Files of strangers are read, run and rewritten by a child process with limits and without a network.

An ONNX model that edgekd did not make reaches parsers and runtimes written in C++, a torch checkpoint is a pickle. What goes
wrong in there, by accident or on purpose, ends the child; the command line says so and exits with 5.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edgekd.core.errors import IntegrityError

CPU_S = 12 * 3600
FILE_BYTES = 64 << 30
OPEN_FILES = 4096
_CHILD = "from edgekd.cli import confining; confining.child()"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SPENT = {
    signal.SIGXCPU: f"used more than {CPU_S // 3600} h of processor time",
    signal.SIGXFSZ: f"wrote a file of more than {FILE_BYTES >> 30} GiB",
    signal.SIGKILL: "was killed, as the system does when memory runs out",
}

held = False
"""Whether this process is the child."""
arguments: Sequence[str] = ()
"""What the command line was given; `main` says so."""


def is_foreign(run: Path) -> bool:
    """Return whether a path is an ONNX file, or a run folder whose student came as one."""
    from edgekd.core.records import IMPORTED, Checkpoint
    from edgekd.core.store import RunFolder, read_record

    if run.suffix == ".onnx":
        return True
    path = RunFolder(run).checkpoint()
    return path.is_file() and read_record(Checkpoint, path).student.use == IMPORTED


def confine_foreign(run: Path) -> None:
    """Confine this command if a path is an ONNX file, or a run folder whose student came as one."""
    if not held and is_foreign(run):
        confine(run)


def confine(file: Path) -> None:
    """Have a child with limits do this command, and exit as it does; return at once in the child itself.

    Raises `IntegrityError` if the child crashes, or takes more than it may, while it works on `file`.
    """
    if held:
        return
    # A session of its own: Ctrl-C reaches this process only, which asks the child to end and waits for it.
    process = subprocess.Popen([sys.executable, "-P", "-c", _CHILD, *arguments], start_new_session=True)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    code = process.wait()
    if code >= 0:
        sys.exit(code)
    ended = signal.Signals(-code)
    what = _SPENT.get(ended, f"crashed ({ended.name})")
    raise IntegrityError(
        f"{file}: the process that read and ran it {what}; nothing of it can be trusted",
        mend="look at the file where it came from; edgekd itself is unharmed, and what the process left is done anew",
    )


def child() -> NoReturn:
    """Take on the limits, for good, and do the command."""
    global held
    from edgekd.cli import complain, main

    held = True
    _hold()
    try:
        main()
    except MemoryError:
        told = IntegrityError("the file asks for more memory than this machine has; nothing of it can be trusted")
        complain(told)
        sys.exit(told.exit_code)


def _hold() -> None:
    import resource  # not on every system

    from edgekd.core.machine import files, fingerprint

    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _leave_network(libc)
    memory = fingerprint.memory_bytes(files.REAL_ROOT)
    for what, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_DATA, memory)] if memory is not None else []),
    ):
        _soft, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _leave_network(libc: ctypes.CDLL) -> None:
    """Enter an empty network, where the system lets this account: a user namespace of its own gives it the right to."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError):
            Path(f"/proc/self/{name}").write_text(text)

"""The agent as devices get it: one file made of its modules, and the one line that starts it there."""

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip knows: the same bytes on every day
_START = "import runpy\n\nrunpy.run_module('agent', run_name='__main__')\n"
OTHER_BYTES, OLD_PYTHON = 97, 98
# For any shell: nothing in it means anything between single quotes, and it is always the same but for the interpreter and the
# digest. It reads so many bytes, checks them, and becomes the program that they are; no file is left.
_LINE = (
    "exec {python} -I -c 'import sys;"
    f"sys.version_info<(3,9) and sys.exit({OLD_PYTHON});"
    "import os,hashlib;"
    "i=sys.stdin.buffer;b=i.read(int(i.readline(20)));"
    f"hashlib.sha256(b).hexdigest()==sys.argv[1] or sys.exit({OTHER_BYTES});"
    'f=os.memfd_create("edgekd",0);'
    'os.fdopen(os.dup(f),"wb").write(b);'
    'os.execv(sys.executable,[sys.executable,"-I","-X","utf8","/proc/self/fd/%d"%f,sys.argv[1]])'
    "' {digest}"
)


@cache
def agent() -> bytes:
    """Return the agent as one runnable file."""
    folder = Path(__file__).parent / "agent"
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as file:
        sources = {f"agent/{path.name}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
        for name, source in {"__main__.py": _START, **sources}.items():
            file.writestr(zipfile.ZipInfo(name, _FIRST_DAY), source)
    return held.getvalue()


def digest() -> str:
    """Return the agent's sha256."""
    return hashlib.sha256(agent()).hexdigest()


def line(python: str) -> str:
    """Return the line for the device's shell; `python` has been checked to be a plain name or path."""
    return _LINE.format(python=python, digest=digest())


def greeting() -> bytes:
    """Return what the line reads: how long the agent is, and the agent."""
    return b"%d\n" % len(agent()) + agent()

"""Several workers that take turns: `python turns.py worker.py < plans.json > answers.json`.

A program of its own like worker.py, which it starts once for each plan; it needs Python 3.9 and nothing else. On stdin, in one
line of JSON, `turns`: the plans of a round. Each worker loads and warms up alone. Then they go forwards and backwards (a, b, c,
c, b, a, ...), each for a stretch of its queries, and all others are stopped meanwhile. So whatever makes the machine slow for a
second makes all of them slow, and no model runs beside another. A paced stream is one stretch.

On stdout, in one line: `answers`, or the `complaint` of one of them, or `died` {whose, code} if one ended without an answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

PROTOCOL = "1"
_ROOM = 1.25  # times the memory of the largest process that is loaded must be free for one more
_PR_SET_PDEATHSIG = 1


class Ended(Exception):
    """The round is over, because one of its workers has no answer; `told` says why."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told)
        self.told = told


class Child:
    """A worker. Before each stretch it says how much memory it takes and waits for a line; at the end it says its answer."""

    def __init__(self, worker: str, plan: dict[str, Any]) -> None:
        self.whose = str(plan.get("whose", plan.get("files")))
        flags = ["-I", "-X", "utf8"] if sys.flags.isolated else ["-P"]
        self.process = subprocess.Popen(
            [sys.executable, *flags, worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **{str(key): str(value) for key, value in plan.get("environment", {}).items()}},
        )
        self.memory_bytes, self.answer = 0, {}  # type: int, dict[str, Any]
        self._plan = plan

    def load(self) -> None:
        """Let it load and warm up, until it waits or has answered; raise `Ended` if it has no answer."""
        self._say(json.dumps({**self._plan, "in_turns": True}))

    def turn(self) -> None:
        """Let it go on until it waits again or has answered; raise `Ended` if it has no answer."""
        if hasattr(signal, "SIGCONT"):
            self.process.send_signal(signal.SIGCONT)
        self._say("")

    def _say(self, line: str) -> None:
        with suppress(BrokenPipeError):  # then it has ended, and reading finds out how
            self.process.stdin.write(line.encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        heard = self.process.stdout.readline()  # type: ignore[union-attr]
        if not heard.endswith(b"\n"):
            raise Ended({"protocol": PROTOCOL, "died": {"whose": self.whose, "code": self.process.wait()}})
        told = json.loads(heard)
        if isinstance(told, int):
            self.memory_bytes = told
            if hasattr(signal, "SIGSTOP"):  # threads that spin for the next query would take time from others
                self.process.send_signal(signal.SIGSTOP)
            return
        if "complaint" in told:
            raise Ended(told)
        self.answer = told
        self.process.wait()  # what it has to tidy up would take time from others

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # what it was told last was never read
                pipe.close()  # type: ignore[union-attr]


def in_turns(worker: str, plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Have a process each do several plans, a stretch of queries at a time; as many at once as there is memory for."""
    children: list[Child] = []
    try:
        while len(children) < len(plans):
            together: list[Child] = []
            while len(children) < len(plans) and (not together or room_beside(together)):
                children.append(Child(worker, plans[len(children)]))
                together.append(children[-1])
                together[-1].load()
            while waiting := [child for child in together if not child.answer]:
                for child in waiting:
                    child.turn()
                together.reverse()
            if len(together) < len(plans):
                said = f"not-in-turns: the memory was enough for {len(together)} of {len(plans)} processes at once"
                for child in together:
                    child.answer["notes"].append(said)
                    child.answer["turns"] = None  # they are not those of the others
    except Ended as ended:
        return ended.told
    finally:
        for child in children:
            child.end()
    return {"protocol": PROTOCOL, "answers": [child.answer for child in children]}


def room_beside(children: Sequence[Child]) -> bool:
    """Return whether more memory is free than any of these has taken; true where that is not known."""
    free = free_bytes()
    return free is None or free > _ROOM * max(child.memory_bytes for child in children)


def free_bytes() -> int | None:
    """Return the memory that can still be taken: of this machine, and of its control group if that has a limit."""
    found = []
    with suppress(OSError, ValueError):
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            found.append(int(limit.read()) - int(current.read()))
    return min(found, default=None)


def main() -> int:
    """Read plans from stdin, answer on stdout, and return the exit code."""
    if sys.platform == "linux":  # end with the controller, however that ends
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    told = in_turns(os.path.abspath(sys.argv[1]), json.loads(sys.stdin.buffer.readline())["turns"])
    sys.stdout.write(json.dumps(told) + "\n")
    return int(told["complaint"]["exit_code"]) if "complaint" in told else 0


if __name__ == "__main__":
    sys.exit(main())

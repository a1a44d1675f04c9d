"""One fresh process that times one model: `python worker.py < plan.json > answer.json`.

A program of its own: it needs Python 3.9, numpy and the runtime, and nothing of edgekd (a plan that names a part instead of a
runner file excepted, which works only where edgekd is installed). The same file runs on this machine and on any other.

The plan, one line of JSON on stdin; paths are names in `folder` unless absolute:

    protocol      "1"
    folder        where everything lies on this machine
    runner        the file that opens the runtime; or null, and `part: {use, options}` names a backend of edgekd
    files         the model's files, the model first
    options       what the runner is told beside the threads: the backend's own options, and `spin`
    threads       of the runtime
    environment   variables to set before numpy and the runtime are loaded
    inputs        .npy, prepared images NCHW or NHWC, uint8 or float32
    batch         images in one query
    mode          "single" (the next query when the last has ended), "paced" (one every `period_ns`), "offline" (no pause)
    warmup        queries before the clock counts, after the first
    iterations    queries that count
    record        null; or {seconds, cap_seconds, tolerance}: instead of counting, record for so long from the first query on,
                  and twice as long again while the medians of the third and the fourth quarter differ by more (calibration)
    describe      true: open the model and tell the shape and type of its input, no more
    whole         null; or {photographs, prepare, rules, iterations}: afterwards, queries from the encoded photograph to the
                  best classes, with the stand-alone file `prepare`
    in_turns      true: before each stretch of queries say how much memory it takes, and wait for a line on stdin (see turns.py)

The answer, one line of JSON on stdout: `complaint` {exit_code, message, mend}, or what `measure` and `answer_to` return.
`pace_ns` is the time of a fixed piece of arithmetic before and after, which says how fast the machine itself was; `cores` are
those that the worker was bound to; `turns` is in how many stretches the queries to the model alone were asked, of equal length
but for one query, or null for all at once.
Samples are int64, column by column, little-endian, compressed, in base64; `at` counts from `origin_ns` of the machine's
monotonic clock, and a time that was not measured is -1. While the worker works, file descriptor 1 is stderr, so that a chatty
runtime cannot spoil the answer.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import platform
import signal
import sys
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Callable

PROTOCOL = "1"
COLUMNS = ("segment", "input", "at", "queue", "pre", "infer", "post", "e2e")
"""`segment` 0 is the model alone, 1 the whole way; `at` is when it was asked or due, `queue` the wait until it started."""
MODES = ("single", "paced", "offline")
TOP = 5
MOST_SAMPLES = 4_000_000  # of one recording, so that a model of microseconds does not fill the memory
_SPIN_NS = 300_000  # a paced query is awaited by looking at the clock this long before it is due; sleeping is not exact
_PACE_STEPS = 20_000  # about a millisecond
_PACE_REPEATS = 9
_PR_SET_PDEATHSIG = 1
TURNS = 20
"""Of each worker in a round: 0.15 s each in the profile `gate`, shorter than what neighbours do to a machine. Ours."""
WHOLE_TURNS = 5  # the way from the photograph is told, and compared by few: each turn more is a beginning that does not count
AGAIN_NS = 10_000_000  # so long at least a turn begins with queries that do not count; ours

Clock = Callable[[], int]
Sleep = Callable[[float], None]


class Refusal(Exception):
    """What cannot be done as asked; a runner file has a class of the same name and shape."""

    def __init__(self, message: str, *, mend: str = "", exit_code: int = 4) -> None:
        super().__init__(message)
        self.message, self.mend, self.exit_code = message, mend, exit_code


class Turns:
    """When a worker asks its queries: all at once, or, where it has to `wait` for its turn, in so many stretches.

    Each stretch begins with a twentieth of itself, and at least ten milliseconds, that do not count: they bring back into the
    caches what others drove out.
    `cpu_ns` is the processor time of what counts.
    """

    def __init__(self, wait: Callable[[], None] | None, clock: Clock, cpu_clock: Clock) -> None:
        self.wait, self.clock, self.cpu_clock, self.cpu_ns = wait, clock, cpu_clock, 0

    def __call__(self, iterations: int, ask: Callable[[int], Any] | None, *, count: int = TURNS) -> Iterator[range]:
        """Yield the numbers of the queries to ask now; with nothing to `ask` before them, all of them in one turn."""
        count = min(count, iterations) if self.wait and ask else 1
        for number in range(count):
            start, end = iterations * number // count, iterations * (number + 1) // count
            if self.wait:
                self.wait()
            if self.wait and ask:
                begun_ns, index = self.clock(), start - -(-(end - start) // TURNS)
                while index < start or self.clock() - begun_ns < AGAIN_NS:
                    ask(index)
                    index += 1
            before_ns = self.cpu_clock()
            yield range(start, end)
            self.cpu_ns += self.cpu_clock() - before_ns


# ---------------------------------------------------------------------------------------------------------------- timing
def measure(
    session: Any,
    plan: dict[str, Any],
    images: Any,
    *,
    clock: Clock,
    cpu_clock: Clock,
    sleep: Sleep = time.sleep,
    wait: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Return the first inference's time, the samples, CPU time per query and what the session says of itself.

    `first_ns` is kept apart from the rest: it pays for what a runtime does once. Collecting garbage is off while the clock
    counts. A query ends when its answer can be read by the host. `wait` returns when it is this worker's turn.
    """
    if because := getattr(session, "cannot_be_timed", ""):
        raise Refusal(f"this cannot be timed here: {because}", mend="set `bench: null` to have the rest judged", exit_code=3)
    batches = batches_of(images, plan["batch"])
    ask = asking(session)
    start_ns = clock()
    answer = ask(batches[0])
    first_ns = clock() - start_ns
    check_rows(answer, plan["batch"])
    told: dict[str, Any] = {"first_ns": first_ns, "warmup": plan["warmup"], "turns": None, "notes": []}
    with no_collecting():
        if plan.get("record"):
            rows = recorded(ask, batches, plan["record"], clock)
            told["warmup"] = 0
        else:
            for index in range(plan["warmup"]):
                ask(batches[index % len(batches)])
            turns = Turns(wait, clock, cpu_clock)
            if plan["mode"] == "paced":
                rows = paced(ask, batches, plan["iterations"], plan["period_ns"], clock, sleep, turns)
            else:
                rows = closed(ask, batches, plan["iterations"], clock, turns)
                told["turns"] = min(TURNS, plan["iterations"]) if wait else None
            told["cpu_ns"] = round(turns.cpu_ns / max(1, plan["iterations"]))
            if plan.get("whole"):
                rows += whole_way(ask, plan, told["notes"], clock, turns)
    return {**told, **said_by(session), "rows": rows}


def closed(
    ask: Callable[[Any], Any], batches: Sequence[Any], iterations: int, clock: Clock, turns: Turns
) -> list[tuple[int, ...]]:
    """Return one row a query, each asked when the last one has been answered."""
    starts, ends, count = [0] * iterations, [0] * iterations, len(batches)
    for indices in turns(iterations, lambda index: ask(batches[index % count])):
        for index in indices:
            batch = batches[index % count]
            starts[index] = clock()
            ask(batch)
            ends[index] = clock()
    return [(0, index % count, start, 0, -1, end - start, -1, -1) for index, (start, end) in enumerate(zip(starts, ends))]


def paced(
    ask: Callable[[Any], Any],
    batches: Sequence[Any],
    iterations: int,
    period_ns: int,
    clock: Clock,
    sleep: Sleep,
    turns: Turns,
) -> list[tuple[int, ...]]:
    """Return one row a query; query i is due at i periods, and what it waits beyond that is its `queue`.

    The schedule does not wait for a slow query: those after it are late, and their lateness counts (no coordinated omission).
    """
    rows: list[tuple[int, ...]] = []
    count = len(batches)
    for indices in turns(iterations, None):
        origin_ns = clock()
        for index in indices:
            due_ns = origin_ns + index * period_ns
            while (left_ns := due_ns - clock()) > 0:
                if left_ns > _SPIN_NS:
                    sleep((left_ns - _SPIN_NS) / 1e9)
            start_ns = clock()
            ask(batches[index % count])
            end_ns = clock()
            rows.append((0, index % count, due_ns, start_ns - due_ns, -1, end_ns - start_ns, -1, -1))
    return rows


def recorded(ask: Callable[[Any], Any], batches: Sequence[Any], record: dict[str, float], clock: Clock) -> Any:
    """Return one row a query for `seconds`, doubled up to `cap_seconds` while the last two quarters differ."""
    import numpy as np

    at_ns, infer_ns = array("q"), array("q")
    count, origin_ns, length_s = len(batches), clock(), record["seconds"]
    while True:
        end_ns = origin_ns + round(length_s * 1e9)
        while (start_ns := clock()) < end_ns and len(at_ns) < MOST_SAMPLES:
            ask(batches[len(at_ns) % count])
            infer_ns.append(clock() - start_ns)
            at_ns.append(start_ns)
        full = len(at_ns) >= MOST_SAMPLES
        if length_s >= record["cap_seconds"] or full or settled(np.array(at_ns), np.array(infer_ns), record["tolerance"], np):
            break
        length_s = min(2 * length_s, record["cap_seconds"])
    rows = np.full((len(at_ns), len(COLUMNS)), -1, dtype="<i8")
    rows[:, 0] = rows[:, 3] = 0
    rows[:, 1], rows[:, 2], rows[:, 5] = np.arange(len(at_ns)) % count, at_ns, infer_ns
    return rows


def settled(at_ns: Any, infer_ns: Any, tolerance: float, np: Any) -> bool:
    """Return whether the medians of the third and the fourth quarter of the time agree."""
    if len(at_ns) == 0:
        return False
    quarter = 4 * (at_ns - at_ns[0]) // (at_ns[-1] - at_ns[0] + 1)
    third, fourth = infer_ns[quarter == 2], infer_ns[quarter == 3]
    if len(third) == 0 or len(fourth) == 0:
        return False
    return bool(abs(np.median(fourth) - np.median(third)) <= tolerance * np.median(third))


def whole_way(
    ask: Callable[[Any], Any], plan: dict[str, Any], notes: list[str], clock: Clock, turns: Turns
) -> list[tuple[int, ...]]:
    """Return rows from the encoded photographs to the best classes; none, and a note why, where they cannot be decoded here."""
    import numpy as np

    whole = plan["whole"]
    try:
        prepare = loaded(os.path.join(plan["folder"], whole["prepare"]), "edgekd_prepare")
    except ImportError as error:
        notes.append(f"e2e-unknown: photographs cannot be decoded on this machine: {error}")
        return []
    with np.load(os.path.join(plan["folder"], whole["photographs"]), allow_pickle=False) as file:
        bytes_, ends = file["bytes"], file["ends"]
    starts = [0, *ends[:-1].tolist()]
    photographs = [bytes_[start:end].tobytes() for start, end in zip(starts, ends.tolist())]
    count, batch = len(photographs), plan["batch"]

    def one(index: int) -> tuple[int, ...]:
        first = index * batch
        start_ns = clock()
        images = prepare.batch([photographs[(first + i) % count] for i in range(batch)], whole["rules"])
        ready_ns = clock()
        answer = ask(images)
        answered_ns = clock()
        best(answer, np)
        end_ns = clock()
        spans = (ready_ns - start_ns, answered_ns - ready_ns, end_ns - answered_ns, end_ns - start_ns)
        return (1, first % count, start_ns, 0, *spans)

    one(0)  # loads the decoder, and does not count
    return [one(index) for indices in turns(whole["iterations"], one, count=WHOLE_TURNS) for index in indices]


def best(answer: Any, np: Any) -> Any:
    """Return the classes of the highest logits of each image, best first; what an application does with the answer."""
    logits_BK = (answer[0] if isinstance(answer, (list, tuple)) else answer).reshape(len(first_of(answer)), -1)
    top = min(TOP, logits_BK.shape[1])
    chosen_BT = np.argpartition(logits_BK, -top, axis=1)[:, -top:]
    order_BT = np.argsort(-np.take_along_axis(logits_BK, chosen_BT, axis=1), axis=1)
    return np.take_along_axis(chosen_BT, order_BT, axis=1)


def asking(session: Any) -> Callable[[Any], Any]:
    """Return how to ask: the session's own `run`, made to wait where it answers what is not yet in the host's memory."""
    run = session.run

    def until_readable(batch: Any) -> Any:
        import numpy as np

        answer = run(batch)
        if isinstance(answer, (list, tuple)):
            return [np.asarray(one) for one in answer]
        return np.asarray(answer)

    return run if getattr(session, "host_readable", False) else until_readable


def batches_of(images: Any, batch: int) -> list[Any]:
    """Return C-contiguous batches that between them hold every image; the last one is filled up from the beginning."""
    import numpy as np

    if images.ndim != 4 or len(images) == 0:
        raise Refusal(f"expected images in an array of 4 axes, found the shape {images.shape}", exit_code=2)
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    count = len(images)
    picked = [[(start + i) % count for i in range(batch)] for start in range(0, count, batch)]
    return [np.ascontiguousarray(images[indices], dtype=kind) for indices in picked]


def check_rows(answer: Any, batch: int) -> None:
    """Refuse an answer that is not one row for each image."""
    found = first_of(answer)
    shape = getattr(found, "shape", None)
    if not shape or shape[0] != batch:
        what = shape if shape is not None else type(found).__name__
        raise Refusal(f"the model answered {what} to a batch of {batch}; expected one row for each image")


def first_of(answer: Any) -> Any:
    """Return the first output of a model."""
    return answer[0] if isinstance(answer, (list, tuple)) else answer


@contextmanager
def no_collecting() -> Iterator[None]:
    """Keep the garbage collector from running while the clock counts."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def described(session: Any) -> dict[str, Any]:
    """Return what a model takes, for one of which nothing is known but its file."""
    return {"shape": list(session.shape), "dtype": str(session.dtype), "runtime": str(session.runtime)}


def said_by(session: Any) -> dict[str, Any]:
    """Return what a session says of itself; asked after timing, because some of it costs time."""
    return {
        "runtime": str(session.runtime),
        "executed_on": str(session.executed_on),
        "executed_precision": str(session.executed_precision),
        "compile_ns": getattr(session, "compile_ns", None),
        "spin": getattr(session, "spin", None),
        "session_options": {str(k): str(v) for k, v in getattr(session, "session_options", {}).items()},
    }


# ----------------------------------------------------------------------------------------------------------- the process
def answer_to(
    plan: dict[str, Any],
    *,
    clock: Clock = time.perf_counter_ns,
    cpu_clock: Clock = time.process_time_ns,
    wait: Callable[[], None] | None = None,
    bind: Callable[[int], list[int] | None] = lambda _threads: None,
) -> Any:
    """Do what a plan asks; what can be explained becomes a complaint. `bind` binds this process to so many cores."""
    os.environ.update({str(key): str(value) for key, value in plan.get("environment", {}).items()})
    refusals: tuple[type[BaseException], ...] = (Refusal,)
    session = None
    try:
        check_plan(plan)
        cores = bind(plan["threads"])
        runtime, explained = runtime_of(plan)
        refusals = (Refusal, explained)
        import numpy as np

        images = None
        if not plan.get("describe"):
            images = np.load(os.path.join(plan["folder"], plan["inputs"]), allow_pickle=False)
        opened = opener(plan, runtime)
        before_ns = pace_ns()
        start_ns = clock()
        session = opened()
        load_ns = clock() - start_ns
        if plan.get("describe"):
            told = described(session)
        else:
            told = measure(session, plan, images, clock=clock, cpu_clock=cpu_clock, wait=wait)
        after_ns = pace_ns()
    except refusals as error:
        return complaint(error)
    finally:
        if session is not None:
            close(session)
    if plan.get("describe"):
        return {"protocol": PROTOCOL, **told}
    return {
        "protocol": PROTOCOL,
        "load_ns": load_ns,
        "process_cpu_ns": cpu_clock(),
        "peak_rss_bytes": peak_rss_bytes(),
        "pace_ns": [before_ns, after_ns],
        "cores": cores,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **packed(told),
    }


def bound_to(threads: int) -> list[int] | None:
    """Bind this process to as many cores as it has threads, the fastest, and return them; None where it may use them all.

    Cores have different neighbours: of two workers on two cores, one may be slowed down by half for seconds. Where all use
    the same ones, what differs is the models. Siblings of one core are taken last, and of equal cores the last ones, because
    a system's own work tends to be done on the first.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    free = sorted(os.sched_getaffinity(0), reverse=True)
    if threads >= len(free):
        return None
    speed = {core: first_number(core, "cpu_capacity", "cpufreq/cpuinfo_max_freq") for core in free}
    taken: list[int] = []
    while len(taken) < threads:
        busy = [sibling for core in taken for sibling in siblings(core)]
        taken.append(max((core for core in free if core not in taken), key=lambda core: (core not in busy, speed[core])))
    os.sched_setaffinity(0, taken)
    return sorted(taken)


def first_number(core: int, *names: str) -> int:
    """Return the first number that Linux tells of a core under one of these names; 0 if it tells none."""
    for name in names:
        with suppress(OSError, ValueError), open(f"/sys/devices/system/cpu/cpu{core}/{name}", encoding="ascii") as file:
            return int(file.read())
    return 0


def siblings(core: int) -> list[int]:
    """Return the logical cores that share a physical one with this, itself among them."""
    with suppress(OSError, ValueError):
        with open(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", encoding="ascii") as file:
            ends = [part.split("-") for part in file.read().strip().split(",")]
        return [one for first, *last in ends for one in range(int(first), int((last or [first])[0]) + 1)]
    return [core]


def pace_ns(clock: Clock = time.perf_counter_ns) -> int:
    """Return how long a fixed piece of arithmetic takes on this machine at this moment: the median of a few."""
    found = []
    for _ in range(_PACE_REPEATS):
        start_ns, total = clock(), 0
        for number in range(_PACE_STEPS):
            total += number
        found.append(clock() - start_ns)
    return sorted(found)[_PACE_REPEATS // 2]


def check_plan(plan: dict[str, Any]) -> None:
    """Refuse a plan of another protocol, or one that is not whole."""
    if plan.get("protocol") != PROTOCOL:
        raise Refusal(f"the plan is for protocol {plan.get('protocol')!r}, this worker speaks {PROTOCOL!r}", exit_code=2)
    missing = [
        key for key in ("folder", "files", "threads", "inputs", "batch", "mode", "warmup", "iterations") if key not in plan
    ]
    if missing or plan["mode"] not in MODES:
        raise Refusal(f"the worker's plan is not valid: {', '.join(missing) or plan['mode']}", exit_code=2)
    if plan["mode"] == "paced" and not plan.get("period_ns"):
        raise Refusal("the worker's plan is not valid: a paced one needs period_ns", exit_code=2)


def runtime_of(plan: dict[str, Any]) -> tuple[Any, type[BaseException]]:
    """Return the module that opens models (a runner file, or edgekd's register of parts) and the errors that it explains."""
    if plan.get("runner"):
        runner = loaded(os.path.join(plan["folder"], plan["runner"]), "edgekd_runner")
        return runner, runner.Refusal
    try:
        return importlib.import_module("edgekd.core.parts"), importlib.import_module("edgekd.core.errors").EdgekdError
    except ImportError as error:
        raise Refusal(
            f"{plan['part']['use']} has no runner file, so it runs only where edgekd is installed: {error}"
        ) from error


def opener(plan: dict[str, Any], runtime: Any) -> Callable[[], Any]:
    """Return what opens the model, everything imported and inspected already.

    That comes before the clock starts: `load_ns` is the cost of the model, not of Python.
    """
    folder, files, threads = plan["folder"], plan["files"], plan["threads"]
    if plan.get("runner"):
        try:
            runtime.load_runtime()
        except ImportError as error:
            raise Refusal(f"the runtime cannot be imported on this machine: {error}", mend="install it there") from error
        return lambda: runtime.open(folder, files, threads=threads, options=plan.get("options", {}))
    from pathlib import Path

    frozen = importlib.import_module("edgekd.core.config").frozen
    backend = runtime.load("backend", plan["part"]["use"]).model_validate(frozen(plan["part"]["options"]))
    runtime.need_packages(backend)
    for package in backend.packages():
        importlib.import_module(package)
    backend.inspect(Path(folder), files)
    return lambda: backend.open(Path(folder), files, threads=threads).__enter__()


def close(session: Any) -> None:
    """Release the runtime, whichever way the session offers."""
    if hasattr(session, "close"):
        session.close()
    else:
        session.__exit__(None, None, None)


def loaded(path: str, name: str) -> Any:
    """Return the module in a file, whatever the file is called."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refusal(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def packed(told: dict[str, Any]) -> dict[str, Any]:
    """Return the answer with its rows as one compressed block of int64, column by column."""
    import numpy as np

    rows = np.array(told["rows"], dtype="<i8").reshape(-1, len(COLUMNS))
    origin_ns = int(rows[0, 2]) if len(rows) else 0
    rows[:, 2] -= origin_ns
    block = base64.b64encode(zlib.compress(np.ascontiguousarray(rows.T).tobytes(), 6)).decode("ascii")
    rest = {key: value for key, value in told.items() if key != "rows"}
    rest["origin_ns"] = origin_ns
    return {**rest, "columns": list(COLUMNS), "count": len(rows), "samples": block}


def complaint(error: BaseException) -> dict[str, Any]:
    """Return an error that can be explained as an answer."""
    shown = {name: getattr(error, name) for name in ("exit_code", "message", "mend")}
    return {"protocol": PROTOCOL, "complaint": shown}


def peak_rss_bytes() -> int | None:
    """Return the most memory that this process has held.

    From /proc where it is: getrusage also counts what the parent held when it started this process.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            found = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except OSError:
        found = []
    if found:
        return int(found[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Read a plan from stdin, answer on stdout, and return the exit code."""
    die_with_controller()
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as channel:
        os.dup2(2, 1)
        plan = json.loads(sys.stdin.buffer.readline())

        def wait() -> None:
            channel.write(b"%d\n" % (peak_rss_bytes() or 0))
            channel.flush()
            if not sys.stdin.buffer.readline():
                sys.exit(1)

        told = answer_to(plan, wait=wait if plan.get("in_turns") else None, bind=bound_to)
        channel.write(json.dumps(told).encode() + b"\n")
    return int(told["complaint"]["exit_code"]) if "complaint" in told else 0


def die_with_controller() -> None:
    """Ask Linux to end this process when its parent ends, however that ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    # The folder of this file comes first on the path; nothing in it is meant to stand for a module of the same name.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))]
    sys.exit(main())

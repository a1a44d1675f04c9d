"""Filling a teacher cache: units of work that several processes share and that a killed one leaves whole or not begun.

A unit is a run of rows of one view, for all taps that this process lacks. Its process holds a lock on it, which the system
releases when the process ends, however it ends. The teacher's batches begin at multiples of the batch size in every view, so
that the same rows share a batch wherever a run was stopped; so the files come out the same.

Axes: B batch, C channels, H height, W width, D feature width.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from edgekd.core.console import Console, Progress
from edgekd.core.contracts import FrozenModel
from edgekd.core.errors import UsageError
from edgekd.core.store import disk_errors, write_bytes, write_text
from edgekd.distilling import feature_files
from edgekd.distilling.feature_files import DTYPES, IDS, INDEX, TENSOR, Shard, index_of, shards_of
from edgekd.distilling.locks import Locks

BATCH: Mapping[str, int] = {"cpu": 32, "cuda": 256}
AHEAD: Mapping[str, int] = {"cpu": 0, "cuda": 2}  # batches cut while the teacher computes; on a CPU they would slow it down

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be computed: taps with their shapes, for all `views` of the images `order_N` (indices, row by row)."""

    teacher: FrozenModel
    batch: Callable[[Sequence[int], int], Tensor]
    views: int
    ids: tuple[str, ...]
    order_N: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    facts: Mapping[str, Any]
    folder: Path
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Rows of one view that are computed together; `number` is its place in the lock file."""

    number: int
    view: int
    rows: range


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A batch's features in the stored dtype on their way to the CPU, and whether each tap is finite as stored and before."""

    unit: Unit
    rows: range
    features: dict[str, Tensor]
    finite: dict[str, Tensor]
    copied: "torch.cuda.Event | None"


class Filling:
    """One process's share of the work."""

    def __init__(self, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.cuda = job.device.type == "cuda"
        kind = "cuda" if self.cuda else "cpu"
        self.batch, self.ahead = BATCH[kind], AHEAD[kind]
        self.dtype = DTYPES[job.facts["dtype"]]

    def go(self) -> None:
        """Compute and write every missing file, and the indexes last; returns when all is there, whoever wrote it."""
        job = self.job
        with disk_errors(job.folder):
            for tap in job.shapes:
                (job.folder / tap).mkdir(parents=True, exist_ok=True)
        with Locks(job.folder / ".lock") as self.locks:
            with self.locks.common():
                _write_if_new(job.folder / IDS, json.dumps(job.ids, indent=0) + "\n")
            pending = [unit for unit in self._units() if self._missing(unit)]
            total = sum(len(unit.rows) for unit in pending)
            with self.console.progress("cache", total, "views") as progress:
                self._work_off(pending, _Pace(progress, self.console))
            with self.locks.common():
                for tap, shape in job.shapes.items():
                    shards = shards_of(views=range(job.views), rows=range(len(job.ids)), shape=shape)
                    index = index_of(job.folder / tap, list(shards), shape=shape, facts=job.facts)
                    _write_if_new(job.folder / tap / INDEX, index.model_dump_json(indent=1) + "\n")
                    _remove_leftovers(job.folder / tap)
                _remove_leftovers(job.folder)

    def _units(self) -> Iterator[Unit]:
        count, step = len(self.job.ids), feature_files.MAX_ROWS
        firsts = range(0, count, step)
        for view in range(self.job.views):
            for at, first in enumerate(firsts):
                rows = range(first, min(first + step, count))
                yield Unit(number=view * len(firsts) + at, view=view, rows=rows)

    def _missing(self, unit: Unit) -> list[tuple[str, Shard]]:
        return [
            (tap, shard)
            for tap, shape in self.job.shapes.items()
            for shard in shards_of(views=[unit.view], rows=unit.rows, shape=shape)
            if not (self.job.folder / tap / shard.name).is_file()
        ]

    def _work_off(self, pending: list[Unit], pace: "_Pace") -> None:
        while pending:
            elsewhere: list[Unit] = []
            self._one_round(pending, elsewhere, pace)
            pending = elsewhere
            if elsewhere:
                self.locks.wait_for(elsewhere[0].number)

    def _one_round(self, pending: Sequence[Unit], elsewhere: list[Unit], pace: "_Pace") -> None:
        """Compute those of the pending units that no other process holds; those go to `elsewhere`."""
        cut = self._batches(pending, elsewhere, pace)
        saved: Future[None] | None = None
        done: list[_Answer] = []
        with (
            ThreadPoolExecutor(1, thread_name_prefix="cache-writer") as writer,
            closing(ahead(cut, depth=self.ahead) if self.ahead else cut) as batches,
        ):
            for answer in self._settled(batches):
                done.append(answer)
                pace.computed(len(answer.rows))
                if answer.rows.stop == answer.unit.rows.stop:
                    if saved is not None:
                        saved.result()
                    saved = writer.submit(self._save, answer.unit, done)
                    done = []
            if saved is not None:
                saved.result()

    def _batches(self, pending: Sequence[Unit], elsewhere: list[Unit], pace: "_Pace") -> Generator[tuple[Unit, range, Tensor]]:
        for unit in pending:
            if not self.locks.take(unit.number):
                elsewhere.append(unit)
                continue
            if not self._missing(unit):  # another process was here in the meantime
                self.locks.release(unit.number)
                pace.found(len(unit.rows))
                continue
            for first in range(unit.rows.start, unit.rows.stop, self.batch):
                rows = range(first, min(first + self.batch, unit.rows.stop))
                image_BCHW = self.job.batch([self.job.order_N[row] for row in rows], unit.view)
                yield unit, rows, image_BCHW.pin_memory() if self.cuda else image_BCHW

    def _settled(self, batches: Iterator[tuple[Unit, range, Tensor]]) -> Iterator[_Answer]:
        """Yield checked answers; one batch late if batches are cut ahead, so that a GPU has work while an answer is copied."""
        under_way: deque[_Answer] = deque()
        for unit, rows, image_BCHW in batches:
            under_way.append(self._forward(unit, rows, image_BCHW))
            if len(under_way) > min(1, self.ahead):
                yield self._checked(under_way.popleft())
        for answer in under_way:
            yield self._checked(answer)

    @torch.inference_mode()
    def _forward(self, unit: Unit, rows: range, image_BCHW: Tensor) -> _Answer:
        image_BCHW = image_BCHW.to(self.job.device, non_blocking=True)
        image_BCHW = image_BCHW.float().div_(255) if image_BCHW.dtype == torch.uint8 else image_BCHW.float()
        found = self.job.teacher.features(image_BCHW, tuple(self.job.shapes))
        features, finite = {}, {}
        for tap, value in found.items():
            stored = value.to(self.dtype)
            whole = torch.stack([torch.isfinite(value).flatten(1).all(1), torch.isfinite(stored).flatten(1).all(1)])
            features[tap], finite[tap] = (part.to("cpu", non_blocking=True) for part in (stored, whole))
        copied = None
        if self.cuda:
            copied = torch.cuda.Event()
            copied.record()
        return _Answer(unit=unit, rows=rows, features=features, finite=finite, copied=copied)

    def _checked(self, answer: _Answer) -> _Answer:
        if answer.copied is not None:
            answer.copied.synchronize()
        for tap, (before_B, stored_B) in answer.finite.items():
            if bool(stored_B.all()):
                continue
            image = self.job.ids[answer.rows[int(stored_B.int().argmin())]]
            where = f"{self.job.teacher.name}: its `{tap}` of {image} (view {answer.unit.view}) holds"
            if bool(before_B.all()) and self.dtype == torch.float16:
                raise UsageError(
                    f"{where} numbers above {torch.finfo(self.dtype).max:.0f}, the largest of fp16",
                    mend="use `dtype: bf16` for the cache",
                )
            raise UsageError(
                f"{where} numbers that are infinite or none at all", mend="run the teacher in float32, or take another one"
            )
        return answer

    def _save(self, unit: Unit, answers: Sequence[_Answer]) -> None:
        for tap, missing in groupby(self._missing(unit), key=itemgetter(0)):
            features_ND = torch.cat([answer.features[tap] for answer in answers])
            for _, shard in missing:
                at = shard.first_row - unit.rows.start
                content = save({TENSOR: features_ND[at : at + shard.rows].contiguous()})
                write_bytes(self.job.folder / tap / shard.name, content)
        self.locks.release(unit.number)


class _Pace:
    """How fast this process is, told to a person: an estimate after the first batch, then what is left."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._own = 0
        self._counting = threading.Lock()  # the thread that cuts batches ahead counts what it finds
        self._since_ns = time.perf_counter_ns()

    def computed(self, views: int) -> None:
        """Count views that this process computed."""
        with self._counting:
            first = not self._own
            self._own += views
            done, total = self._progress.done + views, self._progress.total or 0
            left_s = (total - done) * (time.perf_counter_ns() - self._since_ns) / 1e9 / self._own
            if first and done < total:
                self._console.say(f"by its first batch, the teacher will take about {_lasting(left_s)}")
            self._progress.update(done, f"{_lasting(left_s)} left" if done < total else "")

    def found(self, views: int) -> None:
        """Count views that another process computed."""
        with self._counting:
            self._progress.update(self._progress.done + views)


def ahead(items: Iterator[Item], *, depth: int) -> Generator[Item]:
    """Yield the items, which a thread of its own makes up to `depth` ahead; what goes wrong there is raised here."""
    with ThreadPoolExecutor(1, thread_name_prefix="cache-cutter") as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def _write_if_new(path: Path, content: str) -> None:
    if not (path.is_file() and path.read_bytes() == content.encode()):
        write_text(path, content)


def _remove_leftovers(folder: Path) -> None:
    # Of processes that were killed while they wrote: whoever holds the folder, when all is there, is the last to write.
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _lasting(duration_s: float) -> str:
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5400 else f"{duration_s / 3600:.1f} h"

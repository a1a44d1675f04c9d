"""Scoring untrained students: a fixed batch of real images, several initialisations, one process or several.

Every process computes with one thread, so that the scores are the same bit for bit whatever the number of processes.
"""

import multiprocessing
import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgekd.core import parts
from edgekd.core.contracts import Student
from edgekd.core.errors import UsageError
from edgekd.core.parts import PartRef
from edgekd.core.records import Score
from edgekd.core.search_contracts import Look, Scorer, Sight
from edgekd.searching.counting import Size, size_of
from edgekd.searching.initialising import Initialisation, initialise
from edgekd.searching.sight import sight_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The teacher's sight of the fixed batch as plain arrays; `weights_KC` is None where its head is not known."""

    map_BCHW: Array
    vector_BD: Array
    logits_BK: Array
    weights_KC: Array | None

    @classmethod
    def of(cls, sight: Sight) -> "Taught":
        """Return a sight's arrays."""
        try:
            weights_KC = sight.weights_KC.numpy()
        except UsageError:
            weights_KC = None
        return cls(
            map_BCHW=sight.map_BCHW.numpy(),
            vector_BD=sight.vector_BD.numpy(),
            logits_BK=sight.logits_BK.numpy(),
            weights_KC=weights_KC,
        )

    def sight(self, label_B: Tensor) -> Sight:
        """Return the sight again."""
        return Sight(
            map_BCHW=torch.from_numpy(self.map_BCHW),
            vector_BD=torch.from_numpy(self.vector_BD),
            logits_BK=torch.from_numpy(self.logits_BK),
            label_B=label_B,
            weigh=self._weigh,
        )

    def _weigh(self) -> Tensor:
        if self.weights_KC is None:
            raise UsageError("how the teacher's own head weighs its features is not known", mend="use `head: probe`")
        return torch.from_numpy(self.weights_KC)


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Everything that the scores of a student depend on; plain data, so that it can be sent to another process."""

    scorers: tuple[PartRef, ...]
    image_BCHW: Array
    label_B: Array
    classes: int
    taught: Taught | None
    initialisation: Initialisation
    initialisations: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What one student came to: each scorer's value and spread, and its size."""

    scores: dict[str, Score]
    size: Size


class Examiner:
    """Scores one student after the other."""

    def __init__(self, exam: Exam) -> None:
        self.exam = exam
        self.scorers = scorers_of(exam.scorers)
        self._label_B = torch.from_numpy(exam.label_B)
        self._image_BCHW = torch.from_numpy(exam.image_BCHW)
        self._sized = dict[tuple[int, int], Tensor]()

    def examine(self, student: PartRef, latency_ms: float | None = None) -> Examined:
        """Return a student's scores; nothing of the network is left behind."""
        part = cast(Student, parts.load("student", student.use)(**student.options))
        size = size_of(part, self.exam.classes)
        network = part.build(self.exam.classes, start=False)
        found: dict[str, list[float]] = {name: [] for name in self.scorers}
        for number in range(self.exam.initialisations):
            initialise(network, self.exam.initialisation, seed=self.exam.seed + number)
            image_BCHW = self._images(part.input_contract().size_px)
            sight, deviations = sight_of(network, image_BCHW, self._label_B)
            look = Look(
                module=network,
                image_BCHW=image_BCHW,
                student=sight,
                teacher=self._teacher,
                normal_deviations=deviations,
                parameters=size.parameters,
                macs=size.macs,
                latency_ms=latency_ms,
            )
            for name, scorer in self.scorers.items():
                if scorer.initialised or number == 0:
                    found[name].append(scorer.value(look))
        scores = {name: _score(values, spread=self.scorers[name].initialised) for name, values in found.items()}
        return Examined(scores=scores, size=size)

    @cached_property
    def _teacher(self) -> Sight | None:
        return self.exam.taught.sight(self._label_B) if self.exam.taught is not None else None

    def _images(self, size_px: tuple[int, int]) -> Tensor:
        """Return the batch in a student's own size, as it would make it itself; resized once for all students of a size."""
        if tuple(self._image_BCHW.shape[-2:]) == size_px:
            return self._image_BCHW
        if size_px not in self._sized:
            smaller_BCHW = functional.interpolate(self._image_BCHW, size_px, mode="bicubic", antialias=True)
            self._sized[size_px] = smaller_BCHW.clamp(0, 1)
        return self._sized[size_px]


def scorers_of(refs: Sequence[PartRef]) -> dict[str, Scorer]:
    """Return scorers by the name that their scores have: the part's, with the options that differ where two would be equal.

    Raises `UsageError` if the same one is named twice.
    """
    made = [cast(Scorer, parts.load("scorer", ref.use)(**ref.options)) for ref in refs]
    alone = [ref.use for ref in refs]
    named = dict[str, Scorer]()
    for scorer in made:
        use, options = scorer.ref().use, _shown(scorer)
        name = use if alone.count(use) == 1 or not options else f"{use} ({options})"
        if name in named:
            raise UsageError(f"the scorer {name} is named twice", mend="leave one out, or give the two other options")
        named[name] = scorer
    return named


Submit = Callable[[PartRef, float | None], "Future[Examined]"]


@contextmanager
def scoring(exam: Exam, *, workers: int) -> Iterator[Submit]:
    """Yield `submit(student, latency_ms) -> Future`; with one worker the work is done in this process, when it is submitted."""
    if workers == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield _Here(Examiner(exam))
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(exam,))
    try:
        yield lambda student, latency_ms: pool.submit(_examine, student, latency_ms)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Here:
    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def __call__(self, student: PartRef, latency_ms: float | None) -> "Future[Examined]":
        done: Future[Examined] = Future()
        try:
            done.set_result(self._examiner.examine(student, latency_ms))
        except UsageError as error:  # as it would come back from another process
            done.set_exception(error)
        return done


_examiner: Examiner | None = None


def _begin(exam: Exam) -> None:
    global _examiner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the search itself ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _examiner = Examiner(exam)


def _leave_with_parent() -> None:
    """End this process when the search is gone, however it went; a pool's workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _examine(student: PartRef, latency_ms: float | None) -> Examined:
    assert _examiner is not None
    return _examiner.examine(student, latency_ms)


def _score(values: Sequence[float], *, spread: bool) -> Score:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Score(value=statistics.fmean(values), spread=deviation if spread else None)


def _shown(scorer: Scorer) -> str:
    options: Mapping[str, Any] = scorer.model_dump(mode="json", exclude_defaults=True, exclude={"weight"})
    return ", ".join(f"{key} {value}" for key, value in options.items())

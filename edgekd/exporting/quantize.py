"""The search for an int8 model: a declared grid, each candidate judged and timed through its own runtime, the fastest kept.

Candidates are judged on a part of the validation images and timed beside the float models of the same backend, in turn, in
one process. These figures only choose; the artifact that comes out is measured like any other.

Axes: B batch, N judged images, K classes.
"""

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgekd.core.console import Console
from edgekd.core.contracts import Attempt, Backend, Calibration, Exportable, ExportedFiles, ImageSet, Quantiser, Session, Source
from edgekd.core.errors import DataError, EvidenceError
from edgekd.core.images import prepare_batch
from edgekd.core.plan import Quantise
from edgekd.core.records import Candidate, Quantisation, digest_of
from edgekd.exporting import parity
from edgekd.exporting.interface import contract_of

if TYPE_CHECKING:
    Logits = np.ndarray[Any, Any]

_BATCH = 10
_ROUNDS, _CALLS = 12, 5
_ALIKE = 1.05  # latencies within this factor are taken as equal, and the answers that agree more with the float model win
_CANDIDATES = ".candidates"


@dataclass(kw_only=True)
class _Tried:
    """A model in a folder of its own, loaded, with its answers to the judged images and its times so far."""

    name: str
    attempt: Attempt | None
    folder: Path
    written: ExportedFiles
    session: Session
    logits_NK: "Logits"
    times_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float | None:
        return statistics.median(self.times_ms) if self.times_ms else None

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in self.written.files)


class Search:
    """One search: for one student, one backend, on one machine."""

    def __init__(
        self,
        *,
        backend: Backend,
        settings: Quantise,
        exportable: Exportable,
        held_against: Exportable | None = None,
        source: Source,
        threads: int,
        folder: Path,
        console: Console,
    ) -> None:
        """Choose the images; raises `DataError` if there are fewer than asked for, `EvidenceError` without any to judge by."""
        self.backend, self.settings, self.exportable = backend, settings, exportable
        self.held_against = held_against or exportable
        self.threads, self.folder, self.console = threads, folder, console
        self.calibration_images = _calibration_images(source, settings.images)
        self.images = source.val()
        self.chosen = _judged(self.images, settings)
        self.label_N = np.array([self.images.samples[index].label for index in self.chosen])
        self.stand_in = backend.stand_in() if backend.cannot_run_here() else None
        self.runner = self.stand_in or backend
        self.failed: list[Candidate] = []
        self._sessions = ExitStack()

    def go(self) -> tuple[ExportedFiles, Quantisation]:
        """Return what was written into the folder, and the record of the search."""
        scratch = self.folder / _CANDIDATES
        with self._sessions:
            floats = [self._float(precision, scratch) for precision in self.backend.precisions if precision != "int8"]
            reference = floats[0]
            quantiser = self.backend.quantiser(self.exportable, self._calibration())
            tried = [found for attempt in quantiser.grid() if (found := self._try(attempt, scratch, reference)) is not None]
            if not tried:
                raise EvidenceError(
                    f"{quantiser.engine} could make none of its {len(self.failed)} int8 candidates: {self.failed[-1].note}",
                    mend="export in fp32 or fp16, or take another student",
                )
            self._time([*floats, *tried])
            if not any(self._drop(one, reference) <= self.settings.max_drop for one in tried):
                tried += self._carefully(quantiser, tried, scratch, reference, floats)
            best_float = min(floats, key=lambda one: one.median_ms or 0.0)
            chosen, refused = self._choose(tried, reference, best_float)
            record = self._record(quantiser, tried, chosen, reference, best_float, refused)
        for file in chosen.written.files:
            (chosen.folder / file).replace(self.folder / file)
        shutil.rmtree(scratch)
        return chosen.written, record

    # -------------------------------------------------------------------------------------------------------- candidates
    def _float(self, precision: str, scratch: Path) -> _Tried:
        backend = self.backend.model_copy(update={"precision": precision, "quantise": None})
        folder = scratch / precision
        folder.mkdir(parents=True)
        return self._opened(precision, None, backend.export(self.held_against, folder), folder)

    def _try(self, attempt: Attempt, scratch: Path, reference: _Tried) -> _Tried | None:
        folder = scratch / f"{len(list(scratch.iterdir()))}"
        folder.mkdir()
        try:
            found = self._opened(attempt.name, attempt, attempt.write(folder), folder)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            self.failed.append(
                Candidate(
                    name=attempt.name,
                    options=dict(attempt.options),
                    kept_float=attempt.kept_float,
                    outcome="failed",
                    note=reason,
                )
            )
            self.console.say(f"int8, {attempt.name}: failed: {reason}")
            return None
        self.console.say(
            f"int8, {attempt.name}: top-1 {self._right(found).mean():.1%} (float {self._right(reference).mean():.1%}) "
            f"on {len(self.chosen)} images"
        )
        return found

    def _carefully(
        self, quantiser: Quantiser, tried: Sequence[_Tried], scratch: Path, reference: _Tried, floats: Sequence[_Tried]
    ) -> list[_Tried]:
        """Go on from the most accurate candidate until one keeps the accuracy; at worst until the attempts run out."""
        best = max(tried, key=lambda one: (self._right(one).sum(), self._agreements(one, reference)))
        found: list[_Tried] = []
        for attempt in quantiser.careful(best.name):
            one = self._try(attempt, scratch, reference)
            if one is not None:
                found.append(one)
                if self._drop(one, reference) <= self.settings.max_drop:
                    break
        self._time([*floats, *found])
        return found

    def _opened(self, name: str, attempt: Attempt | None, written: ExportedFiles, folder: Path) -> _Tried:
        session = self._sessions.enter_context(self.runner.open(folder, written.files, threads=self.threads))
        chunks = [session.run(image_BCHW)[:count] for image_BCHW, count in self._batches_of(written)]
        return _Tried(
            name=name, attempt=attempt, folder=folder, written=written, session=session, logits_NK=np.concatenate(chunks)
        )

    def _batches_of(self, written: ExportedFiles) -> Iterator[tuple["Logits", int]]:
        fixed = written.inputs[0].shape[0]
        contract = contract_of(written.inputs[0], self.exportable.input)
        size = 1 if contract.resize_inside else fixed if isinstance(fixed, int) else _BATCH
        for first in range(0, len(self.chosen), size):
            indices = self.chosen[first : first + size]
            padding = [indices[-1]] * (fixed - len(indices)) if isinstance(fixed, int) else []
            yield prepare_batch(self.images, [*indices, *padding], contract), len(indices)

    def _calibration(self) -> Calibration:
        contract = self.exportable.input

        def batches() -> "Iterator[Logits]":
            for first in range(0, len(self.calibration_images), _BATCH):
                last = min(first + _BATCH, len(self.calibration_images))
                yield prepare_batch(self.calibration_images, range(first, last), contract)

        def judged() -> "Iterator[tuple[Logits, Logits]]":
            for first in range(0, len(self.chosen), _BATCH):
                indices = self.chosen[first : first + _BATCH]
                yield prepare_batch(self.images, indices, contract), self.label_N[first : first + _BATCH]

        return Calibration(batches=batches, judged=judged, max_drop=self.settings.max_drop, threads=self.threads)

    # ---------------------------------------------------------------------------------------------------------- judging
    def _right(self, one: _Tried) -> "Logits":
        return cast("Logits", parity.top1(one.logits_NK) == self.label_N)

    def _agreements(self, one: _Tried, reference: _Tried) -> int:
        return int((parity.top1(one.logits_NK) == parity.top1(reference.logits_NK)).sum())

    def _drop(self, one: _Tried, reference: _Tried) -> float:
        return 100 * (int(self._right(reference).sum()) - int(self._right(one).sum())) / len(self.chosen)

    def _time(self, models: Sequence[_Tried]) -> None:
        """Add times to each model: in every round each is called a few times, forwards and backwards in turn.

        The least of a round's calls counts: what disturbs one call has nothing to do with the model. Where another runtime
        stands in there is nothing to time.
        """
        if self.stand_in is not None:
            return
        fed = {one.folder: self._single(one.written) for one in models}
        for turn in range(_ROUNDS + 1):
            for one in models[:: 1 if turn % 2 else -1]:
                least_ns = min(_call_ns(one.session, fed[one.folder]) for _ in range(_CALLS))
                if turn:  # the first round warms up
                    one.times_ms.append(least_ns / 1e6)

    def _single(self, written: ExportedFiles) -> "Logits":
        fixed = written.inputs[0].shape[0]
        indices = self.chosen[:1] * (fixed if isinstance(fixed, int) else 1)
        return prepare_batch(self.images, indices, contract_of(written.inputs[0], self.exportable.input))

    def _choose(self, tried: Sequence[_Tried], reference: _Tried, best_float: _Tried) -> tuple[_Tried, str]:
        kept = [one for one in tried if self._drop(one, reference) <= self.settings.max_drop]
        if not kept:
            best = max(tried, key=lambda one: (self._right(one).sum(), self._agreements(one, reference)))
            return best, (
                f"no candidate keeps top-1 within {self.settings.max_drop:g} points of float; "
                f"the best, {best.name}, loses {self._drop(best, reference):.2f}"
            )
        least_ms = min(one.median_ms or 0.0 for one in kept)
        alike = [one for one in kept if (one.median_ms or 0.0) <= least_ms * _ALIKE]
        chosen = max(alike, key=lambda one: self._agreements(one, reference))
        own_ms, float_ms = chosen.median_ms, best_float.median_ms
        if own_ms is None or float_ms is None or own_ms < float_ms or self.settings.keep_slower:
            return chosen, ""
        return chosen, (
            f"int8 is not faster: {own_ms:.2f} ms, {best_float.name} {float_ms:.2f} ms "
            "(`keep_slower: true` takes it all the same)"
        )

    def _record(
        self,
        quantiser: Quantiser,
        tried: Sequence[_Tried],
        chosen: _Tried,
        reference: _Tried,
        best_float: _Tried,
        refused: str,
    ) -> Quantisation:
        settings, passed_over = self.settings, "slower" if self.stand_in is None else "less alike"

        def candidate(one: _Tried) -> Candidate:
            assert one.attempt is not None
            inaccurate = self._drop(one, reference) > settings.max_drop
            return Candidate(
                name=one.name,
                options=dict(one.attempt.options),
                kept_float=one.attempt.kept_float,
                top1_correct=int(self._right(one).sum()),
                agreements=self._agreements(one, reference),
                median_ms=_rounded(one.median_ms),
                size_bytes=one.size_bytes,
                outcome="chosen" if one is chosen else "inaccurate" if inaccurate else passed_over,
            )

        return Quantisation(
            engine=quantiser.engine,
            calibration_images=len(self.calibration_images),
            calibration_digest=digest_of([sample.id for sample in self.calibration_images.samples]),
            seed=settings.seed,
            judged_images=len(self.chosen),
            max_drop=settings.max_drop,
            keep_slower=settings.keep_slower,
            float_precision=best_float.name,
            float_top1_correct=int(self._right(reference).sum()),
            float_median_ms=_rounded(best_float.median_ms),
            candidates=(*map(candidate, tried), *self.failed),
            refused=refused,
            judged_through=chosen.session.runtime if self.stand_in is not None else "",
        )


def _rounded(median_ms: float | None) -> float | None:
    return None if median_ms is None else round(median_ms, 4)


def _calibration_images(source: Source, count: int) -> ImageSet:
    try:
        return source.calibration(count)
    except DataError as error:
        raise DataError(
            error.message, mend="set `quantise.images` of this export to what there is, or give more images"
        ) from error


def _judged(images: ImageSet, settings: Quantise) -> list[int]:
    """Return the indices of the images to judge by: a seeded part, at least one."""
    if not len(images):
        raise EvidenceError("there are no validation images to judge int8 candidates by", mend="give the source some")
    count = max(1, round(settings.judged_share * len(images)))
    return sorted(np.random.default_rng(settings.seed).permutation(len(images))[:count].tolist())


def _call_ns(session: Session, image_BCHW: "Logits") -> int:
    began = time.perf_counter_ns()
    session.run(image_BCHW)
    return time.perf_counter_ns() - began

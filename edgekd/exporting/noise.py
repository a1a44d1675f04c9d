"""Where an exported graph departs from the float32 graph of the same student: every tensor of both, over the same images.

The measure is the SQNR of a tensor over all images, 10 log10 of signal power over error power. It falls from node to node even
in a sound graph, so a node *departs* if its tensor has NaN or infinity that the float32 graph has not, if it costs more than
`step_db` at once, or if it is the first to be below `floor_db`. A node's cost is counted from the worst tensor that it reads,
and from `ceiling_db` at most, which is what the precision itself leaves of an exact input. Pure, but for the graphs given.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgekd.core.side_records import TensorNoise
from edgekd.exporting.exposing import Shown, Step

Array = np.ndarray[Any, Any]
WORST = 10
_REMOVABLE = {"Relu", "Clip"}  # a quantiser may fold them into the range of the tensor before them
LEAST_DB = -200.0


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a sound graph of a precision may lose (dB): at least, at most in one node, and at most in all."""

    ceiling_db: float
    step_db: float
    floor_db: float


EXPECTED = {
    "fp32": Expected(ceiling_db=120.0, step_db=40.0, floor_db=60.0),
    "fp16": Expected(ceiling_db=65.0, step_db=20.0, floor_db=30.0),
    "int8": Expected(ceiling_db=40.0, step_db=15.0, floor_db=0.0),
}
"""MobileNetV2 with ImageNet weights, sound: fp32 in OpenVINO 113 dB in its worst tensor and 7 dB lost at most in a node; fp16
37 dB and 9 dB; int8 by NNCF 4 dB, median 18 dB, and 9 dB, where the logits still have 18 dB."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One tensor of both graphs: the node that makes it in float32, and the key of the exported graph's."""

    step: Step
    form: Literal["computed", "quantised"]
    key: str


@dataclass(kw_only=True)
class Sums:
    """Powers of one tensor added up over images, in float64, where both sides are finite."""

    images: int = 0
    signal: float = 0.0
    error: float = 0.0
    max_abs: float = 0.0
    non_finite: int = 0

    def add(self, wanted: Array, found: Array) -> None:
        """Add one image; values that only `found` has NaN or infinite are counted."""
        wanted, found = wanted.astype(np.float64), found.astype(np.float64)
        self.images += 1
        sound = np.isfinite(wanted)
        self.non_finite += int((sound & ~np.isfinite(found)).sum())
        sound &= np.isfinite(found)
        apart = wanted[sound] - found[sound]
        self.signal += float((wanted[sound] ** 2).sum())
        self.error += float((apart**2).sum())
        self.max_abs = max(self.max_abs, float(np.abs(apart).max(initial=0.0)))

    @property
    def sqnr_db(self) -> float | None:
        """Return signal over error in dB, None where there is no error."""
        if self.error == 0:
            return None
        return max(LEAST_DB, 10 * math.log10(self.signal / self.error)) if self.signal > 0 else LEAST_DB


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What was measured: the sums of every pair and of the logits, tensors without counterpart, the reference's logits."""

    pairs: tuple[Pair, ...]
    sums: tuple[Sums, ...]
    logits: Sums
    unmatched: int
    reference_logits: tuple[Array, ...] = field(repr=False)


def pair(steps: Sequence[Step], exported: Shown) -> tuple[Pair, ...]:
    """Match the tensors of a float32 graph with an exported graph's, in order of computation.

    An activation that the quantiser folded into a range is compared as quantised only, the tensor before it as computed only:
    either that tensor has taken the range over, or the node that makes it has taken the activation's name.
    """
    computed, quantised = dict(exported.computed), dict(exported.quantised)
    for step in steps:
        before = step.reads[0]
        if step.op not in _REMOVABLE:
            continue
        if step.tensor not in computed and before in quantised:
            quantised[step.tensor] = quantised.pop(before)
        elif exported.operators.get(step.tensor, step.op) != step.op and before not in computed:
            computed[before] = computed.pop(step.tensor)
    found: list[Pair] = []
    for step in steps:
        if step.tensor in computed:
            found.append(Pair(step=step, form="computed", key=computed[step.tensor]))
        if step.tensor in quantised:
            found.append(Pair(step=step, form="quantised", key=quantised[step.tensor]))
    return tuple(found)


def measure(steps: Sequence[Step], reference: Shown, exported: Shown, images: Iterable[tuple[Array, Array]]) -> Noise:
    """Run both graphs over pairs of inputs (the reference's, the exported graph's) and add up what they differ by.

    `steps` are those of the reference.
    """
    pairs = pair(steps, exported)
    tensors = list(dict.fromkeys(one.step.tensor for one in pairs))
    keys = list(dict.fromkeys(one.key for one in pairs))
    sums, logits = [Sums() for _ in pairs], Sums()
    answers: list[Array] = []
    whole: set[str] = set()  # tensors of whole numbers: shapes and the like
    for wanted_input, found_input in images:
        wanted_logits, *wanted_arrays = reference.run([reference.computed[name] for name in tensors], wanted_input)
        found_logits, *found_arrays = exported.run(keys, found_input)
        wanted, found = dict(zip(tensors, wanted_arrays, strict=True)), dict(zip(keys, found_arrays, strict=True))
        logits.add(wanted_logits, found_logits)
        answers.append(wanted_logits)
        whole |= {name for name, array in wanted.items() if not _is_float(array)}
        for one, own in zip(pairs, sums, strict=True):
            one_wanted, one_found = wanted[one.step.tensor], found[one.key]
            if _comparable(one_wanted, one_found):
                own.add(one_wanted, one_found)
    kept = [index for index, own in enumerate(sums) if own.images]
    matched = {pairs[index].step.tensor for index in kept}
    return Noise(
        pairs=tuple(pairs[index] for index in kept),
        sums=tuple(sums[index] for index in kept),
        logits=logits,
        unmatched=len({step.tensor for step in steps} - matched - whole),
        reference_logits=tuple(answers),
    )


def judge(noise: Noise, steps: Sequence[Step], expected: Expected) -> tuple[TensorNoise, ...]:
    """Return every tensor with its SQNR, with what its node cost, and whether it departs; in order of computation."""
    reads = {step.tensor: step.reads for step in steps}
    known: dict[str, float] = {}
    found = []
    below = False
    for one, own in zip(noise.pairs, noise.sums, strict=True):
        tensor, sqnr_db = one.step.tensor, own.sqnr_db
        if one.form == "quantised" and tensor in known:
            before_db = known[tensor]
        else:
            before_db = min(_nearest(reads.get(tensor, ()), known, reads, set()), default=math.inf)
        value_db = math.inf if sqnr_db is None else sqnr_db
        lost_db = min(expected.ceiling_db, before_db) - value_db
        sinks = value_db < expected.floor_db and not below
        below = below or sinks
        known[tensor] = value_db
        found.append(
            TensorNoise(
                tensor=tensor,
                node=one.step.node,
                op=one.step.op,
                form=one.form,
                sqnr_db=None if sqnr_db is None else round(sqnr_db, 2),
                lost_db=round(lost_db, 2) if lost_db > 0 else None,
                max_abs=own.max_abs,
                non_finite=own.non_finite,
                departs=own.non_finite > 0 or lost_db > expected.step_db or sinks,
            )
        )
    return tuple(found)


def worst(tensors: Sequence[TensorNoise]) -> tuple[TensorNoise, ...]:
    """Return the ten tensors whose nodes cost most, NaN and infinity first."""
    costly = [one for one in tensors if one.non_finite or one.lost_db]
    return tuple(sorted(costly, key=lambda one: (-one.non_finite, -(one.lost_db or 0.0)))[:WORST])


def said_of(tensors: Sequence[TensorNoise], noise: Noise, expected: Expected) -> str:
    """Return what the tensors say, in a sentence or two."""
    first = next((one for one in tensors if one.departs), None)
    if not tensors:
        return "No tensor of the float32 graph was found in the exported graph under its name, so nothing can be said."
    if first is None:
        dear = worst(tensors)[:1]
        spread = f"; the error is spread, most is lost in {dear[0].op} {dear[0].tensor}, {db(dear[0].lost_db)}" if dear else ""
        return f"No node departs: the logits have an SQNR of {db(noise.logits.sqnr_db)}{spread}."
    where = f"{first.op} {first.node or first.tensor} is the first to depart"
    if first.non_finite:
        return f"{where}: {first.non_finite:,} values of {first.tensor} are NaN or infinite that are finite in float32."
    what = "as its consumers read it (its quantised range)" if first.form == "quantised" else "as it is computed"
    said = f"{where}: the SQNR of {first.tensor}, {what}, is {db(first.sqnr_db)}."
    if (first.lost_db or 0.0) <= expected.step_db:
        (dearest, *_) = worst(tensors)
        said += f" No single node is to blame: the error grew slowly; the dearest is {dearest.op} {dearest.tensor}."
    return said


def db(value: float | None) -> str:
    """Return an SQNR as people write it; `exact` where there is no error."""
    return "exact" if value is None else f"{value:.1f} dB"


def _nearest(
    tensors: Iterable[str], known: Mapping[str, float], reads: Mapping[str, tuple[str, ...]], seen: set[str]
) -> Iterator[float]:
    """Yield the SQNR of these tensors, or of the nearest ones before those that were not compared."""
    for tensor in tensors:
        if tensor in known:
            yield known[tensor]
        elif tensor in reads and tensor not in seen:
            seen.add(tensor)
            yield from _nearest(reads[tensor], known, reads, seen)


def _is_float(array: Array) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def _comparable(wanted: Array, found: Array) -> bool:
    return _is_float(wanted) and _is_float(found) and wanted.shape == found.shape

"""Further heads of a student: their outputs beside the first, each with its own classes, parity and accuracy.

Inside the export stage the outputs of one image stand side by side in one row, the first head's first.

Axes: B batch, N images, K classes of all outputs together.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from edgekd.core import agreement
from edgekd.core.contracts import Backend, ImageSet, Session
from edgekd.core.errors import UsageError
from edgekd.core.records import Checkpoint, HeadFacts, Parity, TensorSpec
from edgekd.exporting import parity

if TYPE_CHECKING:
    Logits = np.ndarray[Any, Any]

_RANKS = ("pass", "inconclusive", "fail")


class Held(Protocol):
    """What an artifact's further outputs are held against."""

    checkpoint: Checkpoint
    images: ImageSet
    of_heads: "list[Logits]"


def check_backend(backend: Backend, checkpoint: Checkpoint) -> None:
    """Raise `UsageError` if a student has further heads and a backend knows one output only."""
    if checkpoint.heads and not backend.several_outputs:
        raise UsageError(
            f"{backend.ref().use} exports one output, and this student has {1 + len(checkpoint.heads)}",
            mend="export it to onnxruntime, openvino or torch",
        )


def split(answers_NK: "Logits", checkpoint: Checkpoint) -> "list[Logits]":
    """Return the first output's logits, then those of each head."""
    widths = [len(checkpoint.classes), *(len(classes) for classes in checkpoint.heads.values())]
    return [np.ascontiguousarray(part) for part in np.split(answers_NK, np.cumsum(widths)[:-1], axis=1)]


def together(session: Session) -> "Callable[[Logits], Logits]":
    """Return a function that runs a session and puts its outputs side by side."""

    def answer(image_BCHW: "Logits") -> "Logits":
        outputs: list[Logits] = cast(Any, session).run_all(image_BCHW)
        return np.concatenate(outputs, axis=1)

    return answer


def named(outputs: tuple[TensorSpec, ...], checkpoint: Checkpoint) -> tuple[TensorSpec, ...]:
    """Return the outputs, the further ones with their classes."""
    first, *others = outputs
    pairs = zip(others, checkpoint.heads.values(), strict=True)
    return (first, *(spec.model_copy(update={"classes": tuple(classes)}) for spec, classes in pairs))


def judged(held: Held, of_heads: "Sequence[Logits]", *, precision: str, executed_precision: str) -> tuple[HeadFacts, ...]:
    """Return what is known of each further output; without answers (not executed) only its classes."""
    found = []
    for at, (name, classes) in enumerate(held.checkpoint.heads.items()):
        facts = HeadFacts(output=f"logits_{name}", classes=tuple(classes), parity=None)
        if of_heads:
            facts = _compared(facts, held, at, of_heads[at], precision, executed_precision)
        found.append(facts)
    return tuple(found)


def _compared(facts: HeadFacts, held: Held, at: int, logits_NK: "Logits", precision: str, executed_precision: str) -> HeadFacts:
    labels, samples = held.checkpoint.classes, held.images.samples
    found = parity.compare(held.of_heads[at], logits_NK, samples, facts.classes, labels=labels)
    found = found.model_copy(
        update={"decision": agreement.decide(found, precision=precision, executed_precision=executed_precision)}
    )
    own = {name: index for index, name in enumerate(facts.classes)}
    label_N = np.array([own.get(labels[sample.label], -1) for sample in samples])
    known_N = label_N >= 0
    right = int((parity.top1(logits_NK)[known_N] == label_N[known_N]).sum())
    counts = {"images": int(known_N.sum()), "top1_correct": right if known_N.any() else None}
    return facts.model_copy(update={"parity": found, **counts})


def worst(first: Parity | None, heads: Sequence[HeadFacts]) -> Parity | None:
    """Return the first output's parity, decided as the worst of all outputs is: a budget never passes over a head."""
    if first is None or first.decision is None:
        return first
    for head in heads:
        told = head.parity.decision if head.parity is not None else None
        assert first.decision is not None
        if told is not None and _RANKS.index(told.outcome) > _RANKS.index(first.decision.outcome):
            because = f"output {head.output}: {told.because}"
            decision = first.decision.model_copy(update={"outcome": told.outcome, "because": because})
            first = first.model_copy(update={"decision": decision})
    return first

"""Sub-teachers: several answers of one frozen teacher, named by how they are had from its taps.

| name | what it is |
|---|---|
| `TAP` | the teacher's own tap (`models` has the list): `cls`, `patch_mean`, `last_4`, `exit_2`, ... |
| `probe_logits` | a linear probe on `pooled`, fitted on the labelled images |
| `probe_logits@TAP` | the same on another tap; `probe_logits@TAP#n`: on the n-th draw, with replacement, of those images |
| `...~k` | that answer to another crop: the k-th next kept view of the image (k below `cache.views`) |

What is derived costs no pass of the teacher: probes and other crops come from the taps that are kept anyway.

Axes: N images, D feature width, K classes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.core.contracts import FeatureSpec, FrozenModel
from edgekd.core.errors import UsageError

PROBE = "probe_logits"
PROBE_TAP = "pooled"
_GRAMMAR = re.compile(rf"(?P<probe>{PROBE}(?:@|(?=[#~]|$)))?(?P<tap>[^#~@]*)(?:#(?P<bag>\d+))?(?:~(?P<crop>\d+))?")


@dataclass(frozen=True, kw_only=True)
class SubTeacher:
    """One answer: the tap it comes from, whether through a probe and which, and of which crop."""

    tap: str
    probe: bool = False
    bag: int = 0
    crop: int = 0

    @property
    def head(self) -> tuple[str, int]:
        """Return what tells this answer's probe from the others."""
        return self.tap, self.bag


def understood(name: str) -> SubTeacher:
    """Return what a name means; raise `UsageError` if it has no meaning."""
    match = _GRAMMAR.fullmatch(name)
    if match is None or (match["bag"] is not None and not match["probe"]) or not (match["tap"] or match["probe"]):
        raise UsageError(
            f"{name!r} is not the name of a teacher's answer",
            mend="a tap (cls, patch_mean, exit_2), a probe on one (probe_logits@cls, probe_logits@cls#1 for a resampled one),"
            " either with ~k for the k-th next kept crop",
        )
    return SubTeacher(
        tap=match["tap"] or PROBE_TAP,
        probe=match["probe"] is not None,
        bag=int(match["bag"] or 0),
        crop=int(match["crop"] or 0),
    )


def resampled(label_N: Tensor, bag: int) -> Tensor:
    """Return the indices of the n-th bag: as many images of each class, drawn with replacement; bag 0 is every image once.

    Drawn class by class (ours), lest a bag of few labels lack a class.
    """
    if bag == 0:
        return torch.arange(len(label_N))
    generator = torch.Generator().manual_seed(bag)
    drawn = []
    for label in label_N.unique().tolist():
        own = (label_N == label).nonzero().flatten()
        drawn.append(own[torch.randint(len(own), (len(own),), generator=generator)])
    return torch.cat(drawn)


def answered(frozen: FrozenModel, taps: tuple[str, ...], *, classes: int) -> FeatureSpec:
    """Return the shapes of a teacher's answers, derived ones included."""
    asked = {tap: understood(tap) for tap in taps}
    own = frozen.spec(stored(one for one in asked.values()))
    shapes = {tap: (classes,) if one.probe else own.shapes[one.tap] for tap, one in asked.items()}
    return FeatureSpec(name=frozen.name, shapes=shapes, classes=own.classes)


def stored(asked: Iterable[SubTeacher]) -> tuple[str, ...]:
    """Return the teacher's own taps that these answers come from, each once."""
    return tuple(dict.fromkeys(one.tap for one in asked))

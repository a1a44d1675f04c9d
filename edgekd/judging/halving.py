"""Successive halving (Jamieson & Talwalkar 2016): what the arms of a rung are worth, who stays, and who wins in the end.

Everything is counted on the same validation images, so arms are compared image by image where their answers were kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean, stdev

from edgekd.core import stats
from edgekd.core.predictions import read_right
from edgekd.core.records import Checkpoint, Interval
from edgekd.core.side_records import ArmScore
from edgekd.judging import selection, wording
from edgekd.judging.evidence import discordant

NO_HELP = "distillation does not help here: no method beats {baseline} beyond its interval"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An arm's students of one rung, one a seed, each with its folder, and what they are worth together."""

    arm: str
    baseline: bool
    students: tuple[tuple[Checkpoint, Path], ...]
    score: ArmScore

    @property
    def told_image_by_image(self) -> bool:
        """Say whether the predictions that are kept are those that the ranked share counts."""
        return all(student.head == "trained" or student.feature_tap == "pre_logits" for student, _ in self.students)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Who wins; whether distillation helps (None: no baseline ran); the best method minus the baseline; all that in words."""

    winner: str
    helps: bool | None
    difference: Interval | None
    words: str


def survivors(outcomes: Sequence[Outcome], *, keep: float) -> tuple[Outcome, ...]:
    """Return the best `keep` (rounded up) of the methods and, apart from them, of the baseline's learning rates."""
    kept: list[Outcome] = []
    for baseline in (False, True):
        group = [outcome for outcome in ranked(outcomes) if outcome.baseline == baseline]
        kept += group[: kept_of(len(group), keep)]
    return tuple(outcome for outcome in outcomes if outcome in kept)


def ranked(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes of a rung, the best first: by share, then by nearest neighbours, then as they came."""
    return sorted(outcomes, key=lambda outcome: selection.order(outcome.score))


def difference(a: Outcome, b: Outcome) -> Interval | None:
    """Return share(a) - share(b) on the same validation images; None where a share does not count the kept predictions.

    With several seeds the counts are means over them: the images are no more for being asked twice.
    """
    if not (a.told_image_by_image and b.told_image_by_image):
        return None
    pairs = []
    for (one, at_one), (other, at_other) in zip(a.students, b.students, strict=True):
        pairs.append(discordant(read_right(one.accuracy, folder=at_one), read_right(other.accuracy, folder=at_other)))
    only_a, only_b = (round(mean(counts)) for counts in zip(*pairs, strict=True))
    return stats.paired_difference(only_a, only_b, a.students[0][0].accuracy.images)


def beats(a: Outcome, b: Outcome) -> bool:
    """Say whether a is better than b beyond the interval: that of the paired difference, or both arms' own."""
    apart = difference(a, b)
    return apart.low > 0 if apart is not None else a.score.share.low > b.score.share.high


def score_of(rung: int, students: Sequence[Checkpoint]) -> ArmScore:
    """Return what an arm's students of one rung are worth: the mean over seeds of what is ranked, and of kNN.

    Ranked is the student's top-1 where the method trains its head, else a linear probe on the features that it shapes.
    """
    images = students[0].accuracy.images
    trained = students[0].head == "trained"
    shares = [one.accuracy.top1 if trained or one.probe_top1 is None else one.probe_top1 for one in students]
    knn = [one.knn_top1 for one in students if one.knn_top1 is not None]
    return ArmScore(
        rung=rung,
        images_seen=students[0].training.images_seen,
        figure="top1" if trained else "probe",
        share=stats.wilson(round(mean(shares) * images), images),
        spread=stdev(shares) if len(shares) > 1 else None,
        knn_top1=stats.wilson(round(mean(knn) * images), images) if knn else None,
        checkpoints=tuple(one.digest() for one in students),
    )


def decide(last: Sequence[Outcome]) -> Decision:
    """Return who wins the last rung: the best method that beats the best baseline beyond the interval, or that baseline."""
    methods = [outcome for outcome in ranked(last) if not outcome.baseline]
    baseline = next((outcome for outcome in ranked(last) if outcome.baseline), None)
    if baseline is None:
        said = f"{methods[0].arm} is the best of the methods, {_in_words(methods[0])}; whether distillation helps is not known:"
        said += " the student without a teacher could not be trained"
        return Decision(winner=methods[0].arm, helps=None, difference=None, words=said)
    better = [outcome for outcome in methods if beats(outcome, baseline)]
    best = (better or methods)[0]
    apart = difference(best, baseline)
    facts = f"{best.arm} {_in_words(best)}, {baseline.arm} {_in_words(baseline)}"
    facts += f"; {wording.points_interval(apart)} on the same images" if apart else ""
    facts += f"; {best.score.images_seen:,} images seen"
    said = f"{best.arm} wins" if better else NO_HELP.format(baseline=baseline.arm)
    winner = best if better else baseline
    return Decision(winner=winner.arm, helps=bool(better), difference=apart, words=f"{said} ({facts})")


def kept_of(count: int, keep: float) -> int:
    """Return how many of so many arms are kept: the share, rounded up, rounding errors aside."""
    return ceil(round(keep * count, 9))


def _in_words(outcome: Outcome) -> str:
    figure = "top-1" if outcome.score.figure == "top1" else "by a linear probe"
    return f"{wording.share_interval(outcome.score.share)} {figure}"

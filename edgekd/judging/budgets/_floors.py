"""Floors: a share of right answers by Wilson's bound."""

from edgekd.core import stats
from edgekd.core.records import Accuracy, Finding, Outcome
from edgekd.judging import units, wording
from edgekd.judging.budgets._subjects import Said


def judged(said: Said, subject: str, correct: int, images: int, *, written: str) -> Finding:
    """Return whether a share is proven to be at least the limit, or proven to be below it."""
    if images == 0:
        return said.unknown(subject, f"{subject} was tried on no images.", needs="validation images")
    alpha, needed = said.alpha or 0.01, float(units.open_share(written))
    low, high = stats.wilson_bounds(correct, images, alpha=alpha)
    words = (
        f"{subject} is right on {correct:,} of {images:,} images: {wording.percent(correct / images)}, with "
        f"{100 - 100 * alpha:g} % confidence at least {100 * low:.1f} % and at most {100 * high:.1f} %"
    )
    needs = ""
    if low >= needed:
        outcome: Outcome = "pass"
        words += f"; even the lower bound reaches {written}."
    elif high < needed:
        outcome = "fail"
        words += f"; even the upper bound is below {written}."
    else:
        outcome = "inconclusive"
        count = stats.trials_to_decide(correct / images, needed, alpha=alpha)
        decides = f"at this rate {count:,} images would decide it" if count else "at exactly this rate no number decides it"
        needs = f"{count:,} validation images" if count else "another limit"
        words += f", with {written} between them; {decides}."
    return said.found(
        subject,
        100 * correct / images,
        outcome,
        words,
        needs=needs,
        bounds=(100 * low, 100 * high),
        images=images,
        arithmetic=(
            f"Wilson's bounds of {correct} of {images}, each one-sided at {100 * alpha:g} %: {low:.5f} and {high:.5f}",
        ),
    )


def of(said: Said, subject: str, accuracy: Accuracy, name: str, *, written: str) -> Finding:
    """Return whether the first answers (`top1`), or any of the first five (`top5`), are right often enough."""
    correct = accuracy.top1_correct if name == "top1" else accuracy.top5_correct
    if correct is None:
        return said.unknown(subject, f"{subject} knows too few classes for a top-5 that says anything.")
    return judged(said, subject, correct, accuracy.images, written=written)

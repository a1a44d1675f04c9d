"""What every class may lose: exact tests class by class, Holm over the classes, and what so few images can prove at all."""

from dataclasses import dataclass

from edgekd.core import stats
from edgekd.core.records import Finding, Outcome
from edgekd.judging import wording
from edgekd.judging.budgets._answers import Model, other_images
from edgekd.judging.budgets._subjects import Said

_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class _Class:
    name: str
    images: int
    won: int
    lost: int
    p_worse: float
    low: float
    provable: float

    @property
    def drop(self) -> float:
        return (self.lost - self.won) / self.images


def judged(said: Said, model: Model, other: Model) -> Finding:
    """Return whether any class is proven to lose more than the margin, and whether all are proven not to.

    A class fails if it is proven worse (exact one-sided McNemar, Holm over the classes) and has lost more than the margin; all
    pass if every class's own bound (Agresti and Min) excludes such a loss. A class with too few images for either is named.
    """
    refused = other_images(model, other)
    if refused:
        return said.unknown(model.name, refused, needs="both judged on the same images")
    alpha, margin = said.alpha or 0.01, -said.limit / 100
    classes = _classes(model, other, alpha)
    proven = stats.holm([one.p_worse for one in classes], alpha=alpha)
    failed = [one for one, worse in zip(classes, proven, strict=True) if worse and one.drop > margin]
    open_ = [one for one in classes if one.low < -margin]
    outcome: Outcome = "fail" if failed else "inconclusive" if open_ else "pass"
    worst = max(classes, key=lambda one: one.drop)
    told = {
        "fail": f"{_named(failed)} {'has' if len(failed) == 1 else 'have'} lost more than that",
        "inconclusive": f"of {_named(open_)} such a loss is not ruled out",
        "pass": "every class is proven not to have lost that",
    }[outcome]
    untestable = [one for one in classes if one.provable > margin]
    because = (
        f"{model.name} against {other.name}, {wording.counted(len(classes), 'class', 'classes')}, at most "
        f"{100 * margin:g} points in each: {told}. The largest drop is {100 * worst.drop:+.1f} points "
        f"({worst.name}, {worst.images:,} images)."
    )
    if untestable:
        because += (
            f" {wording.counted(len(untestable), 'class has', 'classes have')} too few images to prove a drop of "
            f"{100 * margin:g} points even if every changed answer were a loss: {_named(untestable)}."
        )
    return said.found(
        model.name,
        -100 * worst.drop,
        outcome,
        because,
        needs=_needs(open_, margin, alpha) if outcome == "inconclusive" else "",
        p_value=min((one.p_worse for one in classes), default=1.0),
        images=model.answers.images,
        arithmetic=tuple(
            f"{one.name}: {one.won} won, {one.lost} lost of {one.images}; p (worse) {one.p_worse:.3g}; "
            f"at least {100 * one.low:+.1f} points; smallest provable drop {100 * one.provable:.1f} points"
            for one in classes
        ),
    )


def _classes(model: Model, other: Model, alpha: float) -> list[_Class]:
    here, there, start, found = model.right, other.right, 0, []
    least = stats.losses_to_prove(alpha / max(1, len(model.answers.classes)))
    for name, images in zip(model.answers.classes, model.answers.class_images, strict=True):
        pairs = list(zip(here[start : start + images], there[start : start + images], strict=True))
        start += images
        won, lost = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
        found.append(
            _Class(
                name=name,
                images=images,
                won=won,
                lost=lost,
                p_worse=stats.mcnemar(lost, won, alternative="greater"),
                low=stats.paired_bounds(won, lost, images, alpha=alpha)[0],
                provable=least / images,
            )
        )
    return found


def _named(classes: list[_Class]) -> str:
    worst = sorted(classes, key=lambda one: (-one.drop, one.name))
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    return ", ".join(f"{one.name} ({-100 * one.drop:+.1f})" for one in worst[:_NAMED]) + more


def _needs(open_: list[_Class], margin: float, alpha: float) -> str:
    hardest = max(open_, key=lambda one: (one.won + one.lost) / one.images)
    psi = (hardest.won + hardest.lost) / hardest.images
    count = stats.images_for_margin(margin, psi, alpha=alpha)
    return f"about {count:,} images of each class (as {hardest.name} changes), if nothing is lost; or a wider margin"

"""Two models on the same images: what one may lose against the other, and whether it gains."""

from edgekd.core import stats
from edgekd.core.records import Finding, Outcome
from edgekd.judging import wording
from edgekd.judging.budgets._answers import Model, other_images
from edgekd.judging.budgets._subjects import Said


def judged(said: Said, model: Model, other: Model, name: str, *, gain: bool) -> Finding:
    """Return whether a model loses no more than the margin (or, with `gain`, wins at least that much) on the same images."""
    refused = other_images(model, other)
    if refused:
        return said.unknown(model.name, refused, needs="both judged on the same images")
    here, there = (one.right if name == "top1" else one.top5 for one in (model, other))
    if here is None or there is None:
        return said.unknown(model.name, "There are too few classes for a top-5 that says anything.")
    won = sum(a and not b for a, b in zip(here, there, strict=True))
    lost = sum(b and not a for a, b in zip(here, there, strict=True))
    images, alpha, margin = len(here), said.alpha or 0.01, said.limit / 100
    low, high = stats.paired_bounds(won, lost, images, alpha=alpha)
    p_better, p_worse = (stats.mcnemar(*sides, alternative="greater") for sides in ((won, lost), (lost, won)))
    if gain and margin == 0:  # being better at all is what McNemar's test is about, and it is exact
        outcome: Outcome = "pass" if p_better <= alpha else "fail" if p_worse <= alpha else "inconclusive"
    else:
        outcome = "pass" if low >= margin else "fail" if high < margin else "inconclusive"
    shown = [f"{100 * value:+.2f}" for value in ((won - lost) / images, low, high)]
    because = (
        f"{model.name} against {other.name} on the same {images:,} images: {won:,} are right with the first only, "
        f"{lost:,} with the second only, {shown[0]} points, with {100 - 100 * alpha:g} % confidence at least {shown[1]} and at "
        f"most {shown[2]} "
        f"(exact McNemar p {min(p_better, p_worse):.2g}, one-sided); {_asked(outcome, margin, gain)}."
    )
    return said.found(
        model.name,
        100 * (won - lost) / images,
        outcome,
        because,
        needs=_needs(won, lost, images, margin, alpha, gain=gain) if outcome == "inconclusive" else "",
        bounds=(100 * low, 100 * high),
        p_value=p_better if gain else p_worse,
        images=images,
        arithmetic=(
            f"discordant images: {won} won, {lost} lost of {images} (psi {100 * (won + lost) / images:.2f} %)",
            f"Agresti and Min: {won} + 0.5, {lost} + 0.5 of {images} + 2, each bound one-sided at {100 * alpha:g} %",
            f"exact one-sided McNemar: better {p_better:.3g}, worse {p_worse:.3g}",
        ),
    )


def _asked(outcome: Outcome, margin: float, gain: bool) -> str:
    asked = (
        "being better"
        if gain and margin == 0
        else f"a gain of {100 * margin:g}"
        if gain
        else f"a loss beyond {-100 * margin:g}"
    )
    if gain:
        return {"pass": f"{asked} is proven", "fail": f"{asked} is refuted"}.get(
            outcome, f"{asked} is neither proven nor refuted"
        )
    return {"pass": f"{asked} is ruled out", "fail": f"{asked} is proven"}.get(
        outcome, f"{asked} is neither proven nor ruled out"
    )


def _needs(won: int, lost: int, images: int, margin: float, alpha: float, *, gain: bool) -> str:
    psi, difference = (won + lost) / images, (won - lost) / images
    distance = (difference - margin) if gain else -margin
    if distance <= 0:
        return "a model that gains more, on any number of images"
    count = stats.images_for_margin(min(1.0, distance), psi, alpha=alpha)
    if gain:
        return f"about {count:,} images, if the gain stays what it is here"
    return f"{wording.counted(count, 'image')} at this discordance of {100 * psi:.1f} %, if nothing is lost; or a wider margin"

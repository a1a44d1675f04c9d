"""Brier score and negative log-likelihood, alone and paired, and the expected calibration error with its noise."""

from edgekd.core import stats
from edgekd.core.records import Finding, Outcome
from edgekd.judging.budgets._answers import Model, other_images
from edgekd.judging.budgets._subjects import Said

ENOUGH_FOR_ECE = 10_000
_NOT_RECORDED = "probabilities were not recorded with the predictions, which an older edgekd wrote"


def absolute(said: Said, model: Model, name: str) -> Finding:
    """Return whether the mean loss is proven to be at most the limit."""
    losses = model.losses(name)
    if losses is None or len(losses) < 2:
        return said.unknown(model.name, f"Of {model.name} {_NOT_RECORDED}.", needs="edgekd export RUN, anew")
    return _bounded(said, model.name, losses, what=f"the mean {_word(name)}")


def paired(said: Said, model: Model, other: Model, name: str) -> Finding:
    """Return whether the mean loss is proven to be larger than the other's by at most the limit, on the same images."""
    refused = other_images(model, other)
    if refused:
        return said.unknown(model.name, refused, needs="both judged on the same images")
    here, there = model.losses(name), other.losses(name)
    if here is None or there is None or len(here) < 2:
        whose = model.name if here is None else other.name
        return said.unknown(model.name, f"Of {whose} {_NOT_RECORDED}.", needs="edgekd export RUN, anew")
    rises = [a - b for a, b in zip(here, there, strict=True)]
    return _bounded(said, model.name, rises, what=f"the mean {_word(name)} less that of {other.name}, image by image,")


def ece(said: Said, model: Model) -> Finding:
    """Return whether the expected calibration error is small; it is biased upwards by noise, which is told."""
    found, images = model.answers.calibration, model.answers.images
    if found is None:
        return said.unknown(model.name, f"The confidences of {model.name} are not known.", needs="edgekd export RUN, anew")
    value, noise = 100 * found.ece, 100 * found.noise_p99
    outcome: Outcome = "pass" if value <= said.limit else "fail" if value > said.limit + noise else "inconclusive"
    because = (
        f"The expected calibration error of {model.name} over 15 bins is {value:.2f} points on {images:,} images; a perfectly "
        f"calibrated model would show {100 * found.noise_mean:.2f}, and up to {noise:.2f} in one case of a hundred; "
        f"at most {said.limit:g} is asked."
    )
    advisory = images < ENOUGH_FOR_ECE
    if advisory:
        because += f" It is only advice below {ENOUGH_FOR_ECE:,} images; Brier or NLL decide."
    finding = said.found(model.name, value, outcome, because, images=images, needs="more images, or accuracy.brier")
    return finding.model_copy(update={"level": "warn"}) if advisory else finding


def _bounded(said: Said, subject: str, losses: list[float], *, what: str) -> Finding:
    alpha = said.alpha or 0.01
    mean, low, high = stats.mean_bounds(losses, alpha=alpha)
    outcome: Outcome = "pass" if high <= said.limit else "fail" if low > said.limit else "inconclusive"
    because = (
        f"Of {subject} {what} is {mean:.4f} over {len(losses):,} images, with {100 - 100 * alpha:g} % confidence at least "
        f"{low:.4f} and at most {high:.4f}; at most {said.limit:g} is allowed."
    )
    return said.found(
        subject,
        mean,
        outcome,
        because,
        needs=_images(mean, high - mean, len(losses), said.limit) if outcome == "inconclusive" else "",
        bounds=(low, high),
        images=len(losses),
        arithmetic=(f"Student's t over {len(losses)} images, each bound one-sided at {100 * alpha:g} %",),
    )


def _images(mean: float, half: float, images: int, limit: float) -> str:
    if mean == limit:
        return "another limit"
    return f"about {int(images * (half / abs(limit - mean)) ** 2) + 1:,} images, if the mean stays what it is here"


def _word(name: str) -> str:
    return "Brier score" if name == "brier" else "negative log-likelihood"

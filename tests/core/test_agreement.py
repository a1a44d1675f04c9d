"""What a parity proves, against the limits of its precision."""

import math

import pytest

from edgekd.core import agreement
from edgekd.core.records import Artifact, InputContract, Parity, ParityDecision


def parity(images: int, flips: int = 0, *, cosine: float = 1.0, non_finite: int = 0) -> Parity:
    return Parity(
        images=images,
        max_abs=0.1,
        mean_abs=0.01,
        logit_cosine_mean=cosine,
        logit_cosine_min=cosine,
        top1_agreements=images - flips,
        flips=(),
        non_finite=non_finite,
    )


def decided(found: Parity, precision: str = "fp32", executed: str = "fp32") -> ParityDecision:
    return agreement.decide(found, precision=precision, executed_precision=executed)


@pytest.mark.parametrize(("precision", "images"), [("fp32", 2995), ("fp16", 598), ("int8", 149)])
def test_each_precision_passes_at_its_own_number_of_images(precision: str, images: int) -> None:
    """99.9, 99.5 and 98 % are proven by 2,995, 598 and 149 images without a flip; with one less it is not yet known."""
    assert decided(parity(images), precision).outcome == "pass"
    short = decided(parity(images - 1), precision)
    assert short.outcome == "inconclusive"
    assert f"{images:,} images would decide" in short.because


def test_what_is_proven_is_never_rounded_up_to_the_limit() -> None:
    """2,994 images prove 99.89999 %, which is not 99.90 %."""
    assert "proves 99.89 %" in decided(parity(2994)).because


@pytest.mark.parametrize(
    ("precision", "flips", "outcome"),
    [
        ("int8", 1, "pass"),
        ("int8", 16, "inconclusive"),
        ("int8", 40, "fail"),
        ("fp16", 1, "inconclusive"),
        ("fp16", 16, "fail"),
    ],
)
def test_flips_fail_only_when_they_rule_the_limit_out(precision: str, flips: int, outcome: str) -> None:
    """Of 800 images: a few flips still prove the limit, many rule it out, and between them nobody knows."""
    assert decided(parity(800, flips), precision).outcome == outcome


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.9999), ("fp16", 0.999), ("int8", 0.99)])
def test_logits_that_point_elsewhere_fail(precision: str, limit: float) -> None:
    """The mean cosine has its own limit, whatever agrees; the limit itself is enough."""
    assert decided(parity(5000, cosine=limit), precision).outcome == "pass"
    found = decided(parity(5000, cosine=math.nextafter(limit, 0)), precision)
    assert found.outcome == "fail"
    assert "cosine" in found.because


def test_nan_fails_whatever_agrees() -> None:
    """One image with NaN or infinity is enough, also for a precision without limits."""
    for precision in ("fp32", "int4"):
        found = decided(parity(5000, non_finite=1), precision)
        assert (found.outcome, "NaN or infinity on 1 of 5,000" in found.because) == ("fail", True)


@pytest.mark.parametrize(
    ("found", "precision", "executed", "said"),
    [
        (parity(5000), "fp32", "unknown", "does not say what it computed in"),
        (parity(5000), "int4", "int4", "no limits are known for the precision int4"),
        (parity(0), "fp32", "fp32", "no images"),
    ],
)
def test_what_cannot_be_known_is_not_passed(found: Parity, precision: str, executed: str, said: str) -> None:
    """A runtime that hides its precision, a precision without limits, no image: never a skipped pass."""
    decision = decided(found, precision, executed)
    assert decision.outcome == "inconclusive"
    assert said in decision.because


def test_records_without_a_decision_keep_their_digest() -> None:
    """An absent decision, and a graph that does not resize, leave no trace in a record's JSON."""
    assert "decision" not in parity(3).model_dump(mode="json")
    contract = InputContract(size_px=(8, 8), resize_px=8, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    assert "resize_inside" not in contract.model_dump(mode="json")
    assert contract.of_bytes(resize_inside=True).model_dump(mode="json")["resize_inside"] is True
    assert "parity" in Artifact.model_fields
    kept = parity(3).model_copy(update={"decision": decided(parity(3))})
    assert Parity.model_validate_json(kept.model_dump_json()) == kept

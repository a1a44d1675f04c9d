"""Parity figures against numbers worked out by hand, and against a plain float re-derivation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd.core.contracts import Sample
from edgekd.core.records import Parity
from edgekd.exporting import parity

CLASSES = ("cat", "dog", "fox")


def samples(count: int) -> list[Sample]:
    return [Sample(id=f"{i}.jpg", label=i % len(CLASSES), locator=None) for i in range(count)]


def compare(one: list[list[float]], other: list[list[float]], dtype: type = np.float32) -> Parity:
    return parity.compare(np.array(one, dtype), np.array(other, dtype), samples(len(one)), CLASSES)


def test_distances_are_over_every_logit_of_every_image() -> None:
    """Differences 0, 0.5, 0, 1, 0, 0 have the maximum 1 and the mean 0.25."""
    found = compare([[1, 2, 0], [3, 5, 0]], [[1, 2.5, 0], [2, 5, 0]])
    assert (found.max_abs, found.mean_abs, found.images) == (1.0, 0.25, 2)


def test_cosines_are_per_image() -> None:
    """(3,4,0).(4,3,0)/25 = 0.96 and (1,0,0).(1,1,0)/sqrt(2): their mean and their smallest."""
    found = compare([[3, 4, 0], [1, 0, 0]], [[4, 3, 0], [1, 1, 0]])
    assert found.logit_cosine_min == pytest.approx(1 / math.sqrt(2), abs=1e-15)
    assert found.logit_cosine_mean == pytest.approx((0.96 + 1 / math.sqrt(2)) / 2, abs=1e-15)


def test_opposite_answers_have_cosine_minus_one() -> None:
    """The cosine keeps its sign."""
    assert compare([[1, -2, 3]], [[-1, 2, -3]]).logit_cosine_min == pytest.approx(-1, abs=1e-15)


def test_zero_vectors_point_the_same_way_and_away_from_all_others() -> None:
    """Two zero vectors have cosine 1, a zero and a non-zero one 0."""
    zero_NK, one_NK = np.zeros((2, 3)), np.array([[0.0, 0, 0], [1, 0, 0]])
    assert parity.cosines(zero_NK, one_NK).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("scale", [1e-200, 1e200], ids=["tiny", "huge"])
def test_cosines_neither_underflow_nor_overflow(scale: float) -> None:
    """Squares of 1e200 and of 1e-200 do not fit in a float64; the cosine is still 24/25."""
    found_N = parity.cosines(np.array([[3.0, 4.0]]) * scale, np.array([[4.0, 3.0]]))
    assert found_N[0] == pytest.approx(0.96, abs=1e-15)


def test_the_arithmetic_is_float64_whatever_the_logits_are() -> None:
    """Float16 logits 300 and 0 are 300 apart; their squares, 90000, are more than float16 can hold."""
    found = compare([[300, 0, 0]], [[300, 300, 0]], np.float16)
    assert found.max_abs == 300
    assert found.logit_cosine_min == pytest.approx(1 / math.sqrt(2), abs=1e-15)


def test_the_first_of_equal_logits_is_the_answer() -> None:
    """A tie on one side agrees with its first class, and with no later one."""
    found = compare([[1, 1, 0], [1, 1, 0], [0, 2, 2]], [[2, 1, 0], [1, 2, 0], [0, 1, 2]])
    assert [flip.image for flip in found.flips] == ["1.jpg", "2.jpg"]
    assert found.top1_agreements == 1


def test_flips_name_the_image_both_answers_and_the_label() -> None:
    """A flip says everything that one needs to look the image up."""
    (flip,) = compare([[0, 9, 0], [0, 9, 0]], [[0, 9, 0], [0, 0, 9]]).flips
    assert flip.model_dump() == {"image": "1.jpg", "torch_class": "dog", "runtime_class": "fox", "label": "dog"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_with_a_non_finite_logit_never_agrees(bad: float) -> None:
    """Not even with the same broken logits; it is counted, has cosine 0, and the distances are those of the other images."""
    found = compare([[0, 5, bad], [1, 0, 0], [0, 1, 0]], [[0, 5, bad], [1, 0, 0], [0, 1.5, bad]])
    assert (found.non_finite, found.top1_agreements) == (2, 1)
    assert [(flip.torch_class, flip.runtime_class) for flip in found.flips] == [("", ""), ("dog", "")]
    assert (found.max_abs, found.mean_abs) == (0.0, 0.0)
    assert (found.logit_cosine_min, found.logit_cosine_mean) == (0.0, pytest.approx(1 / 3))


def test_nothing_but_nan_is_still_a_record() -> None:
    """JSON has no NaN: the figures are 0 and every image is counted as broken."""
    found = compare([[1, 2, 3]], [[math.nan] * 3])
    assert (found.non_finite, found.top1_agreement, found.max_abs, found.mean_abs) == (1, 0.0, 0.0, 0.0)
    assert Parity.model_validate_json(found.model_dump_json()) == found


def test_other_shapes_and_no_images_are_refused() -> None:
    """Comparing what does not belong together is a mistake of the program."""
    three_NK = np.zeros((3, 3))
    for one_NK, other_NK, count in ((three_NK, np.zeros((2, 3)), 3), (three_NK, three_NK, 2), (np.zeros((0, 3)),) * 2 + (0,)):
        with pytest.raises(ValueError, match="cannot compare"):
            parity.compare(one_NK, other_NK, samples(count), CLASSES)


LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-1e3, 1e3, width=32))


@given(LOGITS, LOGITS)
def test_figures_equal_a_plain_re_derivation(one_NK: np.ndarray, other_NK: np.ndarray) -> None:
    """Sums by math.fsum and lengths by math.hypot give the same figures."""
    found = parity.compare(one_NK, other_NK, samples(4), CLASSES)
    rows = list(zip(one_NK.tolist(), other_NK.tolist(), strict=True))
    apart = [abs(a - b) for one, other in rows for a, b in zip(one, other, strict=True)]
    assert found.max_abs == max(apart)
    assert found.mean_abs == pytest.approx(math.fsum(apart) / 12, rel=1e-12, abs=1e-300)
    cosines = []
    for one, other in rows:
        lengths = math.hypot(*one) * math.hypot(*other)
        dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
        cosines.append(dot / lengths if lengths else float(one == other))
    assert found.logit_cosine_mean == pytest.approx(math.fsum(cosines) / 4, abs=1e-9)
    assert found.top1_agreements == sum(one.index(max(one)) == other.index(max(other)) for one, other in rows)
    assert len(found.flips) == 4 - found.top1_agreements

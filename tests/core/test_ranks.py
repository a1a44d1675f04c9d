"""Agreement of rankings: partial correlation, intervals, and what is not defined."""

import math

import numpy as np
import pytest

from edgekd.core import ranks


def test_a_ranking_that_does_not_vary_agrees_with_nothing() -> None:
    """It is NaN, never 0 or 1, and has no interval."""
    assert all(math.isnan(value) for value in ranks.rank_correlation([1, 1, 1], [1, 2, 3]))
    assert ranks.with_interval(ranks.spearman, [1, 1, 1, 1], [1, 2, 3, 4]) is None


def test_ties_share_their_rank() -> None:
    """By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4 give 4.5 / sqrt(4.5 x 5)."""
    spearman, kendall = ranks.rank_correlation([1, 2, 2, 3], [1, 2, 3, 4])
    assert spearman == pytest.approx((4.5 / 5) ** 0.5, abs=1e-12)
    assert kendall == pytest.approx(5 / (5 * 6) ** 0.5, abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([1, 2], [1, 2, 3])])
def test_pairs_are_needed(x: list[float], y: list[float]) -> None:
    """One pair, or columns of different lengths, is an error."""
    with pytest.raises(ValueError, match="needs pairs"):
        ranks.rank_correlation(x, y)


def test_a_partial_correlation_takes_away_what_the_third_explains() -> None:
    """x and y that follow z and nothing else are left with nothing; against regressed ranks in numpy."""
    random = np.random.default_rng(0)
    z = random.normal(size=400)
    x, y = z + 0.5 * random.normal(size=400), z + 0.5 * random.normal(size=400)
    assert ranks.spearman(x.tolist(), y.tolist()) > 0.6
    found = ranks.partial_rank_correlation(x.tolist(), y.tolist(), z.tolist())
    rank_x, rank_y, rank_z = (np.argsort(np.argsort(a)).astype(float) for a in (x, y, z))
    design = np.stack([rank_z, np.ones(400)], axis=1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rank_x, rank_y)]
    assert found == pytest.approx(float(np.corrcoef(*left)[0, 1]), abs=1e-9)
    assert abs(found) < 0.15


def test_a_partial_correlation_given_itself_is_not_defined() -> None:
    """Once x is known, nothing of x is left."""
    assert math.isnan(ranks.partial_rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 3, 4]))


def test_an_interval_holds_the_value_and_narrows_with_more_pairs() -> None:
    """The bootstrap is seeded: the same pairs have the same interval."""
    random = np.random.default_rng(1)
    widths = []
    for pairs in (12, 80):
        x = random.normal(size=pairs)
        y = (x + random.normal(size=pairs)).tolist()
        found = ranks.with_interval(ranks.kendall, x.tolist(), y)
        assert found is not None
        assert found == ranks.with_interval(ranks.kendall, x.tolist(), y)
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]

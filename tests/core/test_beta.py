"""The incomplete beta function and its relatives against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats

from edgekd.core import beta

SHAPES = st.floats(0.5, 20_000)


@given(SHAPES, SHAPES, st.floats(0, 1))
def test_the_incomplete_beta_function_is_scipys(a: float, b: float, x: float) -> None:
    """Over the shapes that counts of up to twenty thousand images give."""
    assert beta.betainc(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-13)


@given(st.integers(1, 5_000), st.integers(1, 5_000), st.sampled_from([0.001, 0.05, 0.5, 0.95, 0.99]))
def test_its_inverse_is_scipys(a: int, b: int, share: float) -> None:
    """The bounds of Clopper and Pearson."""
    assert beta.betaincinv(a, b, share) == pytest.approx(special.betaincinv(a, b, share), rel=1e-9)


@given(st.floats(1e-4, 0.9999), st.floats(1, 400))
def test_students_t_is_scipys(alpha: float, degrees: float) -> None:
    """Quantiles, and the tail beyond them."""
    assert beta.t_quantile(alpha, degrees) == pytest.approx(scipy_stats.t.isf(alpha, degrees), rel=1e-8, abs=1e-9)
    assert beta.t_tail(beta.t_quantile(alpha, degrees), degrees) == pytest.approx(alpha, rel=1e-9)


@given(st.integers(0, 4_000), st.data())
def test_the_tail_of_a_fair_coin_is_scipys(trials: int, data: st.DataObject) -> None:
    """What McNemar's exact test is made of."""
    successes = data.draw(st.integers(0, trials + 1))
    exact = scipy_stats.binom.sf(successes - 1, trials, 0.5)
    assert beta.binomial_tail(successes, trials) == pytest.approx(exact, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("mistake", [(0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.5)])
def test_what_makes_no_sense_is_refused(mistake: tuple[float, float, float]) -> None:
    """No number is made up."""
    with pytest.raises(ValueError, match="are needed"):
        beta.betainc(*mistake)
    with pytest.raises(ValueError, match="are needed"):
        beta.t_quantile(0.0, 3)

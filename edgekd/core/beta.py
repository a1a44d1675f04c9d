"""The regularised incomplete beta function and what follows from it: Student's t and the binomial, to twelve digits.

SciPy has these; importing it takes longer than a whole gate may (half a second), so they are written out here and held against
SciPy by the tests. Continued fraction: DLMF 8.17.22, evaluated after Lentz (Thompson and Barnett 1986).
"""

import math
from collections.abc import Callable
from functools import cache

_TINY = 1e-300
_EPSILON = 1e-16
_MOST_STEPS = 100_000


def betainc(a: float, b: float, x: float) -> float:
    """Return I_x(a, b), the share of a Beta(a, b) below x; raise `ValueError` outside a, b > 0 and 0 <= x <= 1."""
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"a, b > 0 and 0 <= x <= 1 are needed; got {a}, {b} and {x}")
    if x in (0, 1):
        return float(x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast; else the mirror image
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1 - x) / b


def betaincinv(a: float, b: float, share: float) -> float:
    """Return the x below which this share of a Beta(a, b) lies."""
    return _bisect(lambda x: betainc(a, b, x) - share, 0.0, 1.0)


def binomial_tail(successes: int, trials: int) -> float:
    """Return P(X >= successes) of a fair coin thrown `trials` times."""
    return 1.0 if successes <= 0 else 0.0 if successes > trials else betainc(successes, trials - successes + 1, 0.5)


def t_tail(t: float, degrees: float) -> float:
    """Return P(T > t) of Student's t with so many degrees of freedom."""
    half = betainc(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return half if t >= 0 else 1.0 - half


@cache
def t_quantile(alpha: float, degrees: float) -> float:
    """Return the t above which Student's t lies with probability `alpha`; raise `ValueError` unless 0 < alpha < 1."""
    if not 0 < alpha < 1 or degrees <= 0:
        raise ValueError(f"0 < alpha < 1 and degrees > 0 are needed; got {alpha} and {degrees}")
    if alpha > 0.5:
        return -t_quantile(1 - alpha, degrees)
    high = 1.0
    while t_tail(high, degrees) > alpha:
        high *= 2
    return _bisect(lambda t: alpha - t_tail(t, degrees), 0.0, high)


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _not_zero(1.0 + even * d), _not_zero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _not_zero(1.0 + odd * d), _not_zero(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < _EPSILON * 4:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at a={a}, b={b}, x={x}")


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function is zero, to the last bit of a float."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high if abs(rising(high)) < abs(rising(low)) else low

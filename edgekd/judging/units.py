"""Quantities as people write them in a budget: a number with its unit, exact, and nothing without a unit.

Values stay the text that was written (so that a budget can be written out again); the functions here turn it into numbers.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_NUMBER = r"(?P<number>\d{1,15}(?:\.\d{1,15})?)"
_TIMES = {"ns": Fraction(1, 10**6), "us": Fraction(1, 1000), "µs": Fraction(1, 1000), "ms": Fraction(1), "s": Fraction(1000)}
_SIZES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_POWERS = {"mW": Fraction(1, 1000), "W": Fraction(1)}
_COUNTS = {"k": 10**3, "M": 10**6, "G": 10**9}


def milliseconds(text: str) -> Fraction:
    """Return a duration such as `20ms`, `800us` or `1.5s` in milliseconds; raise `ValueError` saying what is allowed."""
    number, unit = _split(text, _TIMES, "a time with its unit, such as 20ms, 800us or 1.5s")
    return number * _TIMES[unit]


def watts(text: str) -> Fraction:
    """Return a power such as `15W` or `800mW` in watts; raise `ValueError` saying what is allowed."""
    number, unit = _split(text, _POWERS, "a power with its unit, such as 15W or 800mW")
    return number * _POWERS[unit]


def size_bytes(text: str) -> Fraction:
    """Return a size such as `12MB` (10^6) or `12MiB` (2^20) in bytes; raise `ValueError` saying what is allowed."""
    allowed = "a size with its unit, such as 12MB or 800kB (powers of 1000), 12MiB or 800KiB (of 1024)"
    number, unit = _split(text, _SIZES, allowed)
    return number * _SIZES[unit]


def count(text: str | int) -> Fraction:
    """Return a count such as `3000000`, `300M` or `1.2G` as a number; raise `ValueError` saying what is allowed."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return Fraction(text)
    number, unit = _split(text, _COUNTS, "a count above zero, such as 3000000, 300k, 300M or 1.2G")
    return number * _COUNTS[unit]


def share(text: str) -> Fraction:
    """Return a percentage such as `70%` or `99.5%` as a share from 0 to 1; raise `ValueError` saying what is allowed."""
    allowed = "a percentage from 0% to 100% with its sign, such as 70% or 99.5%"
    number, _ = _split(text, {"%": 1}, allowed)
    if number > 100:
        raise ValueError(f"expected {allowed}")
    return number / 100


def open_share(text: str) -> Fraction:
    """Return a percentage strictly between 0 % and 100 %: a sample of images can prove neither end."""
    value = share(text)
    if value in (0, 1):
        raise ValueError("expected a percentage above 0% and below 100%: no number of images proves either end")
    return value


def _split(text: Any, units: dict[str, Any], allowed: str) -> tuple[Fraction, str]:
    pattern = rf"{_NUMBER} ?(?P<unit>{'|'.join(units)})"
    match = re.fullmatch(pattern, text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected {allowed}")
    return Fraction(match["number"]), match["unit"]


def _checked(read: Callable[[str], Fraction]) -> BeforeValidator:
    def check(value: Any) -> Any:
        read(value)
        return value

    return BeforeValidator(check)


def _above_zero(read: Callable[[str], Fraction]) -> Callable[[str], Fraction]:
    def check(text: str) -> Fraction:
        value = read(text)
        if value == 0:
            raise ValueError("expected more than nothing: no model takes no time and no space")
        return value

    return check


def _positive_count(value: Any) -> Any:
    if count(value) <= 0:
        raise ValueError("expected a count above zero")
    return value


def _written(unit: str, example: str, number: str = r"\d{1,15}(\.\d{1,15})?") -> Any:
    # What the published JSON Schema says; the sentences of the functions above are what a user sees.
    return {"pattern": f"^{number} ?({unit})$", "examples": [example]}


TimeText = Annotated[
    str,
    _checked(_above_zero(milliseconds)),
    Field(description="a time with its unit", json_schema_extra=_written("|".join(_TIMES), "20ms")),
]
SizeText = Annotated[
    str,
    _checked(_above_zero(size_bytes)),
    Field(description="a size with its unit", json_schema_extra=_written("|".join(_SIZES), "12MB")),
]
PowerText = Annotated[
    str,
    _checked(_above_zero(watts)),
    Field(description="a power with its unit", json_schema_extra=_written("|".join(_POWERS), "15W")),
]
ShareText = Annotated[str, _checked(share), Field(description="a percentage", json_schema_extra=_written("%", "70%"))]
OpenShareText = Annotated[
    str,
    _checked(open_share),
    Field(description="a percentage above 0% and below 100%", json_schema_extra=_written("%", "99.5%")),
]
CountText = Annotated[str | int, BeforeValidator(_positive_count), Field(description="a count, such as 3000000 or 300M")]

"""Quantities with units: exact, and nothing without one."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.config import read_yaml, validate
from edgekd.core.errors import UsageError
from edgekd.judging import units
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.size import Size

NUMBER = st.decimals(0, 10**9, places=3, allow_nan=False, allow_infinity=False)


@given(NUMBER, st.sampled_from([("ns", -6), ("us", -3), ("µs", -3), ("ms", 0), ("s", 3)]), st.sampled_from(["", " "]))
def test_times_are_exact_powers_of_ten(number: object, unit: tuple[str, int], space: str) -> None:
    """Any number with a unit of time is exactly that number times the unit's power of ten, in milliseconds."""
    assert units.milliseconds(f"{number}{space}{unit[0]}") == Fraction(str(number)) * Fraction(10) ** unit[1]


@given(
    NUMBER,
    st.sampled_from(
        [("B", 10, 0), ("kB", 10, 3), ("MB", 10, 6), ("GB", 10, 9), ("KiB", 2, 10), ("MiB", 2, 20), ("GiB", 2, 30)]
    ),
)
def test_sizes_are_exact_powers_of_ten_or_two(number: object, unit: tuple[str, int, int]) -> None:
    """kB, MB, GB are powers of ten and KiB, MiB, GiB powers of two."""
    assert units.size_bytes(f"{number}{unit[0]}") == Fraction(str(number)) * unit[1] ** unit[2]


@given(st.decimals(0, 100, places=4, allow_nan=False))
def test_percentages_are_exact_shares(number: object) -> None:
    """A percentage is exactly a hundredth of its number."""
    assert units.share(f"{number}%") == Fraction(str(number)) / 100


@pytest.mark.parametrize("read", [units.milliseconds, units.size_bytes, units.share])
@pytest.mark.parametrize(
    "text",
    [
        *("", "20", "ms", "20 m s", "-1ms", "-1MB", "-1%", "1e3ms", "nan%", "infms", "1,5s", "20MS", "12mb", "70"),
        *("٣ms", "70%%", "1.ms", ".5s"),
    ],
)
def test_anything_else_is_refused_with_an_example(read: object, text: str) -> None:
    """No unit, another unit, signs, exponents, commas and other digits are refused, with examples of what is allowed."""
    with pytest.raises(ValueError, match="such as"):
        read(text)


@given(st.text(max_size=12))
def test_arbitrary_text_is_a_quantity_or_a_value_error(text: str) -> None:
    """No text crashes the reader."""
    for read in (units.milliseconds, units.size_bytes, units.share):
        try:
            assert read(text) >= 0
        except ValueError as error:
            assert "such as" in str(error)


def test_more_than_everything_is_refused() -> None:
    """A percentage ends at 100."""
    with pytest.raises(ValueError, match="0% to 100%"):
        units.share("100.1%")


@pytest.mark.parametrize("text", ["0%", "100%"])
def test_what_no_sample_proves_is_refused(text: str) -> None:
    """An accuracy of 0 % or 100 % is not a limit that images can decide."""
    with pytest.raises(ValueError, match="no number of images"):
        units.open_share(text)


@pytest.mark.parametrize(
    ("part", "line", "allowed"),
    [
        (Latency, "max: 20", "20ms, 800us or 1.5s"),
        (Latency, "max: 20 MB", "20ms, 800us or 1.5s"),
        (Latency, "max: 0ms", "more than nothing"),
        (Size, "max: 12", "12MB or 800kB"),
        (Size, "max: 12mb", "12MB or 800kB"),
        (AccuracyLimit, "min: 0.7", "70% or 99.5%"),
        (AccuracyLimit, "min: 100%", "above 0% and below 100%"),
    ],
)
def test_a_wrong_unit_in_a_recipe_is_told_with_its_line(tmp_path: Path, part: type, line: str, allowed: str) -> None:
    """The message names file, line and key, what is allowed and what was found."""
    file = tmp_path / "budgets.yaml"
    file.write_text(f"about: x\n{line}\n")
    document = read_yaml(file)
    del document.data["about"]
    with pytest.raises(UsageError) as caught:
        validate(part, document.data, document)
    key = line.partition(":")[0]
    assert f"{file}:2:1: `{key}`" in str(caught.value)
    assert allowed in str(caught.value)


def test_a_budget_keeps_the_text_that_was_written() -> None:
    """A budget can be written out again as the recipe had it."""
    assert Latency(max="800us").ref().options["max"] == "800us"
    assert Size(max="12 MiB").ref().options["max"] == "12 MiB"

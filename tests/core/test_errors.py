"""The error tree and the exit code that stands for several."""

import signal

import hypothesis
import pytest
from hypothesis import strategies as st

from edgekd.core import errors

# The house's order, worst first, written out a second time on purpose.
ORDER = (5, 4, 2, 1, 3, 0)


@pytest.mark.parametrize("first", ORDER)
@pytest.mark.parametrize("second", ORDER)
def test_worst_of_two_codes_is_the_one_that_stands_earlier_in_the_order(first: int, second: int) -> None:
    """Every pair gives the code that comes first in 5 > 4 > 2 > 1 > 3 > 0, whichever is named first."""
    assert errors.worst([first, second]) == min(first, second, key=ORDER.index)


@hypothesis.given(st.lists(st.sampled_from(ORDER), min_size=1))
def test_worst_of_many_codes_is_the_worst_of_the_worst(codes: list[int]) -> None:
    """Folding pair by pair gives the same as asking for all at once."""
    folded = codes[0]
    for code in codes[1:]:
        folded = errors.worst([folded, code])
    assert errors.worst(codes) == folded


def test_no_finding_at_all_is_inconclusive() -> None:
    """Nothing checked is not passed."""
    assert errors.worst([]) == 3


@pytest.mark.parametrize("code", [6, -1, 130, 143])
def test_a_code_that_no_verdict_has_is_refused(code: int) -> None:
    """Signals and unknown numbers do not silently take part in the precedence."""
    with pytest.raises(ValueError, match=str(code)):
        errors.worst([0, code])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.DataError, 2),
        (errors.EvidenceError, 3),
        (errors.MachineError, 4),
        (errors.IntegrityError, 5),
    ],
)
def test_each_error_carries_the_exit_code_of_the_house(error: type[errors.EdgekdError], code: int) -> None:
    """The tree and the exit codes agree."""
    assert error("what").exit_code == code


def test_every_leaf_of_the_tree_has_an_exit_code() -> None:
    """A new kind of error cannot be added without one."""
    leaves = [errors.EdgekdError]
    while leaves:
        cls = leaves.pop()
        leaves += cls.__subclasses__()
        if cls is not errors.EdgekdError:
            assert cls.exit_code in ORDER


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_exits_with_128_and_its_number(number: int, code: int) -> None:
    """130 for Ctrl-C, 143 for a polite kill, and the user is told that nothing is lost."""
    error = errors.Interrupted(number)
    assert error.exit_code == code
    assert "finished stages are kept" in str(error)


def test_a_signal_is_not_swallowed_on_its_way_up() -> None:
    """A library's `except Exception` must not eat Ctrl-C."""
    assert not issubclass(errors.Interrupted, Exception)


def test_the_message_ends_with_what_to_do() -> None:
    """`mend` is shown on its own line, and only if there is one."""
    assert str(errors.UsageError("no such file", mend="make it")) == "no such file\n  To mend: make it"
    assert str(errors.UsageError("no such file")) == "no such file"

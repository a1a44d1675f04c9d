"""A device's clock is compared with ours over a network that delays what it likes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edgekd.benching.remote.clocks import ClockCheck

SECOND_NS = 1_000_000_000


def heard(rate: float, delays_s: list[tuple[float, float]], *, every_s: float = 5.0, jump_s: float = 0.0) -> str:
    """Return what a check says of a clock of this rate, asked every few seconds, with these delays there and back."""
    check, said, now_s = ClockCheck(), "", 100.0
    for number, (there_s, back_s) in enumerate(delays_s):
        sent_s, asked_s = now_s, now_s + there_s
        shown_s = 7000 + rate * asked_s + (jump_s if number > len(delays_s) // 2 else 0.0)
        received_s = asked_s + back_s
        times = (round(one * SECOND_NS) for one in (sent_s, shown_s, received_s))
        said = said or check.hear(**dict(zip(("sent_ns", "there_ns", "received_ns"), times, strict=True)))
        now_s = received_s + every_s
    return said


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), max_size=30), st.floats(0.9995, 1.0005))
def test_delays_never_make_a_good_clock_look_bad(delays_s: list[tuple[float, float]], rate: float) -> None:
    """Whatever the network does, and with the error of a cheap crystal."""
    assert heard(rate, delays_s) == ""


def test_a_clock_of_the_wrong_speed_is_found_within_a_minute() -> None:
    """5 % fast or slow, over a network with up to half a second of delay."""
    for seed in range(50):
        dice = random.Random(seed)
        delays_s = [(dice.uniform(0, 0.25), dice.uniform(0, 0.25)) for _ in range(13)]
        assert "cannot be believed" in heard(1.05, delays_s)
        assert "cannot be believed" in heard(0.95, delays_s)


def test_a_clock_that_jumps_is_found() -> None:
    """Back, or forth by more than can have passed."""
    delays_s = [(0.01, 0.01)] * 10
    assert heard(1.0, delays_s, jump_s=-120.0)
    assert heard(1.0, delays_s, jump_s=+120.0)

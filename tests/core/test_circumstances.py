"""Fingerprints and telemetry as records: what they refuse, and that they come back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekd.core.errors import IntegrityError
from edgekd.core.records import Fingerprint, TelemetryLog, TelemetryRow
from edgekd.core.records.circumstances import CLASS_FIELDS, STATE_FIELDS, row_from

FIELDS = {"cpu": "Cortex-A76", "governor": "ondemand", "load_1min": 0.5, "microcode": None}


def test_two_hashes_say_what_may_be_compared() -> None:
    """Another processor is another class, another governor another state, another load neither."""
    one = Fingerprint.of(FIELDS)
    assert one.unknown == ("microcode",)
    other_cpu, other_governor, other_load = (
        Fingerprint.of(FIELDS | change) for change in ({"cpu": "X"}, {"governor": "performance"}, {"load_1min": 3.0})
    )
    assert other_cpu.device_class != one.device_class
    assert other_cpu.device_state == one.device_state
    assert other_governor.device_class == one.device_class
    assert other_governor.device_state != one.device_state
    assert (other_load.device_class, other_load.device_state) == (one.device_class, one.device_state)
    assert not set(CLASS_FIELDS) & set(STATE_FIELDS)


@pytest.mark.parametrize("change", [{"device_class": "0" * 64}, {"device_state": "0" * 64}, {"unknown": ()}])
def test_a_fingerprint_that_disagrees_with_itself_is_refused(change: dict[str, object]) -> None:
    """The hashes and the unknown fields follow from the fields."""
    with pytest.raises(ValidationError):
        Fingerprint.model_validate(Fingerprint.of(FIELDS).model_dump() | change)


numbers = st.integers(0, 2**53)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "clock_khz": st.lists(numbers, max_size=4),
                "temperature_c": st.lists(st.floats(-40, 120), max_size=3),
                "pi_throttled": st.none() | numbers,
                "load_1min": st.none() | st.floats(0, 1000),
                "energy_uj": st.lists(numbers, max_size=2),
                "gpu_power_w": st.none() | st.floats(0, 1000),
            },
        ),
        max_size=6,
    )
)
def test_telemetry_comes_back_as_it_was(columns: list[dict[str, object]]) -> None:
    """Lines of JSON, without what a machine does not tell."""
    log = TelemetryLog([TelemetryRow(at_ns=at_ns, **row) for at_ns, row in enumerate(columns)])
    assert TelemetryLog.from_text(log.to_text()).rows == log.rows
    assert [row_from(line) for line in log.to_text().splitlines()] == log.rows


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rubbish\n", "t.jsonl:1: not a sample"),
        ('{"at_ns": 1}\n{"at_ns": 2, "x": 1}\n', "t.jsonl:2: not a sample"),
        ('{"at_ns": 2}\n{"at_ns": 2}\n', "t.jsonl:2: goes back in time"),
    ],
)
def test_telemetry_that_is_none_is_refused(text: str, why: str) -> None:
    """The line is named."""
    with pytest.raises(IntegrityError, match=why):
        TelemetryLog.from_text(text, where="t.jsonl")


def test_samples_between_moments() -> None:
    """Both ends of a window count; a sample in two windows comes once."""
    log = TelemetryLog([TelemetryRow(at_ns=at_ns) for at_ns in range(10)])
    assert [row.at_ns for row in log.between([(2, 4), (4, 5), (8, 8)])] == [2, 3, 4, 5, 8]
    assert log.between([]) == []

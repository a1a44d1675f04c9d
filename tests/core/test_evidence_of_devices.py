"""What a budgets file asks of a device."""

from types import SimpleNamespace

import pytest

from edgekd.core.evidence import DeviceRule, Evidence

STATE = "abcdef01" + "0" * 56


def summary(**changes: object) -> SimpleNamespace:
    """Return as much of a measurement as a rule looks at."""
    facts = {"device_class": "1" * 64, "device_state": STATE, "device": SimpleNamespace(governor="performance")}
    return SimpleNamespace(**facts | changes)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (DeviceRule(), ""),
        (DeviceRule(device_state=STATE), ""),
        (DeviceRule(device_state="sha256:abcdef01"), ""),
        (DeviceRule(device_state="abcdef0"), "device_state is asked to be abcdef0, and it was abcdef01"),
        (DeviceRule(device_class="2" * 64), f"device_class is asked to be {'2' * 64}, and it was 11111111"),
        (DeviceRule(governor="powersave"), "governor is asked to be powersave, and it was performance"),
    ],
)
def test_a_rule_says_what_is_not_as_asked(rule: DeviceRule, reason: str) -> None:
    """Hashes may be shortened to eight digits, not to seven."""
    assert rule.broken_by(summary()) == reason


def test_what_is_not_known_is_not_as_asked() -> None:
    """A machine without a governor is not one with the right governor."""
    unknown = summary(device=SimpleNamespace(governor=None))
    assert "does not say what it was" in DeviceRule(governor="performance").broken_by(unknown)


def test_a_rule_is_found_by_name_before_pattern() -> None:
    """The exact name wins, then the first pattern that fits."""
    rules = {"pi*": DeviceRule(governor="a"), "pi5": DeviceRule(governor="b")}
    evidence = Evidence(report=None, devices=rules)  # type: ignore[arg-type]
    assert [rule and rule.governor for rule in map(evidence.rule, ("pi5", "pi4", "x"))] == ["b", "a", None]

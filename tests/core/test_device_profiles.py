"""The shipped device profiles, and the schema that they and the user's own are held to."""

from pathlib import Path
from types import ModuleType

import pytest

from edgekd.core.device_profiles import DeviceProfile, read_profile
from edgekd.core.errors import UsageError
from edgekd.core.machine import fingerprint, gpus
from edgekd.core.records import Fingerprint
from edgekd.doctor import _against

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "devices"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
FIELDS = set(fingerprint.PROBES) | set(gpus.FACTS) | {"settings"}
SMALLEST = "title: A\nmatches: {cpu: A}\nfacts: {cpu: A, cores: 1}\nexpect: [b]\nsources: [c]\n"
# The recorded machine of each kind, and the fields that pinning its clocks changes.
RECORDED = {
    "raspberry_pi_5": ("pi5", {"governor": "performance"}),
    "jetson_orin_nano": ("jetson", {"jetson_clocks": "pinned"}),
    "x86": ("laptop", {"governor": "performance", "boost": "off", "power_source": "mains"}),
    "container_with_quota": ("container_v2", {}),
}


def test_the_devices_that_users_were_promised() -> None:
    """Raspberry Pi 4 and 5, three Jetsons, x86, and a container with a quota."""
    assert {path.stem for path in SHIPPED} == {
        "raspberry_pi_4",
        "raspberry_pi_5",
        "jetson_orin_nano",
        "jetson_orin_nx",
        "jetson_agx_orin",
        "x86",
        "container_with_quota",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_is_valid(path: Path) -> None:
    """It loads strictly, speaks of fields that a fingerprint has, names its sources, and undoes what it needs root for."""
    profile = read_profile(path)
    assert profile.pin is not None
    assert set(profile.matches) | set(profile.pin.then) <= FIELDS
    assert all(source.startswith("https://") for source in profile.sources)
    assert profile.pin.undo or not profile.pin.needs_root
    modes = [mode.cores for mode in profile.power_modes if mode.cores]
    assert max(modes, default=profile.facts.cores) == profile.facts.cores


@pytest.mark.parametrize("name", RECORDED)
def test_a_machine_is_known_by_its_profile_and_no_other(machines: ModuleType, tmp_path: Path, name: str) -> None:
    """Of the shipped profiles one fits each recorded machine; with its clocks pinned there is nothing left to say."""
    kind, pinned = RECORDED[name]
    fields = fingerprint.fields(machines.lay(tmp_path, getattr(machines, kind)()), environment={})
    told = Fingerprint.of(fields)
    fitting = {path.stem for path in SHIPPED if not any("not this" in w for w in read_profile(path).differences(told))}
    assert fitting - {"x86"} == {name} - {"x86"}  # a container's host is an x86 computer as well
    assert name in fitting
    profile = read_profile(FOLDER / f"{name}.yaml")
    assert len(profile.differences(told)) == len(pinned)
    assert profile.differences(Fingerprint.of(fields | pinned)) == []


def test_the_smallest_profile(tmp_path: Path) -> None:
    """Pinning and power modes may be left out; an unknown field is a difference."""
    (tmp_path / "a.yaml").write_text(SMALLEST)
    profile = read_profile(tmp_path / "a.yaml")
    assert isinstance(profile, DeviceProfile)
    assert profile.differences(Fingerprint.of({"cpu": "A"})) == []
    assert profile.differences(Fingerprint.of({})) == ["not this device: cpu is unknown, expected A"]


def test_doctor_says_how_a_machine_differs_and_how_to_pin_its_clocks(tmp_path: Path) -> None:
    """Another device is named by the field that differs; the right one is told what to run, or that all is well."""
    (tmp_path / "a.yaml").write_text(SMALLEST + "pin: {commands: [turn the knob], then: {governor: '^performance$'}}\n")
    assert _against(tmp_path / "a.yaml", Fingerprint.of({"cpu": "B"})) == [
        "profile  A: no",
        "         not this device: cpu is B, expected A",
    ]
    assert _against(tmp_path / "a.yaml", Fingerprint.of({"cpu": "A", "governor": "ondemand"})) == [
        "profile  A: no",
        "         clocks not pinned: governor is ondemand, expected ^performance$",
        "pin by   turn the knob",
    ]
    (said,) = _against(tmp_path / "a.yaml", Fingerprint.of({"cpu": "A", "governor": "performance"}))
    assert said == "profile  A: this is one, with its clocks pinned"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SMALLEST + "colour: red\n", "a.yaml:6:1: unknown key `colour`"),
        (SMALLEST.replace("cpu: A}", "cpu: '('}"), "is not a regular expression"),
        (SMALLEST.replace("cores: 1", "cores: '1'"), "`facts.cores`: should be a whole number"),
        (SMALLEST.replace("cores: 1", "cores: 0"), "greater than or equal to 1"),
        (SMALLEST.replace("expect: [b]\n", ""), "`expect` is missing"),
        (SMALLEST + "pin: {commands: [], then: {cpu: A}}\n", "at least 1 item"),
        (SMALLEST + "power_modes: [{name: A, set_by: b}, {name: A, set_by: c}]\n", "two power modes have the same name"),
    ],
)
def test_a_profile_with_a_mistake_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """With line and key."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_profile(tmp_path / "a.yaml")
    assert why in str(error.value)

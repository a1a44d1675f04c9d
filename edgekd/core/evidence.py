"""What a budget may look at: the report, the report of the baseline, and what the budgets file says of devices. Pure facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from edgekd.core.plan import Section
from edgekd.core.records import LatencySummary, Report


class DeviceRule(Section):
    """What a device of this name must be like for its measurements to be used; hashes may be shortened to 8 digits."""

    device_class: str | None = None
    device_state: str | None = None
    governor: str | None = None

    def broken_by(self, summary: LatencySummary) -> str:
        """Return the first thing that is not as asked, as a phrase; '' if all is."""
        found = {"governor": summary.device.governor} | fingerprints(summary)
        for what, asked in (
            ("device_class", self.device_class),
            ("device_state", self.device_state),
            ("governor", self.governor),
        ):
            if asked is None:
                continue
            has = found[what]
            if has is None:
                return f"{what} is asked to be {asked}, and the measurement does not say what it was"
            if not (has == asked or (what != "governor" and _same_hash(has, asked))):
                return f"{what} is asked to be {asked}, and it was {has if what == 'governor' else has[:8]}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Facts for one verdict; `baseline` is the report of the run that limits `to: baseline` are held against, if any is given.

    `fail_shares` narrows the error of (budget, subject) where several comparisons share one; a budget multiplies its own
    with `fail_share`.
    """

    report: Report
    baseline: Report | None = None
    devices: Mapping[str, DeviceRule] = field(default_factory=lambda: MappingProxyType({}))
    fail_shares: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def fail_share(self, subject: str) -> float:
        """Return the share of the error that a fail about this subject may use."""
        return self.fail_shares.get(subject, 1.0)

    def narrowed(self, fail_shares: Mapping[str, float]) -> "Evidence":
        """Return the same facts with other shares."""
        return replace(self, fail_shares=fail_shares)

    def rule(self, device: str) -> DeviceRule | None:
        """Return what is asked of a device: that of its name, or of the first pattern that matches."""
        if device in self.devices:
            return self.devices[device]
        return next((rule for pattern, rule in self.devices.items() if fnmatchcase(device, pattern)), None)


def fingerprints(summary: LatencySummary) -> dict[str, str | None]:
    """Return the hashes of a measurement's device: its class and its state; None where they are not known."""
    return {"device_class": summary.device_class, "device_state": summary.device_state}


def _same_hash(has: str, asked: str) -> bool:
    digits = asked.removeprefix("sha256:")
    return len(digits) >= 8 and has.removeprefix("sha256:").startswith(digits)

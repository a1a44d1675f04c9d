"""What a kind of device is, how its clocks are pinned, and whether a machine is set up like that: `deploy/devices/*.yaml`.

A profile is data for people and for `edgekd doctor --profile FILE`; no command in it is ever run by edgekd.
"""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekd.core.config import read_yaml, validate
from edgekd.core.records import Fingerprint

Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Facts(_Section):
    """What the maker says of the device."""

    cpu: Text
    cores: int = Field(ge=1)
    memory_gib: tuple[float, ...] = ()
    cpu_max_mhz: int | None = Field(default=None, ge=1)
    gpu: Text | None = None
    cooling: Text | None = None


class PowerMode(_Section):
    """One of the device's power modes; `cores` are those that stay online in it."""

    name: Text
    watts: int | None = Field(default=None, ge=1)
    cores: int | None = Field(default=None, ge=1)
    set_by: Text


class Pinning(_Section):
    """The commands that pin the clocks and that free them again, and what the fingerprint then says, as patterns."""

    commands: tuple[Text, ...] = Field(min_length=1)
    undo: tuple[Text, ...] = ()
    needs_root: bool = True
    then: dict[str, Text] = Field(min_length=1)

    @field_validator("then")
    @classmethod
    def _patterns(cls, value: dict[str, str]) -> dict[str, str]:
        return _checked_patterns(value)


class DeviceProfile(_Section):
    """A kind of device. `matches` are patterns of the fingerprint by which it is known."""

    title: Text
    matches: dict[str, Text]
    facts: Facts
    power_modes: tuple[PowerMode, ...] = ()
    pin: Pinning | None = None
    expect: tuple[Text, ...] = Field(min_length=1)
    sources: tuple[Text, ...] = Field(min_length=1)

    @field_validator("matches")
    @classmethod
    def _patterns(cls, value: dict[str, str]) -> dict[str, str]:
        return _checked_patterns(value)

    @model_validator(mode="after")
    def _modes_differ(self) -> Self:
        names = [mode.name for mode in self.power_modes]
        if len(set(names)) < len(names):
            raise ValueError("two power modes have the same name")
        return self

    def differences(self, fingerprint: Fingerprint) -> list[str]:
        """Return in which fields a machine is not of this kind, or not pinned, as sentences; empty if it is both."""
        wrong = [f"not this device: {text}" for text in _unlike(self.matches, fingerprint)]
        if self.pin is not None and not wrong:
            wrong = [f"clocks not pinned: {text}" for text in _unlike(self.pin.then, fingerprint)]
        return wrong


def read_profile(path: Path) -> DeviceProfile:
    """Read a profile; raise `UsageError` with the line of every mistake."""
    document = read_yaml(path)
    return validate(DeviceProfile, document.data, document)


def _unlike(patterns: dict[str, str], fingerprint: Fingerprint) -> list[str]:
    found = []
    for name, pattern in patterns.items():
        value = fingerprint.fields.get(name)
        if value is None or not re.search(pattern, str(value)):
            found.append(f"{name} is {'unknown' if value is None else value}, expected {pattern}")
    return found


def _checked_patterns(value: dict[str, str]) -> dict[str, str]:
    for name, pattern in value.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from error
    return value

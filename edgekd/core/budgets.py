"""Budgets as they are written: budgets.yaml, and the same under `budgets:` of a recipe. Strict, with the line of each mistake.

A budget is one claim about one metric: `{id, metric, level, ...}` and what the metric's part takes. The part is named by the
metric's first word (`latency.p50` is judged by the part `latency`), so that a package adds a family of metrics with one file.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from edgekd.core import parts
from edgekd.core.config import Document, frozen, read_yaml, validate
from edgekd.core.contracts import Budget
from edgekd.core.errors import UsageError
from edgekd.core.evidence import DeviceRule
from edgekd.core.parts import nearest
from edgekd.core.plan import Section
from edgekd.core.records import digest_of
from edgekd.core.strict_yaml import KeyPath

Level = Literal["error", "warn", "off"]
Alpha = Annotated[float, Field(gt=0, lt=0.5, description="the chance of a wrong decision, one-sided")]
Text = Annotated[str, Field(min_length=1)]


class Header(Section):
    """What every budget may say, whatever its metric; `id` is by default the metric."""

    metric: Text
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    level: Level | None = None
    on_inconclusive: Literal["error", "warn"] | None = None


class Defaults(Section):
    """What holds for every budget that does not say otherwise.

    `level`: error (counts), warn (is told and does not count), off. `on_inconclusive`: whether not knowing fails the gate.
    """

    level: Level = "error"
    on_inconclusive: Literal["error", "warn"] = "error"
    alpha: Alpha | None = None


class DeviceEntry(DeviceRule):
    """What a device must be like, and how budgets differ on it: budget id -> the keys to change."""

    overrides: dict[str, dict[str, Any]] = Field(default={})


class WaiverEntry(Section):
    """A budget that may miss its limit until a date, why, and who decided that."""

    budget: Text
    until: Annotated[str, Field(description="a date, such as 2026-12-01; that day included")]
    reason: Text
    by: Text

    @field_validator("until")
    @classmethod
    def _is_a_date(cls, until: str) -> str:
        try:
            date = datetime.date.fromisoformat(until)
        except ValueError as error:
            raise ValueError("expected a date, such as 2026-12-01") from error
        if date.isoformat() != until:
            raise ValueError("expected a date, such as 2026-12-01")
        return until


class BudgetsSection(Section):
    """The budgets of a recipe: the keys of a budgets file, or only its list of budgets."""

    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    devices: dict[str, DeviceEntry] = Field(default={})
    budgets: tuple[dict[str, Any], ...] = ()
    waivers: tuple[WaiverEntry, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_a_list(cls, value: Any) -> Any:
        return {"budgets": value} if isinstance(value, tuple | list) else value


class BudgetsFile(BudgetsSection):
    """A budgets file: its version, defaults, devices, budgets and waivers."""

    version: Literal[1]
    budgets: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One budget ready to be asked, with what the file says around it; `options` is how it was written, defaults in place."""

    id: str
    metric: str
    budget: Budget
    level: Level = "error"
    tolerate_inconclusive: bool = False
    line: int | None = None

    def options(self) -> dict[str, Any]:
        """Return the budget as a file would write it, every option in place."""
        header = {
            "id": self.id,
            "metric": self.metric,
            "level": self.level,
            "on_inconclusive": "warn" if self.tolerate_inconclusive else "error",
        }
        return header | self.budget.ref().options


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """A checked set of budgets; `file` is the file that the checks' lines are of."""

    checks: tuple[Check, ...] = ()
    devices: Mapping[str, DeviceRule] = field(default_factory=dict)
    waivers: tuple[WaiverEntry, ...] = ()
    file: str = ""

    @classmethod
    def of(cls, parts_: Sequence[Budget]) -> "Budgets":
        """Return budgets that stand in no file, each named by its metric."""
        metrics_ = [str(getattr(part, "metric", part.ref().use)) for part in parts_]
        return cls(checks=tuple(Check(id=m, metric=m, budget=part) for m, part in zip(metrics_, parts_, strict=True)))

    def digest(self) -> str:
        """Return the digest of what is asked; where it stands in which file is no part of it."""
        return digest_of(
            {
                "checks": [{"use": check.budget.ref().use, **check.options()} for check in self.checks],
                "devices": {name: rule.model_dump(mode="json") for name, rule in self.devices.items()},
                "waivers": [waiver.model_dump(mode="json") for waiver in self.waivers],
            }
        )

    def waiver_of(self, check: Check) -> WaiverEntry | None:
        """Return the waiver of a budget, or None."""
        return next((waiver for waiver in self.waivers if waiver.budget == check.id), None)

    def refuse_expired(self, today: datetime.date) -> None:
        """Raise `UsageError` naming the first waiver that ended before this day."""
        for waiver in self.waivers:
            if datetime.date.fromisoformat(waiver.until) < today:
                raise UsageError(
                    f"{self.file or 'budgets'}: the waiver of {waiver.budget!r} ended on {waiver.until} ({waiver.reason}; "
                    f"by {waiver.by})",
                    mend="meet the budget, or give the waiver a new date and a reason",
                )


def read_budgets(path: Path) -> Budgets:
    """Read a budgets file; raise `UsageError` with line and column of the first mistakes."""
    document = read_yaml(path)
    section = validate(BudgetsFile, document.data, document)
    return resolve(section, document, at=())


def resolve(section: BudgetsSection, document: Document, *, at: KeyPath, listed: bool = False) -> Budgets:
    """Return the checked budgets of a section that stands at `at`; `listed` says that it was given as a bare list."""
    entries = at if listed else (*at, "budgets")
    checks: list[Check] = []
    for index, entry in enumerate(section.budgets):
        _refuse_namesake(_name(entry), checks, document, (*entries, index))
        checks += _checks_of(entry, section, document, (*entries, index), at)
    known = {check.id for check in checks}
    for index, waiver in enumerate(section.waivers):
        _refuse_unknown(waiver.budget, known, document.where((*at, "waivers", index, "budget")))
    for name, device in section.devices.items():
        for changed in device.overrides:
            _refuse_unknown(changed, known, document.where((*at, "devices", name, "overrides", changed)))
    rules = {
        name: DeviceRule(device_class=rule.device_class, device_state=rule.device_state, governor=rule.governor)
        for name, rule in section.devices.items()
    }
    return Budgets(checks=tuple(checks), devices=rules, waivers=section.waivers, file=_shown(document.path))


def _checks_of(
    entry: Mapping[str, Any], section: BudgetsSection, document: Document, at: KeyPath, root: KeyPath
) -> list[Check]:
    """Return a budget, without the devices that change it, and its changed form for each of these."""
    name = _name(entry)
    changed = {device: rule.overrides[name] for device, rule in section.devices.items() if name in rule.overrides}
    found = [_check(entry, section.defaults, document, at)]
    if changed and "except_devices" not in type(found[0].budget).model_fields:
        where = document.where((*root, "devices", next(iter(changed)), "overrides", name))
        raise UsageError(f"{where}: `{name}` is about no device, so none can change it")
    if changed:
        found = [_check({**entry, "except_devices": tuple(changed)}, section.defaults, document, at)]
    for device, changes in changed.items():
        here: KeyPath = (*root, "devices", device, "overrides", name)
        own = [key for key in ("id", "metric", "device", "except_devices") if key in changes]
        if own:
            raise UsageError(f"{document.where((*here, own[0]))}: `{own[0]}` cannot be changed for one device")
        bounds = ("min", "max", "max_drop", "max_rise", "max_ratio", "min_gain")
        kept = {key: value for key, value in entry.items() if key not in bounds or not any(b in changes for b in bounds)}
        found.append(_check({**kept, **changes, "device": device}, section.defaults, document, here))
    return found


def _check(entry: Mapping[str, Any], defaults: Defaults, document: Document, at: KeyPath) -> Check:
    header = {key: value for key, value in entry.items() if key in Header.model_fields}
    if "use" in entry and "metric" not in entry:
        raise UsageError(f"{document.where((*at, 'use'))}: a budget names a metric: `metric: size.bytes`, not `use: size`")
    head = validate(Header, header, document, at=at)
    cls = part_of(head.metric, where=document.where((*at, "metric")))
    options = {key: value for key, value in entry.items() if key not in header}
    if "metric" in cls.model_fields:
        options["metric"] = head.metric
    if defaults.alpha is not None and "alpha" in cls.model_fields:
        options.setdefault("alpha", defaults.alpha)
    _refuse_unknown_keys(options, cls, document, at)
    return Check(
        id=head.id or head.metric,
        metric=head.metric,
        budget=validate(cls, frozen(options), document, at=at),
        level=head.level or defaults.level,
        tolerate_inconclusive=(head.on_inconclusive or defaults.on_inconclusive) == "warn",
        line=_line(document, at),
    )


def part_of(metric: str, *, where: str) -> type[Budget]:
    """Return the part that judges a metric; raise `UsageError` naming the nearest metric."""
    family = metric.partition(".")[0]
    if family in parts.names("budget"):
        cls = cast(type[Budget], parts.load("budget", family))
        if metric in (cls.metrics or (family,)):
            return cls
    known = metrics()
    raise UsageError(f"{where}: no metric is called {metric!r}.{nearest(metric, known)} Known: {', '.join(known)}.")


def metrics() -> tuple[str, ...]:
    """Return every metric that a budget can name."""
    found: list[str] = []
    for family in parts.names("budget"):
        cls = cast(type[Budget], parts.load("budget", family))
        found += cls.metrics or (family,)
    return tuple(found)


def _refuse_unknown_keys(options: Mapping[str, Any], cls: type[Budget], document: Document, at: KeyPath) -> None:
    known = tuple(key for key in (*Header.model_fields, *cls.model_fields))
    for key in options:
        if key not in known:
            where = document.where((*at, key))
            shown = ".".join(str(step) for step in (*at, key))
            raise UsageError(f"{where}: unknown key `{shown}`.{nearest(key, known)} Known here: {', '.join(known)}.")


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("id") or entry.get("metric"))


def _refuse_namesake(name: str, earlier: Sequence[Check], document: Document, at: KeyPath) -> None:
    first = next((one for one in earlier if one.id == name), None)
    if first is not None:
        also = f" (line {first.line})" if first.line else ""
        raise UsageError(f"{document.where(at)}: another budget is called {name!r}{also}", mend="give each an `id` of its own")


def _refuse_unknown(name: str, known: set[str], where: str) -> None:
    if name not in known:
        raise UsageError(
            f"{where}: no budget is called {name!r}.{nearest(name, sorted(known))} Known: {', '.join(sorted(known))}."
        )


def _line(document: Document, at: KeyPath) -> int | None:
    rest = document.where(at).rpartition(str(document.path))[2].split(":")
    return int(rest[1]) if len(rest) > 1 and rest[1].isdecimal() else None


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()

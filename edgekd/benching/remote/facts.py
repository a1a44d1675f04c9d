"""What a machine's own probe told, as the facts that a measurement carries."""

from collections.abc import Mapping

from edgekd.core.errors import MachineError
from edgekd.core.records import DeviceFacts, Fingerprint


def device_facts(fingerprint: Fingerprint, *, name: str) -> DeviceFacts:
    """Return a machine's fingerprint as its facts; raise `MachineError` if it does not tell how many cores there are."""
    told = fingerprint.fields
    cores = _whole(told, "usable_cores")
    if cores is None or cores < 1:
        raise MachineError(f"{name}: the device does not tell how many cores it has")
    memory = [size for size in (_whole(told, "memory_bytes"), _whole(told, "cgroup_memory_bytes")) if size]
    container = _text(told, "container")
    return DeviceFacts(
        name=name,
        system=f"{told.get('system')} {told.get('kernel')}",
        machine=str(told.get("machine")),
        cpu=_text(told, "cpu"),
        logical_cores=_whole(told, "logical_cores"),
        physical_cores=_whole(told, "physical_cores"),
        affinity_cores=_listed(_text(told, "affinity")),
        usable_cores=cores,
        cgroup_quota_cores=_number(told, "cgroup_quota_cores"),
        memory_bytes=min(memory, default=None),
        governor=_text(told, "governor"),
        load_1min=_number(told, "load_1min"),
        python=str(told.get("python")),
        container=None if container == "none" else container,
    )


Fields = Mapping[str, str | int | float | bool | None]


def _text(told: Fields, field: str) -> str | None:
    value = told.get(field)
    return value if isinstance(value, str) else None


def _number(told: Fields, field: str) -> float | None:
    value = told.get(field)
    return float(value) if isinstance(value, int | float) else None


def _whole(told: Fields, field: str) -> int | None:
    value = told.get(field)
    return int(value) if isinstance(value, int) else None


def _listed(spelled: str | None) -> int | None:
    """Return how many cores a kernel list such as `0-3,8` names."""
    spans = [span.partition("-") for span in (spelled or "").split(",") if span]
    try:
        return sum(int(high or low) - int(low) + 1 for low, _, high in spans) or None
    except ValueError:
        return None

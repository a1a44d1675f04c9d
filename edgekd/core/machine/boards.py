"""What is around the processor: board, power, heat, virtual machines; Raspberry Pi and Jetson have their own words for it."""

from __future__ import annotations

import re
from pathlib import Path

from . import files, processors

ABSENT = "absent"
_HYPERVISORS = {
    "KVM": "kvm",
    "QEMU": "qemu",
    "VMware": "vmware",
    "VirtualBox": "virtualbox",
    "Amazon EC2": "kvm (Amazon EC2)",
    "Google": "kvm (Google)",
    "Xen": "xen",
    "Virtual Machine": "hyper-v",
    "Bochs": "bochs",
    "Parallels": "parallels",
    "Firecracker": "firecracker",
}
# Devices that cool, or that carry a number and have nothing to do with the clock.
_NO_BRAKE = re.compile(r"fan|lcd|backlight|display|wifi|wlan|charg|powerclamp|battery|modem", re.IGNORECASE)


# ----------------------------------------------------------------------------------------------------------------- board
def board(root: Path) -> str | None:
    """Return the board's or computer's name; no serial number is read."""
    told = files.line(root / "proc/device-tree/model")
    if told:
        return told
    folder = root / "sys/class/dmi/id"
    return " ".join(filter(None, (files.line(folder / "sys_vendor"), files.line(folder / "product_name")))) or None


def firmware(root: Path) -> str | None:
    """Return the firmware's version and date."""
    folder = root / "sys/class/dmi/id"
    return " ".join(filter(None, (files.line(folder / "bios_version"), files.line(folder / "bios_date")))) or None


def virtualisation(root: Path) -> str | None:
    """Return what this machine is a guest of, or `none`; None where nothing tells."""
    told = files.line(root / "sys/hypervisor/type")
    if told:
        return told
    name = board(root) or ""
    known = next((kind for word, kind in _HYPERVISORS.items() if word in name), None)
    if known:
        return known
    blocks = processors.cpuinfo(root)
    if any("hypervisor" in (b.get("flags") or "").split() for b in blocks):
        return "unnamed hypervisor"
    node = root / "proc/device-tree/hypervisor/compatible"
    if node.exists():
        return files.line(node) or "unnamed hypervisor"
    return "none" if any("flags" in b or "Features" in b for b in blocks) else None


# ----------------------------------------------------------------------------------------------------------------- power
def power_source(root: Path) -> str | None:
    """Return `mains` or `battery`; `mains` too where there is neither a battery nor a plug to be seen."""
    supplies = root / "sys/class/power_supply"
    if not supplies.is_dir():
        return None
    plugs, batteries = [], []
    for folder in files.found(supplies, "*"):
        kind = (files.line(folder / "type") or "").lower()
        if kind in ("mains", "usb") and files.line(folder / "online") is not None:
            plugs.append(files.line(folder / "online") == "1")
        elif kind == "battery" and (files.line(folder / "scope") or "system").lower() == "system":
            batteries.append((files.line(folder / "status") or "").lower())
    if any(plugs) or not batteries:
        return "mains"
    return "battery" if "discharging" in batteries or plugs else "mains"


def battery_percent(root: Path) -> object | None:
    """Return how full the first battery is."""
    told = next(iter(files.lines(root / "sys/class/power_supply", "BAT*/capacity")), None)
    if told is None:
        return ABSENT if (root / "sys/class/power_supply").is_dir() else None
    return files.whole(told)


def energy_counters(root: Path) -> list[tuple[Path, int]]:
    """Return the readable counters of the processor packages' energy (RAPL, microjoule), and where each wraps around."""
    readable = []
    for folder in files.found(root / "sys/class/powercap", "intel-rapl:[0-9]*"):
        name, most = files.line(folder / "name") or "", files.whole(files.line(folder / "max_energy_range_uj"))
        if name.startswith("package") and files.whole(files.line(folder / "energy_uj")) is not None:
            readable.append((folder / "energy_uj", most or 0))
    return readable


def board_power_sensors(root: Path) -> list[tuple[Path, Path | None]]:
    """Return the files with the board's whole input power: (power in µW, None), or (mV, mA) of an INA3221's input rail."""
    for folder in files.found(root / "sys/class/hwmon", "hwmon[0-9]*"):
        chip = files.line(folder / "name") or ""
        if not chip.startswith("ina"):
            continue
        for label in files.found(folder, "in[0-9]*_label"):
            if re.search(r"VDD_IN|POM_5V_IN|VDD_TOTAL|SYS_5V0?_IN", files.line(label) or ""):
                rail = (label.name[2:]).partition("_")[0]
                return [(folder / f"in{rail}_input", folder / f"curr{rail}_input")]
        if files.whole(files.line(folder / "power1_input")) is not None:
            return [(folder / "power1_input", None)]
    return []


# ------------------------------------------------------------------------------------------------------------------ heat
def zones(root: Path) -> list[tuple[str, Path]]:
    """Return the thermal zones as (name, file with milli-degrees Celsius); sensors of the processor where there are none."""
    found = [
        (files.line(folder / "type") or folder.name, folder / "temp")
        for folder in files.found(root / "sys/class/thermal", "thermal_zone[0-9]*")
        if files.whole(files.line(folder / "temp")) is not None
    ]
    if found:
        return found
    for folder in files.found(root / "sys/class/hwmon", "hwmon[0-9]*"):
        chip = files.line(folder / "name") or ""
        if chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal") and (folder / "temp1_input").exists():
            found.append((chip, folder / "temp1_input"))
    return found


def hottest_c(root: Path) -> float | None:
    """Return the highest temperature of the zones."""
    told = [files.whole(files.line(path)) for _, path in zones(root)]
    return max((value / 1000 for value in told if value is not None), default=None)


def brakes(root: Path) -> list[tuple[str, Path]]:
    """Return the cooling devices that slow something down (not fans) as (type, file with the state; 0 is idle)."""
    found = []
    for folder in files.found(root / "sys/class/thermal", "cooling_device[0-9]*"):
        kind = files.line(folder / "type") or folder.name
        if not _NO_BRAKE.search(kind):
            found.append((kind, folder / "cur_state"))
    return found


def braking(root: Path) -> str | None:
    """Return which cooling devices slow something down now; `none`, or None where there are no such devices."""
    known = brakes(root)
    active = [f"{kind}={state}" for kind, path in known if (state := files.whole(files.line(path)) or 0) > 0]
    return ",".join(active) or ("none" if known else None)


# ---------------------------------------------------------------------------------------------------------- Raspberry Pi
def is_pi(root: Path) -> bool:
    """Return whether this is a Raspberry Pi."""
    return "Raspberry Pi" in (processors.model(root) or "")


def pi_throttle_file(root: Path) -> Path | None:
    """Return the file in which the firmware tells its throttle word, or None."""
    paths = files.found(root / "sys/devices/platform", "soc*/*firmware*/get_throttled")
    return paths[0] if paths else None


def pi_throttle_word(root: Path) -> object | None:
    """Return the firmware's throttle word: bits 0-3 hold now, bits 16-19 since the start; `absent` on other boards.

    Source: Raspberry Pi documentation, `vcgencmd get_throttled`.
    """
    if not is_pi(root):
        return ABSENT
    path = pi_throttle_file(root)
    if path is not None:
        return hexadecimal(files.line(path))
    told = files.told_by(root, ["vcgencmd", "get_throttled"], name="vcgencmd.get_throttled") or ""
    return hexadecimal(told.strip().partition("=")[2])


def hexadecimal(told: str | None) -> int | None:
    """Return a number written in base 16, with or without 0x, or None."""
    try:
        return int(told or "", 16)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------------- Jetson
def jetson_release(root: Path) -> str | None:
    """Return the release of Jetson Linux; `absent` on other boards."""
    told = files.line(root / "etc/nv_tegra_release")
    if told is None:
        return None if "jetson" in (board(root) or "").lower() else ABSENT
    found = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", told)
    return f"R{found[1]}.{found[2]}" if found else told


def jetson_power_mode(root: Path) -> str | None:
    """Return number and name of the power mode (`nvpmodel`); `absent` on other boards."""
    if jetson_release(root) == ABSENT:
        return ABSENT
    told = re.search(r"pmode:0*(\d+)", files.text(root / "var/lib/nvpmodel/status") or "")
    if not told:
        return None
    pattern = rf"<\s*POWER_MODEL\s+ID={told[1]}\s+NAME=(\S+)\s*>"
    name = re.search(pattern, files.text(root / "etc/nvpmodel.conf") or "")
    return f"{told[1]} {name[1]}" if name else told[1]


def jetson_clocks(root: Path) -> str | None:
    """Return whether the processors' clocks are pinned (`jetson_clocks`): `pinned` or `floating`; `absent` elsewhere."""
    if jetson_release(root) == ABSENT:
        return ABSENT
    low, high = (list(files.lines(root / processors.CPUS, f"cpu[0-9]*/cpufreq/scaling_{end}_freq")) for end in ("min", "max"))
    if not low or len(low) != len(high):
        return None
    return "pinned" if low == high else "floating"

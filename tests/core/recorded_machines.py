"""Small trees of /proc, /sys and /etc as they were read on machines of six kinds; written out by the tests.

Numbers that identify one machine (serial, machine id, address) are made up and marked CANARY: none may come through.
"""

from pathlib import Path

V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CLOCKS = {"x86_64": "tsc", "aarch64": "arch_sys_counter"}
CPU = "sys/devices/system/cpu"


def lay(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a tree below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def per_core(cores: int, **files: str) -> dict[str, str]:
    """Return the same files for every core; `__` in a name is a slash."""
    return {f"{CPU}/cpu{i}/{name.replace('__', '/')}": text for i in range(cores) for name, text in files.items()}


def system(cores: int, *, kernel: str, machine: str, memory_kb: int, group: str = "/user.slice") -> dict[str, str]:
    """Return what every Linux has."""
    return {
        "proc/sys/kernel/ostype": "Linux\n",
        "proc/sys/kernel/osrelease": f"{kernel}\n",
        "proc/sys/kernel/arch": f"{machine}\n",
        "proc/sys/kernel/hostname": "CANARY-host\n",
        "proc/sys/kernel/randomize_va_space": "2\n",
        "proc/sys/kernel/sched_autogroup_enabled": "1\n",
        "proc/sys/kernel/nmi_watchdog": "0\n",
        "proc/sys/vm/swappiness": "60\n",
        "proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=UUID=CANARY-uuid ro quiet isolcpus=3 mitigations=auto\n",
        "proc/meminfo": f"MemTotal:  {memory_kb} kB\nMemFree: 1 kB\nMemAvailable: {memory_kb // 2} kB\nSwapTotal:  102396 kB\n",
        "proc/loadavg": "0.10 0.12 0.09 2/467 12345\n",
        "proc/uptime": "5123.11 20001.20\n",
        "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t0-{cores - 1}\n",
        "proc/self/cgroup": f"0::{group}\n",
        "proc/self/mountinfo": V2_MOUNT,
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0.00 total=0\n",
        "proc/stat": stat(cores),
        "etc/machine-id": "CANARYmachineid0123456789\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/net/eth0/address": "CA:NA:RY:00:00:01\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n"
        if machine == "x86_64"
        else "arch_sys_counter\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/devices/system/node/online": "0\n",
        f"{CPU}/online": f"0-{cores - 1}\n",
        f"{CPU}/isolated": "\n",
        f"{CPU}/cpuidle/current_driver": "intel_idle\n" if machine == "x86_64" else "none\n",
        f"{CPU}/cpuidle/current_governor": "menu\n",
        "sys/class/power_supply/.keep": "",
    }


def stat(cores: int, *, at_s: float = 1000.0, busy: float = 0.02, steal: float = 0.0) -> str:
    """Return /proc/stat after so many seconds with these shares of all processors' time."""
    total = at_s * 100 * cores
    user, stolen = int(busy * total), int(steal * total)
    return f"cpu  {user} 0 0 {int(total) - user - stolen} 0 0 0 {stolen} 0 0\nctxt {int(5000 * at_s)}\nprocs_running 1\n"


def arm_cpuinfo(cores: int, part: str, tail: str = "") -> str:
    block = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimdhp asimddp crc32\nCPU implementer\t: 0x41\n"
    block += "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: " + part + "\nCPU revision\t: 1"
    return "\n\n".join(block.format(i) for i in range(cores)) + "\n\n" + tail


def x86_cpuinfo(cores: int, name: str, *, flags: str) -> str:
    block = "processor\t: {}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 142\nmodel name\t: " + name
    block += "\nstepping\t: 10\nmicrocode\t: 0xf4\ncpu MHz\t\t: 2596.122\nflags\t\t: " + flags
    return "\n\n".join(block.format(i) for i in range(cores)) + "\n"


def laptop() -> dict[str, str]:
    """An x86 laptop of four cores with two threads each, on its battery."""
    siblings = {f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}\n" for i in range(8)}
    flags = "fpu sse4_2 avx avx2 fma f16c"
    return {
        **system(8, kernel="6.1.0-18-amd64", machine="x86_64", memory_kb=7_900_000),
        "proc/cpuinfo": x86_cpuinfo(8, "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz", flags=flags),
        **siblings,
        **per_core(
            8,
            topology__physical_package_id="0\n",
            cpufreq__scaling_governor="powersave\n",
            cpufreq__scaling_driver="intel_pstate\n",
            cpufreq__scaling_min_freq="400000\n",
            cpufreq__scaling_max_freq="3400000\n",
            cpufreq__cpuinfo_max_freq="3400000\n",
            cpufreq__scaling_cur_freq="3100000\n",
            cpufreq__energy_performance_preference="balance_performance\n",
            thermal_throttle__package_throttle_count="12\n",
            thermal_throttle__core_throttle_count="3\n",
        ),
        f"{CPU}/cpu0/cache/index0/level": "1\n",
        f"{CPU}/cpu0/cache/index0/type": "Data\n",
        f"{CPU}/cpu0/cache/index0/size": "32K\n",
        f"{CPU}/cpu0/cache/index1/level": "2\n",
        f"{CPU}/cpu0/cache/index1/type": "Unified\n",
        f"{CPU}/cpu0/cache/index1/size": "256K\n",
        f"{CPU}/intel_pstate/no_turbo": "0\n",
        f"{CPU}/smt/control": "on\n",
        f"{CPU}/vulnerabilities/meltdown": "Mitigation: PTI\n",
        f"{CPU}/vulnerabilities/mds": "Vulnerable: Clear CPU buffers attempted, no microcode\n",
        f"{CPU}/vulnerabilities/srbds": "Not affected\n",
        "sys/class/dmi/id/sys_vendor": "LENOVO\n",
        "sys/class/dmi/id/product_name": "20L5CTO1WW\n",
        "sys/class/dmi/id/product_serial": "CANARY-serial\n",
        "sys/class/dmi/id/bios_version": "N24ET76W (1.51 )\n",
        "sys/class/dmi/id/bios_date": "02/27/2024\n",
        "sys/firmware/acpi/platform_profile": "balanced\n",
        "sys/class/power_supply/AC/type": "Mains\n",
        "sys/class/power_supply/AC/online": "0\n",
        "sys/class/power_supply/BAT0/type": "Battery\n",
        "sys/class/power_supply/BAT0/status": "Discharging\n",
        "sys/class/power_supply/BAT0/capacity": "81\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "58000\n",
        "sys/class/thermal/cooling_device0/type": "Processor\n",
        "sys/class/thermal/cooling_device0/cur_state": "0\n",
        "sys/class/thermal/cooling_device1/type": "intel_powerclamp\n",
        "sys/class/thermal/cooling_device1/cur_state": "-1\n",
        "sys/class/thermal/cooling_device2/type": "Fan\n",
        "sys/class/thermal/cooling_device2/cur_state": "1\n",
        "sys/class/powercap/intel-rapl:0/name": "package-0\n",
        "sys/class/powercap/intel-rapl:0/energy_uj": "5000000\n",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
        "sys/class/powercap/intel-rapl:0:0/name": "core\n",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "3000000\n",
    }


def pi5(word: str = "0") -> dict[str, str]:
    """A Raspberry Pi 5; `word` is the firmware's throttle word."""
    tail = "Revision\t: d04170\nSerial\t\t: CANARY0123\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    return {
        **system(4, kernel="6.6.31+rpt-rpi-2712", machine="aarch64", memory_kb=8_250_000, group="/init.scope"),
        "proc/cpuinfo": arm_cpuinfo(4, "0xd0b", tail),
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        **{f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i}\n" for i in range(4)},
        **per_core(
            4,
            topology__physical_package_id="0\n",
            cpufreq__scaling_governor="ondemand\n",
            cpufreq__scaling_driver="cpufreq-dt\n",
            cpufreq__scaling_min_freq="1500000\n",
            cpufreq__scaling_max_freq="2400000\n",
            cpufreq__cpuinfo_max_freq="2400000\n",
            cpufreq__scaling_cur_freq="2400000\n",
        ),
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": f"{word}\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "61450\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "3\n",
    }


def jetson() -> dict[str, str]:
    """A Jetson Orin Nano in its 15 W mode."""
    return {
        **system(6, kernel="5.15.148-tegra", machine="aarch64", memory_kb=7_800_000),
        "proc/cpuinfo": arm_cpuinfo(6, "0xd42"),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n",
        "var/lib/nvpmodel/status": "pmode:0000\n",
        **{f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i}\n" for i in range(6)},
        **per_core(
            6,
            topology__physical_package_id="0\n",
            cpufreq__scaling_governor="schedutil\n",
            cpufreq__scaling_driver="tegra194\n",
            cpufreq__scaling_min_freq="729600\n",
            cpufreq__scaling_max_freq="1510400\n",
            cpufreq__cpuinfo_max_freq="1984000\n",
            cpufreq__scaling_cur_freq="1510400\n",
            cpu_capacity="1024\n",
        ),
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "52312\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "53906\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "2\n",
        "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
        "sys/class/thermal/cooling_device1/cur_state": "0\n",
        "sys/class/thermal/cooling_device2/type": "devfreq-17000000.gpu\n",
        "sys/class/thermal/cooling_device2/cur_state": "0\n",
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon1/in1_input": "5000\n",
        "sys/class/hwmon/hwmon1/curr1_input": "1400\n",
        "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    }


def server(cores: int = 64) -> dict[str, str]:
    """The bare machine that containers and virtual machines are on."""
    flags = "fpu sse4_2 avx avx2 fma avx512f avx512_vnni"
    return {
        **system(cores, kernel="5.15.0-105-generic", machine="x86_64", memory_kb=263_000_000),
        "proc/cpuinfo": x86_cpuinfo(cores, "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", flags=flags),
        **{
            f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i % (cores // 2)},{i % (cores // 2) + cores // 2}\n"
            for i in range(cores)
        },
        **per_core(cores, topology__physical_package_id="0\n"),
    }


def container_v2() -> dict[str, str]:
    """A container that may use 2 of 64 processors, by control groups of version 2."""
    return {
        **server(),
        ".dockerenv": "",
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/cpu.max": "200000 100000\n",
        "sys/fs/cgroup/cpu.weight": "79\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5000000\nnr_periods 100\nnr_throttled 0\nthrottled_usec 0\n",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-15\n",
        "sys/fs/cgroup/memory.max": f"{4 << 30}\n",
    }


def container_v1() -> dict[str, str]:
    """The same with version 1."""
    return {
        **server(),
        "proc/self/cgroup": "12:memory:/docker/ab12\n5:cpuset:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n1:name=systemd:/x\n",
        "proc/self/mountinfo": (
            "40 30 0:31 /docker/ab12 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
            "41 30 0:32 /docker/ab12 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
            "42 30 0:33 /docker/ab12 /sys/fs/cgroup/cpuset ro,nosuid - cgroup cgroup rw,cpuset\n"
        ),
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.shares": "1024\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 100\nnr_throttled 0\nthrottled_time 0\n",
        "sys/fs/cgroup/cpuset/cpuset.cpus": "0-15\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 << 30}\n",
    }


def virtual() -> dict[str, str]:
    """A virtual machine of two processors whose neighbours want them too."""
    flags = "fpu avx2 fma hypervisor"
    return {
        **system(2, kernel="5.10.0-28-cloud-amd64", machine="x86_64", memory_kb=4_000_000),
        "proc/cpuinfo": x86_cpuinfo(2, "Intel(R) Xeon(R) CPU @ 2.20GHz", flags=flags),
        **{f"{CPU}/cpu{i}/topology/thread_siblings_list": "0-1\n" for i in range(2)},
        "sys/class/dmi/id/sys_vendor": "Google\n",
        "sys/class/dmi/id/product_name": "Google Compute Engine\n",
    }


def gpu_server() -> dict[str, str]:
    """A server with a GPU; `nvidia-smi` answered as recorded here."""
    facts = (
        "NVIDIA H200, 575.57.08, 143771, 9.0, 96.00.A5.00.01, GPU-CANARY-uuid, Enabled, Disabled, Default, Enabled, 700.00, "
        "1980, 3201, [N/A], 5, 16\n"
    )
    return {
        **server(32),
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08\n",
        "commands/nvidia-smi.facts": facts,
        "commands/nvidia-smi.samples": "1980, 3201, 312.50, 41, 0x0000000000000000\n",
    }

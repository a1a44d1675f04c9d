"""Host facts are read from recorded trees of /proc and /sys, so that they are the same on every machine."""

import math
import os
import re
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekd
from edgekd.core import host
from edgekd.core.machine import files, processors
from edgekd.core.records import DeviceFacts

GIB = 1 << 30
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def cores(logical: int, *, smt: int = 1, **per_core: str) -> dict[str, str]:
    """Return the /sys and /proc files of a machine whose core i shares its silicon with i + logical / smt."""
    physical = logical // smt
    files = {"sys/devices/system/cpu/online": f"0-{logical - 1}\n"}
    for cpu in range(logical):
        first = cpu % physical
        siblings = ",".join(str(first + physical * i) for i in range(smt))
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{siblings}\n"
        for name, text in per_core.items():
            files[f"sys/devices/system/cpu/cpu{cpu}/{name}"] = text
    return files


def x86_cpuinfo(logical: int, name: str) -> str:
    return "\n\n".join(f"processor\t: {i}\nmodel name\t: {name}\nflags\t\t: fpu vme" for i in range(logical)) + "\n"


def allowed(cpus: str) -> str:
    return f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0\n"


BARE = {
    "proc/cpuinfo": x86_cpuinfo(8, "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz"),
    "proc/meminfo": "MemTotal:        8000000 kB\nMemFree:          300000 kB\n",
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "proc/sys/kernel/ostype": "Linux\n",
    "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
    "proc/sys/kernel/arch": "x86_64\n",
    "proc/self/status": allowed("0-7"),
    "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
    "proc/self/mountinfo": "22 27 0:21 / /proc rw - proc proc rw\n" + V2_MOUNT,
    "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/user-1000.slice/memory.max": "max\n",
    **cores(8, smt=2),
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
}
BIG_HOST = {
    "proc/cpuinfo": x86_cpuinfo(64, "AMD EPYC 7543"),
    "proc/meminfo": "MemTotal:       263000000 kB\n",
    "proc/loadavg": "31.00 20.00 10.00 5/900 77\n",
    "proc/self/status": allowed("0-63"),
    **cores(64, smt=2),
}
V2_CONTAINER = BIG_HOST | {
    ".dockerenv": "",
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": V2_MOUNT,
    "sys/fs/cgroup/cpu.max": "200000 100000\n",
    "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
}
V1_CONTAINER = BIG_HOST | {
    "proc/self/cgroup": "12:memory:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n1:name=systemd:/docker/ab12\n0::/\n",
    "proc/self/mountinfo": (
        "40 30 0:31 /docker/ab12 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
        "41 30 0:32 /docker/ab12 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
        "42 30 0:33 /docker/ab12 /sys/fs/cgroup/systemd ro - cgroup systemd rw,name=systemd\n"
    ),
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
}
PI = {
    "proc/cpuinfo": (
        "\n\n".join(f"processor\t: {i}\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd08" for i in range(4))
        + "\n\nRevision\t: c03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
    ),
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/meminfo": "MemTotal:        3884376 kB\n",
    "proc/loadavg": "0.08 0.03 0.01 1/120 900\n",
    "proc/sys/kernel/ostype": "Linux\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8\n",
    "proc/sys/kernel/arch": "aarch64\n",
    "proc/self/status": allowed("0-3"),
    "proc/self/cgroup": "0::/init.scope\n",
    "proc/self/mountinfo": V2_MOUNT,
    **cores(4, **{"cpufreq/scaling_governor": "ondemand\n"}),
}


def test_bare_machine(tmp_path: Path) -> None:
    """A machine without limits is described whole, and its hyper-threads are not counted as cores."""
    facts = host.device_facts("desk", root=lay(tmp_path, BARE))
    python = facts.python
    assert facts == DeviceFacts(
        name="desk",
        system="Linux 6.1.0-18-amd64",
        machine="x86_64",
        cpu="Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz",
        logical_cores=8,
        physical_cores=4,
        affinity_cores=8,
        usable_cores=4,
        cgroup_quota_cores=None,
        memory_bytes=8_000_000 * 1024,
        governor="powersave",
        load_1min=0.52,
        python=python,
        container=None,
    )
    assert re.fullmatch(r"\w+ \d+\.\d+\.\d+\S*", python)


@pytest.mark.parametrize(
    ("files", "memory_bytes"),
    [pytest.param(V2_CONTAINER, 4 * GIB, id="v2"), pytest.param(V1_CONTAINER, 2 * GIB, id="v1")],
)
def test_container_with_two_cpus_of_64(tmp_path: Path, files: dict[str, str], memory_bytes: int) -> None:
    """Inside a quota of 2 CPUs on a host of 64, two cores are usable, with either version of control groups."""
    facts = host.device_facts(root=lay(tmp_path, files))
    assert (facts.logical_cores, facts.physical_cores, facts.affinity_cores) == (64, 32, 64)
    assert facts.cgroup_quota_cores == 2.0
    assert facts.usable_cores == host.usable_cores(root=tmp_path) == 2
    assert facts.memory_bytes == memory_bytes
    assert facts.container == "docker"
    assert facts.load_1min == 31.0


def test_raspberry_pi(tmp_path: Path) -> None:
    """On an Arm board the board and its cores are named, since /proc/cpuinfo has no model name there."""
    facts = host.device_facts("pi", root=lay(tmp_path, PI))
    assert facts.cpu == "Raspberry Pi 4 Model B Rev 1.4 (Cortex-A72)"
    assert (facts.machine, facts.governor, facts.usable_cores) == ("aarch64", "ondemand", 4)
    assert facts.memory_bytes == 3884376 * 1024


def test_board_named_in_cpuinfo_only(tmp_path: Path) -> None:
    """Without a device tree the board's name comes from the last block of /proc/cpuinfo; unknown cores are left unnamed."""
    text = "processor\t: 0\nCPU part\t: 0xfff\n\nModel\t\t: Board X\n"
    assert host.device_facts(root=lay(tmp_path, {"proc/cpuinfo": text})).cpu == "Board X"


def test_big_little_names_both_kinds_of_cores(tmp_path: Path) -> None:
    """Two kinds of cores and two governors are both named."""
    cpuinfo = "processor\t: 0\nCPU part\t: 0xd03\n\nprocessor\t: 1\nCPU part\t: 0xd08\n"
    governors = {
        f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_governor": g for i, g in enumerate(("schedutil", "performance"))
    }
    facts = host.device_facts(root=lay(tmp_path, {"proc/cpuinfo": cpuinfo, **governors}))
    assert facts.cpu == "Cortex-A53 + Cortex-A72"
    assert facts.governor == "performance,schedutil"
    assert facts.logical_cores == 2


def test_nothing_to_read(tmp_path: Path) -> None:
    """Where nothing can be read everything is None, and one core is usable."""
    facts = host.device_facts(root=tmp_path)
    unknown = {name for name, value in facts.model_dump().items() if value is None}
    assert unknown == {
        "cpu",
        "logical_cores",
        "physical_cores",
        "affinity_cores",
        "cgroup_quota_cores",
        "memory_bytes",
        "governor",
        "load_1min",
        "container",
    }
    assert facts.usable_cores == 1
    assert facts.system.strip()
    assert facts.machine


def test_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without /proc the interpreter's count of processors stands in."""
    monkeypatch.setattr(processors, "CPUS", "no/such/folder")
    monkeypatch.setattr(files, "text", lambda path: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert host.device_facts().logical_cores == 6
    assert host.usable_cores() == 6


def test_this_machine() -> None:
    """The facts of the machine at hand are a valid record and agree with the operating system."""
    facts = host.device_facts()
    assert DeviceFacts.model_validate_json(facts.model_dump_json()) == facts
    assert 1 <= facts.usable_cores <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert facts.affinity_cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "physical"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"proc/cpuinfo": "processor\t: 0\nmodel name\t: X\n"}, None, id="no-core-id"),
        pytest.param(
            {"proc/cpuinfo": "\n\n".join(f"processor : {i}\nphysical id : {i // 4}\ncore id : {i % 4 // 2}" for i in range(8))},
            4,
            id="two-sockets-of-two-cores-with-smt",
        ),
    ],
)
def test_physical_cores_without_sysfs(tmp_path: Path, files: dict[str, str], physical: int | None) -> None:
    """Without a topology in /sys the core ids of /proc/cpuinfo are counted, socket by socket."""
    assert host.device_facts(root=lay(tmp_path, files)).physical_cores == physical


@pytest.mark.parametrize("cpus", ["", "0-", "a-b", "3-1", "0x3", "0,,1"])
def test_malformed_affinity_is_unknown(tmp_path: Path, cpus: str) -> None:
    """A list of processors that makes no sense is unknown, not an error."""
    assert host.device_facts(root=lay(tmp_path, {"proc/self/status": allowed(cpus)})).affinity_cores is None


# ----------------------------------------------------------------------------------------------------------- quotas
def v2(own: str, limits: dict[str, str], *, mount: str = V2_MOUNT) -> dict[str, str]:
    files = {f"sys/fs/cgroup{group}/cpu.max": text for group, text in limits.items()}
    return {"proc/self/cgroup": f"0::{own}\n", "proc/self/mountinfo": mount, **files}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param(v2("/a/b/c", {"/a": "300000 100000", "/a/b": "max 100000"}), 3.0, id="ancestor"),
        pytest.param(v2("/a/b", {"/a": "300000 100000", "/a/b": "50000 100000"}), 0.5, id="own-is-smaller"),
        pytest.param(v2("/a", {"/other": "50000 100000"}), None, id="a-neighbour's-does-not-count"),
        pytest.param(v2("/../x", {"": "150000 100000", "/x": "50000 100000"}), 1.5, id="outside-of-the-namespace"),
        pytest.param(v2("/", {"": "max 100000"}), None, id="no-limit"),
        pytest.param(v2("/", {"": "rubbish"}), None, id="rubbish"),
        pytest.param(v2("/", {"": "100000 0"}), None, id="no-period"),
        pytest.param(v2("/", {"": "-5 100000"}), None, id="negative"),
        pytest.param(v2("/", {"": "nan inf"}), None, id="not-finite"),
        pytest.param(v2("/", {"": "200000 100000"}, mount=""), None, id="not-mounted"),
        pytest.param(v2("/", {"": "200000 100000"}, mount="too short - cgroup2\n"), None, id="malformed-mount"),
        pytest.param(
            v2("/k/pod", {}, mount=r"30 24 0:26 /k /run/a\040b rw - cgroup2 cgroup2 rw" + "\n")
            | {"run/a b/pod/cpu.max": "400000 100000\n"},
            4.0,
            id="mounted-part-and-a-space-in-its-path",
        ),
        pytest.param(V1_CONTAINER | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, None, id="v1-without-limit"),
        pytest.param(V1_CONTAINER | {"proc/self/cgroup": "4:cpu,cpuacct:/elsewhere\n"}, 2.0, id="v1-path-outside-of-the-mount"),
        pytest.param(V1_CONTAINER | {"proc/self/cgroup": "12:memory:/docker/ab12\n"}, None, id="v1-no-cpu-controller"),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    """The smallest quota on the way up counts; what cannot be read or makes no sense is no quota."""
    assert host.device_facts(root=lay(tmp_path, files)).cgroup_quota_cores == quota


@pytest.mark.parametrize(("quota", "usable"), [(30_000, 1), (190_000, 1), (200_000, 2), (399_999, 3), (900_000, 4)])
def test_a_part_of_a_core_is_no_core(tmp_path: Path, quota: int, usable: int) -> None:
    """A quota of 1.9 cores makes one thread, one of 0.3 cores too; of 9 cores no more are used than there are."""
    assert host.usable_cores(root=lay(tmp_path, cores(4) | v2("/", {"": f"{quota} 100000"}))) == usable


@settings(max_examples=50)
@given(
    quotas=st.lists(
        st.one_of(st.none(), st.tuples(st.integers(1, 2_500_000), st.sampled_from([50_000, 100_000, 1_000_000]))), max_size=4
    ),
    logical=st.integers(1, 12),
    smt=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_usable_cores_are_the_floor_of_the_smallest_limit(
    quotas: list[tuple[int, int] | None], logical: int, smt: int, data: st.DataObject
) -> None:
    """Usable cores are max(1, floor(min(quotas on the way up, affinity, physical cores))), in exact arithmetic."""
    mask = data.draw(st.sets(st.integers(0, logical * smt - 1), min_size=1))
    groups = ["/" + "/".join("abcd"[: depth + 1]) for depth in range(len(quotas))]
    limits = {
        group: "max 100000" if quota is None else f"{quota[0]} {quota[1]}" for group, quota in zip(groups, quotas, strict=True)
    }
    files = cores(logical * smt, smt=smt) | v2(groups[-1] if groups else "/", limits)
    files["proc/self/status"] = allowed(",".join(map(str, sorted(mask))))
    smallest = min([Fraction(*quota) for quota in quotas if quota] + [Fraction(len(mask)), Fraction(logical)])
    with tempfile.TemporaryDirectory() as folder:
        assert host.usable_cores(root=lay(Path(folder), files)) == max(1, math.floor(smallest))


@given(st.sets(st.integers(0, 300), min_size=1))
def test_kernel_lists(cores_set: set[int]) -> None:
    """A list of processors is read whether it is written as single numbers or as ranges."""
    singles = ",".join(map(str, sorted(cores_set)))
    low, high = min(cores_set), max(cores_set)
    assert files.listed(singles) == cores_set
    assert files.listed(f"{low}-{high}") == set(range(low, high + 1))


# ------------------------------------------------------------------------------------------------------------ memory
@pytest.mark.parametrize(
    ("files", "memory_bytes"),
    [
        pytest.param({"proc/meminfo": "MemTotal: 1000 kB\n"}, 1_024_000, id="machine-only"),
        pytest.param(
            {"proc/meminfo": "MemTotal: 1000 kB\n", **v2("/", {}), "sys/fs/cgroup/memory.max": "5000000\n"},
            1_024_000,
            id="limit-above-the-machine",
        ),
        pytest.param({**v2("/", {}), "sys/fs/cgroup/memory.max": "9223372036854771712\n"}, None, id="version-1's-no-limit"),
        pytest.param({"proc/meminfo": "rubbish"}, None, id="rubbish"),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], memory_bytes: int | None) -> None:
    """Memory is the smaller of what the machine has and what the control groups allow."""
    assert host.device_facts(root=lay(tmp_path, files)).memory_bytes == memory_bytes


@pytest.mark.parametrize(
    ("files", "engine"),
    [
        ({"run/.containerenv": ""}, "podman"),
        ({".dockerenv": "", "run/secrets/kubernetes.io/token": "x"}, "kubernetes"),
        ({"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
        ({"proc/self/cgroup": "0::/kubepods.slice/pod1\n"}, "kubernetes"),
        ({"proc/1/cgroup": "4:cpu:/lxc/box\n"}, "lxc"),
        ({"proc/self/cgroup": "0::/system.slice/docker.service\n"}, None),
    ],
)
def test_container(tmp_path: Path, files: dict[str, str], engine: str | None) -> None:
    """A container is known by the marks its engine leaves; the engine's own service is not in one."""
    assert host.device_facts(root=lay(tmp_path, files)).container == engine


def test_unreadable_files_are_unknown(tmp_path: Path) -> None:
    """A folder where a file should be, or bytes that are no text, are unknown, not an error."""
    (tmp_path / "proc/loadavg").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_bytes(b"\xff\xfe\x00MemTotal")
    facts = host.device_facts(root=tmp_path)
    assert (facts.load_1min, facts.memory_bytes) == (None, None)


# ----------------------------------------------------------------------------------------------------------- made by
@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", "/home/ada")
    return "/home/ada"


def test_made_by_says_version_command_and_utc_time(home: str, tmp_path: Path) -> None:
    """The record's maker is this edgekd, the command as a shell would take it, and the time in UTC."""
    maker = host.made_by(["edgekd", "run", "my recipe.yaml"], folder=tmp_path)
    assert maker.version == edgekd.__version__
    assert maker.command == "edgekd run 'my recipe.yaml'"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", maker.at)
    assert host.made_by(None, folder=tmp_path).command == ""


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("/home/ada/run/a.yaml", "~/run/a.yaml"),
        ("--out=/home/ada", "--out=~"),
        ("/home/adam/x", "/home/adam/x"),
        ("/mnt/home/ada/x", "/mnt/home/ada/x"),
        ("data.root=/home/ada/a b", "'data.root=~/a b'"),
    ],
)
def test_home_folder_is_not_recorded(home: str, tmp_path: Path, argument: str, written: str) -> None:
    """The home folder is written `~`, and only the home folder."""
    assert host.made_by([argument], folder=tmp_path).command == written


def test_root_as_home_hides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder of `/` does not turn every slash into `~`."""
    monkeypatch.setenv("HOME", "/")
    assert host.made_by(["/a/b"], folder=tmp_path).command == "/a/b"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    told = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return told.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a commit hook that runs the tests sets GIT_DIR
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "a.txt").write_text("one")
    git(folder, "add", "a.txt")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "v1")
    return folder


def test_git_state(repository: Path) -> None:
    """The commit is named whole, tags or not; changes to tracked files are `-dirty`, new files are not."""
    commit = git(repository, "rev-parse", "HEAD")
    assert host.made_by(None, folder=repository).git == commit
    (repository / "new.txt").write_text("run folder")
    assert host.made_by(None, folder=repository).git == commit
    (repository / "a.txt").write_text("two")
    assert host.made_by(None, folder=repository).git == f"{commit}-dirty"


def test_git_state_of_the_current_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder the current one is looked at."""
    monkeypatch.chdir(repository)
    assert host.made_by(None).git == git(repository, "rev-parse", "HEAD")


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a repository, without git, or where git hangs, the state is empty."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert host.made_by(None, folder=tmp_path).git == ""
    monkeypatch.setattr(host, "GIT_TIMEOUT_S", 0.0)
    assert host.made_by(None, folder=tmp_path).git == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.made_by(None, folder=tmp_path).git == ""

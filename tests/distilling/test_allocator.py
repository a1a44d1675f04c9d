"""Memory is kept between steps, unless the user has said how."""

import platform
import subprocess
import sys

import pytest

from edgekd.distilling import allocator

PROGRAM = """
import resource, sys
import numpy as np
from edgekd.distilling.allocator import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def step():
    blocks = [np.ones(1 << 20) for _ in range(8)]  # 8 MB each, as large activations are
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[bool, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "1", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what this is about")
def test_freed_blocks_are_not_faulted_in_again() -> None:
    """Twenty steps over the same blocks fault at most a tenth as many pages when memory is kept."""
    kept, few = faults("keep")
    _, many = faults("plain")
    assert kept
    assert few * 10 <= many


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_TRIM_THRESHOLD_"])
def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whoever sets an allocator or its settings keeps them."""
    monkeypatch.setenv(name, "x")
    assert not allocator.keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc nothing is called."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()

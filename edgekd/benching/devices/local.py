"""The machine that edgekd runs on: every worker is a fresh process of its own, one after the other."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgekd.benching.local_bench import LocalBench
from edgekd.core import host
from edgekd.core.contracts import Device, Workbench
from edgekd.core.records import DeviceFacts


class Local(Device):
    """This machine: fresh processes one after the other, threads bound to the cores it may use.

    `name` goes into the record and the file name. One process at a time measures here, whether it came by ssh or not; where
    several have cores of their own, EDGEKD_LOCAL_LEASE names what they do not share.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "local"

    def known_as(self) -> str:
        """Return its name."""
        return self.name

    def facts(self) -> DeviceFacts:
        """Return what is known of this machine now."""
        return host.device_facts(self.name)

    def default_threads(self) -> int:
        """Return the usable cores, or OMP_NUM_THREADS if that asks for fewer."""
        cores, asked = host.usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
        return min(cores, int(asked)) if asked.isascii() and asked.isdigit() and int(asked) > 0 else cores

    @contextmanager
    def ready(self) -> Iterator[Workbench]:
        """Lease the machine and make a temporary folder for what workers need; both are gone afterwards.

        Raises `MachineError` naming who measures here already.
        """
        from edgekd.benching.local_lease import leased

        name = os.environ.get("EDGEKD_LOCAL_LEASE") or "edgekd"
        with leased(name), tempfile.TemporaryDirectory(prefix="edgekd-bench-") as root:
            yield LocalBench(Path(root), self.facts())

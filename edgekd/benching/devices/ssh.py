"""Another machine, reached over ssh: it needs Python 3.9, numpy and the runtime, and nothing of edgekd.

Set it up with `edgekd device trust`, `edgekd device setup` and `edgekd device check`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field, field_validator

from edgekd.benching.remote.address import HOST, PYTHON, USER, Address
from edgekd.benching.remote.bench import Manner, RemoteBench
from edgekd.benching.remote.facts import device_facts
from edgekd.core.config import FilePath
from edgekd.core.contracts import Device, Workbench
from edgekd.core.records import DeviceFacts

# What is open in this process, by device: whoever asks for facts meanwhile is answered over the connection that is there.
_OPEN: dict[Address, RemoteBench] = {}


class Ssh(Device):
    """Another machine, over ssh; `host` as ssh knows it. It needs Python 3.9, numpy and the runtime.

    `user`, `port`, `key` (a private key's file) and `config` (another ssh_config) are for ssh, which reads its own files too.
    `name` goes into the record and the file name (default: the host). `python` starts the agent there; workers run by the same,
    or by the virtual environment below `root` that `edgekd device setup` makes. `heartbeat_s`: after so long without a sign of
    life either side gives the other up, and what was started on the device is ended. `reconnect_s`: how long another connection
    is tried for then. `lease_s`: the longest time that the device is kept from others.
    """

    host: Annotated[str, Field(pattern=HOST)]
    user: Annotated[str, Field(pattern=USER)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    key: FilePath | None = None
    config: FilePath | None = None
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    python: Annotated[str, Field(pattern=PYTHON)] = "python3"
    root: Annotated[str, Field(min_length=1, max_length=1024)] = "~/.edgekd"
    heartbeat_s: Annotated[float, Field(ge=0.5, le=600)] = 30.0
    reconnect_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    lease: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "edgekd"
    lease_s: Annotated[float, Field(gt=0)] = 12 * 3600.0

    @field_validator("root")
    @classmethod
    def _no_control_characters(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("a path on the device, without control characters")
        return value

    @property
    def address(self) -> Address:
        """Return where it is reached."""
        return Address(host=self.host, user=self.user, port=self.port, key=self.key, config=self.config)

    def known_as(self) -> str:
        """Return its name, or what of the host can stand in a file's name."""
        return self.name or re.sub(r"[^A-Za-z0-9._-]", "-", self.host).strip("-._") or "ssh"

    def identity(self) -> dict[str, Any]:
        """Return what its results depend on: which machine, which Python; not how it is reached."""
        options = self.model_dump(mode="json", include={"host", "user", "port", "name", "python", "root"})
        return {"use": self.ref().use, "options": options}

    def facts(self) -> DeviceFacts:
        """Return what is known of the machine now."""
        with self._at_hand() as bench:
            return device_facts(bench.fingerprint(), name=self.known_as())

    def default_threads(self) -> int:
        """Return the machine's usable cores."""
        return self.facts().usable_cores

    @contextmanager
    def ready(self) -> Iterator[Workbench]:
        """Lease the machine until the context is left.

        Raises `MachineError` if it cannot be reached, or is in use (by whom, for how long), `IntegrityError` if its host key is
        not the trusted one.
        """
        with self._opened("bench") as bench:
            yield bench

    def manner(self, purpose: str) -> Manner:
        """Return how it is used."""
        return Manner(
            address=self.address,
            python=self.python,
            root=self.root,
            heartbeat_s=self.heartbeat_s,
            reconnect_s=self.reconnect_s,
            lease=self.lease,
            lease_s=self.lease_s,
            purpose=purpose,
        )

    @contextmanager
    def _at_hand(self) -> Iterator[RemoteBench]:
        if self.address in _OPEN:
            yield _OPEN[self.address]
            return
        with self._opened("facts") as bench:
            yield bench

    @contextmanager
    def _opened(self, purpose: str) -> Iterator[RemoteBench]:
        with RemoteBench(self.manner(purpose)) as bench:
            _OPEN[self.address] = bench
            try:
                yield bench
            finally:
                _OPEN.pop(self.address, None)

"""One process at a time measures on this machine: the lease that agents take for those who come over ssh."""

import os
import secrets
import selectors
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgekd.benching.remote.agent.lease import Lease
from edgekd.benching.remote.agent.refusals import Refusal
from edgekd.benching.remote.bench import owner
from edgekd.benching.remote.failures import in_use
from edgekd.core.errors import MachineError

LEASE_S = 24 * 3600.0


@contextmanager
def leased(name: str) -> Iterator[None]:
    """Keep others from measuring here, and tell those who try who does; where there is no lease (not on Linux), go without."""
    if sys.platform != "linux":
        yield
        return
    told = {"owner": f"{owner()}, process {os.getpid()}", "purpose": "bench"}
    try:
        lease = Lease(name, secrets.token_hex(16), told, lease_s=LEASE_S)
    except Refusal as refusal:
        if refusal.kind != "busy":
            raise MachineError(refusal.message) from refusal
        raise in_use("this machine", refusal.told) from refusal
    ended, end = os.pipe()

    def answer() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(lease.listener, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while all(key.fileobj is lease.listener for key, _ in selector.select()):
                lease.visited()

    porter = threading.Thread(target=answer, daemon=True)
    porter.start()
    try:
        yield
    finally:
        os.close(end)
        porter.join()
        os.close(ended)
        lease.listener.close()

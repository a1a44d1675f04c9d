"""Fault schedules over ssh: a session of a few workers with harm done to it at seeded moments, and what came of it.

Used by the tests and by `benchmarks/ssh_faults.py`; the module beside it is loaded by whoever uses this one.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.benching.remote.address import Address
from edgekd.benching.remote.bench import Manner, RemoteBench
from edgekd.benching.remote.connection import Connection
from edgekd.core.errors import MachineError

STEPS = ("hello", "held", "put", "chunk", "folder", "telemetry", "work", "run", "bye")
WHEN = ("before", "during", "after")
WORKERS = 3
HEARTBEAT_S = 1.0
HANG_S = 60.0


@dataclass(frozen=True)
class Fault:
    """What happens to the connection, and when: at the n-th request of a kind, or after so many bytes of a new connection."""

    kind: str
    step: str
    when: str = "before"
    nth: int = 1
    after_bytes: int = 0


@dataclass
class Outcome:
    """What came of one schedule."""

    seed: int
    faults: list[dict[str, Any]]
    ended: str = "hung"  # "resumed", "clean" (nothing was lost), "refused" (MachineError), or "hung"
    seconds: float = 0.0
    losses: int = 0
    right: int = 0
    wrong: int = 0
    overlapping: int = 0
    orphans: int = 0
    message: str = ""


def drawn(seed: int, kinds: tuple[str, ...]) -> list[Fault]:
    """Return the faults of a schedule: one to three, each anywhere."""
    dice = random.Random(seed)
    faults = []
    for _ in range(dice.choice((1, 1, 2, 3))):
        kind = dice.choice(kinds)
        if dice.random() < 0.2:
            faults.append(
                Fault(kind=kind if kind != "refuse" else "cut", step="connect", after_bytes=dice.randrange(1, 40_000))
            )
        else:
            step = dice.choice(STEPS)
            most = {"work": WORKERS, "chunk": 3, "put": 2}.get(step, 1)
            faults.append(Fault(kind=kind, step=step, when=dice.choice(WHEN), nth=dice.randint(1, most)))
    return faults


class HarmedBench(RemoteBench):
    """A bench whose connection is harmed at certain requests."""

    def __init__(self, manner: Manner, faults: list[Fault], harm: Callable[[str], None]) -> None:
        super().__init__(manner)
        self._faults = list(faults)
        self._harm = harm
        self._counts: dict[str, int] = {}
        self._timers: list[threading.Timer] = []

    def _request(self, connection: Connection, do: str, fields: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        self._counts[do] = self._counts.get(do, 0) + 1
        self._now(do, "before")
        for fault in self._taken(do, "during"):
            timer = threading.Timer(0.03, self._harm, [fault.kind])
            timer.daemon = True
            timer.start()
            self._timers.append(timer)
        told = super()._request(connection, do, fields, **more)
        self._now(do, "after")
        return told

    def __exit__(self, *trace: object) -> None:
        self._counts["bye"] = 1
        self._now("bye", "before")
        self._now("bye", "during")
        super().__exit__(*trace)
        for timer in self._timers:
            timer.join()

    def _now(self, do: str, when: str) -> None:
        for fault in self._taken(do, when):
            self._harm(fault.kind)

    def _taken(self, do: str, when: str) -> list[Fault]:
        found = [one for one in self._faults if one.step == do and one.when == when and one.nth <= self._counts[do]]
        self._faults = [one for one in self._faults if one not in found]
        return found


def run_schedule(seed: int, faults: list[Fault], *, world: Any, loopback: Any, folder: Path, python: str) -> Outcome:
    """Do one schedule; `world` is the module with the proxy, `loopback` an sshd, `folder` is empty and its own."""
    outcome = Outcome(seed=seed, faults=[asdict(one) for one in faults])
    proxy = world.FaultyProxy(loopback.port)
    lease = f"faults-{folder.name}"
    done = threading.Thread(target=_session, args=(outcome, faults, proxy, world, loopback, folder, lease, python), daemon=True)
    start_s = time.monotonic()
    done.start()
    done.join(HANG_S)
    outcome.seconds = round(time.monotonic() - start_s, 2)
    # The proxy still stands, so a half-open connection is still half open: the watchdog alone must see to it.
    world.wait_until(lambda: not world.leased(lease) and not world.marked(lease), within_s=3 * HEARTBEAT_S + 5)
    outcome.orphans = len(world.marked(lease)) + world.leased(lease)
    proxy.close()
    return outcome


def _session(
    outcome: Outcome, faults: list[Fault], proxy: Any, world: Any, loopback: Any, folder: Path, lease: str, python: str
) -> None:
    for fault in faults:
        if fault.step == "connect":
            proxy.after(fault.after_bytes, fault.kind)
    worker, model = folder / "worker.py", folder / "model.bin"
    worker.write_text(world.FAST_WORKER)
    model.write_bytes(random.Random(outcome.seed).randbytes(400_000))
    config = loopback.config_for(proxy.port, f"ssh_config-{folder.name}")
    manner = Manner(
        address=Address(host=world.HOST, config=config),
        python=python,
        root=str(folder / "root"),
        heartbeat_s=HEARTBEAT_S,
        reconnect_s=10.0,
        lease=lease,
        lease_s=120.0,
        purpose="faults",
        worker=worker,
        probe=world.FAST_PROBE,
    )
    bench = HarmedBench(manner, faults, proxy.harm)
    try:
        with bench:
            place = bench.bring({"model.bin": model, "runner.py": worker})
            with bench.telemetry():
                for number in range(WORKERS):
                    nonce = 1000 * outcome.seed + number
                    plan = {"runner": "runner.py", "folder": place, "files": ["model.bin"], "nonce": nonce, "sleep_s": 0.08}
                    answer = bench.work(plan, timeout_s=20)
                    right = answer["value"] == 7919 * nonce + 400_000
                    outcome.right += right
                    outcome.wrong += not right
                    outcome.overlapping += not answer["alone"]
            assert bench.fingerprint().fields == {"usable_cores": 1}
        outcome.ended = "resumed" if bench.losses else "clean"
    except MachineError as error:
        outcome.ended, outcome.message = "refused", error.message
    outcome.losses = bench.losses

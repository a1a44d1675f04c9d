"""How long a block of a network takes, or a whole one, on a device: what a search is told about latency.

Blocks go the way that artifacts go in `edgekd bench`, exported by a backend and run by a fresh worker process on the device,
but each once and for few inferences, several in turns, with pieces beside them that tell how fast the machine was meanwhile.
Such a figure ranks and predicts; what a gate judges is measured by `edgekd bench` itself.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean, median, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekd.core import contracts, latency
from edgekd.core.host import device_facts
from edgekd.core.records import BlockLatency, InputContract, digest_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgekd.core.search_contracts import Piece

_WARM_UP = 10
_TIMEOUT_S = 600.0
_QUICKLY_TRACED_OPSET = 17  # torch's older exporter writes it, in a twentieth of the time that the newer one takes
_INPUTS, _RUNNER = "edgekd_inputs.npy", "edgekd_runner.py"
_WHOSE = "a block of the latency table"


class Stopwatch:
    """Times modules through a backend, on a device in processes of their own, or without a device in this process.

    `ready` makes the device ready for as long as it is open; without it every call does so for itself.
    """

    def __init__(self, backend: contracts.Backend, device: contracts.Device | None, *, threads: int, iterations: int) -> None:
        self.backend, self.threads, self._iterations, self._device = backend.ref(), threads, iterations, device
        own: dict[str, Any] = {"batch": 1, "opset": _QUICKLY_TRACED_OPSET}
        asked = {name: value for name, value in own.items() if name in type(backend).model_fields}
        self._backend = backend.model_copy(update=asked)
        self._bench: contracts.Workbench | None = None
        self._beside: list[_Exported] = []
        self.runtime = ", ".join(f"{name} {metadata.version(name)}" for name in backend.packages()) or backend.ref().use
        facts = device_facts() if device is None else device.facts()
        self.device = facts.name
        self.identity = {
            "backend": digest_of(backend.identity()),
            "runtime": self.runtime,
            "device": f"{facts.machine} {facts.cpu} {facts.physical_cores}",
            "through": "this process" if device is None else digest_of(device.identity()),
            "iterations": str(iterations),
        }

    @contextmanager
    def ready(self, *beside: "Piece") -> Iterator[None]:
        """Make the device ready for several modules; `beside` take turns with each of them."""
        if self._device is None or self._bench is not None:
            yield
            return
        with self._device.ready() as bench, TemporaryDirectory() as name:
            self._bench = bench
            self._beside = [self._exported(piece, Path(name) / str(number)) for number, piece in enumerate(beside)]
            try:
                yield
            finally:
                self._bench, self._beside = None, []

    def __call__(self, *pieces: "Piece") -> tuple[BlockLatency, ...]:
        """Return median and quartiles of so many inferences of a tensor of noise by each of these modules.

        On a device they take turns, and with them what `ready` was told to have beside them.
        """
        with TemporaryDirectory() as name, self.ready():
            exported = [self._exported(piece, Path(name) / str(number)) for number, piece in enumerate(pieces)]
            if self._bench is None:
                return tuple(_summary(self._here(one)) for one in exported)
            return self._there(self._bench, exported)

    def _exported(self, piece: "Piece", folder: Path) -> "_Exported":
        import torch

        module, input_CHW = piece
        sample_BCHW = torch.rand(1, *input_CHW, generator=torch.Generator().manual_seed(0))
        folder.mkdir()
        files = self._backend.export(_exportable(module, sample_BCHW), folder).files
        return _Exported(folder=folder, files=files, image_BCHW=sample_BCHW.numpy())

    def _here(self, one: "_Exported") -> list[int]:
        took_ns = []
        with self._backend.open(one.folder, one.files, threads=self.threads) as session:
            for _ in range(_WARM_UP):
                session.run(one.image_BCHW)
            for _ in range(self._iterations):
                before_ns = time.perf_counter_ns()
                session.run(one.image_BCHW)
                took_ns.append(time.perf_counter_ns() - before_ns)
        return took_ns

    def _there(self, bench: contracts.Workbench, pieces: "list[_Exported]") -> tuple[BlockLatency, ...]:
        from edgekd.benching.answers import samples_of

        plans = [self._plan(bench, one) for one in (*pieces, *self._beside)]
        answers = bench.work({"whose": _WHOSE, "turns": plans}, timeout_s=_TIMEOUT_S * len(plans))["answers"]
        took_ns = [samples_of(answer, whose=_WHOSE)["infer"][-self._iterations :] for answer in answers]
        turns = [answer.get("turns") or 1 for answer in answers]
        medians_ns = [latency.medians_of_turns(own_ns, count) for own_ns, count in zip(took_ns, turns, strict=True)]
        found, beside_ns = [], medians_ns[len(pieces) :]
        for own_ns, own_medians_ns in zip(took_ns[: len(pieces)], medians_ns, strict=False):
            one = _summary(own_ns.tolist())
            if beside_ns:
                slower = fmean(latency.log_ratios((), (), beside_ns, [own_medians_ns] * len(beside_ns)))
                one = one.model_copy(update={"beside_ms": one.p50_ms / math.exp(slower)})
            found.append(one)
        return tuple(found)

    def _plan(self, bench: contracts.Workbench, one: "_Exported") -> dict[str, Any]:
        import numpy as np

        from edgekd.benching.subjects import environment
        from edgekd.benching.worker import PROTOCOL

        np.save(one.folder / _INPUTS, one.image_BCHW, allow_pickle=False)
        runner = self._backend.runner_file()
        brought = {name: one.folder / name for name in (*one.files, _INPUTS)} | (
            {_RUNNER: runner} if runner is not None else {}
        )
        return {
            "protocol": PROTOCOL,
            "whose": _WHOSE,
            "folder": bench.bring(brought),
            "runner": _RUNNER if runner is not None else None,
            "part": self._backend.ref().model_dump(mode="json"),
            "files": list(one.files),
            "options": self._backend.ref().options | {"spin": True},
            "threads": self.threads,
            "environment": environment(self.threads),
            "inputs": _INPUTS,
            "batch": 1,
            "mode": "single",
            "period_ns": None,
            "warmup": _WARM_UP,
            "iterations": self._iterations,
            "record": None,
            "whole": None,
        }


@dataclass(frozen=True, kw_only=True)
class _Exported:
    folder: Path
    files: Sequence[str]
    image_BCHW: "np.ndarray[Any, Any]"


def _summary(took_ns: Sequence[int]) -> BlockLatency:
    quartiles = quantiles(took_ns, n=4) if len(took_ns) > 1 else [took_ns[0]] * 3
    return BlockLatency(
        p50_ms=median(took_ns) / 1e6, low_ms=quartiles[0] / 1e6, high_ms=quartiles[2] / 1e6, iterations=len(took_ns)
    )


def _exportable(module: "nn.Module", sample_BCHW: Any) -> contracts.Exportable:
    height, width = sample_BCHW.shape[-2:]
    return contracts.Exportable(
        module=module.eval().requires_grad_(requires_grad=False),
        input=InputContract(
            size_px=(height, width), resize_px=height, interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        classes=(),
        metadata={},
        sample_BCHW=sample_BCHW,
    )

"""How long a block of a network takes, or a whole one, on a device: what a search is told about latency.

Blocks go the way that artifacts go in `edgekd bench`, exported by a backend and run by a fresh worker process on the device,
but each once and for few inferences. Such a figure ranks and predicts; what a gate judges is measured by `edgekd bench` itself.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekd.core import contracts
from edgekd.core.host import device_facts
from edgekd.core.records import BlockLatency, InputContract, digest_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_WARM_UP = 10
_TIMEOUT_S = 600.0
_QUICKLY_TRACED_OPSET = 17  # torch's older exporter writes it, in a twentieth of the time that the newer one takes
_INPUTS, _RUNNER = "edgekd_inputs.npy", "edgekd_runner.py"


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
    def ready(self) -> Iterator[None]:
        """Make the device ready for several modules."""
        if self._device is None or self._bench is not None:
            yield
            return
        with self._device.ready() as bench:
            self._bench = bench
            try:
                yield
            finally:
                self._bench = None

    def __call__(self, module: "nn.Module", input_CHW: tuple[int, int, int]) -> BlockLatency:
        """Return median and quartiles of so many inferences of one tensor of noise."""
        import torch

        sample_BCHW = torch.rand(1, *input_CHW, generator=torch.Generator().manual_seed(0))
        with TemporaryDirectory() as name, self.ready():
            folder = Path(name)
            files = self._backend.export(_exportable(module, sample_BCHW), folder).files
            image_BCHW = sample_BCHW.numpy()
            if self._bench is None:
                return self._summary(self._here(folder, files, image_BCHW))
            return self._summary(self._there(self._bench, folder, files, image_BCHW))

    def _here(self, folder: Path, files: Sequence[str], image_BCHW: "np.ndarray[Any, Any]") -> list[int]:
        took_ns = []
        with self._backend.open(folder, files, threads=self.threads) as session:
            for _ in range(_WARM_UP):
                session.run(image_BCHW)
            for _ in range(self._iterations):
                before_ns = time.perf_counter_ns()
                session.run(image_BCHW)
                took_ns.append(time.perf_counter_ns() - before_ns)
        return took_ns

    def _there(
        self, bench: contracts.Workbench, folder: Path, files: Sequence[str], image_BCHW: "np.ndarray[Any, Any]"
    ) -> list[int]:
        import numpy as np

        from edgekd.benching.answers import samples_of
        from edgekd.benching.subjects import environment
        from edgekd.benching.worker import PROTOCOL

        np.save(folder / _INPUTS, image_BCHW, allow_pickle=False)
        runner, whose = self._backend.runner_file(), "a block of the latency table"
        brought = {name: folder / name for name in (*files, _INPUTS)} | ({_RUNNER: runner} if runner is not None else {})
        plan = {
            "protocol": PROTOCOL,
            "whose": whose,
            "folder": bench.bring(brought),
            "runner": _RUNNER if runner is not None else None,
            "part": self._backend.ref().model_dump(mode="json"),
            "files": list(files),
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
        samples = samples_of(bench.work(plan, timeout_s=_TIMEOUT_S), whose=whose)
        return [int(took_ns) for took_ns in samples["infer"][-self._iterations :]]

    def _summary(self, took_ns: Sequence[int]) -> BlockLatency:
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

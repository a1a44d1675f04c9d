"""Public fakes for tests of edgekd and of parts that others write: small, seeded, without files or network.

Axes: B batch, C channels, H height, W width, D feature width, K classes. Importing this module imports no torch.
"""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import Field

from edgekd.core.contracts import (
    UNKNOWN_LABEL,
    Backend,
    Calibration,
    Device,
    Exportable,
    ExportedFiles,
    FeatureSpec,
    ImageSet,
    Sample,
    Source,
    Student,
)
from edgekd.core.errors import UsageError
from edgekd.core.records import DataFacts, DeviceFacts, Fingerprint, InputContract, TelemetryLog, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Count = Annotated[int, Field(ge=0)]


# ----------------------------------------------------------------------------------------------------------------- images
@dataclass(kw_only=True)
class TinyImages:
    """Images made from their own seed: noise around a colour that depends on the class, so that they can be learned."""

    samples: Sequence[Sample]
    size_px: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def load(self, index: int) -> "np.ndarray[Any, Any]":
        """Return image `index` as uint8 RGB HWC."""
        import numpy as np

        seed, colour = self.samples[index].locator
        random = np.random.default_rng(seed)
        image_HWC = random.normal(colour, 40.0, (self.size_px, self.size_px, 3))
        return np.clip(image_HWC, 0, 255).astype(np.uint8)


class TinySource(Source):
    """A few images in memory, the same on every machine: `class_0` ... with equally many of each."""

    class_count: Annotated[int, Field(ge=2)] = 3
    train_images: Count = 12
    unlabelled_images: Count = 0
    val_images: Count = 9
    size_px: Annotated[int, Field(ge=1)] = 20
    seed: Count = 0

    def train(self) -> TinyImages:
        """Return the labelled training images."""
        return self._images("train", self.train_images)

    def unlabelled(self) -> TinyImages:
        """Return the training images whose labels are hidden."""
        return self._images("unlabelled", self.unlabelled_images)

    def val(self) -> TinyImages:
        """Return the validation images."""
        return self._images("val", self.val_images)

    def calibration(self, n: int) -> ImageSet:
        """Return the first `n` training images."""
        return TinyImages(samples=self.train().samples[:n], size_px=self.size_px)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return `class_0`, `class_1`, ..."""
        return tuple(f"class_{index}" for index in range(self.class_count))

    def digest(self) -> str:
        """Return a sha256 over this source's options, which fix every pixel."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def facts(self) -> DataFacts:
        """Return the record of what this source holds."""
        return DataFacts(
            source=self.ref(),
            digest=self.digest(),
            classes=self.classes,
            train_images=self.train_images + self.unlabelled_images,
            labelled_images=self.train_images,
            validation_images=self.val_images,
        )

    def _images(self, split: str, count: int) -> TinyImages:
        samples = []
        for index in range(count):
            label = index % self.class_count
            seed = int.from_bytes(hashlib.sha256(f"{self.seed} {split} {index}".encode()).digest()[:8])
            colour = tuple((60 + 97 * label + 61 * channel) % 200 + 28 for channel in range(3))
            known = UNKNOWN_LABEL if split == "unlabelled" else label
            samples.append(Sample(id=f"{split}/class_{label}/{index:03}.png", label=known, locator=(seed, colour)))
        return TinyImages(samples=tuple(samples), size_px=self.size_px)


# ---------------------------------------------------------------------------------------------------------------- student
class TinyStudent(Student):
    """Two convolutions with batch norm, a hard-swish, pooling and a linear head; weights and statistics from the seed."""

    size_px: Annotated[int, Field(ge=8)] = 16
    width: Annotated[int, Field(ge=1)] = 8
    seed: Count = 0

    def build(self, classes: int, *, start: bool = True) -> "nn.Module":
        """Return the network; with `start` the batch-norm statistics are random too, so that folding them shows."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = _net_class()(width=self.width, classes=classes)
            if start:
                for layer in net.modules():
                    if isinstance(layer, torch.nn.BatchNorm2d):
                        torch.nn.init.normal_(cast("torch.Tensor", layer.running_mean), std=0.5)
                        torch.nn.init.uniform_(cast("torch.Tensor", layer.running_var), 0.5, 2.0)
                        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
        return cast("nn.Module", net)

    def restore(self, classes: int, weights: Path) -> "nn.Module":
        """Return the network with the weights of a .safetensors file; raise `UsageError` if they do not fit."""
        from safetensors.torch import load_file

        net = self.build(classes, start=False)
        try:
            net.load_state_dict(load_file(weights))
        except RuntimeError as error:
            raise UsageError(f"{weights}: these are not the weights of this tiny student: {error}") from error
        return net

    def input_contract(self) -> InputContract:
        """Return how an image is prepared: short side to the size, centre crop, ImageNet's mean and std inside."""
        return InputContract(
            size_px=(self.size_px, self.size_px),
            resize_px=self.size_px,
            interpolation="bilinear",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )

    def exportable(self, student: "nn.Module") -> "nn.Module":
        """Return the network itself in evaluation mode: it normalises inside and answers with logits."""
        return student.eval()


def tiny_student(classes: int = 3) -> "nn.Module":
    """Return a `TinyStudent` with default options, built and in evaluation mode."""
    return TinyStudent().build(classes).eval()


def tiny_exportable(module: "nn.Module | None" = None, *, metadata: Mapping[str, str] | None = None) -> Exportable:
    """Return a module (by default `tiny_student()`) of 16 x 16 images and three classes as the export stage hands it on."""
    import torch

    return Exportable(
        module=tiny_student() if module is None else module,
        input=TinyStudent().input_contract(),
        classes=TinySource().classes,
        metadata=metadata or {},
        sample_BCHW=torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    )


def tiny_calibration() -> Calibration:
    """Return five images of noise, of 16 x 16, to make a tiny student int8 with."""
    import numpy as np

    image_BCHW = np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)
    return Calibration(
        batches=lambda: iter([image_BCHW]),
        judged=lambda: iter([(image_BCHW, np.zeros(len(image_BCHW), dtype=np.int64))]),
        max_drop=1.0,
        threads=1,
    )


def export_tiny(backend: Backend, exportable: Exportable, folder: Path) -> ExportedFiles:
    """Write a model as the backend does; in int8 as the second attempt of its grid does, the first being the naive one."""
    if backend.precision == "int8":
        return backend.quantiser(exportable, tiny_calibration()).grid()[1].write(folder)
    return backend.export(exportable, folder)


@cache
def _net_class() -> Any:
    import torch
    from torch import Tensor, nn

    class TinyNet(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self, *, width: int, classes: int) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1), persistent=False)
            self.body = nn.Sequential(
                nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.Hardswish(),
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            self.head = nn.Linear(width, classes)

        def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
            map_BCHW = self.body((image_BCHW - self.mean) / self.std)
            pooled_BD = map_BCHW.mean(dim=(2, 3))
            found = {"map": map_BCHW, "pooled": pooled_BD, "pre_logits": pooled_BD, "logits": self.head(pooled_BD)}
            unknown = [tap for tap in taps if tap not in found]
            if unknown:
                raise UsageError(f"a tiny student has no tap {unknown[0]!r}; it has {', '.join(found)}")
            return {tap: found[tap] for tap in taps}

        def forward(self, image_BCHW: Tensor) -> Tensor:
            return self.features(image_BCHW, ("logits",))["logits"]

        def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
            with torch.no_grad():
                features = self.features(torch.zeros(1, 3, 16, 16), taps)
            return FeatureSpec(name="tiny", shapes={tap: tuple(value.shape[1:]) for tap, value in features.items()})

    return TinyNet


# ---------------------------------------------------------------------------------------------------------------- backend
class FakeBackend(Backend):
    """A runtime that is torch itself plus the mistakes that a test asks for. It lives as long as its process.

    `error` is added to the first class of every image, `flip_every` turns every n-th image's logits round, `nan_every`
    makes every n-th image's logits NaN (images are counted from the first that a session sees, from 1). `elsewhere` is why
    this machine is the wrong one to run it.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    error: float = 0.0
    flip_every: Annotated[int, Field(ge=1)] | None = None
    nan_every: Annotated[int, Field(ge=1)] | None = None
    elsewhere: str = ""

    def cannot_run_here(self) -> str:
        """Return the reason that it was given."""
        return self.elsewhere

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write a file that stands for the model and keep the module in memory."""
        _fake_models[folder.resolve()] = exportable.module
        (folder / "model.fake").write_text(f"{self.precision}\n", encoding="utf-8")
        return ExportedFiles(
            files=("model.fake",),
            inputs=(TensorSpec(name="image", shape=("batch", 3, *exportable.input.size_px), dtype="float32"),),
            outputs=(TensorSpec(name="logits", shape=("batch", len(exportable.classes)), dtype="float32"),),
        )

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> "FakeSession":  # noqa: ARG002
        """Return a session over the module that was exported to this folder in this process."""
        return FakeSession(self, _fake_models[folder.resolve()], threads=threads)


class FakeSession:
    """A session of `FakeBackend`; `threads`, `batches` and `closed` say what was done with it."""

    executed_on = "CPU"
    runtime = "fake 1.0"

    def __init__(self, backend: FakeBackend, module: "nn.Module", *, threads: int) -> None:
        self.executed_precision = backend.precision
        self.threads = threads
        self.batches: list[tuple[int, ...]] = []
        self.closed = False
        self._backend = backend
        self._module = module
        self._seen = 0

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return the module's logits_BK, with the backend's mistakes."""
        import numpy as np
        import torch

        self.batches.append(image_BCHW.shape)
        with torch.inference_mode():
            logits_BK: np.ndarray[Any, Any] = self._module(torch.from_numpy(image_BCHW)).numpy().copy()
        logits_BK[:, 0] += self._backend.error
        count_B = self._seen + 1 + np.arange(len(image_BCHW))
        self._seen += len(image_BCHW)
        if self._backend.flip_every is not None:
            logits_BK[count_B % self._backend.flip_every == 0] *= -1
        if self._backend.nan_every is not None:
            logits_BK[count_B % self._backend.nan_every == 0] = np.nan
        return logits_BK

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Remember that the session was left."""
        self.closed = True


_fake_models: "dict[Path, nn.Module]" = {}


# ----------------------------------------------------------------------------------------------------------------- device
class ScriptedClock:
    """A clock in nanoseconds that stands still until it is told how much time passes."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """Return the time in ns."""
        return self.now_ns

    def advance(self, by_ns: int) -> None:
        """Let `by_ns` nanoseconds pass."""
        if by_ns < 0:
            raise ValueError(f"a monotonic clock does not go back: {by_ns} ns")
        self.now_ns += by_ns


class FakeDevice(Device):
    """A machine whose queries take the times that a test asks for, `infer_ns` over and over; nothing is run.

    Its workbench is a `FakeBench`; a test that needs other times overrides `bench`.
    """

    name: str = "fake"
    infer_ns: Annotated[tuple[int, ...], Field(min_length=1)] = (20_000_000,)
    cores: Annotated[int, Field(ge=1)] = 2
    load_1min: float | None = 0.0

    def facts(self) -> DeviceFacts:
        """Return a machine of so many cores, with nothing else to do unless `load_1min` says so."""
        return DeviceFacts(
            name=self.name,
            system="Fake 1.0",
            machine="fake",
            cpu="Fake CPU",
            logical_cores=self.cores,
            usable_cores=self.cores,
            cgroup_quota_cores=None,
            memory_bytes=None,
            governor=None,
            load_1min=self.load_1min,
            python="Fake 3",
            container=None,
        )

    def default_threads(self) -> int:
        """Return the number of cores."""
        return self.cores

    def bench(self) -> "FakeBench":
        """Return a workbench whose queries take `infer_ns` in turn."""
        return FakeBench(lambda _plan, index: self.infer_ns[index % len(self.infer_ns)])

    @contextmanager
    def ready(self) -> "Iterator[FakeBench]":
        """Yield the workbench."""
        yield self.bench()


@dataclass(kw_only=False)
class FakeBench:
    """A workbench that runs nothing: query `index` of a plan takes `time_ns(plan, index)` on a clock of its own.

    `plans` are those it was given, in order; `brought` the files of each; `answers` are laid over every answer.
    """

    time_ns: "Callable[[Mapping[str, Any], int], int]"
    clock: ScriptedClock = field(default_factory=ScriptedClock)
    answers: dict[str, Any] = field(default_factory=dict)
    plans: list[Mapping[str, Any]] = field(default_factory=list)
    brought: list[dict[str, Path]] = field(default_factory=list)

    def bring(self, files: Mapping[str, Path]) -> str:
        """Return a folder that does not exist."""
        self.brought.append(dict(files))
        return f"/fake/{len(self.brought)}"

    def work(self, plan: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Answer a plan as a worker would that has done it in no time; those of a round one after the other."""
        if "turns" in plan:
            return {"protocol": "1", "answers": [self.work(one, timeout_s=timeout_s) for one in plan["turns"]]}
        self.plans.append(plan)
        if plan.get("describe"):
            return {"protocol": "1", "shape": ["batch", 3, 16, 16], "dtype": "float32", "runtime": "fake 1.0"} | self.answers
        for index in range(plan["warmup"]):
            self.clock.advance(self.time_ns(plan, index))
        origin_ns, rows = self.clock(), list[tuple[int, ...]]()
        record, whole = plan.get("record"), plan.get("whole")
        while (self.clock() - origin_ns < record["seconds"] * 1e9) if record else (len(rows) < plan["iterations"]):
            at_ns, time_ns = self.clock() - origin_ns, self.time_ns(plan, plan["warmup"] + len(rows))
            rows.append((0, len(rows) % 32, at_ns, 0, -1, time_ns, -1, -1))
            self.clock.advance(max(1, time_ns))
        for index in range(whole["iterations"] if whole else 0):
            at_ns, time_ns = self.clock() - origin_ns, self.time_ns(plan, index)
            rows.append((1, index % 32, at_ns, 0, 1000, time_ns, 100, time_ns + 1100))
            self.clock.advance(time_ns + 1100)
        return self._answer(plan, rows, origin_ns) | self.answers

    def fingerprint(self) -> Fingerprint:
        """Return a machine of which next to nothing is known."""
        return Fingerprint.of({"cpu": "Fake CPU", "system": "Fake 1.0"})

    @contextmanager
    def telemetry(self) -> Iterator[TelemetryLog]:
        """Sample nothing."""
        yield TelemetryLog()

    def _answer(self, plan: Mapping[str, Any], rows: list[tuple[int, ...]], origin_ns: int) -> dict[str, Any]:
        columns = ["segment", "input", "at", "queue", "pre", "infer", "post", "e2e"]
        block = b"".join(value.to_bytes(8, "little", signed=True) for column in zip(*rows, strict=True) for value in column)
        return {
            "protocol": "1",
            "load_ns": 1_000_000,
            "compile_ns": None,
            "first_ns": self.time_ns(plan, 0),
            "warmup": plan["warmup"],
            "cpu_ns": self.time_ns(plan, 0),
            "process_cpu_ns": 0,
            "peak_rss_bytes": 1 << 20,
            "runtime": "fake 1.0",
            "executed_on": "CPU",
            "executed_precision": str(plan.get("options", {}).get("precision", "fp32")),
            "spin": plan.get("options", {}).get("spin"),
            "session_options": {},
            "notes": [],
            "origin_ns": origin_ns,
            "columns": columns,
            "count": len(rows),
            "samples": base64.b64encode(zlib.compress(block)).decode(),
        }

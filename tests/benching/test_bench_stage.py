"""`bench` times real, prepared validation images and writes one record that says what to think of the samples."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benching.stage import bench
from edgekd.core.console import silent
from edgekd.core.contracts import ImageSet, Sample, Samples, TimingPlan
from edgekd.core.errors import DataError, EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, MadeBy, Measurement
from edgekd.core.store import read_record
from edgekd.testing import FakeDevice, TinyImages, TinySource

MS = 1_000_000
SOURCE = TinySource(val_images=40, size_px=20)


class Watching(FakeDevice):
    """A fake device that keeps what it was handed."""

    seen: list[Any]

    def time(self, artifact: Artifact, folder: Path, plan: TimingPlan) -> Iterator[Samples]:
        self.seen.append((plan, np.load(plan.images_npy, allow_pickle=False)))
        return super().time(artifact, folder, plan)


class Failing(FakeDevice):
    """A device that breaks after the first worker."""

    def time(self, artifact: Artifact, folder: Path, plan: TimingPlan) -> Iterator[Samples]:
        yield next(super().time(artifact, folder, plan))
        raise MachineError("the power is out")


class Lazy(FakeDevice):
    """A device that leaves out the last worker."""

    def time(self, artifact: Artifact, folder: Path, plan: TimingPlan) -> Iterator[Samples]:
        yield from list(super().time(artifact, folder, plan))[:-1]


class OneColour(TinySource):
    """Images that are all alike."""

    def val(self) -> TinyImages:
        class Grey(TinyImages):
            def load(self, index: int) -> np.ndarray[Any, Any]:
                return np.full((20, 20, 3), 128, np.uint8)

        images = super().val()
        return Grey(samples=images.samples, size_px=20)


class Empty(TinySource):
    """No validation images."""

    def val(self) -> TinyImages:
        return TinyImages(samples=(), size_px=20)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give temporary files a folder of their own; whatever happens, nothing may be left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run" / "measurements" / "lab-fp32@fake.json"


@pytest.fixture
def run(folder: Path, out: Path, make_artifact: Callable[..., Artifact]) -> Callable[..., Measurement]:
    def call(*, batch_axis: int | str = "batch", **changes: Any) -> Measurement:
        asked = {"device": FakeDevice(), "source": SOURCE, "iterations": 40} | changes
        return bench(
            artifact=make_artifact(batch=batch_axis),
            folder=folder,
            out=out,
            from_={"artifact": "abc"},
            made_by=MadeBy(version="1"),
            console=silent(),
            **asked,
        )

    return call


def test_the_record_holds_every_sample(
    run: Callable[..., Measurement], out: Path, make_artifact: Callable[..., Artifact]
) -> None:
    """What is returned is what is on disk, from the artifact's digest to the last sample."""
    measurement = run(device=FakeDevice(infer_ns=(20 * MS, 21 * MS)), warmup=5)
    assert read_record(Measurement, out) == measurement
    assert measurement.artifact == make_artifact().digest()
    assert measurement.from_ == {"artifact": "abc"}
    assert measurement.protocol == "0"
    assert (measurement.batch, measurement.threads, measurement.input_images) == (1, 2, 32)
    assert [one.infer_ns for one in measurement.workers] == [(20 * MS, 21 * MS) * 20] * 3
    assert [one.warmup_iterations for one in measurement.workers] == [5, 5, 5]
    assert (measurement.runtime, measurement.executed_on, measurement.executed_precision) == ("lab 1.0", "CPU", "fp32")
    assert measurement.device == FakeDevice().facts()
    assert (measurement.flags, measurement.trusted, measurement.untrusted_because) == ((), True, ())


def test_the_inputs_are_prepared_validation_images(
    run: Callable[..., Measurement], make_artifact: Callable[..., Artifact]
) -> None:
    """The device gets distinct validation images, prepared by the artifact's contract, float32 in [0, 1]."""
    device = Watching(seen=[])
    run(device=device, batch=2, threads=3, workers=4, warmup=6, iterations=7, images=33)
    plan, images_NCHW = device.seen[0]
    assert (plan.batch, plan.threads, plan.workers, plan.warmup, plan.iterations) == (2, 3, 4, 6, 7)
    assert images_NCHW.shape == (33, 3, 16, 16)
    assert images_NCHW.dtype == np.float32
    assert images_NCHW.min() >= 0
    assert images_NCHW.max() <= 1
    hashes = {hashlib.sha256(image.tobytes()).digest() for image in images_NCHW}
    whole = prepare_batch(SOURCE.val(), range(40), make_artifact().input)
    assert len(hashes) == 33
    assert hashes <= {hashlib.sha256(image.tobytes()).digest() for image in whole}
    assert not plan.images_npy.exists()


def test_the_draw_is_seeded(run: Callable[..., Measurement]) -> None:
    """The same seed draws the same images, another seed draws others."""
    device = Watching(seen=[])
    for seed in (0, 0, 1):
        run(device=device, seed=seed)
    first, again, other = (images for _, images in device.seen)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_doubts_are_in_the_record(run: Callable[..., Measurement]) -> None:
    """Too few samples and too few images end up in the record as reasons and flags."""
    measurement = run(workers=2, iterations=3, images=4, device=FakeDevice(load_1min=2.0))
    assert not measurement.trusted
    assert [text.partition(":")[0] for text in measurement.untrusted_because] == ["too-few-samples"]
    assert {text.partition(":")[0] for text in measurement.flags} == {
        "too-few-samples",
        "few-images",
        "busy",
        "drift-unknown",
    }


def test_a_small_validation_set_gives_what_it_has(run: Callable[..., Measurement]) -> None:
    """Fewer images than asked for are used and said."""
    measurement = run(source=TinySource(val_images=9))
    assert measurement.input_images == 9
    assert measurement.flags == ("few-images: 9 distinct inputs, 32 are wanted",)


def test_inputs_that_are_all_alike_are_not_believed(run: Callable[..., Measurement]) -> None:
    """Constant images can be faster than photographs."""
    assert run(source=OneColour(val_images=40)).untrusted_because[0].startswith("constant-input")


def test_a_fixed_batch_is_kept(run: Callable[..., Measurement], out: Path) -> None:
    """An artifact for batches of 4 is timed with batches of 4 and refuses any other."""
    with pytest.raises(UsageError, match=r"exactly 4, bench.batch asks for 1(.|\n)*set bench.batch to 4"):
        run(batch_axis=4)
    assert not out.exists()
    assert run(batch_axis=4, batch=4).batch == 4


def test_what_was_not_executed_is_not_measured(folder: Path, out: Path, make_artifact: Callable[..., Artifact]) -> None:
    """The reason comes along, and where to go on."""
    idle = make_artifact().model_copy(update={"parity": None, "accuracy": None, "not_executed": "there is no GPU here"})
    with pytest.raises(EvidenceError, match=r"cannot be measured: there is no GPU here(.|\n)*edgekd bench RUN"):
        bench(
            artifact=idle,
            folder=folder,
            device=FakeDevice(),
            source=SOURCE,
            out=out,
            from_={},
            made_by=MadeBy(version="1"),
            console=silent(),
        )
    assert not out.exists()


@pytest.mark.parametrize("name", ["batch", "threads", "workers", "iterations", "images"])
def test_a_plan_of_nothing_is_refused(run: Callable[..., Measurement], out: Path, name: str) -> None:
    """Zero of anything but warm-up is a mistake."""
    with pytest.raises(UsageError, match=f"bench.{name} is 0; at least 1"):
        run(**{name: 0})
    assert not out.exists()
    assert run(warmup=0).workers[0].warmup_iterations == 0


def _break(artifact: Path) -> None:
    (artifact / "model.bin").write_bytes(b"a m0del")


def _remove(artifact: Path) -> None:
    (artifact / "model.bin").unlink()


@pytest.mark.parametrize("harm", [_break, _remove])
def test_another_model_file_is_refused(
    run: Callable[..., Measurement], folder: Path, out: Path, harm: Callable[[Path], None]
) -> None:
    """A model file that is not the record's is never timed."""
    harm(folder)
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        run()
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"device": Failing()}, MachineError, "the power is out"),
        ({"device": Lazy()}, MachineError, "answered 2 of the 3"),
        ({"source": Empty()}, DataError, "no validation images"),
    ],
)
def test_a_failure_leaves_the_old_record(
    run: Callable[..., Measurement], out: Path, changes: dict[str, Any], error: type[EdgekdError], words: str
) -> None:
    """When the device or the data fail there is no half record, and the old one stays as it was."""
    run()
    before = out.read_bytes()
    with pytest.raises(error, match=words):
        run(**changes)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_contract_of_the_fakes() -> None:
    """The stand-ins are what the stage expects: an image set with samples."""
    images: ImageSet = OneColour().val()
    assert isinstance(images.samples[0], Sample)

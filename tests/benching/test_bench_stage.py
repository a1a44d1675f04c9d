"""`bench` times real, prepared validation images in turns, and writes a record of each arm that says what to think of it."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benching.profiles import PROFILES
from edgekd.benching.stage import Settings, bench, stem
from edgekd.benching.subjects import Load, Subject, subject_of
from edgekd.core.console import silent
from edgekd.core.contracts import ArmName
from edgekd.core.errors import DataError, EdgekdError, EvidenceError, IntegrityError, MachineError, UsageError
from edgekd.core.images import prepare_batch
from edgekd.core.records import Artifact, MadeBy, Measurement
from edgekd.core.samples import SUSTAINED, per_worker, read_samples
from edgekd.core.store import read_record
from edgekd.testing import FakeBench, FakeDevice, TinyImages, TinySource

MS = 1_000_000
SOURCE = TinySource(val_images=40, size_px=20)
NAME = "lab-fp32@fake.json"
pytestmark = pytest.mark.usefixtures("lab_here")


class Watching(FakeDevice):
    """A fake device that keeps its benches, and what each plan was fed."""

    benches: list[Any]
    fed: list[Any]

    @contextmanager
    def ready(self) -> Iterator[FakeBench]:
        made = self.bench()
        self.benches.append(made)
        bring = made.bring

        def brings(files: Any) -> str:
            self.fed.append(np.load(files["edgekd_inputs.npy"], allow_pickle=False))
            return bring(files)

        made.bring = brings  # type: ignore[method-assign]
        yield made


class Failing(FakeDevice):
    """A device that breaks after the first worker."""

    def bench(self) -> FakeBench:
        def time_ns(_plan: Any, _index: int) -> int:
            if len(made.plans) > 1:
                raise MachineError("the power is out")
            return 20 * MS

        made = FakeBench(time_ns)
        return made


class Disturbed(FakeDevice):
    """A device that is half as fast again while its second worker begins."""

    def bench(self) -> FakeBench:
        def time_ns(_plan: Any, _index: int) -> int:
            slow = len(made.plans) == 2
            made.answers["pace_ns"] = [(2 if slow else 1) * MS, MS]
            return (30 if slow else 20) * MS

        made = FakeBench(time_ns)
        return made


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
    return tmp_path / "run" / "measurements"


@pytest.fixture
def run(folder: Path, out: Path, make_artifact: Callable[..., Artifact]) -> Callable[..., Measurement]:
    """Return a function that benches the artifact `lab-fp32` and returns its measurement."""

    def call(
        *,
        device: FakeDevice | None = None,
        source: Any = SOURCE,
        batch_axis: int | str = "batch",
        load: Any = None,
        **changes: Any,
    ) -> Measurement:
        asked = {"profile": PROFILES["gate"], "rounds": 3, "warmup": 5, "iterations": 40} | changes
        settings = Settings(load=Load(threads=2, **(load or {})), **asked)
        subject = subject_of(make_artifact(batch=batch_axis), folder, arm="candidate", batch=settings.load.batch)
        made = bench(
            subjects=[subject],
            device=device or FakeDevice(),
            source=source,
            settings=settings,
            out=out,
            from_={subject.arm: {"artifact": "abc"}},
            made_by=MadeBy(version="1"),
            console=silent(),
        )
        return made[NAME]

    return call


def codes(texts: tuple[str, ...]) -> set[str]:
    return {text.partition(":")[0] for text in texts} - {
        "stopped",
        "given-counts",
        "telemetry-missing",
        "few-workers",
        "runtime",
    }


def test_record_and_samples_are_on_disk(
    run: Callable[..., Measurement], out: Path, make_artifact: Callable[..., Artifact]
) -> None:
    """What is returned is what is on disk, from the artifact's digest to the last sample of the last worker."""
    measurement = run(device=FakeDevice(infer_ns=(20 * MS, 21 * MS)))
    assert read_record(Measurement, out / NAME) == measurement
    assert measurement.artifact == make_artifact().digest()
    assert measurement.from_ == {"artifact": "abc"}
    assert (measurement.protocol, measurement.profile, measurement.arm, measurement.mode) == (
        "1",
        "gate",
        "candidate",
        "single",
    )
    assert (measurement.batch, measurement.threads, measurement.input_images) == (1, 2, 32)
    assert (measurement.counts.warmup, measurement.counts.iterations, measurement.counts.calibrated) == (5, 40, False)
    table = read_samples(measurement, folder=out)
    own = per_worker(table, 3)
    assert [part["infer"].tolist() for part in own] == [[21 * MS, 20 * MS] * 20] * 3
    assert [part["round"][0] for part in own] == [0, 1, 2]
    assert [len(part["e2e"]) for part in per_worker(table, 3, segment=1)] == [40] * 3
    assert (measurement.runtime, measurement.executed_on, measurement.executed_precision) == ("fake 1.0", "CPU", "fp32")
    assert measurement.device == FakeDevice().facts()
    assert measurement.trusted
    assert codes(measurement.flags) == set()


def test_a_calibration_comes_first_and_does_not_count(run: Callable[..., Measurement]) -> None:
    """Without given counts one worker finds them, and all others run with what it found."""
    device = Watching(benches=[], fed=[])
    measurement = run(device=device, warmup=None, iterations=None)
    (made,) = device.benches
    assert [bool(plan["record"]) for plan in made.plans] == [True, False, False, False]
    assert {(plan["warmup"], plan["iterations"]) for plan in made.plans[1:]} == {
        (measurement.counts.warmup, measurement.counts.iterations)
    }
    assert (measurement.counts.warmup_s, measurement.counts.iterations, measurement.counts.calibrated) == (3.0, 200, True)


def test_the_inputs_are_prepared_validation_images(
    run: Callable[..., Measurement], make_artifact: Callable[..., Artifact]
) -> None:
    """The device gets distinct validation images, prepared by the artifact's contract, float32 in [0, 1]."""
    device = Watching(benches=[], fed=[])
    for seed in (0, 0, 1):
        run(device=device, images=33, seed=seed)
    first, again, other = device.fed
    assert (first.shape, first.dtype) == ((33, 3, 16, 16), np.float32)
    hashes = {hashlib.sha256(image.tobytes()).digest() for image in first}
    whole = prepare_batch(SOURCE.val(), range(40), make_artifact().input)
    assert len(hashes) == 33
    assert hashes <= {hashlib.sha256(image.tobytes()).digest() for image in whole}
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_plans_say_how_to_run(run: Callable[..., Measurement]) -> None:
    """Threads, spinning, batch, mode and pace reach the worker, and its environment says the threads to every pool."""
    device = Watching(benches=[], fed=[])
    measurement = run(device=device, load={"batch": 4, "spin": False, "mode": "paced", "rate_hz": 25.0})
    plan = device.benches[0].plans[0]
    assert (plan["batch"], plan["threads"], plan["mode"], plan["period_ns"]) == (4, 2, "paced", 40_000_000)
    assert plan["options"]["spin"] is False
    assert plan["environment"]["OMP_NUM_THREADS"] == "2"
    assert (measurement.rate_hz, measurement.batch, measurement.spin) == (25.0, 4, False)


def test_arms_of_one_session_share_it(folder: Path, out: Path, make_artifact: Callable[..., Artifact]) -> None:
    """Candidate and baseline run in turns with equal counts, and each has its record and its samples."""
    artifact = make_artifact()
    subjects = [subject_of(artifact, folder, arm=arm, batch=1) for arm in ("candidate", "baseline")]
    settings = Settings(profile=PROFILES["gate"], load=Load(threads=1), rounds=4)
    made = bench(
        subjects=subjects,
        device=FakeDevice(),
        source=SOURCE,
        settings=settings,
        out=out,
        from_={},
        made_by=MadeBy(version="1"),
        console=silent(),
    )
    assert sorted(made) == ["lab-fp32@fake.baseline.json", NAME]
    one, other = made.values()
    assert one.session == other.session
    assert one.counts == other.counts
    assert {worker.round for worker in one.workers} == {0, 1, 2, 3}
    assert {(a.round, a.position + b.position) for a, b in zip(one.workers, other.workers, strict=True)} == {
        (r, 1) for r in range(4)
    }


def test_doubts_are_in_the_record(run: Callable[..., Measurement]) -> None:
    """Too few samples and too few images end up in the record as reasons and flags."""
    measurement = run(rounds=2, iterations=3, images=4, device=FakeDevice(load_1min=2.0))
    assert not measurement.trusted
    assert codes(measurement.untrusted_because) == {"too-few-samples"}
    assert codes(measurement.flags) == {"too-few-samples", "few-images", "busy", "drift-unknown"}


def test_a_small_validation_set_gives_what_it_has(run: Callable[..., Measurement]) -> None:
    """Fewer images than asked for are used and said."""
    measurement = run(source=TinySource(val_images=9))
    assert measurement.input_images == 9
    assert codes(measurement.flags) == {"few-images"}


@pytest.mark.parametrize(
    ("source", "code"), [(OneColour(val_images=40), "constant-input"), (None, "synthetic-input")], ids=["grey", "none"]
)
def test_inputs_that_are_no_photographs_are_not_believed(run: Callable[..., Measurement], source: Any, code: str) -> None:
    """Constant or made-up inputs can be faster than photographs; the record says that they were synthetic."""
    measurement = run(source=source)
    assert code in codes(measurement.untrusted_because)
    assert measurement.synthetic_input


def test_a_fixed_batch_is_kept(run: Callable[..., Measurement], out: Path) -> None:
    """An artifact for batches of 4 is timed with batches of 4 and refuses any other."""
    with pytest.raises(UsageError, match=r"exactly 4, bench.batch asks for 1(.|\n)*set bench.batch to 4"):
        run(batch_axis=4)
    assert not out.exists()
    assert run(batch_axis=4, load={"batch": 4}).batch == 4


def test_what_was_not_executed_is_not_measured(folder: Path, make_artifact: Callable[..., Artifact]) -> None:
    """The reason comes along, and where to go on."""
    idle = make_artifact().model_copy(update={"parity": None, "accuracy": None, "not_executed": "there is no GPU here"})
    with pytest.raises(EvidenceError, match=r"cannot be measured: there is no GPU here(.|\n)*edgekd bench RUN"):
        subject_of(idle, folder, arm="candidate", batch=1)


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"iterations": 0}, {"images": 0}, {"load": {"batch": 0}}])
def test_a_plan_of_nothing_is_refused(run: Callable[..., Measurement], out: Path, changes: dict[str, Any]) -> None:
    """Zero of anything but warm-up is a mistake."""
    with pytest.raises(UsageError, match=r"bench\.\w+ is 0; at least 1"):
        run(**changes)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load": {"mode": "paced"}}, "rate_hz"),
        ({"load": {"rate_hz": 5.0}}, "rate_hz"),
        ({"warmup": None}, "together"),
    ],
)
def test_half_a_plan_is_refused(run: Callable[..., Measurement], changes: dict[str, Any], words: str) -> None:
    """A pace without a paced stream, a stream without a pace, half of the counts."""
    with pytest.raises(UsageError, match=words):
        run(**changes)


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
        ({"source": Empty()}, DataError, "no validation images"),
    ],
)
def test_a_failure_leaves_the_old_record(
    run: Callable[..., Measurement], out: Path, changes: dict[str, Any], error: type[EdgekdError], words: str
) -> None:
    """When the device or the data fail there is no half record, and the old one stays as it was."""
    run()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(error, match=words):
        run(**changes)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_uneven_machine_is_told(run: Callable[..., Measurement]) -> None:
    """A worker beside a neighbour counts like all others, and the record says that there was one."""
    assert "neighbours: in 1 of 3 rounds the machine itself was not of one speed" in run(device=Disturbed()).flags
    assert "neighbours" not in codes(run(device=FakeDevice()).flags)


def test_a_published_figure_has_a_run_without_a_pause(
    run: Callable[..., Measurement], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`publish` rests, then runs 600 s without a pause; its samples are kept beside those of the rounds."""
    slept: list[float] = []
    monkeypatch.setattr("edgekd.benching.stage.time.sleep", slept.append)
    measurement = run(profile=PROFILES["publish"], device=FakeDevice(infer_ns=(200 * MS,)), reference=False)
    table = read_samples(measurement, folder=out)
    chosen = table["segment"] == SUSTAINED
    assert slept == [60.0]
    assert (table["at"][chosen][-1] - table["at"][chosen][0]) / 1e9 == pytest.approx(600, abs=1)
    assert set(table["worker"][chosen]) == {-1}


def test_a_foreign_model_is_fed_what_it_takes(folder: Path, out: Path, make_artifact: Callable[..., Artifact]) -> None:
    """Of a file alone the runtime tells the input's shape, and the figures are marked as made with made-up inputs."""
    known = subject_of(make_artifact(), folder, arm="candidate", batch=1)
    subject = Subject(
        arm=ArmName(artifact="net", arm="candidate"),
        backend=known.backend,
        folder=folder,
        files=known.files,
        digest="0" * 64,
        contract=None,
    )
    settings = Settings(profile=PROFILES["quick"], load=Load(threads=1), rounds=2, warmup=1, iterations=40)
    made = bench(
        subjects=[subject],
        device=FakeDevice(),
        source=None,
        settings=settings,
        out=out,
        from_={},
        made_by=MadeBy(version="1"),
        console=silent(),
    )
    assert made["net@fake.json"].synthetic_input
    assert not made["net@fake.json"].trusted


def test_names_of_files() -> None:
    """The candidate's is plain; other arms say whose they are."""
    assert stem(ArmName(artifact="ort-fp32", arm="candidate"), "pi5") == "ort-fp32@pi5"
    assert stem(ArmName(artifact="ort-fp32", arm="baseline"), "pi5") == "ort-fp32@pi5.baseline"

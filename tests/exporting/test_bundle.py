"""A bundle as it is written: what is in it, that the same records give the same bytes, and what its card says."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from edgekd import inspection, pipeline
from edgekd.core import bundles
from edgekd.core.console import Console
from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.records import Artifact, Checkpoint, Counts, FileRef, LatencySummary, MadeBy, Outliers, StartFacts, TensorSpec
from edgekd.core.side_records import Bundle
from edgekd.core.stats import wilson
from edgekd.core.store import read_record
from edgekd.exporting import bundle, model_card
from edgekd.testing import FakeDevice

ROOT = Path(__file__).parents[2]
NAME = "onnxruntime-fp32"


@pytest.fixture
def artifact(tiny_run: Path) -> Path:
    return tiny_run / "artifacts" / NAME


@pytest.fixture
def record(artifact: Path) -> Artifact:
    return read_record(Artifact, artifact / "artifact.json")


@pytest.fixture
def checkpoint(tiny_run: Path) -> Checkpoint:
    return read_record(Checkpoint, tiny_run / "checkpoint" / "checkpoint.json")


def contract_with(**changes) -> Bundle:
    facts = {
        "made_by": MadeBy(version="1"),
        "runtime": "onnxruntime",
        "precision": "fp32",
        "measured_with": "onnxruntime 1.2",
        "files": (FileRef(path="model/model.onnx", size_bytes=1234, sha256="0" * 64),),
        "inputs": (TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32"),),
        "outputs": (TensorSpec(name="logits", shape=("batch", 2), dtype="float32"),),
        "opset": 18,
        "input": {"size_px": (16, 16), "resize_px": 16, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        "classes": ("cat", "dog"),
        "images": 40,
        "top1_correct": 30,
        "top5_correct": None,
        "top1_agreements": 39,
        "licences": {"student s": "apache-2.0", "teacher t": "Apache-2.0"},
    }
    return Bundle.model_validate(facts | changes)


def card_of(contract: Bundle, checkpoint: Checkpoint | None = None, latencies: tuple[LatencySummary, ...] = ()) -> ModelCard:
    return ModelCard(model_card.render(contract, checkpoint, latencies))


class TestTheFolder:
    def test_it_holds_all_that_a_device_needs(self, artifact: Path, tmp_path: Path) -> None:
        """Model, contract, classes, card, licences, both programs; and the manifest lists every one of them."""
        (made,) = pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
        folder = tmp_path / NAME
        inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        programs = {path.relative_to(ROOT / "deploy/runtime").as_posix() for path in (ROOT / "deploy/runtime").rglob("*.*")}
        pages = {"README.md", "LICENCES.md", "LICENSE-programs", "classes.json", "contract.json", "SHA256SUMS"}
        assert inside == {"model/model.onnx", "python/requirements.txt", *pages, *programs}
        assert {"python/classify.py", "cpp/CMakeLists.txt"} <= programs
        assert (folder / "model/model.onnx").read_bytes() == (artifact / "model.onnx").read_bytes()
        assert (folder / "LICENSE-programs").read_bytes() == (ROOT / "LICENSE").read_bytes()
        assert json.loads((folder / "classes.json").read_text()) == [f"class_{index}" for index in range(7)]
        assert read_record(Bundle, folder / "contract.json") == made
        listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        assert listed == inside - {"SHA256SUMS"}

    def test_the_contract_repeats_the_artifact(self, artifact: Path, record: Artifact, tmp_path: Path) -> None:
        """Interface, preprocessing and counts are the record's own, and its digest leads back to it."""
        (made,) = pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
        assert (made.inputs, made.outputs, made.input, made.classes) == (
            record.inputs,
            record.outputs,
            record.input,
            record.classes,
        )
        assert (made.images, made.top1_correct, made.top5_correct) == (
            14,
            record.accuracy.top1_correct,
            record.accuracy.top5_correct,
        )
        assert made.from_["artifact"] == record.digest()
        assert made.licences == record.licences

    def test_the_same_records_give_the_same_bytes(self, artifact: Path, tmp_path: Path) -> None:
        """Whoever made them, when and where: neither time nor command line is inside."""
        other = tmp_path / "other" / NAME
        shutil.copytree(artifact, other)
        read_record(Artifact, other / "artifact.json")
        text = (other / "artifact.json").read_text()
        (other / "artifact.json").write_text(text.replace("edgekd export secret", "another").replace("2026-01-01", "2031"))
        pipeline.bundle(artifact, out=tmp_path / "a", console=Console(quiet=True))
        first = tmp_path / "a" / f"{NAME}.tar.gz"
        pipeline.bundle(other, out=tmp_path / "b", console=Console(quiet=True))
        # Beside its run an artifact's card says more: take the run away from the first as well.
        shutil.copytree(artifact, tmp_path / "third" / NAME)
        pipeline.bundle(tmp_path / "third" / NAME, out=tmp_path / "c", console=Console(quiet=True))
        assert (tmp_path / "b" / f"{NAME}.tar.gz").read_bytes() == (tmp_path / "c" / f"{NAME}.tar.gz").read_bytes()
        before = first.read_bytes()
        pipeline.bundle(artifact, out=tmp_path / "a", console=Console(quiet=True))
        assert first.read_bytes() == before
        assert b"secret" not in before

    def test_any_tar_can_unpack_the_archive(self, artifact: Path, tmp_path: Path) -> None:
        """It is a plain .tar.gz of the folder's files."""
        pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
        with tarfile.open(tmp_path / f"{NAME}.tar.gz", "r:gz") as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        folder = tmp_path / NAME
        assert found == {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def test_a_run_gives_a_bundle_for_each_runtime_with_a_program(self, tiny_run: Path, tmp_path: Path) -> None:
        """In bundles/, named as the artifact; torch has no program and is passed over."""
        run = tmp_path / "run"
        shutil.copytree(tiny_run, run)
        made = bundle.write_all(run, out=None, console=Console(quiet=True))
        assert {f"{one.runtime}-{one.precision}" for one in made} == {
            path.name for path in (run / "artifacts").iterdir() if not path.name.startswith("torch")
        }
        assert inspection.verify(run / "bundles" / NAME)[0].startswith("ok")
        assert inspection.verify(run / "bundles" / f"{NAME}.tar.gz")[0].startswith("ok")

    def test_an_earlier_bundle_is_replaced_and_nothing_else(self, artifact: Path, tmp_path: Path) -> None:
        """Leftovers of the earlier one are gone; a folder that is no bundle is not touched."""
        pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
        (tmp_path / NAME / "leftover").write_text("old")
        pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
        assert not (tmp_path / NAME / "leftover").exists()
        (tmp_path / "mine" / NAME).mkdir(parents=True)
        (tmp_path / "mine" / NAME / "thesis.txt").write_text("years of work")
        with pytest.raises(UsageError, match="is no bundle"):
            pipeline.bundle(artifact, out=tmp_path / "mine", console=Console(quiet=True))
        assert [path.name for path in (tmp_path / "mine").rglob("*")] == [NAME, "thesis.txt"]

    def test_a_changed_model_is_not_bundled(self, artifact: Path, tmp_path: Path) -> None:
        """The model must be the one that was measured; nothing is left behind."""
        copy = tmp_path / NAME
        shutil.copytree(artifact, copy)
        (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            pipeline.bundle(copy, out=tmp_path / "out", console=Console(quiet=True))
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_runtime_without_a_program_is_refused(self, tiny_run: Path, tmp_path: Path) -> None:
        """Torch on a device is what a bundle does without."""
        with pytest.raises(UsageError, match="not for torch"):
            pipeline.bundle(tiny_run / "artifacts" / "torch-fp32", out=tmp_path, console=Console(quiet=True))

    def test_an_artifact_without_a_run_needs_a_place(self, artifact: Path, tmp_path: Path) -> None:
        """There is no bundles/ folder to write to."""
        copy = tmp_path / "a" / "b" / NAME
        shutil.copytree(artifact, copy)
        with pytest.raises(UsageError, match="--out"):
            pipeline.bundle(copy, console=Console(quiet=True))


class TestTheCard:
    def test_its_metadata_are_those_that_hugging_face_reads(self) -> None:
        """Licence, library, task, tags, and the measured accuracy as an evaluation result."""
        data = card_of(contract_with(top5_correct=38)).data
        assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "onnx", "image-classification")
        assert data.metrics == ["accuracy"]
        assert {"onnx", "fp32", "edgekd", "image-classification"} <= set(data.tags)
        assert [(one.metric_name, one.metric_value) for one in data.eval_results] == [("top-1", 0.75), ("top-5", 0.95)]

    @pytest.mark.parametrize(
        ("licences", "expected"),
        [
            ({}, "unknown"),
            ({"student s": "mit"}, "mit"),
            ({"student s": "mit", "teacher t": "apache-2.0"}, "other"),
            ({"student s": "unknown"}, "other"),
            ({"student s": "The Author's Own Terms"}, "other"),
        ],
    )
    def test_one_licence_is_named_only_if_there_is_one(self, licences: dict[str, str], expected: str) -> None:
        """Several, or one that the hub does not know, are `other`, with the page that lists them."""
        data = card_of(contract_with(licences=licences)).data
        assert data.license == expected
        assert data.license_link == ("LICENCES.md" if expected == "other" else None)

    def test_figures_come_with_their_interval(self) -> None:
        """30 right of 40, and Wilson's interval around it."""
        text = card_of(contract_with()).text
        interval = wilson(30, 40)
        assert f"| top-1 | 75.0% (95 % interval {interval.low:.1%} to {interval.high:.1%}) |" in text
        assert "| same first answer as the model in training | 39 of 40 |" in text
        assert "top-5 |" not in text

    def test_latency_is_told_only_where_it_can_be_trusted(self) -> None:
        """Neither a withheld percentile nor a measurement in doubt becomes a figure."""
        texts = []
        for trusted, p50_ms in ((True, 4.25), (False, 4.25), (True, None)):
            latency = LatencySummary(
                artifact=NAME,
                digest="0" * 64,
                session="1" * 64,
                arm="candidate",
                device=FakeDevice().facts(),
                device_class="2" * 64,
                device_state="3" * 64,
                protocol="1",
                profile="gate",
                mode="single",
                runtime="r",
                executed_on="CPU",
                executed_precision="fp32",
                batch=1,
                threads=2,
                spin=None,
                input_images=1,
                counts=Counts(warmup=1, iterations=9),
                samples=9,
                rounds=(),
                worker_p50_ms=(),
                worker_p90_ms=(),
                worker_p99_ms=(),
                p50_ms=p50_ms,
                p90_ms=None,
                p95_ms=None,
                p99_ms=None,
                p999_ms=None,
                intervals_ms={},
                bounds_ms={},
                withheld=(),
                load_ms=(),
                compile_ms=(),
                first_ms=(),
                cpu_ms=(),
                peak_rss_bytes=(),
                images_per_s=None,
                whole=None,
                outliers=Outliers(mild_low=0, mild_high=0, severe_low=0, severe_high=0, first=0),
                drift=None,
                sustained=None,
                curve_ms=(),
                flags=(),
                trusted=trusted,
                untrusted_because=(),
            )
            texts.append(card_of(contract_with(), None, (latency,)).text)
        assert ["4.25 ms" in text for text in texts] == [True, False, False]

    def test_terms_against_trade_are_said_aloud(self) -> None:
        """A teacher under a non-commercial licence is named in the card and on the page of licences."""
        contract = contract_with(licences={"student s": "mit", "teacher t": "cc-by-nc-sa-4.0"})
        assert "**Not for commercial use**, as far as these terms reach: `teacher t`." in card_of(contract).text
        assert "Not for commercial use" in model_card.licences(contract)
        assert "Not for commercial use" not in card_of(contract_with()).text

    def test_what_no_record_knows_is_not_invented(self, checkpoint: Checkpoint) -> None:
        """No base model without pinned weights, no data set, no licence of the images."""
        card = card_of(contract_with(), checkpoint)
        assert card.data.base_model is None
        assert card.data.datasets is None
        assert "| the images it learned from | not recorded" in card.text
        assert "`vit`" in card.text

    def test_the_base_model_is_the_weights_that_the_student_began_with(self, checkpoint: Checkpoint) -> None:
        """Named by the recipe with their tag; without one, or after another start, nobody knows."""
        options = {"model": "mobilenetv3_small_100.lamb_in1k", "weights": "hub"}
        known = checkpoint.model_copy(
            update={"student": checkpoint.student.model_copy(update={"use": "timm", "options": options})}
        )
        assert card_of(contract_with(), known).data.base_model == "timm/mobilenetv3_small_100.lamb_in1k"
        for other in ({"model": "mobilenetv3_small_100"}, {"weights": "random"}, {"model": "x/../y.z"}):
            student = known.student.model_copy(update={"options": options | other})
            assert card_of(contract_with(), known.model_copy(update={"student": student})).data.base_model is None
        start = StartFacts(checkpoint="0" * 64, method=checkpoint.method, classes=3, head="fresh", licences={})
        assert card_of(contract_with(), known.model_copy(update={"start": start})).data.base_model is None

    def test_names_from_outside_are_only_shown(self) -> None:
        """Neither Markdown nor metadata can be smuggled in through a class or a licence."""
        evil = "`|\n---\nlicense: mit\n# <b>bold</b>"
        contract = contract_with(classes=(evil, "b"), licences={f"teacher {evil}": evil})
        card = card_of(contract)
        assert card.data.license == "other"
        lines = card.text.splitlines()
        assert not [line for line in lines if line.startswith(("# <b>", "license:"))]
        assert sum(line == "---" for line in str(card).splitlines()) == 2


def test_show_knows_a_bundle(artifact: Path, tmp_path: Path) -> None:
    """`edgekd show contract.json` says what it is."""
    pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
    assert "onnxruntime fp32, 7 classes" in "\n".join(inspection.show(tmp_path / NAME / bundles.CONTRACT))

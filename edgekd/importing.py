"""A classifier that edgekd did not train, taken up as a run: exported, measured and judged like any other.

The run folder that this leaves holds the file as it came in a checkpoint's place. What edgekd does not know of it (how it was
trained, on which images) the record leaves at nothing, and says `imported`.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.config import Document, frozen, read_yaml, validate
from edgekd.core.console import Console
from edgekd.core.errors import UsageError
from edgekd.core.parts import PartRef
from edgekd.core.predictions import write_predictions
from edgekd.core.records import IMPORTED, Accuracy, Checkpoint, InputContract, TrainingFacts
from edgekd.core.sections import Recipe
from edgekd.core.store import (
    RunFolder,
    begin_stage,
    file_ref,
    find_done,
    locked,
    open_run_folder,
    sha256_of,
    write_record,
    write_text,
)
from edgekd.recipe import Loaded, digest_of_section, load_recipe
from edgekd.work import Work

if TYPE_CHECKING:
    from edgekd.exporting.foreign import Interface
    from edgekd.exporting.inspect import Sound

METHOD = "imported"
UNKNOWN = "unknown"
MODEL, HISTORY, CLASSES = "model.onnx", "history.jsonl", "classes.tsv"


@dataclass(frozen=True, kw_only=True)
class Images:
    """The labelled images to judge a model on, and what its outputs are called.

    `data` is a folder of classes, all of them to judge on, unless `val` or a `val` folder inside holds those. Or the `data`
    section of a `recipe`. `classes` is a file with one class a line in the order of the outputs; without it they are the
    images' own classes.
    """

    data: Path | None = None
    val: Path | None = None
    recipe: Path | None = None
    classes: Path | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.recipe is None):
            raise UsageError("give the images by --data DIR or by --recipe FILE")
        if self.recipe is not None and self.val is not None:
            raise UsageError("--val belongs to --data")

    def section(self, classes: Path | None) -> dict[str, Any]:
        """Return the recipe's `data` section; `classes` is where the run keeps the file of class names."""
        section = self._images()
        return section if classes is None else {"use": "relabelled", "source": section, "classes": str(classes.resolve())}

    def _images(self) -> dict[str, Any]:
        if self.recipe is not None:
            ref = load_recipe(self.recipe).source.ref()
            return {"use": ref.use, **ref.options}
        assert self.data is not None
        folder = self.data.resolve()
        if self.val is not None:
            return {"use": "folder", "train": str(folder), "val": str(self.val.resolve())}
        if all((folder / name).is_dir() for name in ("train", "val")):
            return {"use": "folder", "train": str(folder / "train"), "val": str(folder / "val")}
        return {"use": "folder", "train": str(folder), "val": str(folder), "allow_leaks": True}


def import_onnx(
    model: Path,
    images: Images,
    *,
    contract: Path | None = None,
    out: Path | None = None,
    licence: str = UNKNOWN,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> tuple[Path, Checkpoint]:
    """Inspect an ONNX classifier, judge it as it came on labelled images, and return the run folder and the record of it.

    Raises `IntegrityError` for a file that must not be trusted, `UsageError` where file and contract leave open what the model
    is fed, `DataError` for images or classes that do not fit it.
    """
    from edgekd.exporting import foreign, inspect

    console = console or Console()
    sound = inspect.read(model)
    document = Document(Path("contract"), {}) if contract is None else read_yaml(contract)
    interface, wanted, assumed = foreign.understand(sound.model, validate(foreign.Contract, document.data, document))
    for line in assumed:
        console.warn(f"{model.name} does not say what it is fed; assumed: {line}; a contract can say otherwise (--contract)")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.stem).strip("._-")[:64] or "model"
    root = open_run_folder(out or Path("runs") / name, overwrite=overwrite)
    with locked(root):
        kept = _kept_classes(images.classes, root)
        student = {"use": IMPORTED, "file": model.name, "sha256": sha256_of(model), **interface.model_dump(mode="json")}
        loaded = _recipe(name, student, images.section(kept), sound, assignments)
        write_text(root / "recipe.yaml", _as_yaml(loaded))
        work = Work(loaded, RunFolder(root), command, console)
        record = _checkpoint(work, model, sound, interface, wanted, licence)
    return root, record


# ---------------------------------------------------------------------------------------------------------------- recipe
def _kept_classes(classes: Path | None, root: Path) -> Path | None:
    if classes is None:
        return None
    from edgekd.core.class_names import read_class_names

    read_class_names(classes)
    write_text(root / CLASSES, classes.read_text(encoding="utf-8-sig"))
    return root / CLASSES


def _recipe(name: str, student: dict[str, Any], data: dict[str, Any], sound: "Sound", assignments: Sequence[str]) -> Loaded:
    from edgekd.exporting import graph

    precision = "original" if graph.has_own_precision(sound.model) else "fp32"
    whole = {
        "name": name,
        "about": f"{student['file']}, imported: exported, measured and judged, not trained",
        "data": data,
        "student": student,
        "method": METHOD,
        "train": {"duration": {"steps": 1}},
        "baseline": None,
        "export": [{"use": "onnxruntime", "precision": precision}],
    }
    document = Document(Path("edgekd import-onnx"), frozen(whole), one_of=frozenset({"duration"}))
    for assignment in assignments:
        document.set(assignment)
    return Loaded(recipe=validate(Recipe, document.data, document), document=document)


def _as_yaml(loaded: Loaded) -> str:
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    data = loaded.recipe.model_dump(mode="json", exclude={"method"})
    flat = {key: {"use": data[key]["use"], **data[key]["options"]} for key in ("data", "student")}
    several = {key: [{"use": ref["use"], **ref["options"]} for ref in data[key]] for key in ("export", "formats")}
    yaml.dump({**data, **flat, **several, "method": METHOD}, text)
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------------ checkpoint
def _checkpoint(
    work: Work, model: Path, sound: "Sound", interface: "Interface", wanted: InputContract, licence: str
) -> Checkpoint:
    source, student = work.source, work.recipe.student
    from_ = {"data": source.digest(), "settings": digest_of_section(student, wanted, licence)}
    path = work.folder.checkpoint()
    if (done := find_done(Checkpoint, path, from_)) is not None:
        work.console.say(f"{model.name}: kept, top-1 {done.accuracy.top1:.1%}")
        return done
    if interface.classes not in (None, len(source.classes)):
        raise UsageError(
            f"{model}: answers with {interface.classes} classes, and the images have {len(source.classes)}",
            mend="say what its outputs are called: --classes FILE, one class a line in their order",
        )
    begin_stage(path.parent, path.name)
    _copy(model, sound, path.parent / MODEL)
    write_text(path.parent / HISTORY, "")
    accuracy = _accuracy(work, path.parent, interface, wanted)
    record = Checkpoint(
        made_by=work.made_by,
        from_=from_,
        name=work.recipe.name,
        weights=file_ref(path.parent / MODEL, folder=path.parent),
        history=file_ref(path.parent / HISTORY, folder=path.parent),
        student=student,
        student_name=model.stem,
        parameters=_parameters(sound),
        licence=licence,
        classes=source.classes,
        input=wanted,
        method=PartRef(use=METHOD),
        teachers=(),
        data=source.facts(),
        training=_NOT_TRAINED,
        accuracy=accuracy,
        knn_top1=None,
        probe_top1=None,
        seed=work.recipe.seed,
    )
    write_record(path, record)
    work.console.say(f"{model.name}: top-1 {accuracy.top1:.1%} on {accuracy.images} images, as it came")
    return record


_NOT_TRAINED = TrainingFacts(
    steps=0,
    images_seen=0,
    seconds=0.0,
    images_per_second=0.0,
    data_wait_share=0.0,
    final_loss=0.0,
    device=UNKNOWN,
    precision=UNKNOWN,
)


def _accuracy(work: Work, folder: Path, interface: "Interface", wanted: InputContract) -> Accuracy:
    from edgekd.exporting import adapting, stage

    source = work.source
    module = adapting.module_of(folder / MODEL, interface, size_px=wanted.size_px, classes=len(source.classes))
    logits_NK = stage.eager_answers(module, source.val(), wanted, console=work.console, label="as it came")
    if logits_NK.shape[1] != len(source.classes):
        raise UsageError(
            f"the model answers with {logits_NK.shape[1]} classes, and the images have {len(source.classes)}",
            mend="say what its outputs are called: --classes FILE, one class a line in their order",
        )
    return write_predictions(logits_NK, source.val().samples, source.classes, folder)


def _copy(model: Path, sound: "Sound", to: Path) -> None:
    """Copy the file as it is; weights in files beside it are taken inside, so that one file is the whole model."""
    if not sound.external_files:
        shutil.copyfile(model, to)
        return
    import onnx

    from edgekd.exporting.inspect import MAX_FILE_BYTES

    if sound.weights_bytes > MAX_FILE_BYTES:
        raise UsageError(f"{model}: has more than 2 GiB of weights, too many for a model of an edge device")
    whole = onnx.ModelProto()
    whole.CopyFrom(sound.model)
    onnx.load_external_data_for_model(whole, str(model.parent))
    to.write_bytes(whole.SerializeToString(deterministic=True))


def _parameters(sound: "Sound") -> int:
    from math import prod

    return sum(prod(tensor.dims) for tensor in sound.model.graph.initializer)

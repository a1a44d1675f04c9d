"""What is done with one student beside the pipeline: trained further, probed, taken without its head, its weights taken up."""

import json
from collections.abc import Sequence
from pathlib import Path

from edgekd import finetuning
from edgekd.core.console import Console
from edgekd.core.errors import DataError, UsageError
from edgekd.core.host import usable_cores
from edgekd.core.records import Checkpoint
from edgekd.core.side_records import BackboneFiles, Probes
from edgekd.core.store import RunFolder, locked, open_run_folder, read_record
from edgekd.finetuning import Labelled, Tuning
from edgekd.runs import begin, resume
from edgekd.work import Work


def finetune(
    checkpoint: Path,
    labelled: Labelled,
    *,
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    out: Path | None = None,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Checkpoint:
    """Train a checkpoint's student further on labelled images, as a run of its own that can be exported and measured.

    `checkpoint` is a run folder or a checkpoint.json. Raises `UsageError` for options that exclude one another.
    """
    console = console or Console()
    earlier = finetuning.find_checkpoint(checkpoint)
    draft = finetuning.compose(earlier, labelled, tuning, assignments=assignments)
    draft.check()
    source = Work(draft, RunFolder(Path()), command, console).source
    loaded = finetuning.settled(draft, earlier, source, tuning, assignments=assignments)
    console.say(finetuning.schedule(loaded))
    with begin(loaded, out, overwrite=overwrite, command=command, console=console) as work:
        work.source = source
        return work.distill_all()


def probe(
    checkpoint: Path,
    labelled: Labelled,
    *,
    fractions: Sequence[float],
    draws: Sequence[int] = (0, 1, 2),
    tap: str | None = None,
    out: Path | None = None,
    assignments: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Probes:
    """Judge a checkpoint's frozen features by linear probe and nearest neighbours at several shares of the labels.

    Writes `probes.json` into `out` (by default runs/<student>-probes). Raises `UsageError` for a fraction that is no share.
    """
    console = console or Console()
    earlier = finetuning.find_checkpoint(checkpoint)
    loaded = finetuning.compose(earlier, labelled, Tuning(mode="probe"), assignments=assignments)
    question = finetuning.Question(fractions=tuple(fractions), draws=tuple(draws), tap=tap or earlier.record.feature_tap)
    root = open_run_folder(out or Path("runs") / f"{loaded.recipe.name}s", overwrite=overwrite)
    with locked(root):
        return finetuning.probe(Work(loaded, RunFolder(root), command, console), earlier, question)


def backbone(
    run: Path,
    out: Path,
    *,
    formats: Sequence[str] | None = None,
    tap: str | None = None,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> BackboneFiles:
    """Write a run's student without its head as plain timm and torch weights and as an embedding ONNX.

    The embedding is held against torch on the run's validation images, or on noise where they cannot be read.
    """
    from edgekd.exporting import backbone as exporting

    wanted = exporting.Wanted(formats=tuple(formats or exporting.FORMATS), tap=tap, threads=usable_cores())
    with resume(run, command=command, console=console) as work:
        images = None
        try:
            images = work.source.val() if "onnx" in wanted.formats else None
        except DataError as error:
            work.console.warn(f"the run's images cannot be read, the embedding is checked on noise: {error.message}")
        path = work.folder.checkpoint()
        return exporting.write(
            checkpoint=read_record(Checkpoint, path),
            folder=path.parent,
            student=work.loaded.student,
            images=images,
            out=out,
            wanted=wanted,
            made_by=work.made_by,
            console=work.console,
        )


def import_weights(
    source: Path, target: Path, *, key: str | None = None, strip: str = "", overwrite: bool = False
) -> list[str]:
    """Read the weights of a foreign torch checkpoint, and nothing else of it, and write them as safetensors."""
    from edgekd.distilling import foreign_weights

    return foreign_weights.convert(source, target, key=key, strip=strip, overwrite=overwrite)


def embed_classes(
    classes: Path,
    target: Path,
    *,
    model: str,
    pretrained: str,
    templates: Sequence[str] = (),
    sha256: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the text embeddings of the classes of a file by an open_clip model; return what to tell of them.

    Raises `UsageError` if there is a file already, and what `edgekd.distilling.zero_shot.embed_classes` raises.
    """
    from edgekd.distilling import zero_shot

    if target.exists() and not overwrite:
        raise UsageError(f"{target}: is there already", mend="choose another name, or add --overwrite")
    prompts = tuple(templates) or zero_shot.TEMPLATES
    texts = zero_shot.embed_classes(classes, model=model, pretrained=pretrained, templates=prompts, sha256=sha256)
    about = {"text_model": model, "pretrained": pretrained, "templates": json.dumps(prompts, ensure_ascii=False)}
    zero_shot.write_texts(target, texts, about=about)
    count, width = texts.text_KD.shape
    return [f"wrote {target}: {count} classes, {width} wide, logit scale {texts.logit_scale:.4g}"]

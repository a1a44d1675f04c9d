"""A bundle's model card and its page of licences: Markdown, headed by the metadata that Hugging Face reads.

Every figure comes from a record; what no record knows is left out or said to be unknown. Text from outside (names of classes,
teachers and licences) is shown as code, in which Markdown sees no markup.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from edgekd.core.records import Checkpoint, LatencySummary, TeacherFacts
from edgekd.core.side_records import Bundle
from edgekd.core.stats import wilson

_LIBRARIES = {"onnxruntime": "onnx", "openvino": "openvino"}
_HUB_LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "cc0-1.0"),
        *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    }
)
"""The names that Hugging Face knows, of those that stand on weights; another one is `other` there."""
_NOT_FOR_TRADE = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial|research[- ]only", re.IGNORECASE)
_MOST_CLASSES = 50


def render(contract: Bundle, checkpoint: Checkpoint | None, latencies: tuple[LatencySummary, ...]) -> str:
    """Return README.md: metadata, what the model is, its figures, how to run it, where it comes from, under which licences."""
    name = checkpoint.student_name if checkpoint else "image classifier"
    lines = [
        "---",
        *_yaml(_metadata(contract, checkpoint)).splitlines(),
        "---",
        "",
        f"# {_code(name)} for {_code(contract.runtime)}, {_code(contract.precision)}",
        "",
        *_about(contract, checkpoint),
        "",
        *_figures(contract, latencies),
        "",
        *_usage(contract),
        "",
        *_input(contract),
        "",
        *_origin(contract, checkpoint),
        "",
        *_licences(contract),
        "",
    ]
    return "\n".join(lines)


def licences(contract: Bundle) -> str:
    """Return LICENCES.md, the same list as in the card."""
    return "\n".join([*_licences(contract), ""])


# --------------------------------------------------------------------------------------------------------------- metadata
def _metadata(contract: Bundle, checkpoint: Checkpoint | None) -> dict[str, Any]:
    library = _LIBRARIES[contract.runtime]
    tags = ["image-classification", library, contract.precision, "edgekd"]
    if checkpoint is not None and checkpoint.teachers:
        tags.append("knowledge-distillation")
    metadata: dict[str, Any] = {
        **_licence_metadata(contract),
        "library_name": library,
        "tags": tags,
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
    }
    if (base := _base_model(checkpoint)) is not None:
        metadata["base_model"] = base
    return {**metadata, "model-index": [_index_entry(contract, checkpoint)]}


def _licence_metadata(contract: Bundle) -> dict[str, str]:
    known = {licence.lower() for licence in contract.licences.values()}
    if not known:
        return {"license": "unknown"}
    if len(known) == 1 and known <= _HUB_LICENCES:
        return {"license": known.pop()}
    return {"license": "other", "license_name": "see-licences", "license_link": "LICENCES.md"}


def _base_model(checkpoint: Checkpoint | None) -> str | None:
    """Return the hub's name of the weights that the student began with, where the record pins them."""
    if checkpoint is None or checkpoint.student.use != "timm" or checkpoint.start is not None:
        return None
    options = checkpoint.student.options
    model = str(options.get("model", ""))
    # Without a tag, timm chooses the weights, and another version of it may choose others.
    return f"timm/{model}" if options.get("weights") == "hub" and re.fullmatch(r"\w+\.\w+", model) else None


def _index_entry(contract: Bundle, checkpoint: Checkpoint | None) -> dict[str, Any]:
    metrics = [{"type": "accuracy", "name": "top-1", "value": contract.top1_correct / contract.images}]
    if contract.top5_correct is not None:
        metrics.append({"type": "accuracy", "name": "top-5", "value": contract.top5_correct / contract.images})
    dataset = {"type": "custom", "name": f"{contract.images} validation images, sha256 {contract.from_.get('data', 'unknown')}"}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
    return {"name": checkpoint.student_name if checkpoint else contract.runtime, "results": [result]}


def _yaml(metadata: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(metadata, text)
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------------------- body
def _about(contract: Bundle, checkpoint: Checkpoint | None) -> Iterator[str]:
    yield f"Says which of {len(contract.classes)} classes a photograph shows (`classes.json` names them all):"
    yield ""
    # An indented block on one line: nothing in it can end it.
    shown = json.dumps(contract.classes[:_MOST_CLASSES], ensure_ascii=True)
    yield f"    {shown}{' ...' if len(contract.classes) > _MOST_CLASSES else ''}"
    for output in contract.outputs[1:]:
        own = json.dumps(output.classes[:_MOST_CLASSES], ensure_ascii=True)
        yield ""
        yield f"A further output, {_code(output.name)}, says it over {len(output.classes)} classes of its own:"
        yield ""
        yield f"    {own}{' ...' if len(output.classes) > _MOST_CLASSES else ''}"
    if checkpoint is not None:
        taught = (
            f"distilled from {' and '.join(_code(t.name) for t in checkpoint.teachers)}" if checkpoint.teachers else "trained"
        )
        yield ""
        yield f"The model is a {_code(checkpoint.student_name)} of {checkpoint.parameters:,} weights, {taught}"
        yield f"with edgekd {contract.made_by.version}."


def _figures(contract: Bundle, latencies: tuple[LatencySummary, ...]) -> Iterator[str]:
    yield "## Measured"
    yield ""
    yield f"All through {_code(contract.measured_with)}, on the {contract.images} validation images of its data."
    yield "Photographs of another kind were not tried."
    yield ""
    yield "| what | value |"
    yield "| --- | --- |"
    yield f"| top-1 | {_share(contract.top1_correct, contract.images)} |"
    if contract.top5_correct is not None:
        yield f"| top-5 | {_share(contract.top5_correct, contract.images)} |"
    yield f"| same first answer as the model in training | {contract.top1_agreements} of {contract.images} |"
    yield f"| size | {sum(ref.size_bytes for ref in contract.files):,} bytes |"
    for latency in latencies:
        if latency.trusted and latency.p50_ms is not None:
            where = f"{latency.device.cpu or latency.device.name}, batch {latency.batch}, threads {latency.threads}"
            yield f"| median latency: {_code(where)} | {latency.p50_ms:.2f} ms |"


def _share(right: int, images: int) -> str:
    interval = wilson(right, images)
    return f"{right / images:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"


def _usage(contract: Bundle) -> Iterator[str]:
    program = f"classify_{contract.runtime}"
    yield from ("## Run it", "", "```sh")
    yield "pip install -r python/requirements.txt"
    yield "python python/classify.py photo.jpg"
    yield from ("```", "")
    yield "Python 3.9 or newer is enough, without torch. In C++, with libjpeg-turbo, libpng and the runtime's library:"
    yield from ("", "```sh")
    yield "cmake -S cpp -B ../build   # -DONNXRUNTIME_ROOT=... or -DOpenVINO_DIR=...: see cpp/CMakeLists.txt"
    yield "cmake --build ../build"
    yield f"../build/{program} --bundle . photo.jpg"
    yield from ("```", "", "Both print the five most probable classes. To check that nothing was changed on the way:", "")
    yield from ("```sh", "sha256sum --check --quiet SHA256SUMS   # or, with edgekd: edgekd verify .", "```")


def _input(contract: Bundle) -> Iterator[str]:
    rules, spec = contract.input, contract.inputs[0]
    height, width = rules.size_px
    cut = f"resized to {height} x {width}"
    if rules.crop != "squash":
        cut = f"short side resized to {rules.resize_px}, centre {height} x {width} cut out"
    resizes_itself = all(isinstance(side, str) for side in spec.shape[1:3])
    shape = " x ".join(map(str, spec.shape))
    yield from ("## What it takes", "")
    yield f"RGB, upright as EXIF says, {'of any size' if resizes_itself else f'{cut} ({rules.interpolation}, antialiased)'},"
    yield f"as {spec.dtype} {shape} ({_code(spec.name)}), values from 0 to {255 if spec.dtype == 'uint8' else 1}."
    if resizes_itself:
        yield f"The model does the rest by itself: {cut} ({rules.interpolation}, antialiased)."
    yield f"It normalises for itself, too: mean {list(rules.mean)}, std {list(rules.std)}."
    yield "`contract.json` says the same to programs."


def _origin(contract: Bundle, checkpoint: Checkpoint | None) -> Iterator[str]:
    yield from ("## Where it comes from", "", "| what | |", "| --- | --- |")
    if checkpoint is not None:
        yield f"| method | {_code(checkpoint.method.use)} |"
        for teacher in checkpoint.teachers:
            yield f"| teacher | {_teacher(teacher)} |"
        data = checkpoint.data
        yield f"| images to train on | {data.train_images}, {data.labelled_images} of them labelled |"
        yield f"| images to validate on | {data.validation_images} |"
        yield f"| seed | {checkpoint.seed} |"
    for what, digest in contract.from_.items():
        yield f"| digest of {_code(what)} | `{digest}` |"


def _teacher(teacher: TeacherFacts) -> str:
    return f"{_code(teacher.name)}, {teacher.parameters:,} weights, sha256 `{teacher.weights_sha256}`"


def _licences(contract: Bundle) -> Iterator[str]:
    yield from ("## Licences", "", "| of | licence |", "| --- | --- |")
    for what, licence in contract.licences.items():
        yield f"| {_code(what)} | {_code(licence)} |"
    yield "| the images it learned from | not recorded: ask whoever collected them |"
    yield "| the programs in `python/` and `cpp/` | `Apache-2.0` (LICENSE-programs) |"
    yield ""
    yield "These are the licences that each maker states for the weights; edgekd does not say which of them binds this model."
    if held := [what for what, licence in contract.licences.items() if _NOT_FOR_TRADE.search(licence)]:
        yield ""
        yield f"**Not for commercial use**, as far as these terms reach: {', '.join(map(_code, held))}."


def _code(text: str) -> str:
    """Return text as code that ends no table cell, line or code span."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return f"`{plain.replace('`', chr(39)).replace('|', '/').strip() or ' '}`"

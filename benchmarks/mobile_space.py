"""On the MobileNet-class space: does a score say more than size and latency, and is what a search finds better than a standard?

    python benchmarks/mobile_space.py draw                    writes the 16 students of studies/mobile_space_imagenette
    python benchmarks/study.py mobile_space_imagenette --data DATA
    python benchmarks/mobile_space.py rank RESULT.json --data DATA [--out FILE]
    python benchmarks/mobile_space.py find --data DATA        searches, writes studies/found_imagenette
    python benchmarks/study.py found_imagenette --data DATA

The 16 are drawn by the seed from 4,096 random ones, one out of each sixteenth by multiply-accumulates. Every row learns by the
same short pre-training (KDEP, SVD of ViT-Tiny's kept answers); its linear probe is the truth that scores are held against.
`find` limits the search by the latency of mobilenetv3_small_100, measured just before, and gives both the same training.
DATA holds imagenette160/ and weights/.
"""

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from _ranking import agreement, print_table, standardised
from _stopwatch import machine, write_result

from edgekd import choosing
from edgekd.block_timing import Stopwatch
from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Device, Source, Student, Teacher
from edgekd.core.parts import PartRef
from edgekd.core.search_contracts import Space
from edgekd.core.search_plan import Search
from edgekd.searching.counting import size_of
from edgekd.searching.exam import make_exam
from edgekd.searching.scoring import scoring

HERE = Path(__file__).parent
STUDY, FOUND = "mobile_space_imagenette", "found_imagenette"
STANDARD, SIZE_PX, CLASSES = "mobilenetv3_small_100", 64, 10
TEACHER = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
# Narrower ones have fewer channels than the 256 directions that the pre-training teaches.
SPACE: dict[str, Any] = {"sizes": (SIZE_PX,), "widths": (0.5, 0.75, 1.0), "activations": ("hard_swish",), "depths": (1, 2, 3)}
STUDENTS, DRAWN = 16, 4096
SCORERS = (
    PartRef(use="relation_similarity", options={"centre": True}),
    PartRef(use="class_similarity"),
    PartRef(use="affinity"),
    PartRef(use="semantic_similarity", options={"form": "grad_cam"}),
    PartRef(use="zen"),
    PartRef(use="synflow"),
    PartRef(use="parameters"),
    PartRef(use="macs"),
    PartRef(use="latency"),
)
SUM = ("relation_similarity", "class_similarity")
ROW = """\
# {about}
#   python benchmarks/study.py {study} --data DIR --rows {name}
name: {name}
about: '{about}'

data:
  use: folder
  train: DATA/imagenette160/train
  val: DATA/imagenette160/val
  labels_per_class: 25

teachers:
  - use: timm
    model: {teacher}
    weights: DATA/weights/{teacher}.safetensors

student: {student}

method:
  use: kdep
  target: svd
  on_wider_student: first_channels
  dim: 256

cache: {{views: 4}}

train:
  duration: {{images: 24000}}
  batch: 64
  optimiser: adamw
  lr: 1e-2
  weight_decay: 0.05
  warmup: 0.1
  clip_norm: 2.0
  evaluate_every: 0.0
  augment: {{crop_area: [0.35, 1.0], flip: 0.5}}

baseline: null
bench: null
"""
SEARCH = """\
search:
  space: {{use: mobile, sizes: [{size}], widths: [0.5, 0.75, 1.0], activations: [hard_swish], depths: [1, 2, 3]}}
  evaluations: {evaluations}
  ahead: 4
  scorers: [{{use: relation_similarity, centre: true}}, class_similarity]
  latency: {{backend: onnxruntime, threads: 1, max_ms: {max_ms:.4f}, finalists: 5}}
  compare: [{standard}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("draw", "rank", "find"))
    parser.add_argument("result", type=Path, nargs="?", help="rank: what study.py wrote")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.step == "draw":
        draw()
        return
    if options.data is None:
        parser.error("--data is missing")
    if options.step == "find":
        find(options)
    elif options.result is None:
        parser.error("rank needs the file that study.py wrote")
    else:
        rank(options)


def local() -> Device:
    """Return this machine."""
    return cast(Device, parts.load("device", "local")())


def space() -> Space:
    """Return the space of this study."""
    return cast(Space, parts.load("space", "mobile")(**SPACE))


def student_of(ref: PartRef) -> Student:
    """Return a student."""
    return cast(Student, parts.load("student", ref.use)(**ref.options))


def draw() -> None:
    """Write the rows of the study: one student out of each sixteenth by multiply-accumulates."""
    dice, of = random.Random(0), space()
    sized = {of.drawn(dice): 0 for _ in range(DRAWN)}
    ordered = sorted(sized, key=_estimated_macs)
    share = len(ordered) // STUDENTS
    for number in range(STUDENTS):
        genome = dice.choice(ordered[number * share : (number + 1) * share])
        name = f"net_{number:02d}"
        size = size_of(student_of(of.student(genome)), CLASSES)
        about = f"{size.macs / 1e6:.1f} million multiply-accumulates, {size.parameters:,} parameters"
        _write_row(STUDY, name, about, f"{{use: mobile, genome: {genome}}}")
        print(f"{name}  {about}  {genome}")


def rank(options: argparse.Namespace) -> None:
    """Print how every score ranks what the rows came to, also once size and latency are known."""
    told, rows = machine(), json.loads(options.result.read_text())["rows"]
    truth = {row["row"]: fmean(seed["probe_top1"] for seed in row["seeds"]) for row in rows}
    refs = {name: _student_in(HERE / "studies" / STUDY / f"{name}.yaml") for name in truth}
    backend = cast(Backend, parts.load("backend", "onnxruntime")())
    stopwatch = Stopwatch(backend, local(), threads=1, iterations=200)
    students = {name: student_of(ref) for name, ref in refs.items()}
    modules = [student.exportable(student.build(CLASSES, start=False)) for student in students.values()]
    timed = stopwatch(*((module, (3, SIZE_PX, SIZE_PX)) for module in modules))  # all in turns
    latency_ms = {name: one.p50_ms for name, one in zip(students, timed, strict=True)}
    with scoring(_exam(options.data), workers=options.workers) as submit:
        waiting = {name: submit(ref, latency_ms[name]) for name, ref in refs.items()}
        scores = {name: {k: v.value for k, v in future.result().scores.items()} for name, future in waiting.items()}
    columns = {score: [scores[name][score] for name in truth] for score in next(iter(scores.values()))}
    both = zip(*(standardised(columns[name]) for name in SUM), strict=True)
    columns = {"sum of the first two, standardised": [a + b for a, b in both], **columns}
    given = {"parameters": columns["parameters"], "latency": columns["latency"]}
    table = agreement(columns, list(truth.values()), given=given)
    print_table(table)
    result = {"machine": told, "truth": truth, "latency_ms": latency_ms, "scores": scores, "table": table}
    print(f"wrote {write_result('mobile_space_ranks', result, options.out)}")


def find(options: argparse.Namespace) -> None:
    """Search within the standard network's latency, and write the two rows of the comparison."""
    standard = PartRef(use="timm", options={"model": STANDARD, "weights": "random", "size": SIZE_PX})
    student = student_of(standard)
    backend = cast(Backend, parts.load("backend", "onnxruntime")())
    stopwatch = Stopwatch(backend, local(), threads=1, iterations=400)
    module = student.exportable(student.build(CLASSES, start=False))
    limit_ms = stopwatch((module, (3, SIZE_PX, SIZE_PX)))[0].p50_ms
    print(f"{STANDARD} takes {limit_ms:.3f} ms; that is the limit")
    row = ROW.format(about="search", study=FOUND, name="search", teacher=TEACHER, student=f"{{use: timm, model: {STANDARD}}}")
    section = SEARCH.format(size=SIZE_PX, evaluations=options.evaluations, max_ms=limit_ms, standard=STANDARD)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "search.yaml"
        recipe.write_text(row.replace("DATA/", f"{options.data.resolve()}/") + section)
        found = choosing.search(recipe, out=options.out or Path("runs/mobile_space_found"), console=Console())
    winner = found.candidates[found.winner]
    assert winner.measured is not None
    about = f"found within {limit_ms:.2f} ms: {winner.measured.p50_ms:.2f} ms, {winner.parameters:,} parameters"
    _write_row(FOUND, "found", about, f"{{use: mobile, genome: {winner.genome}}}")
    plain = f"{{use: timm, model: {STANDARD}, weights: random, size: {SIZE_PX}}}"
    _write_row(FOUND, STANDARD, f"the standard network: {limit_ms:.2f} ms", plain)
    print(f"{about}: {winner.genome}")


def _exam(data: Path) -> Any:
    source = cast(Source, parts.load("source", "folder")(train=data / "imagenette160" / "train", val_fraction=0.1))
    weights = data / "weights" / f"{TEACHER}.safetensors"
    teacher = cast(Teacher, parts.load("teacher", "timm")(model=TEACHER, weights=weights))
    plan = Search(space=PartRef(use="mobile"), scorers=SCORERS, images=64)
    return make_exam(plan, source, teacher, size_px=SIZE_PX, seed=0)


def _estimated_macs(genome: str) -> float:
    """Return what orders genomes by size without building them: the products of widths at each block's resolution."""
    from edgekd.core.genomes import MobileGenome

    total = 0.0
    for block in MobileGenome.parse(genome).blocks(CLASSES):
        channels, height, width = block.input_CHW
        spelled = dict(word for word in ((part[0], part[1:]) for part in block.timm.split("_")[1:]) if word[1])
        wide = channels * float(spelled.get("e", 1))
        out = float(spelled.get("c", channels))
        total += height * width * (channels * wide + wide * float(spelled.get("k", 1)) ** 2 + wide * out)
    return total


def _student_in(path: Path) -> PartRef:
    from edgekd.core.config import read_yaml

    return PartRef.model_validate(read_yaml(path).data["student"])


def _write_row(study: str, name: str, about: str, student: str) -> None:
    folder = HERE / "studies" / study
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(ROW.format(about=about, study=study, name=name, teacher=TEACHER, student=student))


if __name__ == "__main__":
    main()

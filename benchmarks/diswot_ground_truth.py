"""Do scores of untrained networks rank what they become when they are distilled? On the 64 CIFAR ResNets of DisWOT.

    python benchmarks/diswot_ground_truth.py --data DATA [--batch 64] [--initialisations 3] [--workers 2] [--out FILE]

DATA holds cifar100/train.npz. diswot_ground_truth.csv holds what the authors of DisWOT (Dong et al. 2023) published of these
networks: CIFAR-100 top-1 of each trained alone and distilled, one run each. Each network is scored against a ResNet56 of random
weights on a fixed batch of real images, under both initialisations. What is done is kept beside the result: the command can be
stopped and given again.
"""

import argparse
import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from _ranking import agreement, print_table, standardised
from _stopwatch import machine, write_result

from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Student
from edgekd.core.parts import PartRef
from edgekd.core.records import digest_of
from edgekd.searching.exam import balanced
from edgekd.searching.initialising import initialise
from edgekd.searching.journal import Journal
from edgekd.searching.scoring import Exam, Taught, scoring
from edgekd.searching.sight import sight_of

CLASSES = 100
TEACHER = "9-9-9"
TEACHER_SEED = 1000
KINDS: tuple[Literal["kaiming", "gaussian"], ...] = ("kaiming", "gaussian")
SCORERS = (
    PartRef(use="semantic_similarity", options={"form": "gradient"}),
    PartRef(use="semantic_similarity", options={"form": "grad_cam"}),
    PartRef(use="relation_similarity", options={}),
    PartRef(use="relation_similarity", options={"of": "vector", "centre": True}),
    PartRef(use="class_similarity"),
    PartRef(use="affinity"),
    PartRef(use="channel_correlation"),
    PartRef(use="zen", options={}),
    PartRef(use="zen", options={"form": "batch_norm"}),
    PartRef(use="synflow"),
    PartRef(use="parameters"),
    PartRef(use="macs"),
)
SUM = ("semantic_similarity", "relation_similarity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKD_DATA"), required="EDGEKD_DATA" not in os.environ)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--initialisations", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=Path("runs/diswot_ground_truth"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    told = machine()
    truth = published()
    tables = {}
    for kind in KINDS:
        found = scores(exam(options.data, kind, options), truth, options, Console())
        tables[kind] = agreement(
            columns(found),
            [row["distilled_top1"] for row in truth.values()],
            given={"parameters": [found[genome]["parameters"] for genome in truth]},
        )
        print(f"\n{kind}, {options.initialisations} initialisations, {options.batch} images:\n")
        print_table(tables[kind])
    settings = {"batch": options.batch, "initialisations": options.initialisations, "teacher": f"random cifar_resnet {TEACHER}"}
    print(
        f"\nwrote {write_result('diswot_ground_truth', {'machine': told, 'settings': settings, 'tables': tables}, options.out)}"
    )


def published() -> dict[str, dict[str, float]]:
    """Return the published accuracies by genome."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8") as file:
        return {row.pop("genome"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}


def exam(data: Path, kind: Literal["kaiming", "gaussian"], options: argparse.Namespace) -> Exam:
    """Return the fixed batch and what the random teacher makes of it, initialised as the students are."""
    with np.load(data / "cifar100" / "train.npz", allow_pickle=False) as held:
        labels = held["fine_label"].astype(np.int64)
        chosen = balanced(labels.tolist(), options.batch, seed=0)
        image_BCHW = held["images"][chosen].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    label_B = labels[chosen]
    torch.manual_seed(0)
    teacher = cast(Student, parts.load("student", "cifar_resnet")(genome=TEACHER)).build(CLASSES)
    initialise(teacher, kind, seed=TEACHER_SEED)
    sight, _ = sight_of(teacher, torch.from_numpy(image_BCHW), torch.from_numpy(label_B))
    return Exam(
        scorers=SCORERS,
        image_BCHW=image_BCHW,
        label_B=label_B,
        classes=CLASSES,
        taught=Taught.of(sight),
        initialisation=kind,
        initialisations=options.initialisations,
        seed=0,
    )


def scores(asked: Exam, truth: Mapping[str, Any], options: argparse.Namespace, console: Console) -> dict[str, dict[str, float]]:
    """Return every score of every network, by genome; those that are kept are not computed again."""
    about = {
        "settings": digest_of(
            [[ref.model_dump(mode="json") for ref in SCORERS], options.batch, options.initialisations, TEACHER_SEED]
        )
    }
    journal = Journal(options.kept / f"{asked.initialisation}.jsonl", about)
    todo = [genome for genome in truth if journal.get(genome) is None]
    label = asked.initialisation
    with scoring(asked, workers=options.workers) as submit, console.progress(label, len(truth), "networks") as progress:
        width = 2 * options.workers
        for start in range(0, len(todo), width):
            group = todo[start : start + width]
            waiting = [submit(PartRef(use="cifar_resnet", options={"genome": genome}), None) for genome in group]
            for genome, future in zip(group, waiting, strict=True):
                values = {name: score.value for name, score in future.result().scores.items()}
                journal.add(genome, {"scores": values})
                progress.update(len(truth) - len(todo) + start + group.index(genome) + 1)
    return {genome: cast("dict[str, Any]", journal.get(genome))["scores"] for genome in truth}


def columns(found: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the scores as columns, with DisWOT's sum of the two standardised ones."""
    names = list(next(iter(found.values())))
    table = {name: [row[name] for row in found.values()] for name in names}
    both = zip(*(standardised(table[name]) for name in SUM), strict=True)
    return {"DisWOT (sum of the first two, standardised)": [a + b for a, b in both], **table}


if __name__ == "__main__":
    main()

"""What a training leaves behind of the students that learnt with the first one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from edgekd.core.console import Console
from edgekd.core.contracts import Needs
from edgekd.core.errors import EdgekdError, UsageError
from edgekd.core.store import begin_stage, write_text
from edgekd.distilling.cohort import Cohort
from edgekd.distilling.job import Job, Peer
from edgekd.distilling.results import Trained, write_checkpoint
from edgekd.distilling.taps import TappedModel


def check(job: Job, needs: Needs) -> None:
    """Raise `UsageError` unless there are as many peers as the method needs, and training is one that peers can have."""
    method, wanted = job.method.ref().use, needs.branches - 1 if needs.branches else needs.peers
    if len(job.peers) < wanted or (job.peers and not wanted):
        raise UsageError(f"method {method} needs {wanted or 'no'} peers and has {len(job.peers)}", mend="see `peers:`")
    if job.peers and job.plan.freeze is not None:
        raise UsageError(
            f"`train.freeze: {job.plan.freeze}` keeps still what students that learn together have to move",
            mend="leave out `train.freeze`",
        )


def built(peer: Peer, classes: int, *, start: bool) -> TappedModel:
    """Return a peer's student; what goes wrong with it says whose it is."""
    try:
        return cast(TappedModel, peer.student.build(classes, start=start))
    except EdgekdError as error:
        raise type(error)(f"peer {peer.name}: {error.message}", mend=error.mend) from error


def top1_of(name: str) -> str:
    """Return what a peer's accuracy is called in the history of the run."""
    return f"top1 {name}"


def write_checkpoints(trained: Trained, cohort: Cohort, history: Path, console: Console) -> None:
    """Judge every peer on the validation images, and write its checkpoint into its own folder, with its own history.

    What the method itself learnt stands with the first student's.
    """
    job = trained.job
    for peer in job.peers:
        begin_stage(peer.folder, "checkpoint.json")
        write_text(peer.folder / history.name, _history_of(peer.name, history.read_text(encoding="utf-8")))
        own = replace(job, name=peer.name, student=peer.student, from_=peer.from_, start_facts=None, peers=())
        contract = peer.student.input_contract()
        made = replace(trained, job=own, student=cohort.others[peer.name], criterion=nn.Identity(), contract=contract)
        found = write_checkpoint(made, peer.folder, console)
        console.say(f"{peer.name}: top-1 {found.accuracy.top1:.1%} on {found.accuracy.images} validation images")


def _history_of(name: str, text: str) -> str:
    """Return the run's history with the accuracy of one peer in the place of the first student's."""
    lines = []
    for line in map(json.loads, text.splitlines()):
        top1 = line.pop(top1_of(name), None)
        kept = {key: value for key, value in line.items() if not key.startswith("top1")}
        lines.append(json.dumps(kept if top1 is None else kept | {"top1": top1}))
    return "\n".join(lines) + "\n"

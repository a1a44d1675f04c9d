"""What stands in a finished run is put side by side and judged; imports no torch.

`gate` is what CI starts: nothing is imported here that only training, exporting or measuring needs.
"""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from edgekd.core import contracts, parts
from edgekd.core.budgets import Budgets, read_budgets
from edgekd.core.console import Console
from edgekd.core.errors import EdgekdError, EvidenceError
from edgekd.core.records import MadeBy, Report, Verdict
from edgekd.core.store import PEERS, RunFolder, append_text, read_record
from edgekd.runs import resume
from edgekd.work import Work


def report(
    run: Path, *, recompute: bool = False, command: Sequence[str] | None = None, console: Console | None = None
) -> Report:
    """Put the records of a run side by side, judge them, and write every format; imports no torch.

    With `recompute` nothing is written: every figure of the report's latencies is computed from the samples once more, and
    `EvidenceError` names the first that is not the same to the last bit.
    """
    with resume(run, command=command, console=console) as work:
        if recompute:
            return _recomputed(work)
        work.judge(anew=True)
        return read_record(Report, work.folder.report)


def gate(
    run: Path,
    *,
    budgets: Path | None = None,
    baseline: str | None = None,
    today: datetime.date | None = None,
    store: str = "",
    history: str | None = None,
    command: Sequence[str] | None = None,
    console: Console | None = None,
) -> Verdict:
    """Judge the report of a run by its recipe's budgets, or by those of another file; imports no torch.

    `baseline` is the run (its folder, or what `store` keeps under a name) that limits `to: baseline` are held against; `today`
    (by default this day, UTC) is the day that waivers must reach. Raises `EvidenceError` if the records have changed since the
    report was made. A report without them is judged as it is.
    """
    with resume(run, command=command, console=console) as work:
        judged_by = work.loaded.budgets if budgets is None else read_budgets(budgets)
        earlier = None if baseline is None else _baseline(baseline, store)
        verdict = _gated(work, judged_by, earlier, today or datetime.datetime.now(tz=datetime.UTC).date())
        publish(work, verdict, history)
        return verdict


def _baseline(name_or_run: str, store: str) -> RunFolder:
    from edgekd import baselines

    return RunFolder(baselines.resolve(name_or_run, store))


def _recomputed(work: Work) -> Report:
    from edgekd.judging import evidence

    kept = read_record(Report, work.folder.report)
    count = evidence.check_recomputed(kept, work.facts())
    work.console.say(f"recomputed: every figure of {count} measurements is the same to the last bit")
    return kept


def _gated(work: Work, judged_by: Budgets, baseline: RunFolder | None, today: datetime.date) -> Verdict:
    """Judge the report that stands in a run folder, and those of the students that learnt with its own."""
    from edgekd import __version__
    from edgekd.judging import stage
    from edgekd.judging.peers import with_peers

    facts = read_record(Report, work.folder.report)
    if work.folder.checkpoint().is_file() and work.facts(kept=facts).digest() != facts.digest():
        raise EvidenceError(
            f"{work.folder.report}: is not about the records that are here now",
            mend="make it anew with `edgekd report`",
        )
    earlier = None if baseline is None else _report_of(baseline)
    verdict = stage.judge(facts, judged_by, MadeBy(version=__version__), baseline=earlier, today=today)
    peers = {
        name: _gated(peer, judged_by, None if baseline is None else RunFolder(baseline.root / PEERS / name), today)
        for name, peer in work.peers.items()
    }
    verdict = with_peers(verdict, peers)
    pages = [work.folder.root / part.file_name for part in work.loaded.formats]
    if not (_holds(work.folder.verdict, verdict.to_json()) and all(page.is_file() for page in pages)):
        stage.write(work.folder, facts, verdict, work.loaded.formats)
    return verdict


def _holds(path: Path, text: str) -> bool:
    """Return whether a file is there and holds this text; drawing the same pages again would take longer than judging."""
    return path.is_file() and path.read_bytes() == text.encode()


def _report_of(run: RunFolder) -> Report | None:
    """Return the report of a baseline: as it stands there, or made of its records; None without any."""
    from edgekd.judging import stage

    if run.report.is_file():
        return read_record(Report, run.report)
    if not run.checkpoint().is_file():
        return None
    return stage.make_report(recipe_name=run.root.name, run=run, artifacts=None, made_by=MadeBy(version=""))


def publish(work: Work, verdict: Verdict, history: str | None) -> None:
    """Tell a verdict where people look: in the summary of a GitHub job, and in the history that is named."""
    _tell_github(work, verdict)
    _remember(work, verdict, history)


def _tell_github(work: Work, verdict: Verdict) -> None:
    """Append the Markdown report to the job's summary where a GitHub runner asks for one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    page = parts.load("format", "markdown")()
    assert isinstance(page, contracts.Format)
    text = page.render(read_record(Report, work.folder.report), verdict)
    append_text(Path(summary), text)


def _remember(work: Work, verdict: Verdict, history: str | None) -> None:
    """Add the verdict to the history that the command or the recipe names; what was judged stands whatever becomes of that."""
    target = history or work.recipe.history
    if target is None:
        return
    from edgekd import history as keeping

    try:
        keeping.add(target, work.folder.root)
    except EdgekdError:
        work.console.warn(
            f"the verdict is {verdict.outcome} and stands in {work.folder.verdict}; it was not added to the history"
        )
        raise

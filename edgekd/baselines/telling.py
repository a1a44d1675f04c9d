"""A baseline in a few lines for a person."""

from edgekd.baselines.keeping import Entry


def line(entry: Entry) -> str:
    """Return name, recipe, outcome, size, time and digest of a baseline."""
    size = sum(ref.size_bytes for ref in entry.run.files) / 1e6
    models = " with models" if entry.run.models else ""
    when = entry.named.at or "time unknown"
    return f"{entry.name}  {entry.run.recipe}  {entry.run.outcome}  {size:.1f} MB{models}  {when}  {entry.sha256[:12]}"


def lines(entry: Entry) -> list[str]:
    """Return what a baseline stands for, and every file of it."""
    run = entry.run
    by, at, git = (text or "unknown" for text in (entry.named.command, entry.named.at, entry.named.git))
    told = {
        "recipe": run.recipe,
        "outcome": run.outcome,
        "report": run.report,
        "verdict": run.verdict,
        "kept as": entry.sha256,
        "before": entry.before or "nothing",
        "by": f"{by}, at {at}, git {git}",
    }
    head = [entry.name, *(f"  {key:<8} {value}" for key, value in told.items())]
    return [*head, *(f"  {ref.sha256[:12]}  {ref.size_bytes:>11,}  {ref.path}" for ref in run.files)]

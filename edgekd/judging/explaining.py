"""A decision step by step: what was asked, what was seen, the arithmetic, and what would change the outcome."""

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest
from edgekd.core.records import Finding, Verdict
from edgekd.judging import wording


def explain(verdict: Verdict, id_: str) -> list[str]:
    """Return the lines about one budget, subject by subject; raise `UsageError` for a budget that nobody asked for."""
    found = [finding for finding in verdict.findings if finding.id == id_]
    if not found:
        known = list(dict.fromkeys(finding.id for finding in verdict.findings if finding.id))
        raise UsageError(f"no budget is called {id_!r}.{nearest(id_, known)} Known: {', '.join(known) or 'none'}.")
    lines: list[str] = []
    for finding in found:
        lines += [*([""] if lines else []), *_of(finding, verdict)]
    return lines


def _of(finding: Finding, verdict: Verdict) -> list[str]:
    where = f" ({verdict.budgets_file}:{finding.line})" if verdict.budgets_file and finding.line else ""
    limit = f"{finding.bound} {wording.quantity(finding.limit, finding.unit)}"
    lines = [
        f"{finding.id}{where}: {finding.metric or finding.budget} of {finding.subject}",
        f"  asked     {finding.budget} {limit}{_error(finding)}",
        f"  found     {wording.quantity(finding.value, finding.unit)}{_bounds(finding)}",
        f"  decided   {wording.OUTCOMES[finding.outcome]}: {finding.because}",
    ]
    lines += [f"  {'because' if not i else '':9} {step}" for i, step in enumerate(finding.arithmetic)]
    if finding.p_value is not None:
        lines.append(f"  p         {finding.p_value:.3g} for the opposite of a pass")
    lines.append(f"  {'needs' if finding.outcome == 'inconclusive' else 'changes':9} {_change(finding)}")
    lines.append(f"  counts    {_weight(finding)}")
    return [wording.plain(line) for line in lines]


def _error(finding: Finding) -> str:
    return "" if finding.alpha is None else f", each bound wrong in at most {100 * finding.alpha:g} % of all cases"


def _bounds(finding: Finding) -> str:
    if finding.low is None or finding.high is None:
        return ""
    low, high = (wording.quantity(value, finding.unit) for value in (finding.low, finding.high))
    return f", bounds {low} and {high}"


def _change(finding: Finding) -> str:
    """Return what would make the outcome another one."""
    if finding.needs:
        return finding.needs
    if finding.outcome == "inconclusive":
        return "evidence that is not there"
    deciding = _deciding(finding)
    other = {"pass": "fail or stay open", "fail": "pass or stay open"}.get(finding.outcome, "be decided")
    if deciding is None:
        return f"another value: the comparison is exact, and {wording.quantity(finding.limit, finding.unit)} is the limit"
    edge = wording.quantity(deciding, finding.unit)
    return f"it would {other} with a limit on the other side of {edge}, the bound that decided"


def _deciding(finding: Finding) -> float | None:
    upper = (finding.bound == "at most") == (finding.outcome == "pass")
    return finding.high if upper else finding.low


def _weight(finding: Finding) -> str:
    if finding.waived is not None:
        waived = finding.waived
        return f"not until after {waived.until}: waived by {waived.by} ({waived.reason})"
    if finding.counts:
        return "towards the verdict"
    return "not towards the verdict: " + ("its level is warn" if finding.level == "warn" else "not knowing is tolerated here")

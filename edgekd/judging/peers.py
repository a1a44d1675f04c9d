"""One verdict over a run whose students learnt together and were judged each by itself."""

from collections.abc import Mapping

from edgekd.core.errors import BUDGET_FAILED, INCONCLUSIVE, MACHINE, PASSED, worst
from edgekd.core.records import Finding, Outcome, Verdict

_CODES: dict[Outcome, int] = {"pass": PASSED, "fail": BUDGET_FAILED, "inconclusive": INCONCLUSIVE, "error": MACHINE}


def with_peers(verdict: Verdict, peers: Mapping[str, Verdict]) -> Verdict:
    """Return a verdict with one finding more for each peer: it passed its own, or how many of its checks did not.

    The exit code and the outcome are the worst of all.
    """
    if not peers:
        return verdict
    findings = (*verdict.findings, *(_finding(name, found) for name, found in peers.items()))
    exit_code = worst((verdict.exit_code, *(found.exit_code for found in peers.values())))
    return verdict.model_copy(
        update={
            "from_": verdict.from_ | {f"peers/{name}": found.digest() for name, found in peers.items()},
            "outcome": next((outcome for outcome, code in _CODES.items() if code == exit_code), "error"),
            "exit_code": exit_code,
            "findings": findings,
        }
    )


def _finding(name: str, verdict: Verdict) -> Finding:
    counted = [finding for finding in verdict.findings if finding.counts]
    passed = sum(finding.outcome == "pass" for finding in counted)
    return Finding(
        budget="peer",
        subject=f"peer {name}",
        value=float(passed),
        limit=float(len(counted)),
        bound="at least",
        unit="checks",
        outcome=verdict.outcome,
        because=f"{passed} of its {len(counted)} checks that count passed; peers/{name} holds its own report.",
        needs="" if verdict.outcome == "pass" else f"what the findings in peers/{name} need",
    )

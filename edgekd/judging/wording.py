"""Numbers and names in words: the one spelling that sentences, tables, pages and the console share."""

import unicodedata
from collections import Counter

from edgekd.core.records import CANDIDATE, DeviceFacts, Finding, Interval, LatencySummary, Outcome, Report, Verdict

OUTCOMES: dict[Outcome, str] = {
    "pass": "passed",
    "fail": "failed",
    "inconclusive": "inconclusive",
    "error": "error",
}
WARNING, WAIVED = "warning", "waived"  # what does not count, but did not pass
PICTURES = {"pca": "PCA", "tsne": "t-SNE"}
MISSING = "\N{EN DASH}"
NO_BUDGETS = (
    "No budgets were given, so nothing was judged, and unknown is not passed. "
    "Add limits to the recipe, for example budgets: [{metric: accuracy.top1, min: 70%}]"
)
_SIZE_STEPS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def plain(text: str) -> str:
    """Return text on one line in which every control, direction-changing or invisible character is spelled out."""
    if text.isprintable():  # most texts, and then there is nothing to look for
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_invisible(c) else c for c in text)


def percent(share: float) -> str:
    """Return a share as a percentage; nothing short of all is ever rounded to 100 %, nothing above none to 0 %."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    for digits in (1, 2, 3):
        shown = f"{100 * share:.{digits}f}"
        if float(shown) not in (0, 100):
            return f"{shown} %"
    return "> 99.999 %" if share > 0.5 else "< 0.001 %"


def points(difference: float) -> str:
    """Return a difference of shares in signed percentage points."""
    return f"{100 * difference:+.1f}"


def milliseconds(value: float) -> str:
    """Return milliseconds with about three significant digits."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def size(value: float) -> str:
    """Return a size in decimal units, bytes below a kilobyte."""
    for step, unit in _SIZE_STEPS:
        if value >= step:
            return f"{value / step:,.2f} {unit}"
    return f"{value:,.0f} B"


def quantity(value: float | None, unit: str) -> str:
    """Return a finding's value or limit with its unit; a missing value is a dash."""
    if value is None:
        return MISSING
    if unit == "bytes":
        return size(value)
    if unit == "ms":
        return milliseconds(value)
    if unit == "%":
        return percent(value / 100)
    if unit == "points":
        return f"{value:+.1f} points" if value else "0 points"
    return f"{value:.3g} {unit}".rstrip()


def share_interval(interval: Interval) -> str:
    """Return a share with its interval in percent: `71.2 % [65.0 to 77.1]`."""
    return f"{percent(interval.value)} [{100 * interval.low:.1f} to {100 * interval.high:.1f}]"


def points_interval(interval: Interval) -> str:
    """Return a difference with its interval in points: `+12.1 points [+5.0 to +19.0]`."""
    return f"{points(interval.value)} points [{points(interval.low)} to {points(interval.high)}]"


def check(finding: Finding) -> str:
    """Return a check in words, and which budget it is if that has a name of its own: `latency p50 (lat-pi)`."""
    if finding.id in ("", finding.budget, finding.metric):
        return finding.budget
    return f"{finding.budget} ({finding.id})"


def standing(finding: Finding) -> str:
    """Return what became of a finding in one word: its outcome, or `warning` or `waived` if it does not count."""
    if finding.outcome == "pass" or finding.counts:
        return OUTCOMES[finding.outcome]
    return WAIVED if finding.waived is not None else WARNING


def waiver(finding: Finding) -> str:
    """Return who waived a finding, until when and why; nothing for one that passed or was not waived."""
    if finding.waived is None or finding.outcome == "pass":
        return ""
    return f"Waived until {finding.waived.until} by {finding.waived.by}: {finding.waived.reason}."


def tally(verdict: Verdict) -> str:
    """Return how many checks ended how: `5 checks: 3 passed, 1 inconclusive, 1 waived`."""
    if not verdict.findings:
        return "nothing was judged"
    counts = Counter(standing(finding) for finding in verdict.findings)
    total = len(verdict.findings)
    if counts[OUTCOMES["pass"]] == total:
        return "1 check passed" if total == 1 else f"all {total} checks passed"
    parts = [f"{counts[word]} {word}" for word in (*OUTCOMES.values(), WARNING, WAIVED) if counts[word]]
    return f"{total} check{'s' if total > 1 else ''}: {', '.join(parts)}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `3 processes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def candidates(report: Report) -> tuple[LatencySummary, ...]:
    """Return the measurements of the run's own artifacts, without those that ran beside them to be compared with."""
    return tuple(summary for summary in report.latencies if summary.arm == CANDIDATE)


def of_arm(summary: LatencySummary) -> str:
    """Return ` (baseline)` or ` (reference)` for what ran beside the run's own artifacts, else nothing."""
    return "" if summary.arm == CANDIDATE else f" ({summary.arm})"


def latency_interval(summary: LatencySummary, name: str, value_ms: float | None) -> str:
    """Return a percentile with its 95 % interval over the processes: `1.31 ms [1.29 to 1.34]`."""
    if value_ms is None or name not in summary.intervals_ms:
        return quantity(value_ms, "ms")
    low, high = (milliseconds(bound).removesuffix(" ms") for bound in summary.intervals_ms[name])
    return f"{milliseconds(value_ms)} [{low} to {high}]"


def load(summary: LatencySummary) -> str:
    """Return how queries came: `batch 1, 2 threads`, and what is out of the ordinary."""
    parts = [f"batch {summary.batch}", counted(summary.threads, "thread")]
    parts += [] if summary.mode == "single" else [f"{summary.mode}" + (f" at {summary.rate_hz:g}/s" if summary.rate_hz else "")]
    parts += ["threads sleep"] if summary.spin is False else []
    return ", ".join(parts)


def fastest(report: Report) -> LatencySummary | None:
    """Return the measurement with the lowest p50 of those that are trusted or only unsteady, or None."""
    usable = [summary for summary in candidates(report) if summary.trusted or summary.blur is not None]
    known = [summary for summary in usable if summary.p50_ms is not None]
    return min(known, key=lambda summary: (summary.p50_ms, summary.artifact), default=None)


def arm(summary: LatencySummary) -> str:
    """Return which arm of its session a measurement is of: `candidate` unless it says another."""
    return str(summary.model_dump(include={"arm"}).get("arm", "candidate"))


def unsteady(summary: LatencySummary) -> str:
    """Return ` (unsteady)` for a measurement whose processes disagree, else nothing."""
    return "" if summary.trusted else " (unsteady)"


def devices(report: Report) -> tuple[DeviceFacts, ...]:
    """Return the machines that were measured on, each once, without the load, which differs between measurements."""
    return tuple(dict.fromkeys(summary.device.model_copy(update={"load_1min": None}) for summary in report.latencies))


def headline(report: Report, verdict: Verdict) -> str:
    """Return the whole report in one sentence."""
    student, comparison, fast = report.student, report.comparison, fastest(report)
    said = f"Student {student.student_name}: {percent(student.accuracy.top1)} top-1"
    if comparison is not None and report.baseline is not None:
        same = report.baseline.training.images_seen == student.training.images_seen
        said = f"Student {student.student_name}: {share_interval(comparison.student_top1)} top-1"
        said += f" on {comparison.images:,} images, {points_interval(comparison.difference)} against the baseline"
        said += " trained on the same labels" + (" for as many images" if same else "")
    else:
        said += f" on {student.accuracy.images:,} images, no baseline to compare with"
    if fast is not None and fast.p50_ms is not None:
        said += f"; {milliseconds(fast.p50_ms)} p50{unsteady(fast)} with {fast.artifact} on {fast.device.name}"
    return f"{said}; {tally(verdict)}."


def _is_invisible(character: str) -> bool:
    noncharacter = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
    return noncharacter or unicodedata.category(character) in _INVISIBLE
